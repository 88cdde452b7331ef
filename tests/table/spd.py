"""SPD matrices: Wishart and log-normal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mf_manifold.kernel import Params
from mf_manifold.numerics.linalg import congruence
from mf_manifold.testing.density import generator_for

from .common import F64, SPD, SPD_LEM, Case, Manifolds, case, covariance, real, spd_matrix


def _wishart_congruence(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    change = torch.eye(size, dtype=F64) + 0.4 * torch.randn(size, size, dtype=F64, generator=generator_for(98))
    return lambda x: congruence(change, x), lambda w: {**w, "covariance_matrix": congruence(change, w["covariance_matrix"])}


def rows() -> list[Case]:
    """Wishart and log-normal by the affine-invariant and by the log-Euclidean metric."""
    rows = []
    for size, dfs in {1: (0.7, 6.0), 2: (2.5, 7.5, 200.0), 3: (4.2, 9.0), 5: (20.0,)}.items():
        for df in dfs:
            params = {"df": real(df), "covariance_matrix": spd_matrix(size) / df}
            change = {"transform": _wishart_congruence(size)}
            rows.append(case(f"spd{size}-wishart_{df:g}", SPD, "wishart", params, invariance=change))
    for size, scales in {1: (0.1, 1.0), 2: (0.05, 0.4, 1.0), 3: (0.1, 0.4), 5: (0.2,)}.items():
        dim, loc, own = size * (size + 1) // 2, spd_matrix(size), {"metric": SPD_LEM}
        for s in scales:
            params, full = {"loc": loc, "scale": real([s])}, {"loc": loc, "covariance_matrix": covariance(dim, s)}
            rows.append(case(f"spd{size}-log_normal_{s:g}", SPD, "log_normal", params, centered=own))
            rows.append(case(f"spd{size}-log_normal_full_{s:g}", SPD, "log_normal", full, centered=own))
        rows.append(case(f"spd{size}_lem-log_normal_{s:g}", SPD_LEM, "log_normal", params))
    wishart = {"df": real(7.5), "covariance_matrix": spd_matrix(2)}
    return [*rows, case("spd2_lem-wishart_7.5", SPD_LEM, "wishart", wishart, centered={"metric": SPD})]


def manifolds() -> Manifolds:
    """Both metrics."""
    sizes = (1, 2, 3, 5)
    return {**{f"spd{n}": (SPD, (n, n)) for n in sizes}, **{f"spd{n}_lem": (SPD_LEM, (n, n)) for n in sizes}}
