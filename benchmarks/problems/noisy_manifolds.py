"""Curves and surfaces in R^3 with noise around them: their points, areas and densities are known.

A point has uniform coordinates in the unit cube, is embedded, and gets normal noise of the same scale in all directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mf_manifold.manifolds.chart import forward_jacobian, orthonormalise

BLOCK = 2**22  # pairs of points at a time


@dataclass(frozen=True)
class NoisyManifold:
    """A law near a curve (dim 1) or a surface (dim 2).

    Attributes:
        embed: coordinates in [0, 1]^dim to points, (n,dim) -> (n,3).
        nodes: points on each side of a grid whose gaps are smaller than the noise.
    """

    name: str
    dim: int
    noise: float
    embed: Callable[[Tensor], Tensor]
    nodes: tuple[int, ...]

    @property
    def floor(self) -> float:
        """The root mean square distance of the points to the manifold, below which no projection reconstructs them."""
        return self.noise * math.sqrt(3 - self.dim)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Independent points with their noise; (n,3)."""
        u = torch.rand(n, self.dim, generator=generator)
        return self.embed(u) + self.noise * torch.randn(n, 3, generator=generator)

    def grid(self) -> Tensor:
        """Coordinates of the nodes."""
        lines = [(torch.arange(count, dtype=torch.float64) + 0.5) / count for count in self.nodes]
        return torch.cartesian_prod(*lines).reshape(-1, self.dim)

    def reference(self) -> Tensor:
        """Points all over the manifold, those of the grid; (n,3)."""
        return self.embed(self.grid())

    def manifold_nll(self) -> float:
        """Mean negative log density, by arc length or area, of points without noise: the best that a model can have."""
        return float(orthonormalise(forward_jacobian(self.embed, self.grid()))[1].mean())

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of noisy points (n,3) by Lebesgue measure: a sum over the nodes."""
        nodes = self.reference()
        parts = [-torch.cdist(part.double(), nodes).square() for part in x.split(max(1, BLOCK // len(nodes)))]
        heights = torch.cat([(part / (2 * self.noise**2)).logsumexp(1) for part in parts])
        return heights - math.log(len(nodes)) - 1.5 * math.log(2 * math.pi * self.noise**2)


def _circle(u: Tensor) -> Tensor:
    turn = 2 * math.pi * u[..., 0]
    return torch.stack([turn.cos(), turn.sin(), torch.zeros_like(turn)], -1)


def _helix(u: Tensor) -> Tensor:
    turn = 4 * math.pi * u[..., 0]
    return torch.stack([turn.cos(), turn.sin(), turn / 4], -1)


def _swiss_roll(u: Tensor) -> Tensor:
    turn = math.pi * (1.5 + 2 * u[..., 0])
    return torch.stack([turn * turn.cos() / 7, 3 * u[..., 1], turn * turn.sin() / 7], -1)


def _sphere(u: Tensor) -> Tensor:
    turn, height = 2 * math.pi * u[..., 0], 2 * u[..., 1] - 1
    radius = (1 - height**2).sqrt()
    return torch.stack([radius * turn.cos(), radius * turn.sin(), height], -1)


HELIX = NoisyManifold("helix", 1, 0.02, _helix, (2048,))
SWISS_ROLL = NoisyManifold("Swiss roll", 2, 0.05, _swiss_roll, (500, 120))
CIRCLE = NoisyManifold("circle", 1, 0.02, _circle, (1024,))
SPHERE = NoisyManifold("sphere", 2, 0.05, _sphere, (512, 256))


def mass_by_chords(points: Tensor, density: Tensor) -> float:
    """Integral of a density along a curve through ordered points (n,3), by the lengths of the chords between them."""
    return float(((density[1:] + density[:-1]) / 2 * (points[1:] - points[:-1]).norm(dim=-1)).sum())


def mass_by_triangles(points: Tensor, density: Tensor) -> float:
    """Integral of a density over a surface through a grid of points (a,b,3), by the areas of the triangles between them."""
    low, high, total = slice(None, -1), slice(1, None), 0.0
    for near, far in ((low, high), (high, low)):  # the two halves of each cell
        corner, right, up = (near, near), (far, near), (near, far)
        area = torch.linalg.cross(points[right] - points[corner], points[up] - points[corner]).norm(dim=-1) / 2
        total += float((area * (density[corner] + density[right] + density[up]) / 3).sum())
    return total
