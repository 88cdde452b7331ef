"""Rotations: polar quadrature of SO(3), turns by pi, multiplication from both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping

import geoopt
import numpy as np
import torch
from torch import Tensor

from ... import geometry
from ...geometry import Shape
from ...manifolds import SpecialOrthogonal, UnitQuaternions
from ...numerics import quaternions
from ...numerics.orthogonal import log_volume, num_skew, vee
from ..density import Density, exp_coords, pilot
from ..measures import Coordinates, measure_coordinates
from ..perturb import special_points
from ..rules import Rule, exact_rule, graded_nodes, is_zonal
from ..symmetry import Transform, random_isometry

LATITUDES, AZIMUTHS = 20, 40


def _axes(zonal: bool) -> tuple[Tensor, Tensor]:
    """Unit vectors (K,3) and log weights of a product rule on S^2; a single one where all are alike."""
    if zonal:
        return torch.eye(3, dtype=torch.float64)[:1], torch.tensor([math.log(4 * math.pi)], dtype=torch.float64)
    height, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(LATITUDES))
    phi = 2 * math.pi * torch.arange(AZIMUTHS, dtype=torch.float64) / AZIMUTHS
    radius = (1 - height.square()).sqrt()
    grid = torch.stack([radius[:, None] * phi.cos(), radius[:, None] * phi.sin(), height[:, None].expand(-1, AZIMUTHS)], dim=-1)
    return grid.flatten(0, 1), (weights * (2 * math.pi / AZIMUTHS)).log().repeat_interleave(AZIMUTHS)


def _angles(spread: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, pi], graded towards 0 as far as the density is narrow, and a little towards pi."""
    panels = min(26, max(4, 3 + math.ceil(math.log2(math.pi / spread))))
    low, low_weights = graded_nodes(math.pi / 2, panels, 14)
    high, high_weights = graded_nodes(math.pi / 2, 4, 14)
    return torch.cat([low, math.pi - high]), torch.cat([low_weights, high_weights])


def _polar_rule(manifold: geoopt.Manifold, density: Density, seed: int, mass_only: bool) -> Rule:
    """Angle times axis: exact for zonal densities, accurate for those that are not much narrower along one axis."""
    theta, weights = _angles(pilot(density, seed).spread)
    axes, log_area = _axes(mass_only and is_zonal(density, seed))
    points = exp_coords(manifold, density.center, (theta[:, None, None] * axes).flatten(0, 1))
    log_radial = (weights * 4 * (theta / 2).sin().square()).log()
    return Rule(points, (log_radial[:, None] + log_area).flatten())


@exact_rule.register(SpecialOrthogonal)
@exact_rule.register(UnitQuaternions)
def _(manifold: geoopt.Manifold, density: Density, seed: int, mass_only: bool) -> Rule | None:
    if density.dim == 1:
        phi = 2 * math.pi * torch.arange(4096, dtype=torch.float64) / 4096
        points = exp_coords(manifold, density.center, phi.unsqueeze(-1) - math.pi)
        return Rule(points, torch.full_like(phi, math.log(2 * math.pi / 4096)))
    return _polar_rule(manifold, density, seed, mass_only) if density.dim == 3 else None


@special_points.register(SpecialOrthogonal)
@special_points.register(UnitQuaternions)
def _(manifold: geoopt.Manifold, center: Tensor) -> Tensor:
    dim = geometry.intrinsic_dim(manifold, tuple(center.shape))
    turns = math.pi * torch.eye(dim, dtype=center.dtype, device=center.device)[:3]
    return torch.cat([center.unsqueeze(0), exp_coords(manifold, center, turns)])


@random_isometry.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, point_shape: Shape, generator: torch.Generator) -> Transform:
    left, right = geometry.sample_uniform(manifold, point_shape, (2,), generator=generator, dtype=torch.float64)
    return lambda x: left @ x @ right


@random_isometry.register(UnitQuaternions)
def _(manifold: UnitQuaternions, point_shape: Shape, generator: torch.Generator) -> Transform:
    left, right = geometry.sample_uniform(manifold, point_shape, (2,), generator=generator, dtype=torch.float64)
    return lambda x: quaternions.multiply(quaternions.multiply(left, x), right)


def _stretched(coordinates: Coordinates, n: int | None = None) -> Mapping[str, Coordinates]:
    """Normal coordinates, in units in which the whole group has volume 1, and in those of the Frobenius metric."""

    def haar(x: Tensor, y: Tensor) -> Tensor:
        size = n or x.shape[-1]
        return coordinates(x, y) * math.exp(-log_volume(size) / num_skew(size))

    return {"haar": haar, "frobenius": lambda x, y: coordinates(x, y) * math.sqrt(2)}


@measure_coordinates.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal) -> Mapping[str, Coordinates]:
    return _stretched(lambda x, y: vee(x.mT @ geometry.logmap(manifold, x, y)))


@measure_coordinates.register(UnitQuaternions)
def _(manifold: UnitQuaternions) -> Mapping[str, Coordinates]:
    return _stretched(lambda x, y: quaternions.rotation_vector(quaternions.relative(x, y)), 3)
