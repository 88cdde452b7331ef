"""Frames and subspaces: Stiefel and Grassmann manifolds."""

from __future__ import annotations

from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernel import Params
from mf_manifold.numerics.linalg import congruence
from mf_manifold.testing import KERNEL_CHECKS
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.symmetry import random_rotation

from .common import F64, Case, Manifolds, case, real, spd_matrix
from .uniform import CHECKS

GRASSMANN = mf.manifolds.Grassmann()
STIEFEL, EUCLIDEAN_STIEFEL = geoopt.Stiefel(), geoopt.Stiefel(canonical=False)


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
    return [*central_rows(), *langevin_rows(), *gnomonic_rows(), *cayley_rows(), *uniform_rows()]


def manifolds() -> Manifolds:
    """Small and larger sizes."""
    return {
        **{f"stiefel{n}x{k}": (STIEFEL, (n, k)) for n, k in ((3, 1), (3, 2), (5, 3))},
        **{f"stiefel{n}x{k}_euclidean": (EUCLIDEAN_STIEFEL, (n, k)) for n, k in ((3, 2), (5, 3))},
        **{f"grassmann{n}x{k}": (GRASSMANN, (n, k)) for n, k in ((2, 1), (3, 2), (4, 2), (6, 3))},
    }
