"""Submanifolds of R^D: surfaces with a known medial axis, star-shaped ones, charts, affine subspaces."""

from __future__ import annotations

import torch
from torch import Tensor

import mf_manifold as mf

from .common import Case, Manifolds, case, covariance, real
from .uniform import CHECKS

ELLIPSE = mf.manifolds.Ellipsoid([2.0, 1.0])
ELLIPSOID, CIGAR = mf.manifolds.Ellipsoid([1.5, 0.8, 1.0]), mf.manifolds.Ellipsoid([0.9, 0.9, 1.6])
RING = mf.manifolds.TorusOfRevolution(2.0, 0.7)
SHEET = mf.manifolds.AffineSubspace([[1.0, 0.5], [0.0, 1.0], [2.0, -1.0]], offset=[0.0, 1.0, 0.0])
CIRCLE, HELIX, CYLINDER, ROLL, CAP, BOWL = (
    mf.manifolds.surface(name) for name in ("circle", "helix", "cylinder", "swiss_roll", "sphere_cap", "paraboloid")
)


def _pear_radius(u: Tensor) -> Tensor:
    return 1 + 0.2 * u[..., 2] + 0.1 * u[..., 0] * u[..., 1]


@mf.manifolds.register_surface("pear of the tests")
def _pear() -> mf.manifolds.StarShaped:
    return mf.manifolds.StarShaped(_pear_radius, ambient_dim=3)


@mf.manifolds.register_surface("ellipse by angle of the tests")
def _ellipse_by_angle() -> mf.manifolds.ChartManifold:
    """An ellipse in space without a left inverse: coordinates by search."""
    axes = real([[2.0, 0.0, 0.3], [0.0, 1.0, -0.4]])

    def embedding(u: Tensor) -> Tensor:
        return torch.cat([u.cos(), u.sin()], dim=-1) @ axes.to(u)

    return mf.manifolds.ChartManifold(embedding, 1, periods=[2 * torch.pi])


PEAR, HOOP = mf.manifolds.surface("pear of the tests"), mf.manifolds.surface("ellipse by angle of the tests")


def projected_rows() -> list[Case]:
    """Closest-point projections: narrow, typical, wide, off the surface, correlated."""
    on_ellipse = mf.geometry.project(ELLIPSE, real([1.2, 0.9]))
    on_ellipsoid = mf.geometry.project(ELLIPSOID, real([0.9, 0.4, -0.6]))
    on_cigar = mf.geometry.project(CIGAR, real([0.9, 0.4, -0.6]))
    on_ring = mf.geometry.project(RING, real([-1.0, 0.8, 0.3]))
    flat = real([0.3, -1.0, 0.5])
    return [
        case("ellipse-projected_normal_0.001", ELLIPSE, "projected_normal", {"loc": on_ellipse, "scale": real(0.001)}),
        case("ellipse-projected_normal_1.5", ELLIPSE, "projected_normal", {"loc": real([0.5, -0.1]), "scale": real(1.5)}),
        case("cigar-projected_normal_0.3", CIGAR, "projected_normal", {"loc": on_cigar, "scale": real(0.3)}),
        case(
            "ellipsoid-projected_normal_full",
            ELLIPSOID,
            "projected_normal",
            {"loc": 1.2 * on_ellipsoid, "covariance_matrix": covariance(3, 0.5)},
        ),
        case("ring-projected_normal_0.05", RING, "projected_normal", {"loc": on_ring, "scale": real(0.05)}),
        case(
            "ring-projected_normal_full",
            RING,
            "projected_normal",
            {"loc": 0.9 * on_ring, "covariance_matrix": covariance(3, 1.0)},
        ),
        case("sheet-projected_normal_0.1", SHEET, "projected_normal", {"loc": flat, "scale": real(0.1)}),
        case("sheet-projected_normal_full", SHEET, "projected_normal", {"loc": flat, "covariance_matrix": covariance(3, 1.0)}),
    ]


def radial_rows() -> list[Case]:
    """Radial projections, of a user's surface and of ellipsoids."""
    on_pear, on_ellipse = (mf.geometry.project(m, x) for m, x in ((PEAR, real([0.5, 0.6, 0.7])), (ELLIPSE, real([1.0, 0.5]))))
    return [
        case("pear-radial_normal_0.3", PEAR, "radial_normal", {"loc": on_pear, "scale": real(0.3)}),
        case(
            "pear-radial_normal_full",
            PEAR,
            "radial_normal",
            {"loc": 0.5 * on_pear, "covariance_matrix": covariance(3, 0.6)},
        ),
        case("ellipse-radial_normal_0.001", ELLIPSE, "radial_normal", {"loc": on_ellipse, "scale": real(0.001)}),
        case("ellipse-radial_normal_3", ELLIPSE, "radial_normal", {"loc": on_ellipse, "scale": real(3.0)}),
    ]


def chart_rows() -> list[Case]:
    """Push-forwards: one preimage and many, closed-form and searched coordinates."""
    rows = []
    for name, manifold, u, scale in (
        ("circle", CIRCLE, [2.5], [0.05]),
        ("circle", CIRCLE, [2.5], [4.0]),
        ("helix", HELIX, [1.0], [2.0]),
        ("cylinder", CYLINDER, [3.0, 1.0], [1.5, 0.3]),
        ("paraboloid", BOWL, [0.5, -0.3], [0.01, 0.02]),
        ("searched_ellipse", HOOP, [1.0], [0.8]),
    ):
        params = {"loc": manifold.embedding(real([u]))[0], "scale": real(scale)}
        rows.append(case(f"{name}-pushforward_normal_{scale[0]:g}", manifold, "pushforward_normal", params))
    for name, manifold, u, size in (("cylinder", CYLINDER, [3.0, 1.0], 1.2), ("swiss_roll", ROLL, [1.5, 0.0], 0.2)):
        params = {"loc": manifold.embedding(real([u]))[0], "covariance_matrix": covariance(2, size)}
        rows.append(case(f"{name}-pushforward_normal_full", manifold, "pushforward_normal", params))
    return rows


def restricted_rows() -> list[Case]:
    """Restrictions to curves and surfaces with a numeric normaliser."""
    on_ring, on_pear = (mf.geometry.project(m, real([-1.0, 0.8, 0.3])) for m in (RING, PEAR))
    full = {"loc": real([0.5, -0.1]), "covariance_matrix": covariance(2, 0.6)}
    return [
        case("ellipse-restricted_normal_full", ELLIPSE, "restricted_normal", full),
        case("pear-restricted_normal_0.5", PEAR, "restricted_normal", {"loc": 1.1 * on_pear, "scale": real(0.5)}),
        case("ring-restricted_normal_0.3", RING, "restricted_normal", {"loc": on_ring, "scale": real(0.3)}),
        case("circle-restricted_normal_0.02", CIRCLE, "restricted_normal", {"loc": real([0.6, 0.8]), "scale": real(0.02)}),
    ]


def rows() -> list[Case]:
    """All of them, and uniform laws."""
    uniform = [
        Case(f"{name}-uniform", mf.kernel_for(manifold, (3,), "uniform"), {}, checks=CHECKS)
        for name, manifold in (("ring", RING), ("pear", PEAR), ("hoop", HOOP))
    ]
    return [*projected_rows(), *radial_rows(), *chart_rows(), *restricted_rows(), *uniform]


def manifolds() -> Manifolds:
    """Every class, charts with and without periods."""
    found = {
        "ellipse": ELLIPSE,
        "ellipsoid": ELLIPSOID,
        "ring": RING,
        "sheet": SHEET,
        "pear": PEAR,
        "circle_chart": CIRCLE,
        "cylinder_chart": CYLINDER,
        "roll_chart": ROLL,
        "cap_chart": CAP,
        "searched_ellipse_chart": HOOP,
    }
    return {name: (manifold, (manifold.ambient_dim,)) for name, manifold in found.items()}
