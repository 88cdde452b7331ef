"""Flat tori: tensor quadrature, the cut locus, shifts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ... import geometry
from ...geometry import Shape
from ...manifolds import Torus
from ..density import Density
from ..perturb import special_points
from ..rules import Rule, exact_rule, graded_nodes
from ..symmetry import Transform, random_isometry


def torus_rule(center: Tensor) -> Rule:
    """Tensor rule on T^1 and T^2, graded towards the centre."""
    half, half_weights = graded_nodes(math.pi, *((24, 20) if len(center) == 1 else (12, 10)))
    nodes, log_weights = torch.cat([-half.flip(0), half]), torch.cat([half_weights.flip(0), half_weights]).log()
    grid = torch.cartesian_prod(*[nodes] * len(center)).reshape(-1, len(center))
    return Rule(center + grid, torch.cartesian_prod(*[log_weights] * len(center)).reshape(len(grid), -1).sum(-1))


@exact_rule.register(Torus)
def _(manifold: Torus, density: Density, seed: int, mass_only: bool) -> Rule | None:
    return torus_rule(density.center) if density.dim <= 2 else None


@special_points.register(Torus)
def _(manifold: Torus, center: Tensor) -> Tensor:
    return torch.stack([center, center + torch.pi, center - torch.pi])


@random_isometry.register(Torus)
def _(manifold: Torus, point_shape: Shape, generator: torch.Generator) -> Transform:
    shift = 6 * torch.rand(point_shape, generator=generator, dtype=torch.float64) - 3
    return lambda x: geometry.project(manifold, x + shift)
