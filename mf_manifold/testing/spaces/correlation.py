"""Correlation matrices: quadrature in their coordinates, the identity and nearly singular ones, changes of sign."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...geometry import Shape
from ...manifolds.correlation import Correlation, below
from ..density import Density, pilot
from ..measures import Coordinates, measure_coordinates
from ..perturb import special_points
from ..rules import Rule, exact_rule, tangent_rule
from ..symmetry import Transform, random_isometry


@exact_rule.register(Correlation)
def _(manifold: Correlation, density: Density, seed: int, mass_only: bool) -> Rule | None:
    return tangent_rule(density, pilot(density, seed)) if density.dim <= 3 else None


@special_points.register(Correlation)
def _(manifold: Correlation, center: Tensor) -> Tensor:
    eye = torch.eye(center.shape[-1], dtype=center.dtype, device=center.device)
    return torch.stack([center, eye, 0.999 + 0.001 * eye])


@random_isometry.register(Correlation)
def _(manifold: Correlation, point_shape: Shape, generator: torch.Generator) -> Transform:
    # reversing variables reverses the signs of partial correlations
    flips = 1.0 - 2.0 * torch.randint(0, 2, (point_shape[0],), generator=generator, dtype=torch.float64)
    flips[0], flips[1] = 1.0, -1.0
    return lambda x: flips.unsqueeze(-1) * x * flips


@measure_coordinates.register(Correlation)
def _(manifold: Correlation) -> Mapping[str, Coordinates]:
    def entries(x: Tensor, y: Tensor) -> Tensor:
        rows, columns = below(y.shape[-1], y.device)
        return y[..., rows, columns]

    return {"lebesgue": entries}
