"""Where the noise of a marginal flow comes from, and how it is matched to data before training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

BASES = ("sobol", "uniform", "gaussian")


def draw(base: str, n: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Fresh noise of a named base: ``"sobol"``, ``"uniform"`` (on [-1, 1]^dim) or ``"gaussian"``; (n,dim).

    >>> draw("gaussian", 5, 2, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 2])
    """
    if base == "sobol":
        return sobol(n, dim, int(torch.randint(2**31, (), generator=generator)))
    return uniform(n, dim, generator) if base == "uniform" else torch.randn(n, dim, generator=generator)


def uniform(n: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent uniform noise on [-1, 1]^dim, drawn on the CPU so that a seed means the same on every device; (n,dim)."""
    return 2 * torch.rand(n, dim, generator=generator) - 1


def sobol(n: int, dim: int, seed: int) -> Tensor:
    """A scrambled Sobol sequence on [-1, 1]^dim: each point uniform, together spread evenly; (n,dim).

    >>> sobol(256, 2, seed=0).mean().abs() < 0.01
    tensor(True)
    """
    return 2 * SobolEngine(dim, scramble=True, seed=seed).draw(n) - 1


def match(features: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Noise for every datum such that near data get near noise and together it is uniform on [-1, 1]^dim.

    The cube and the data are halved in turn, the cube along its longest side and the data at the median of their first
    principal component, until every datum has a box of volume 1/n of its own; its noise is uniform there. A network
    regressed on these pairs starts as a transport of the noise onto the data.

    Shapes: features (n,k) -> (n,dim).
    """
    noise = torch.empty(len(features), dim, dtype=features.dtype, device=features.device)
    unit = (torch.full((dim,), -1.0), torch.full((dim,), 1.0))
    stack = [(torch.arange(len(features)), *unit)]
    while stack:
        rows, low, high = stack.pop()
        if len(rows) == 1:
            noise[rows] = (low + (high - low) * torch.rand(dim, generator=generator)).to(noise)
            continue
        order = rows[_first_component(features[rows]).argsort().cpu()]
        half, axis = len(rows) // 2, int((high - low).argmax())
        cut = low[axis] + (high[axis] - low[axis]) * half / len(rows)
        below, above = high.clone(), low.clone()
        below[axis], above[axis] = cut, cut
        stack += [(order[:half], low, below), (order[half:], above, high)]
    return noise


def _first_component(features: Tensor) -> Tensor:
    centered = features - features.mean(0)
    if len(features) < features.shape[1]:  # the eigenvector of inner products, of which there are fewer
        scores: Tensor = torch.linalg.eigh(centered @ centered.mT)[1][:, -1]
        return scores
    direction = torch.linalg.eigh(centered.mT @ centered)[1][:, -1]
    return centered @ direction
