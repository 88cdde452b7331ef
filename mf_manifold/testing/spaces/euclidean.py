"""Euclidean space: quadrature, rigid motions."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch

from ... import geometry
from ...geometry import Shape
from ..density import Density, pilot
from ..measures import Coordinates, measure_coordinates
from ..rules import Rule, exact_rule, tangent_rule
from ..symmetry import Transform, random_isometry, random_rotation


@exact_rule.register(geoopt.Euclidean)
def _(manifold: geoopt.Euclidean, density: Density, seed: int, mass_only: bool) -> Rule | None:
    return tangent_rule(density, pilot(density, seed)) if density.dim <= 3 else None


@random_isometry.register(geoopt.Euclidean)
def _(manifold: geoopt.Euclidean, point_shape: Shape, generator: torch.Generator) -> Transform:
    rotation = random_rotation(geometry.intrinsic_dim(manifold, point_shape), generator)
    return lambda x: (x.flatten(x.ndim - len(point_shape)) @ rotation.mT).reshape(x.shape) + 1.5


@measure_coordinates.register(geoopt.Euclidean)
def _(manifold: geoopt.Euclidean) -> Mapping[str, Coordinates]:
    return {"lebesgue": lambda x, y: y.flatten(1)}
