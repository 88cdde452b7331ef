"""Submanifolds of R^D: chords for distances, the closest point for steps, quadrature in angles and coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ...geometry import Shape
from ...manifolds.affine import AffineSubspace
from ...manifolds.chart import ChartManifold
from ...manifolds.ellipsoid import Ellipsoid
from ...manifolds.embedded import EmbeddedManifold, hypersurface_frame
from ...manifolds.star_shaped import StarShaped
from ...manifolds.torus_of_revolution import TorusOfRevolution
from ..density import PILOT, Density, generator_for, pilot
from ..measures import Coordinates, measure_coordinates
from ..perturb import special_points
from ..rules import Rule, exact_rule, graded_nodes, tangent_rule
from ..steps import difference, distance, has_geodesics, step
from ..symmetry import Transform, random_isometry
from .sphere import polar_rule
from .torus import torus_rule

LINE_NODES = {1: 401, 2: 161, 3: 57}
PANELS = {1: (24, 20), 2: (12, 10), 3: (6, 5)}


@has_geodesics.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold) -> bool:
    return isinstance(manifold, AffineSubspace)


@step.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor, u: Tensor) -> Tensor:
    return manifold.retr(x, u)


@difference.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor, y: Tensor) -> Tensor:
    return manifold.proju(x, y - x)


@distance.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.vector_norm(y - x, dim=-1)


@exact_rule.register(AffineSubspace)
def _(manifold: AffineSubspace, density: Density, seed: int, mass_only: bool) -> Rule | None:
    return tangent_rule(density, pilot(density, seed)) if density.dim <= 3 else None


@exact_rule.register(StarShaped)
def _(manifold: StarShaped, density: Density, seed: int, mass_only: bool) -> Rule | None:
    if density.dim > 2:
        return None
    center = manifold.on_ray(density.center)
    rule = polar_rule(center / center.norm())
    x = manifold.on_ray(rule.points)
    return Rule(x, rule.log_weights - manifold.log_solid_angle(x))


@exact_rule.register(Ellipsoid)
def _(manifold: Ellipsoid, density: Density, seed: int, mass_only: bool) -> Rule | None:
    if density.dim > 2:
        return None
    axes = manifold.axes(density.center)
    center = density.center / axes
    rule = polar_rule(center / center.norm())
    return Rule(axes * rule.points, rule.log_weights + axes.log().sum() + (rule.points / axes).norm(dim=-1).log())


@exact_rule.register(TorusOfRevolution)
def _(manifold: TorusOfRevolution, density: Density, seed: int, mass_only: bool) -> Rule | None:
    around, tube = manifold._tube(density.center)
    rule, chart = torus_rule(torch.stack([torch.atan2(v[1], v[0]) for v in (around, tube)])), manifold.parametrisation()
    return Rule(chart.embed(rule.points), rule.log_weights + chart.log_area(rule.points))


@exact_rule.register(ChartManifold)
def _(manifold: ChartManifold, density: Density, seed: int, mass_only: bool) -> Rule | None:
    """A product rule: graded towards the centre in periodic and bounded coordinates, sinh in the others."""
    if density.dim > 3:
        return None
    center = manifold.coordinates(density.center)
    spread = (manifold.coordinates(density.sample(PILOT, generator_for(seed))) - center).square().mean(0).sqrt()
    lines = [_line(manifold, i, float(center[i]), float(spread[i])) for i in range(manifold.dim)]
    u = torch.cartesian_prod(*[nodes for nodes, _ in lines]).reshape(-1, len(lines))
    log_weights = torch.cartesian_prod(*[weights.log() for _, weights in lines]).reshape(len(u), -1).sum(-1)
    return Rule(manifold.embedding(u), log_weights + manifold.half_logdet(u))


def _line(manifold: ChartManifold, i: int, center: float, spread: float) -> tuple[Tensor, Tensor]:
    side, period = manifold.box[i], manifold.periods[i]
    if side is None:
        t = torch.linspace(-4, 4, LINE_NODES[manifold.dim], dtype=torch.float64)
        return center + spread * t.sinh(), spread * t.cosh() * float(t[1] - t[0])
    low, high = (center - period / 2, center + period / 2) if period is not None else side
    below, below_weights = graded_nodes(center - low, *PANELS[manifold.dim])
    above, above_weights = graded_nodes(high - center, *PANELS[manifold.dim])
    return torch.cat([center - below, center + above]), torch.cat([below_weights, above_weights])


@special_points.register(Ellipsoid)
def _(manifold: Ellipsoid, center: Tensor) -> Tensor:
    return torch.cat([torch.stack([center, -center]), torch.diag(manifold.axes(center))])


@special_points.register(TorusOfRevolution)
def _(manifold: TorusOfRevolution, center: Tensor) -> Tensor:
    angles = torch.tensor([[0.0, 0.0], [0.0, math.pi / 2], [1.0, math.pi], [1.0, -math.pi / 2]], dtype=center.dtype)
    return torch.cat([center.unsqueeze(0), manifold.parametrisation().embed(angles)])


@random_isometry.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, point_shape: Shape, generator: torch.Generator) -> Transform:
    return lambda x: x  # a surface in general has no other


@random_isometry.register(Ellipsoid)
def _(manifold: Ellipsoid, point_shape: Shape, generator: torch.Generator) -> Transform:
    signs = torch.randint(0, 2, point_shape, generator=generator).double() * 2 - 1
    return lambda x: signs * x


@random_isometry.register(TorusOfRevolution)
def _(manifold: TorusOfRevolution, point_shape: Shape, generator: torch.Generator) -> Transform:
    angle = 6 * torch.rand((), generator=generator, dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64)
    turn[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    turn[2, 2] = -1.0
    return lambda x: x @ turn.mT


@random_isometry.register(AffineSubspace)
def _(manifold: AffineSubspace, point_shape: Shape, generator: torch.Generator) -> Transform:
    move = manifold.basis(torch.zeros(1, dtype=torch.float64)) @ torch.ones(manifold.dim, dtype=torch.float64)
    return lambda x: x + 1.5 * move


@measure_coordinates.register(StarShaped)
def _(manifold: StarShaped) -> Mapping[str, Coordinates]:
    return {"solid_angle": _direction_coordinates}


def _direction_coordinates(x: Tensor, y: Tensor) -> Tensor:
    frame = hypersurface_frame(torch.nn.functional.normalize(x, dim=-1))
    return (frame.mT @ torch.nn.functional.normalize(y, dim=-1).unsqueeze(-1)).squeeze(-1)


@measure_coordinates.register(ChartManifold)
def _(manifold: ChartManifold) -> Mapping[str, Coordinates]:
    return {"chart": lambda x, y: manifold.coordinates(y)}
