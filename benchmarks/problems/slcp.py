"""SLCP: simple likelihood, complex posterior.

Four points of a normal law in the plane, whose five parameters are uniform in [-3, 3]^5:

    mean (theta_1, theta_2),  standard deviations (theta_3^2, theta_4^2),  correlation tanh(theta_5)

The signs of theta_3 and theta_4 do not matter, so the posterior has four equal copies.
"""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from .problem import Box, rejection

N_POINTS = 4
SMALLEST = 0.02  # of |theta_3|, |theta_4| in the reference: standard deviations of 4e-4
CELLS, DEPTH, SLACK = 64, 25.0, 0.5


class SLCP(Box):
    """SLCP; posterior samples are independent draws by rejection.

    Given the covariance, the mean is normal around the sample mean, so the covariance alone has a posterior in closed form
    but for the box. It is drawn from a piecewise constant envelope on 64^3 cells in (log |theta_3|, log |theta_4|, theta_5),
    which cover all but exp(-25) of the peak's height; then the mean is drawn, rejected outside the box, and the signs are
    tossed.
    """

    name, bound, point_shape, data_dim = "slcp", 3.0, (5,), 2 * N_POINTS
    manifold = geoopt.Euclidean(ndim=1)

    @staticmethod
    def _law(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (n,2), standard deviations (n,2), correlation (n)."""
        return theta[..., :2], theta[..., 2:4].square(), theta[..., 4].tanh()

    @staticmethod
    def _correlated(z: Tensor, scales: Tensor, rho: Tensor) -> Tensor:
        """Independent standard normals made into pairs of these standard deviations and correlation."""
        second = rho * z[..., 0] + (1 - rho.square()).sqrt() * z[..., 1]
        return scales * torch.stack([z[..., 0], second], -1)

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        mean, scales, rho = self._law(theta.unsqueeze(1))
        z = torch.randn(len(theta), N_POINTS, 2, generator=generator, dtype=theta.dtype)
        return (mean + self._correlated(z, scales, rho)).reshape(len(theta), self.data_dim)

    def log_likelihood(self, theta: Tensor, x_o: Tensor) -> Tensor:
        """Normalised."""
        mean, scales, rho = self._law(theta.unsqueeze(-2))
        u, v = ((x_o.reshape(N_POINTS, 2) - mean) / scales).unbind(-1)
        left = 1 - rho.square()
        square = (u.square() - 2 * rho * u * v + v.square()) / left
        return (-square / 2 - scales.log().sum(-1) - left.log() / 2 - math.log(2 * math.pi)).sum(-1)

    def _log_covariance(self, cell: Tensor, scatter: Tensor) -> Tensor:
        """Log density of (log |theta_3|, log |theta_4|, theta_5) with the mean integrated over the plane, up to a constant."""
        variances, rho = torch.exp(4 * cell[..., :2]), cell[..., 2].tanh()
        left = 1 - rho.square()
        cross = 2 * rho * scatter[0, 1] / variances.prod(-1).sqrt()
        square = (scatter[0, 0] / variances[..., 0] + scatter[1, 1] / variances[..., 1] - cross) / left
        return -square / 2 - (N_POINTS - 1) / 2 * (variances.log().sum(-1) + left.log()) + cell[..., :2].sum(-1)

    def _envelope(self, scatter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Low corners (C,3), the common size (3) and log heights (C) of cells that hold the posterior of the covariance."""
        low = torch.tensor([math.log(SMALLEST), math.log(SMALLEST), -self.bound], dtype=torch.float64)
        high = torch.tensor([math.log(self.bound), math.log(self.bound), self.bound], dtype=torch.float64)
        for _ in range(3):  # zoom to where there is mass
            corners, heights = self._corner_heights(low, high, scatter, CELLS // 2)
            size = (high - low) / (CELLS // 2)
            holds = corners[heights > heights.max() - DEPTH]
            low, high = holds.amin(0), holds.amax(0) + size
        corners, heights = self._corner_heights(low, high, scatter, CELLS)
        return corners, (high - low) / CELLS, heights + SLACK

    def _corner_heights(self, low: Tensor, high: Tensor, scatter: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        """Low corners of the cells of a box, and the largest value at the eight corners and the middle of each."""
        edges = [torch.linspace(float(a), float(b), cells + 1, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        grid = torch.stack(torch.meshgrid(*edges, indexing="ij"), -1)
        value = self._log_covariance(grid, scatter)
        top = torch.nn.functional.max_pool3d(value[None, None], 2, stride=1)[0, 0]
        corners = grid[:-1, :-1, :-1].reshape(-1, 3)
        middle = self._log_covariance(corners + (high - low) / (2 * cells), scatter)
        return corners, torch.maximum(top.reshape(-1), middle)

    def reference_posterior(self, x_o: Tensor, n: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        points = x_o.double().reshape(N_POINTS, 2)
        center = points.mean(0)
        scatter = (points - center).mT @ (points - center)
        corners, size, heights = self._envelope(scatter)
        levels = (heights - heights.max()).exp().cumsum(0)

        def draw(count: int) -> tuple[Tensor, Tensor]:
            u = torch.rand(count, 5, generator=generator, dtype=torch.float64)
            index = torch.searchsorted(levels, u[:, 0] * levels[-1]).clamp_max(len(levels) - 1)
            cell = corners[index] + size * u[:, 1:4]
            excess = self._log_covariance(cell, scatter) - heights[index]
            if float(excess.max()) > 0:
                raise RuntimeError(f"Expected an envelope above the density, got {float(excess.max()):.2g} below; refine it.")
            scales, rho = torch.exp(2 * cell[:, :2]), cell[:, 2].tanh()
            z = torch.randn(count, 2, generator=generator, dtype=torch.float64) / math.sqrt(N_POINTS)
            signs = 2.0 * torch.randint(2, (count, 2), generator=generator) - 1
            mean = center + self._correlated(z, scales, rho)
            theta = torch.cat([mean, signs * cell[:, :2].exp(), cell[:, 2:]], -1)
            return theta, (u[:, 4].log() < excess) & self.inside(theta)

        return rejection(draw, n, 4 * n)
