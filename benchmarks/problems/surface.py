"""Points near a surface in many dimensions, of which the density is known."""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf


class Surface:
    """A rolled-up strip in R^3, turned into R^d, with normal noise; its density is known."""

    def __init__(self, d: int, seed: int, noise: float, grid: int = 256) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.d, self.noise, self.generator = d, noise, generator
        self.turn = torch.linalg.qr(torch.randn(d, 3, generator=generator, dtype=torch.float64))[0]
        line = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
        self.grid = self.strip(torch.cartesian_prod(line, line))

    @staticmethod
    def strip(u: Tensor) -> Tensor:
        """Points of the strip at coordinates in the unit square; (N,2) -> (N,3)."""
        angle = 1.5 * math.pi * (1 + u[:, 0])
        return torch.stack([angle * angle.cos() / 4, angle * angle.sin() / 4, 4 * u[:, 1] - 2], dim=-1)

    def sample(self, n: int) -> Tensor:
        """Independent points, new ones at every call; -> (n,d)."""
        u = torch.rand(n, 2, generator=self.generator, dtype=torch.float64)
        error = torch.randn(n, self.d, generator=self.generator, dtype=torch.float64)
        return self.strip(u) @ self.turn.T + self.noise * error

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at points: a sum over a fine grid of the strip times the normal noise at right angles to it."""
        inside = x @ self.turn
        kernel = mf.kernel_for(geoopt.Euclidean(ndim=1), (3,))
        law = mf.Mixture(kernel, {"loc": self.grid, "scale": torch.full((1, 3), self.noise, dtype=torch.float64)})
        outside = x.square().sum(-1) - inside.square().sum(-1)
        log_normal = -outside / (2 * self.noise**2) - (self.d - 3) * (math.log(self.noise) + 0.5 * math.log(2 * math.pi))
        return law.log_prob(inside) + log_normal
