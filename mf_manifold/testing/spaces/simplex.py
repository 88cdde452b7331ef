"""The simplex: quadrature in log-ratios, points near its corners, permutations, coordinates of the measures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...geometry import Shape
from ...manifolds.simplex import Simplex, helmert, log_ratio_coordinates
from ..density import Density, pilot
from ..measures import Coordinates, measure_coordinates
from ..perturb import special_points
from ..rules import Rule, exact_rule, tangent_rule
from ..symmetry import Transform, random_isometry


@exact_rule.register(Simplex)
def _(manifold: Simplex, density: Density, seed: int, mass_only: bool) -> Rule | None:
    return tangent_rule(density, pilot(density, seed)) if density.dim <= 3 else None


@special_points.register(Simplex)
def _(manifold: Simplex, center: Tensor) -> Tensor:
    corner = torch.full_like(center, 1e-12)
    corner[0] = 1 - corner[1:].sum()
    return torch.stack([center, torch.full_like(center, 1 / len(center)), corner])


@random_isometry.register(Simplex)
def _(manifold: Simplex, point_shape: Shape, generator: torch.Generator) -> Transform:
    order = torch.randperm(point_shape[0], generator=generator)
    return lambda x: x[..., order]


@measure_coordinates.register(Simplex)
def _(manifold: Simplex) -> Mapping[str, Coordinates]:
    return {
        "lebesgue": lambda x, y: y[:, :-1],
        "hausdorff": lambda x, y: y @ helmert(y.shape[-1], y).mT,
        "aitchison": lambda x, y: log_ratio_coordinates(y),
    }
