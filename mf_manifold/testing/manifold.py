"""Checks of a manifold's geometry."""

from __future__ import annotations

import math
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..manifolds import from_config
from .density import Density, exp_coords, generator_for, to_coords
from .integrals import matching_moments, unit_integral
from .measures import jacobian
from .report import demand, named_check
from .rules import rule_for
from .steps import distance, has_geodesics
from .structure import demand_close

REACH = 0.8  # tangent vectors of this length stay within the injectivity radius of every supported manifold


def random_points(manifold: geoopt.Manifold, point_shape: Shape, count: int, seed: int) -> Tensor:
    """Points in float64: uniform where the manifold is compact, else from normal unconstrained reals."""
    generator = generator_for(seed)
    if math.isfinite(geometry.log_volume(manifold, point_shape)):
        return geometry.sample_uniform(manifold, point_shape, (count,), generator=generator, dtype=torch.float64)
    raw = torch.randn(count, geometry.raw_dim(manifold, point_shape), generator=generator, dtype=torch.float64)
    return geometry.from_raw(manifold, raw, point_shape)


def _tangents(manifold: geoopt.Manifold, point_shape: Shape, count: int, seed: int) -> Tensor:
    """Orthonormal coordinates of tangent vectors of length REACH times the scale of the metric."""
    v = torch.randn(count, geometry.intrinsic_dim(manifold, point_shape), generator=generator_for(seed), dtype=torch.float64)
    scale = float(manifold.scale) if isinstance(manifold, geoopt.Scaled) else 1.0
    return REACH * scale * v / v.norm(dim=-1, keepdim=True)


def _has_exponential(manifold: geoopt.Manifold, point_shape: Shape) -> bool:
    """Whether there is an expmap, although there are no other maps of geodesics."""
    x = random_points(manifold, point_shape, 1, 0)
    try:
        geometry.expmap(manifold, x, torch.zeros_like(x))
    except NotImplementedError:
        return False
    return True


def _demand_geodesics(manifold: geoopt.Manifold, point_shape: Shape, tolerance: float, seed: int) -> None:
    """``t -> exp(x, t u)`` starts with u, keeps its speed, and goes on from any of its points as it came."""
    x, v = random_points(manifold, point_shape, 16, seed), _tangents(manifold, point_shape, 16, seed)
    u = geometry.from_coords(manifold, x, v)

    def path(t: Tensor) -> Tensor:
        return geometry.expmap(manifold, x, t * u)

    for time in (0.0, 0.7):
        at, unit = torch.tensor(time, dtype=x.dtype), torch.ones((), dtype=x.dtype)
        here, velocity = torch.autograd.functional.jvp(path, at, unit)  # type: ignore[no-untyped-call]
        speed = torch.stack([to_coords(manifold, a, b) for a, b in zip(here, velocity, strict=True)]).norm(dim=-1)
        demand_close(speed, v.norm(dim=-1), f"speed of a geodesic at time {time}", tolerance)
        if time == 0:
            demand_close(velocity, u, "first velocity of a geodesic", tolerance)
        onward = geometry.expmap(manifold, here, 0.4 * velocity)
        demand_close(onward, path(at + 0.4), f"geodesic taken up again at time {time}", tolerance)


@named_check("maps")
def check_maps(manifold: geoopt.Manifold, point_shape: Shape, *, tolerance: float = 1e-9, seed: int = 0) -> None:
    """expmap, logmap, dist and from_coords are those of one metric: round trips, isometric coordinates, symmetry.

    Where not all of them exist: geodesics of expmap alone, or orthonormal coordinates of tangent vectors.
    """
    if not has_geodesics(manifold):
        demand_some = _demand_geodesics if _has_exponential(manifold, point_shape) else _demand_steps
        return demand_some(manifold, point_shape, tolerance, seed)
    x, y = random_points(manifold, point_shape, 64, seed), random_points(manifold, point_shape, 64, seed + 1)
    v = _tangents(manifold, point_shape, 64, seed)
    u = geometry.from_coords(manifold, x, v)
    end = geometry.expmap(manifold, x, u)
    demand_close(geometry.logmap(manifold, x, end), u, "logmap of expmap", tolerance)
    demand_close(geometry.dist(manifold, x, end), v.norm(dim=-1), "distance to the end of a geodesic", tolerance)
    back = geometry.expmap(manifold, x, geometry.logmap(manifold, x, y))
    demand_close(geometry.dist(manifold, back, y), torch.zeros(64, dtype=x.dtype), "distance of y to expmap of logmap", 1e-6)
    to, fro = geometry.dist(manifold, x, y), geometry.dist(manifold, y, x)
    demand_close(to, fro, "distance the other way", tolerance)
    length = to_coords(manifold, x, geometry.logmap(manifold, x, y)).norm(dim=-1)
    demand_close(length, to, "length of logmap against the distance", tolerance)
    half = geometry.dist(manifold, x, geometry.expmap(manifold, x, u / 2))
    demand_close(half, v.norm(dim=-1) / 2, "distance to the middle of a geodesic", tolerance)
    detour = geometry.dist(manifold, x, end) + geometry.dist(manifold, end, y)
    demand(bool((to <= detour + tolerance).all()), "a detour is shorter than the distance")
    return None


def _demand_steps(manifold: geoopt.Manifold, point_shape: Shape, tolerance: float, seed: int) -> None:
    """Without geodesics: orthonormal coordinates of tangent vectors, along which steps start."""
    x = random_points(manifold, point_shape, 16, seed)
    zero = torch.zeros(len(x), geometry.intrinsic_dim(manifold, point_shape), dtype=x.dtype)
    eye = torch.eye(zero.shape[1], dtype=x.dtype).expand(len(x), -1, -1)
    basis = geometry.from_coords(manifold, x.unsqueeze(1), eye).mT
    demand_close(basis.mT @ basis, eye, "inner products of the coordinate directions", tolerance)
    slopes = jacobian(lambda v: exp_coords(manifold, x, v), zero)
    demand_close(slopes, basis, "derivative of a step by its coordinates", 1e-6)


@named_check("volume")
def check_volume(manifold: geoopt.Manifold, point_shape: Shape, *, tolerance: float = 1e-8, seed: int = 0) -> None:
    """``logdet_expmap`` is the Jacobian of expmap in orthonormal bases, ``log_volume`` its integral."""
    x, v = random_points(manifold, point_shape, 16, seed), _tangents(manifold, point_shape, 16, seed)
    for size in (1.0, 0.1) if has_geodesics(manifold) else ():
        u = geometry.from_coords(manifold, x, size * v)
        y = geometry.expmap(manifold, x, u).detach()
        # coordinates at y are linear on its tangent space, so that their Jacobian at y is that of expmap
        exact = jacobian(lambda t: to_coords(manifold, y, exp_coords(manifold, x, t)), size * v)  # noqa: B023
        determinant = torch.linalg.slogdet(exact).logabsdet
        demand_close(geometry.logdet_expmap(manifold, x, u), determinant, "logdet_expmap against its Jacobian", tolerance)
    log_volume = geometry.log_volume(manifold, point_shape)
    if math.isfinite(log_volume):
        uniform = _uniform(manifold, point_shape, seed)
        unit_integral(uniform, rule_for(uniform, seed, mass_only=True), 1e-6)
        matching_moments(uniform, seed, 2**14)


def _uniform(manifold: geoopt.Manifold, point_shape: Shape, seed: int) -> Density:
    log_volume = geometry.log_volume(manifold, point_shape)
    return Density(
        manifold,
        point_shape,
        lambda x: torch.full((len(x),), -log_volume, dtype=x.dtype),
        lambda n, g: geometry.sample_uniform(manifold, point_shape, (n,), generator=g, dtype=torch.float64),
        random_points(manifold, point_shape, 1, seed)[0],
    )


@named_check("points")
def check_point_maps(manifold: geoopt.Manifold, point_shape: Shape, *, seed: int = 0) -> None:
    """Unconstrained reals give valid points and come back, project keeps points, the description restores the manifold."""
    x = random_points(manifold, point_shape, 64, seed)
    raw = torch.randn(64, geometry.raw_dim(manifold, point_shape), generator=generator_for(seed), dtype=torch.float64)
    for what, points in {"random points": x, "from_raw": geometry.from_raw(manifold, raw, point_shape)}.items():
        demand(points.shape == x.shape, f"{what} have shape {tuple(points.shape)}, expected {tuple(x.shape)}")
        geometry.check_points(manifold, points, point_shape, what)
    again = geometry.from_raw(manifold, geometry.to_raw(manifold, x), point_shape)
    demand_close(again, x, "from_raw of to_raw", 1e-9)
    demand_close(geometry.project(manifold, x), x, "project of a point", 1e-12)
    copy = from_config(geometry.to_config(manifold))
    demand(geometry.same_manifold(copy, manifold), f"the manifold restored from its description is {copy}")
    demand_close(distance(copy, x, x.flip(0)), distance(manifold, x, x.flip(0)), "distance after the restore", 0)


@named_check("degenerate points")
def check_degenerate(manifold: geoopt.Manifold, point_shape: Shape, *, seed: int = 0) -> None:
    """At coinciding points every map has its exact value, in float32 too, and a finite gradient."""
    if not has_geodesics(manifold) and not _has_exponential(manifold, point_shape):
        return
    x = random_points(manifold, point_shape, 8, seed)
    for dtype in (torch.float64, torch.float32):
        a, b = (x.to(dtype).clone().requires_grad_() for _ in range(2))
        zero = torch.zeros_like(a).requires_grad_()
        eps = torch.finfo(dtype).eps
        maps: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
            "expmap of 0": lambda: (geometry.expmap(manifold, a, zero), b),  # noqa: B023
            "logmap of the point": lambda: (geometry.logmap(manifold, a, b), zero),  # noqa: B023
            "distance to itself": lambda: (geometry.dist(manifold, a, b), zero.flatten(1)[:, 0]),  # noqa: B023
            "logdet_expmap of 0": lambda: (geometry.logdet_expmap(manifold, a, zero), zero.flatten(1)[:, 0]),  # noqa: B023
        }
        for what, function in maps.items() if has_geodesics(manifold) else [*maps.items()][:1]:
            value, expected = function()
            demand_close(value, expected, f"{what} in {dtype}", 64 * eps * float(x.abs().amax().clamp_min(1)) ** 2)
            if value.requires_grad:
                slopes = torch.autograd.grad(value.sum(), [a, b, zero], allow_unused=True)
                finite = all(bool(torch.isfinite(s).all()) for s in slopes if s is not None)
                demand(finite, f"the gradient of {what} is not finite in {dtype}")
