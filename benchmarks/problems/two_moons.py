"""Two moons: two crescents of parameters explain every observation.

With a ~ U(-pi/2, pi/2), r ~ N(0.1, 0.01^2) and a uniform prior on [-1, 1]^2,

    x = (r cos a + 0.25 - |theta_1 + theta_2| / sqrt 2,   r sin a + (theta_2 - theta_1) / sqrt 2).
"""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from .problem import Box, rejection

OFFSET, RADIUS, WIDTH = 0.25, 0.1, 0.01


class TwoMoons(Box):
    """Two moons; samples of the posterior are exact, its normaliser is exact up to a rule of 4000 x 200 midpoints."""

    name, bound, point_shape, data_dim = "two_moons", 1.0, (2,), 2
    manifold = geoopt.Euclidean(ndim=1)

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        u, v = self._turn(theta).unbind(-1)
        return self._noise(len(theta), generator) + torch.stack([-u.abs(), v], -1)

    @staticmethod
    def _turn(theta: Tensor) -> Tensor:
        """Parameters in axes along which the simulator acts, a rotation by -45 degrees."""
        return torch.stack([theta[..., 0] + theta[..., 1], theta[..., 1] - theta[..., 0]], -1) / math.sqrt(2)

    @staticmethod
    def _turn_back(axes: Tensor) -> Tensor:
        return torch.stack([axes[..., 0] - axes[..., 1], axes[..., 0] + axes[..., 1]], -1) / math.sqrt(2)

    @staticmethod
    def _noise(n: int, generator: torch.Generator) -> Tensor:
        a = math.pi * (torch.rand(n, generator=generator, dtype=torch.float64) - 0.5)
        r = RADIUS + WIDTH * torch.randn(n, generator=generator, dtype=torch.float64)
        return torch.stack([r * a.cos() + OFFSET, r * a.sin()], -1)

    def log_likelihood(self, theta: Tensor, x_o: Tensor) -> Tensor:
        """Normalised: the density of r and a, divided by the Jacobian r of polar coordinates (P(r < 0) is 8e-24)."""
        u, v = self._turn(theta).unbind(-1)
        across, along = x_o[0] - OFFSET + u.abs(), x_o[1] - v
        r = torch.hypot(across, along)
        log_r = -((r - RADIUS) ** 2) / (2 * WIDTH**2) - math.log(WIDTH * math.sqrt(2 * math.pi))
        return torch.where(across > 0, log_r - torch.log(math.pi * r), -math.inf)

    def _explaining(self, noise: Tensor, sign: Tensor, x_o: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters that make the observation with this noise, and whether there are any in the box."""
        size = noise[..., 0] - x_o[0]
        theta = self._turn_back(torch.stack([sign * size, x_o[1] - noise[..., 1]], -1))
        return theta, (size >= 0) & self.inside(theta)

    def reference_posterior(self, x_o: Tensor, n: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)

        def draw(count: int) -> tuple[Tensor, Tensor]:
            sign = 2.0 * torch.randint(2, (count,), generator=generator) - 1
            return self._explaining(self._noise(count, generator), sign, x_o.double())

        return rejection(draw, n, 2 * n)

    def log_evidence(self, x_o: Tensor) -> float:
        """Log of the integral of likelihood times prior: the probability that noise has an explanation in the box."""
        a = math.pi * ((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 - 0.5)
        levels = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
        r = RADIUS + WIDTH * torch.special.ndtri(levels)[:, None]
        noise = torch.stack([r * a.cos() + OFFSET, r * a.sin()], -1)
        explained = [self._explaining(noise, torch.tensor(sign), x_o.double())[1].double().mean() for sign in (-1.0, 1.0)]
        return math.log(float(explained[0] + explained[1])) + self.log_prior

    def log_posterior(self, theta: Tensor, x_o: Tensor) -> Tensor:
        """Log density of the posterior; -inf outside the box."""
        value = self.log_likelihood(theta, x_o) + self.log_prior - self.log_evidence(x_o)
        return torch.where(self.inside(theta), value, -math.inf)
