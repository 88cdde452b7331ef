"""Von Mises laws on tori; inverse Wishart, matrix beta prime and log-Cholesky normal laws on SPD matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mf_manifold.kernel import Params
from mf_manifold.numerics.linalg import congruence
from mf_manifold.testing import KERNEL_CHECKS
from mf_manifold.testing.density import generator_for

from .common import F64, SPD, SPD_LEM, TORUS, Case, case, covariance, real, spd_matrix

# rotations of a Cholesky factor's rows are no isometries of these laws; test_torus_and_spd has their triangular group
NOT_ROTATIONS = tuple(name for name in KERNEL_CHECKS if name != "invariance")


def rows() -> list[Case]:
    """Narrow, typical and wide laws."""
    return [*_torus(), *_inverse_wishart(), *_beta_prime(), *_log_cholesky()]


def _torus() -> list[Case]:
    rows = []
    for kappas in ([0.3], [0.2, 40.0], [1e5, 2.0], [3.0, 1e3, 0.1]):
        loc = torch.linspace(-2.5, 3.0, len(kappas), dtype=F64)
        params = {"loc": loc, "concentration": real(kappas)}
        rows.append(case(f"torus{len(kappas)}-von_mises_{kappas[0]:g}", TORUS, "von_mises", params))
    ten = torch.linspace(-2.5, 3.0, 10, dtype=F64)
    rows.append(case("torus10-von_mises_20", TORUS, "von_mises", {"loc": ten, "concentration": real([20.0])}))
    rows.append(case("torus10-wrapped_normal_0.3", TORUS, "wrapped_normal", {"loc": ten, "scale": real([0.3])}))
    for kappas, correlation in (([0.5, 3.0], 0.7), ([2.0, 1.0], -6.0), ([1e5, 1e4], 2e4)):
        params = {"loc": real([-2.5, 3.0]), "concentration": real(kappas), "correlation": real(correlation)}
        rows.append(case(f"torus2-sine_bivariate_von_mises_{correlation:g}", TORUS, "sine_bivariate_von_mises", params))
    return rows


def _congruence(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    change = torch.eye(size, dtype=F64) + 0.4 * torch.randn(size, size, dtype=F64, generator=generator_for(98))
    return lambda x: congruence(change, x), lambda w: {**w, "scale_matrix": congruence(change, w["scale_matrix"])}


def _inverse_wishart() -> list[Case]:
    rows = []
    for size, dfs in {1: (3.5,), 2: (7.5, 200.0), 3: (9.0,)}.items():
        for df in dfs:
            params = {"df": real(df), "scale_matrix": spd_matrix(size) * df}
            change = {"transform": _congruence(size)}
            rows.append(case(f"spd{size}-inverse_wishart_{df:g}", SPD, "inverse_wishart", params, invariance=change))
    return rows


def _beta_prime() -> list[Case]:
    rows = []
    for size, a, b in ((1, 2.0, 3.0), (2, 200.0, 100.0), (2, 1.5, 2.6), (3, 5.0, 6.0)):
        params = {"a": real(a), "b": real(b), "scale_matrix": spd_matrix(size)}
        change = {"transform": _congruence(size)}
        rows.append(case(f"spd{size}-matrix_beta_prime_{a:g}", SPD, "matrix_beta_prime", params, invariance=change))
    return rows


def _log_cholesky() -> list[Case]:
    rows = []
    for manifold, size, s in ((SPD, 1, 0.5), (SPD, 2, 0.05), (SPD_LEM, 2, 0.3), (SPD, 3, 0.3)):
        metric, loc, dim = manifold.default_metric.value.lower(), spd_matrix(size), size * (size + 1) // 2
        own: Params = {"loc": loc, "scale": real([s])}
        full = {"loc": loc, "covariance_matrix": covariance(dim, s)}
        for variant, params in (("", own), ("_full", full)):
            row = case(f"spd{size}_{metric}-log_cholesky_normal{variant}_{s:g}", manifold, "log_cholesky_normal", params)
            rows.append(Case(row.id, row.kernel, row.params, row.options, NOT_ROTATIONS))
    return rows
