"""Products and scaled manifolds, from what their parts register."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor

from ...geometry import Shape
from ...manifolds.product import join, split
from ..density import Density
from ..measures import Coordinates, measure_coordinates
from ..perturb import special_points
from ..rules import Rule, exact_rule
from ..symmetry import Transform, random_isometry


@exact_rule.register(geoopt.Scaled)
def _(manifold: geoopt.Scaled, density: Density, seed: int, mass_only: bool) -> Rule | None:
    log_stretch = density.dim * float(manifold.log_scale)
    base = Density(
        manifold.base,
        density.point_shape,
        lambda x: density.log_prob(x) + log_stretch,
        density.sample,
        density.center,
    )
    rule = exact_rule(manifold.base, base, seed, mass_only)
    return None if rule is None else rule._replace(log_weights=rule.log_weights + log_stretch)


@special_points.register(geoopt.Scaled)
def _(manifold: geoopt.Scaled, center: Tensor) -> Tensor:
    return special_points(manifold.base, center)


@special_points.register(geoopt.ProductManifold)
def _(manifold: geoopt.ProductManifold, center: Tensor) -> Tensor:
    parts = [special_points(m, c) for m, c in zip(manifold.manifolds, split(manifold, center), strict=True)]
    count = max(len(p) for p in parts)
    return join([p[torch.arange(count) % len(p)] for p in parts], manifold.shapes)


@random_isometry.register(geoopt.Scaled)
def _(manifold: geoopt.Scaled, point_shape: Shape, generator: torch.Generator) -> Transform:
    return random_isometry(manifold.base, point_shape, generator)


@random_isometry.register(geoopt.ProductManifold)
def _(manifold: geoopt.ProductManifold, point_shape: Shape, generator: torch.Generator) -> Transform:
    parts = zip(manifold.manifolds, manifold.shapes, strict=True)
    moves = [random_isometry(part, shape, generator) for part, shape in parts]
    return lambda x: join([g(v) for g, v in zip(moves, split(manifold, x), strict=True)], manifold.shapes)


@measure_coordinates.register(geoopt.Scaled)
def _(manifold: geoopt.Scaled) -> Mapping[str, Coordinates]:
    return measure_coordinates(manifold.base)
