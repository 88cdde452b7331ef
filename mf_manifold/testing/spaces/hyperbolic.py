"""Hyperboloids and stereographic projections: quadrature, boosts, the far side, coordinates of the measures."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor

from ... import geometry
from ...geometry import Shape
from ...model import model_of
from ..density import Density, pilot
from ..measures import Coordinates, measure_coordinates
from ..perturb import special_points
from ..rules import Rule, exact_rule, tangent_rule
from ..symmetry import Transform, random_isometry, random_rotation


@exact_rule.register(geoopt.Lorentz)
def _(manifold: geoopt.Lorentz, density: Density, seed: int, mass_only: bool) -> Rule | None:
    return tangent_rule(density, pilot(density, seed)) if density.dim <= 3 else None


@exact_rule.register(geoopt.Stereographic)
def _(manifold: geoopt.Stereographic, density: Density, seed: int, mass_only: bool) -> Rule | None:
    """The rule of the model, its nodes brought back."""
    model = model_of(manifold)
    assert model is not None
    shift = density.dim * float(model.log_stretch)
    there = Density(
        model.manifold,
        model.to_shape(density.point_shape),
        lambda x: density.log_prob(model.from_model(x)) + shift,
        lambda n, generator: model.to_model(density.sample(n, generator)),
        model.to_model(density.center),
    )
    rule = exact_rule(model.manifold, there, seed, mass_only)
    if rule is None:
        return None
    points = geometry.project(manifold, model.from_model(rule.points))
    return rule._replace(points=points, log_weights=rule.log_weights + shift)


@special_points.register(geoopt.Lorentz)
def _(manifold: geoopt.Lorentz, center: Tensor) -> Tensor:
    mirrored = torch.cat([center[:1], -center[1:]])
    origin = geometry.project(manifold, torch.zeros_like(center))
    return torch.stack([center, origin, mirrored])


@special_points.register(geoopt.Stereographic)
def _(manifold: geoopt.Stereographic, center: Tensor) -> Tensor:
    points = [center, torch.zeros_like(center)]
    k, square = float(manifold.k), float(center.square().sum())
    return torch.stack([*points, -center / (k * square)] if k * square > 1e-12 else points)


@random_isometry.register(geoopt.Lorentz)
def _(manifold: geoopt.Lorentz, point_shape: Shape, generator: torch.Generator) -> Transform:
    """A rotation of space after a boost of 0.8 radii of curvature."""
    dim = point_shape[0] - 1
    direction = torch.nn.functional.normalize(torch.randn(dim, generator=generator, dtype=torch.float64), dim=0)
    speed = torch.tensor(0.8, dtype=torch.float64)
    boost, mixed = torch.eye(dim + 1, dtype=torch.float64), speed.sinh() * direction
    boost[0, 0], boost[0, 1:], boost[1:, 0] = speed.cosh(), mixed, mixed
    boost[1:, 1:] += (speed.cosh() - 1) * torch.outer(direction, direction)
    turn = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), random_rotation(dim, generator))
    return lambda x: geometry.project(manifold, x @ (turn @ boost).mT)


@random_isometry.register(geoopt.Stereographic)
def _(manifold: geoopt.Stereographic, point_shape: Shape, generator: torch.Generator) -> Transform:
    model = model_of(manifold)
    assert model is not None
    move = random_isometry(model.manifold, model.to_shape(point_shape), generator)
    return lambda x: geometry.project(manifold, model.from_model(move(model.to_model(x))))


@measure_coordinates.register(geoopt.Stereographic)
def _(manifold: geoopt.Stereographic) -> Mapping[str, Coordinates]:
    return {"lebesgue": lambda x, y: y}
