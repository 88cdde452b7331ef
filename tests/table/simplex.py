"""The simplex."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernel import Params
from mf_manifold.testing.density import generator_for

from .common import F64, Case, Manifolds, case, covariance, real

SIMPLEX = mf.manifolds.Simplex()


def composition(size: int) -> Tensor:
    """A point of the simplex in general position."""
    return torch.softmax(torch.randn(size, dtype=F64, generator=generator_for(size)), -1)


def _perturbing(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    """Multiplying all parts by given numbers, the translations of the simplex."""
    by = composition(size + 1)[1:]

    def move(x: Tensor) -> Tensor:
        return x * by / (x * by).sum(-1, keepdim=True)

    return move, lambda w: {**w, "loc": move(w["loc"])}


def rows() -> list[Case]:
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


def manifolds() -> Manifolds:
    """Small and larger sizes."""
    return {f"simplex{n}": (SIMPLEX, (n,)) for n in (2, 3, 8)}
