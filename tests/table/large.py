"""Large dimensions, S^63 and SPD matrices of size 20: every check that needs no integral by sampling in so many dimensions.

On the sphere zonal laws are integrated by polar coordinates all the same; the others rest on the references.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mf_manifold.testing import KERNEL_CHECKS

from .common import F64, SPD, SPHERE, Case, case, real, spd_matrix, unit_vector

SAMPLED = ("normalisation", "sampler", "neighbours", "pathwise")
WITHOUT_INTEGRALS = tuple(check for check in KERNEL_CHECKS if check not in SAMPLED)
ZONAL = ("normalisation", *WITHOUT_INTEGRALS)
VANISHES = {"gradients": {"vanishes": True}}


def rows() -> list[Case]:
    """One moderate law of every family that exists there."""
    loc, spread = unit_vector(64), torch.diag(torch.linspace(0.5, 1.5, 64, dtype=F64))
    zonal = [
        case("sphere63-von_mises_fisher_500", SPHERE, "von_mises_fisher", {"loc": loc, "concentration": real(500.0)}),
        case("sphere63-power_spherical_500", SPHERE, "power_spherical", {"loc": loc, "concentration": real(500.0)}, **VANISHES),
        case(
            "sphere63-spherical_cauchy_0.3",
            SPHERE,
            "spherical_cauchy",
            {"loc": loc, "scale": real(0.3)},
            centered={"median": True},
        ),
        case("sphere63-stereographic_normal_0.1", SPHERE, "stereographic_normal", {"loc": loc, "scale": real(0.1)}, **VANISHES),
        case("sphere63-truncated_normal_0.2", SPHERE, "truncated_normal", {"loc": loc, "scale": real(0.2)}),
        case("sphere63-wrapped_normal_0.1", SPHERE, "wrapped_normal", {"loc": loc, "scale": real(0.1)}),
        case("sphere63-watson_500", SPHERE, "watson", {"loc": loc, "concentration": real(500.0)}),
    ]
    # covariances of a network's float32 outputs are not positive definite to rounding in 64 dimensions, as its backends need
    singular = tuple(check for check in WITHOUT_INTEGRALS if check != "backends")
    axial = case("sphere63-angular_central_gaussian", SPHERE, "angular_central_gaussian", {"covariance_matrix": spread})
    others = [
        case("sphere63-projected_normal_20", SPHERE, "projected_normal", {"mean_vector": 20 * loc}),
        case("sphere63-bingham", SPHERE, "bingham", {"concentration_matrix": 50 * spread}),
        *_matrices(20),
    ]
    rows = [*(replace(row, checks=ZONAL) for row in zonal), *(replace(row, checks=WITHOUT_INTEGRALS) for row in others)]
    return [*rows, replace(axial, checks=singular)]


def _matrices(p: int) -> list[Case]:
    loc, narrow = spd_matrix(p), real([0.1])
    return [
        case(f"spd{p}-wishart_60", SPD, "wishart", {"df": real(60.0), "covariance_matrix": loc / 60}),
        case(f"spd{p}-inverse_wishart_60", SPD, "inverse_wishart", {"df": real(60.0), "scale_matrix": 40 * loc}),
        case(f"spd{p}-wrapped_normal_0.1", SPD, "wrapped_normal", {"loc": loc, "scale": narrow}),
        case(f"spd{p}-riemannian_normal_0.1", SPD, "riemannian_normal", {"loc": loc, "scale": real(0.1)}),
    ]
