"""Spheres: polar quadrature, antipodes, rotations."""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from ... import geometry
from ...geometry import Shape
from ..density import Density
from ..perturb import special_points
from ..rules import Rule, exact_rule, graded_nodes, is_zonal
from ..symmetry import Transform, random_isometry, random_rotation

AZIMUTHS = 64


def _directions(center: Tensor) -> tuple[Tensor, float]:
    """Unit tangent vectors (K,D) over which a function is averaged, and the log area that each stands for."""
    manifold, dim = geoopt.Sphere(), len(center) - 1
    if dim == 1:
        coords, area = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), 1.0
    elif dim == 2:
        phi = 2 * math.pi * torch.arange(AZIMUTHS, dtype=torch.float64) / AZIMUTHS
        coords, area = torch.stack([phi.cos(), phi.sin()], dim=-1), 2 * math.pi / AZIMUTHS
    else:  # one direction stands for all of a zonal function
        coords, area = torch.eye(dim, dtype=torch.float64)[:1], math.exp(geometry.log_volume(manifold, (dim,)))
    return geometry.from_coords(manifold, center.expand(len(coords), -1), coords), math.log(area)


def polar_rule(center: Tensor) -> Rule:
    """Sphere S^d in polar coordinates: exact for d <= 2, and for zonal functions beyond.

    Graded towards both poles and the equator. The factor ``sin^(d-1)`` cancels the integrable singularities that wrapped
    normals have at ``center`` and opposite.
    """
    pole, pole_weights = graded_nodes(math.pi / 4, 26, 20)
    girdle, girdle_weights = graded_nodes(math.pi / 4, 12, 20)
    cosine = torch.cat([pole.cos(), girdle.sin(), -girdle.sin(), -pole.cos()])
    sine = torch.cat([pole.sin(), girdle.cos(), girdle.cos(), pole.sin()])
    weights = torch.cat([pole_weights, girdle_weights, girdle_weights, pole_weights])
    directions, log_area = _directions(center)
    points = cosine[:, None, None] * center + sine[:, None, None] * directions
    log_radial = weights.log() + (len(center) - 2) * sine.log() + log_area
    return Rule(points.flatten(0, 1), log_radial.repeat_interleave(len(directions)))


@exact_rule.register(geoopt.Sphere)
def _(manifold: geoopt.Sphere, density: Density, seed: int, mass_only: bool) -> Rule | None:
    usable = density.dim <= 2 or (mass_only and is_zonal(density, seed))
    return polar_rule(density.center) if usable else None


@special_points.register(geoopt.Sphere)
def _(manifold: geoopt.Sphere, center: Tensor) -> Tensor:
    return torch.stack([center, -center])


@random_isometry.register(geoopt.Sphere)
def _(manifold: geoopt.Sphere, point_shape: Shape, generator: torch.Generator) -> Transform:
    rotation = random_rotation(point_shape[0], generator)
    return lambda x: x @ rotation.mT
