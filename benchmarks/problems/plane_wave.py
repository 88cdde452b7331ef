"""Plane wave: where a wave comes from, and with which phase, from three noisy readings.

Three sensors p_k stand on a circle of radius 0.6 wavelengths, at 90, 210 and 330 degrees. A wave from the direction phi with
phase psi, both uniform on the circle, gives the readings

    x_k = cos(2 pi p_k . (cos phi, sin phi) - psi) + 0.2 e_k,   e_k ~ N(0, 1).

The sensors' mean is the origin, so (phi + pi, -psi) explains every observation as well as (phi, psi) does: the posterior on the
torus has at least two modes, more where the readings are ambiguous, and often a mode across the seam of the angles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mf_manifold.manifolds import Torus

from .problem import Compact

RADIUS = 0.6


class PlaneWave(Compact):
    """The plane wave; posterior samples by rejection from the prior, the normaliser by a rule of 512 x 512 equal cells.

    The integrand is smooth and periodic, so the rule converges faster than any power: half as many nodes each way change the
    log of the normaliser by less than 1e-12.
    """

    name, point_shape, data_dim = "plane_wave", (2,), 3
    noise, grid = 0.2, 512
    manifold = Torus()

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * math.pi * torch.rand(n, 2, generator=generator, dtype=torch.float64) - math.pi

    def readings(self, theta: Tensor) -> Tensor:
        """The readings without noise; (n,2) -> (n,3)."""
        stand = torch.tensor([90.0, 210.0, 330.0], dtype=theta.dtype).deg2rad()
        phi, psi = theta[..., :1], theta[..., 1:]
        return torch.cos(2 * math.pi * RADIUS * torch.cos(stand - phi) - psi)

    def features(self, theta: Tensor) -> Tensor:
        return torch.cat([theta.cos(), theta.sin()], -1)

    def from_chart(self, chart: Tensor) -> tuple[Tensor, Tensor]:
        return chart, (chart.abs() <= math.pi).all(-1)

    def nodes(self, size: int) -> tuple[Tensor, Tensor]:
        """Nodes and weights of the rule that integrates over the torus; (N,2), (N,)."""
        angle = 2 * math.pi * torch.arange(size, dtype=torch.float64) / size - math.pi
        nodes = torch.cartesian_prod(angle, angle)
        return nodes, torch.full((len(nodes),), (2 * math.pi / size) ** 2, dtype=torch.float64)
