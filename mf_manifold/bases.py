"""Where the noise of a marginal flow comes from, and how it is matched to data before training."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree
from torch import Tensor
from torch.quasirandom import SobolEngine

BASES = ("sobol", "uniform", "gaussian")


@runtime_checkable
class WeightedNoise(Protocol):
    """A learned law of the noise: points of a proposal, and the logarithms of what they weigh under the law."""

    point_shape: tuple[int, ...]

    def propose(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Points (n,dim)."""

    def log_weight(self, x: Tensor) -> Tensor:
        """Log weights of such points (n), differentiable in what is learned."""


def draw(base: str | WeightedNoise, n: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Fresh noise of a named base: ``"sobol"``, ``"uniform"`` (on [-1, 1]^dim) or ``"gaussian"``; (n,dim).

    Of a learned base, points of its proposal: their weights are left to the caller.

    >>> draw("gaussian", 5, 2, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 2])
    """
    if not isinstance(base, str):
        return base.propose(n, generator)
    generator = on_device(generator, torch.device("cpu"))
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


def on_device(generator: torch.Generator | None, device: torch.device) -> torch.Generator | None:
    """A generator for draws on ``device`` that follows from ``generator``, which is itself where it is of that kind."""
    if generator is None or generator.device.type == device.type:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)


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
        direction = _first_direction(centered)
        direction = direction if float(direction @ directions[axis]) >= 0 else -direction
        directions = directions.clone()
        directions[axis] = direction
        order = rows[(centered @ direction).argsort().cpu()]
        cut = low[axis] + (high[axis] - low[axis]) * half / len(rows)
        below, above = high.clone(), low.clone()
        below[axis], above[axis] = cut, cut
        stack += [(order[:half], low, below, directions), (order[half:], above, high, directions)]
    return noise


def _first_direction(centered: Tensor) -> Tensor:
    """First principal direction of centered rows (n,k); -> (k)."""
    if len(centered) < centered.shape[1]:  # from inner products, of which there are fewer
        direction: Tensor = centered.mT @ torch.linalg.eigh(centered @ centered.mT)[1][:, -1]
        return direction
    leading: Tensor = torch.linalg.eigh(centered.mT @ centered)[1][:, -1]
    return leading


NEIGHBOURS, LANDMARKS = 10, 128


def unfold(features: Tensor, generator: torch.Generator) -> Tensor:
    """Coordinates of the data in which distances along the data are straight, so that halving them follows a curve's turns.

    Shortest paths in the graph of nearest neighbours from some landmarks, embedded by landmark multidimensional scaling.

    Shapes: features (n,k) -> (n,k).

    References: Tenenbaum, de Silva, Langford (2000), A global geometric framework for nonlinear dimensionality reduction;
        de Silva, Tenenbaum (2004), Sparse multidimensional scaling using landmark points, section 2.
    """
    graph = neighbour_graph(features.double().cpu().numpy())
    chosen = torch.randperm(len(features), generator=generator)[:LANDMARKS].numpy()
    squares = dijkstra(graph, directed=False, indices=chosen) ** 2  # (landmarks, n)
    among = squares[:, chosen]
    centered = -0.5 * (among - among.mean(0) - among.mean(1, keepdims=True) + among.mean())
    values, vectors = np.linalg.eigh(centered)
    if not values[-1] > 0:  # all data are the same
        return torch.zeros_like(features)
    kept = values[-features.shape[1] :].clip(min=1e-12 * values[-1])
    coordinates = -0.5 * (squares - among.mean(1, keepdims=True)).T @ (vectors[:, -features.shape[1] :] / np.sqrt(kept))
    return torch.as_tensor(coordinates).to(features)


def neighbour_graph(points: np.ndarray) -> csr_array:
    """Distances to the nearest neighbours, and the shortest bridges between parts that they leave apart."""
    distances, indices = cKDTree(points).query(points, k=min(NEIGHBOURS + 1, len(points)))
    rows = np.repeat(np.arange(len(points)), indices.shape[1] - 1)
    edges = [(rows, indices[:, 1:].ravel(), distances[:, 1:].ravel())]
    while True:
        row, column, length = (np.concatenate(part) for part in zip(*edges, strict=True))
        # a length of 0 would be no edge
        graph = csr_array((np.maximum(length, 1e-300), (row, column)), shape=(len(points), len(points)))
        parts, label = connected_components(graph, directed=False)
        if parts == 1:
            return graph
        own, other = np.flatnonzero(label == label[-1]), np.flatnonzero(label != label[-1])
        gap, at = cKDTree(points[other]).query(points[own])
        nearest = int(gap.argmin())
        edges.append((own[[nearest]], other[at[[nearest]]], gap[[nearest]]))
