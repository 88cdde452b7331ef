"""Hyperbolic spaces as hyperboloid and ball, and spheres and planes in stereographic coordinates."""

from __future__ import annotations

from dataclasses import replace

import geoopt
import torch

import mf_manifold as mf
from mf_manifold.testing import KERNEL_CHECKS

from .common import F64, Case, Manifolds, case, covariance, real
from .uniform import CHECKS


def ball(c: float) -> geoopt.PoincareBall:
    """A ball whose curvature is a float64 number."""
    return geoopt.PoincareBall(torch.tensor(c, dtype=F64))


def lorentz_point(manifold: geoopt.Lorentz, dim: int) -> torch.Tensor:
    """A point in general position, 0.8 sqrt(d) from the origin."""
    raw = 0.8 * torch.randn(dim, dtype=F64, generator=torch.Generator().manual_seed(dim))
    return mf.geometry.from_raw(manifold, raw, (dim + 1,))


def rows() -> list[Case]:
    """Wrapped and Riemannian normal on hyperboloid and ball, some kernels of the sphere on its projection."""
    unit, wide = geoopt.Lorentz(), geoopt.Lorentz(2.5)
    rows = []
    # the heavy outskirts of the wide Riemannian law leave points far apart for the curvature: balls are larger than flat ones
    rest = tuple(check for check in KERNEL_CHECKS if check != "neighbours")
    for manifold, dim, s in ((unit, 1, 0.7), (wide, 2, 0.001), (wide, 2, 0.6), (unit, 2, 3.0), (unit, 3, 1.5), (wide, 10, 0.4)):
        loc, name = lorentz_point(manifold, dim), f"lorentz{dim}"
        wrapped = case(f"{name}-wrapped_normal_{s:g}", manifold, "wrapped_normal", {"loc": loc, "scale": real([s])})
        normal = case(f"{name}-riemannian_normal_{s:g}", manifold, "riemannian_normal", {"loc": loc, "scale": real(s)})
        rows += [wrapped, replace(normal, checks=rest if s > 1 else None)]
    for manifold, dim, s in ((wide, 2, 0.5), (unit, 3, 0.1)):
        loc, name = lorentz_point(manifold, dim), f"lorentz{dim}-wrapped_normal"
        scales = {"loc": loc, "scale": s * torch.linspace(0.6, 1.4, dim, dtype=F64)}
        full = {"loc": loc, "covariance_matrix": covariance(dim, s)}
        rows += [case(f"{name}_diagonal_{s:g}", manifold, None, scales), case(f"{name}_full_{s:g}", manifold, None, full)]
    return [*rows, *_projected()]


def _projected() -> list[Case]:
    poincare, sphere, y = ball(1.5), geoopt.SphereProjection(0.5), real([0.3, -0.4])
    on_circle = {"loc": real([2.0]), "scale": real(0.4)}
    uniform = mf.kernel_for(sphere, (2,), "uniform")
    return [
        case("ball2-wrapped_normal_0.5", poincare, None, {"loc": y, "scale": real([0.5])}),
        case("ball2-wrapped_normal_full_0.5", poincare, None, {"loc": y, "covariance_matrix": covariance(2, 0.5)}),
        case("ball2-riemannian_normal_0.5", poincare, "riemannian_normal", {"loc": y, "scale": real(0.5)}),
        case("stereographic2-wrapped_normal_1", geoopt.Stereographic(-0.4), None, {"loc": y, "scale": real([1.0])}),
        case("stereographic2-normal_0.5", geoopt.Stereographic(0.0), None, {"loc": y, "scale": real([0.5])}),
        case("projection2-von_mises_fisher_5", sphere, None, {"loc": y, "concentration": real(5.0)}),
        case("projection2-wrapped_normal_0.4", sphere, "wrapped_normal", {"loc": y, "scale": real(0.4)}),
        case("projection1-wrapped_normal_0.4", geoopt.SphereProjection(3.0), "wrapped_normal", on_circle),
        Case("projection2-uniform", uniform, {}, checks=CHECKS),
    ]


def manifolds() -> Manifolds:
    """Every model, curvatures of both signs and none."""
    return {
        "lorentz1": (geoopt.Lorentz(0.3), (2,)),
        "lorentz2": (geoopt.Lorentz(), (3,)),
        "lorentz5": (geoopt.Lorentz(2.5), (6,)),
        "ball2": (ball(1.0), (2,)),
        "ball3": (geoopt.PoincareBall(0.3), (3,)),
        "stereographic2_negative": (geoopt.Stereographic(-0.4), (2,)),
        "stereographic2_flat": (geoopt.Stereographic(0.0), (2,)),
        "stereographic2_almost_flat": (geoopt.Stereographic(1e-9), (2,)),
        "projection1": (geoopt.SphereProjection(3.0), (1,)),
        "projection2": (geoopt.SphereProjection(0.5), (2,)),
        "projection3": (geoopt.SphereProjectionExact(1.0), (3,)),
    }
