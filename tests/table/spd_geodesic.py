"""SPD matrices: the normal laws of the affine-invariant geometry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mf_manifold.numerics.linalg import congruence
from mf_manifold.testing.density import generator_for

from .common import F64, SPD, SPD_LEM, Case, Params, case, covariance, real, spd_matrix


def _moved(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    change = torch.eye(size, dtype=F64) + 0.4 * torch.randn(size, size, dtype=F64, generator=generator_for(97))
    return lambda x: congruence(change, x), lambda w: {**w, "loc": congruence(change, w["loc"])}


def rows() -> list[Case]:
    """Wrapped and Riemannian normal, narrow and wide; isotropic laws do not see a change of basis."""
    rows = []
    for size, scales in {1: (0.5,), 2: (1e-4, 0.5, 2.0), 3: (0.05, 1.5), 4: (0.4,)}.items():
        loc, free = spd_matrix(size), {"invariance": {"transform": _moved(size)}}
        for s in scales:
            params: Params = {"loc": loc, "scale": real(s)}
            rows.append(case(f"spd{size}-riemannian_normal_{s:g}", SPD, "riemannian_normal", params, **free))
            params = {"loc": loc, "scale": real([s])}
            rows.append(case(f"spd{size}-wrapped_normal_{s:g}", SPD, "wrapped_normal", params, **free))
    for size, s in ((2, 0.6), (3, 0.3)):
        loc, dim = spd_matrix(size), size * (size + 1) // 2
        full = {"loc": loc, "covariance_matrix": covariance(dim, s)}
        rows.append(case(f"spd{size}-wrapped_normal_full_{s:g}", SPD, "wrapped_normal", full))
        diagonal = {"loc": loc, "scale": s * torch.linspace(0.5, 1.5, dim, dtype=loc.dtype)}
        rows.append(case(f"spd{size}-wrapped_normal_diagonal_{s:g}", SPD, "wrapped_normal", diagonal))
    own = {"metric": SPD}
    lem: Params = {"loc": spd_matrix(2), "scale": real([0.5])}
    rows.append(case("spd2_lem-wrapped_normal_0.5", SPD_LEM, "wrapped_normal", lem, centered=own))
    lem = {"loc": spd_matrix(2), "scale": real(0.5)}
    return [*rows, case("spd2_lem-riemannian_normal_0.5", SPD_LEM, "riemannian_normal", lem, centered=own)]
