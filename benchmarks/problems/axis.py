"""Axis: the orientation of an axis in space from three noisy squared projections.

An axis u, uniform on the sphere S^2, is seen along three unit vectors g_k that are 60 degrees apart from one another:

    x_k = (g_k . u)^2 + 0.1 e_k,   e_k ~ N(0, 1).

The squares forget all signs. u and -u always explain the data equally well, and up to eight directions do nearly: the
posterior on the sphere has from two to eight modes, or arcs where they join.
"""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from mf_manifold import geometry
from mf_manifold.quadrature import gauss_legendre

from .problem import Compact

# the edges from one corner of a regular tetrahedron, in coordinates that favour no axis
VIEWS = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)


class Axis(Compact):
    """The axis; posterior samples by rejection from the prior, the normaliser by Gauss nodes in height times equal angles.

    The integrand is analytic: 256 heights and 512 angles against half as many change the log of the normaliser by less than
    1e-12.
    """

    name, point_shape, data_dim = "axis", (3,), 3
    noise, grid = 0.1, 256
    manifold = geoopt.Sphere()

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return geometry.sample_uniform(self.manifold, (3,), (n,), generator=generator, dtype=torch.float64)

    def readings(self, theta: Tensor) -> Tensor:
        """The squared projections without noise; (n,3) -> (n,3)."""
        return (theta @ VIEWS.to(theta).mT).square()

    def to_chart(self, theta: Tensor) -> Tensor:
        """Longitude and height: by Archimedes, equal rectangles are equal areas."""
        return torch.stack([torch.atan2(theta[..., 1], theta[..., 0]), theta[..., 2]], -1)

    def from_chart(self, chart: Tensor) -> tuple[Tensor, Tensor]:
        longitude, height = chart.unbind(-1)
        radius = (1 - height.square()).clamp_min(0).sqrt()
        theta = torch.stack([radius * longitude.cos(), radius * longitude.sin(), height], -1)
        return theta, (longitude.abs() <= math.pi) & (height.abs() <= 1)

    def nodes(self, size: int) -> tuple[Tensor, Tensor]:
        """Nodes and weights of the rule that integrates over the sphere; (N,3), (N,)."""
        height, weight = gauss_legendre(size, VIEWS)
        angle = math.pi * torch.arange(2 * size, dtype=torch.float64) / size
        z, phi = height.repeat_interleave(2 * size), angle.repeat(size)
        radius = (1 - z.square()).sqrt()
        nodes = torch.stack([radius * phi.cos(), radius * phi.sin(), z], -1)
        return nodes, weight.repeat_interleave(2 * size) * math.pi / size
