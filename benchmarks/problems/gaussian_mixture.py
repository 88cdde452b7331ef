"""Gaussian mixture: a broad and a narrow normal law around one mean, which is to be inferred.

x ~ N(theta, I) / 2 + N(theta, 0.01 I) / 2,   theta uniform in [-10, 10]^2
"""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from .problem import Box, rejection

SCALES = (1.0, 0.1)


class GaussianMixture(Box):
    """The Gaussian mixture; its posterior is the same mixture around the observation, cut off by the box, in closed form."""

    name, bound, point_shape, data_dim = "gaussian_mixture", 10.0, (2,), 2
    manifold = geoopt.Euclidean(ndim=1)

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        scale = torch.tensor(SCALES, dtype=theta.dtype)[torch.randint(2, (len(theta), 1), generator=generator)]
        return theta + scale * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)

    def log_likelihood(self, theta: Tensor, x_o: Tensor) -> Tensor:
        """Normalised."""
        square = (x_o - theta).square().sum(-1)
        logs = [-square / (2 * s**2) - math.log(2 * math.pi * s**2) - math.log(2) for s in SCALES]
        return torch.logaddexp(logs[0], logs[1])

    def reference_posterior(self, x_o: Tensor, n: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)

        def draw(count: int) -> tuple[Tensor, Tensor]:
            theta = self.simulate(x_o.double().expand(count, 2), generator)  # location families are symmetric in x and theta
            return theta, self.inside(theta)

        return rejection(draw, n, 2 * n)

    def log_evidence(self, x_o: Tensor) -> float:
        """Log of the integral of likelihood times prior, by distribution functions."""
        x = x_o.double()
        shares = [torch.special.ndtr((self.bound - x) / s) - torch.special.ndtr((-self.bound - x) / s) for s in SCALES]
        return math.log(sum(float(share.prod()) for share in shares) / 2) + self.log_prior

    def log_posterior(self, theta: Tensor, x_o: Tensor) -> Tensor:
        """Log density of the posterior; -inf outside the box."""
        value = self.log_likelihood(theta, x_o) + self.log_prior - self.log_evidence(x_o)
        return torch.where(self.inside(theta), value, -math.inf)
