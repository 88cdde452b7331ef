"""Where the noise of a marginal flow comes from, and how it is matched to data before training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine


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
    regressed on these pairs starts as a transport of the noise onto the data. Directions of the data along one side of the
    cube point the same way in neighbouring boxes, so that the map does not fold between them.

    Shapes: features (n,k) -> (n,dim).
    """
    noise = torch.empty(len(features), dim, dtype=features.dtype, device=features.device)
    unit = (torch.full((dim,), -1.0), torch.full((dim,), 1.0))
    unknown = torch.zeros(dim, features.shape[1], dtype=features.dtype, device=features.device)
    stack = [(torch.arange(len(features)), *unit, unknown)]
    while stack:
        rows, low, high, directions = stack.pop()
        if len(rows) == 1:
            noise[rows] = (low + (high - low) * torch.rand(dim, generator=generator)).to(noise)
            continue
        half, axis = len(rows) // 2, int((high - low).argmax())
        centered = features[rows] - features[rows].mean(0)
        direction = torch.linalg.eigh(centered.mT @ centered)[1][:, -1]
        direction = direction if float(direction @ directions[axis]) >= 0 else -direction
        directions = directions.clone()
        directions[axis] = direction
        order = rows[(centered @ direction).argsort().cpu()]
        cut = low[axis] + (high[axis] - low[axis]) * half / len(rows)
        below, above = high.clone(), low.clone()
        below[axis], above[axis] = cut, cut
        stack += [(order[:half], low, below, directions), (order[half:], above, high, directions)]
    return noise
