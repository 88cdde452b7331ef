"""Simplex, correlation matrices, Stiefel and Grassmann manifolds."""

from __future__ import annotations

from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernel import Params
from mf_manifold.linalg import congruence
from mf_manifold.testing import KERNEL_CHECKS
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.symmetry import random_rotation

from .common import F64, Case, Manifolds, case, covariance, real, spd_matrix
from .uniform import CHECKS

SIMPLEX, CORRELATION, GRASSMANN = mf.manifolds.Simplex(), mf.manifolds.Correlation(), mf.manifolds.Grassmann()
STIEFEL, EUCLIDEAN_STIEFEL = geoopt.Stiefel(), geoopt.Stiefel(canonical=False)


def composition(size: int) -> Tensor:
    """A point of the simplex in general position."""
    return torch.softmax(torch.randn(size, dtype=F64, generator=generator_for(size)), -1)


def correlation_matrix(size: int) -> Tensor:
    """A correlation matrix in general position."""
    dim = size * (size - 1) // 2
    raw = 0.6 * torch.randn(dim, dtype=F64, generator=generator_for(size))
    return mf.geometry.from_raw(CORRELATION, raw, (size, size))


def _perturbing(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    """Multiplying all parts by given numbers, the translations of the simplex."""
    by = composition(size + 1)[1:]

    def move(x: Tensor) -> Tensor:
        return x * by / (x * by).sum(-1, keepdim=True)

    return move, lambda w: {**w, "loc": move(w["loc"])}


def simplex_rows() -> list[Case]:
    """Logistic normal and Dirichlet."""
    rows = []
    for size, scales in {2: (0.05,), 3: (0.4, 3.0), 8: (0.01,)}.items():
        loc, shift = composition(size), {"transform": _perturbing(size)}
        for s in scales:
            params = {"loc": loc, "scale": real([s])}
            rows.append(case(f"simplex{size}-logistic_normal_{s:g}", SIMPLEX, "logistic_normal", params, invariance=shift))
    full = {"loc": composition(4), "covariance_matrix": covariance(3, 0.7)}
    rows.append(case("simplex4-logistic_normal_full_0.7", SIMPLEX, "logistic_normal", full))
    for alpha in ([0.4, 0.7], [1.0, 1.0, 1.0], [3e5, 2e5, 5e4], [2.0, 9.0, 0.5, 4.0], [5.0] * 12):
        id = f"simplex{len(alpha)}-dirichlet_{alpha[0]:g}"
        rows.append(case(id, SIMPLEX, "dirichlet", {"concentration": real(alpha)}))
    return rows


def correlation_rows() -> list[Case]:
    """Normal law of partial correlations and LKJ."""
    rows = []
    for size, scales in {2: (0.05,), 3: (0.02, 0.6), 6: (0.2,)}.items():
        for s in scales:
            params = {"loc": correlation_matrix(size), "scale": real([s])}
            rows.append(case(f"correlation{size}-partial_correlation_normal_{s:g}", CORRELATION, None, params))
    full = {"loc": correlation_matrix(3), "covariance_matrix": covariance(3, 0.4)}
    rows.append(case("correlation3-partial_correlation_normal_full_0.4", CORRELATION, None, full))
    for size, etas in {2: (1.0,), 3: (1.0, 1e5), 6: (3.0,)}.items():
        kernel = mf.kernel_for(CORRELATION, (size, size), "lkj")
        rows += [Case(f"correlation{size}-lkj_{eta:g}", kernel, {"concentration": real(eta)}) for eta in etas]
    return rows


def _rotating(n: int, k: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    left, right = random_rotation(n, generator_for(n)), random_rotation(k, generator_for(k))
    return lambda x: left @ x @ right, lambda w: {"covariance_matrix": congruence(left, w["covariance_matrix"])}


def central_rows() -> list[Case]:
    """Matrix angular central Gaussian, on frames and on subspaces; its heavy tails have no mean squared distance to check."""
    rows = []
    checks = tuple(name for name in KERNEL_CHECKS if name != "centered")
    for name, manifold in {"stiefel": STIEFEL, "stiefel_euclidean": EUCLIDEAN_STIEFEL, "grassmann": GRASSMANN}.items():
        shapes = ((3, 2), (5, 2)) if name == "stiefel_euclidean" else ((3, 1), (3, 2), (5, 3) if name == "stiefel" else (5, 2))
        for n, k in shapes:
            kernel = mf.kernel_for(manifold, (n, k), "matrix_angular_central_gaussian")
            params, turn = {"covariance_matrix": spd_matrix(n)}, {"transform": _rotating(n, k)}
            id = f"{name}{n}x{k}-matrix_angular_central_gaussian"
            rows.append(Case(id, kernel, params, {"invariance": turn}, checks))
    return rows


def frame(n: int, k: int) -> Tensor:
    """An orthonormal frame in general position."""
    return mf.geometry.project(STIEFEL, torch.randn(n, k, dtype=F64, generator=generator_for(10 * n + k)))


def langevin_rows() -> list[Case]:
    """Matrix Langevin with one and two columns, by both metrics."""
    rows = []
    for n, k, concentrations in ((3, 1, (5.0,)), (3, 2, (0.0, 3.0, 1e5)), (6, 2, (20.0,))):
        for kappa in concentrations:
            params = {"loc": frame(n, k), "concentration": real(kappa)}
            rows.append(case(f"stiefel{n}x{k}-matrix_langevin_{kappa:g}", STIEFEL, "matrix_langevin", params))
    euclidean = {"loc": frame(4, 2), "concentration": real(8.0)}
    full = {"loc": frame(4, 2), "concentration_matrix": 10 * spd_matrix(2)}
    return [
        *rows,
        case("stiefel4x2_euclidean-matrix_langevin_8", EUCLIDEAN_STIEFEL, "matrix_langevin", euclidean),
        case("stiefel4x2-matrix_langevin_full", STIEFEL, "matrix_langevin", full),
    ]


def gnomonic_rows() -> list[Case]:
    """Gnomonic normal on subspaces."""
    rows = []
    for n, k, scales in ((3, 1, (0.5,)), (3, 2, (1e-3, 2.0)), (5, 2, (0.3,))):
        for s in scales:
            params = {"loc": frame(n, k), "scale": real(s)}
            rows.append(case(f"grassmann{n}x{k}-gnomonic_normal_{s:g}", GRASSMANN, None, params))
    return rows


def cayley_rows() -> list[Case]:
    """Cayley normal on frames, by both metrics."""
    rows = []
    for n, k, s in ((3, 1, 1.0), (3, 2, 0.01), (4, 2, 0.6), (5, 3, 0.3)):
        params = {"loc": frame(n, k), "scale": real(s)}
        rows.append(case(f"stiefel{n}x{k}-cayley_normal_{s:g}", STIEFEL, None, params))
    params = {"loc": frame(5, 3), "scale": real(0.5)}
    return [*rows, case("stiefel5x3_euclidean-cayley_normal_0.5", EUCLIDEAN_STIEFEL, None, params)]


def uniform_rows() -> list[Case]:
    """The uniform law of frames and of subspaces."""
    spaces = {"stiefel5x3": (STIEFEL, (5, 3)), "grassmann4x2": (GRASSMANN, (4, 2))}
    kernels = {name: mf.kernel_for(manifold, shape, "uniform") for name, (manifold, shape) in spaces.items()}
    return [Case(f"{name}-uniform", kernel, {}, checks=CHECKS) for name, kernel in kernels.items()]


def rows() -> list[Case]:
    """All of them."""
    frames = [*central_rows(), *langevin_rows(), *gnomonic_rows(), *cayley_rows(), *uniform_rows()]
    return [*simplex_rows(), *correlation_rows(), *frames]


def manifolds() -> Manifolds:
    """Small and larger sizes."""
    return {
        **{f"simplex{n}": (SIMPLEX, (n,)) for n in (2, 3, 8)},
        **{f"correlation{n}": (CORRELATION, (n, n)) for n in (2, 3, 6)},
        **{f"stiefel{n}x{k}": (STIEFEL, (n, k)) for n, k in ((3, 1), (3, 2), (5, 3))},
        **{f"stiefel{n}x{k}_euclidean": (EUCLIDEAN_STIEFEL, (n, k)) for n, k in ((3, 2), (5, 3))},
        **{f"grassmann{n}x{k}": (GRASSMANN, (n, k)) for n, k in ((2, 1), (3, 2), (4, 2), (6, 3))},
    }
