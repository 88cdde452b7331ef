"""Euclidean space: normal."""

from __future__ import annotations

import geoopt
import torch

from .common import F64, PLANE, Case, Manifolds, case, covariance, real


def rows() -> list[Case]:
    """Normal on vectors and on matrices."""
    rows = []
    for size, s in ((1, 0.01), (2, 1.0), (3, 5.0)):
        loc = torch.linspace(1.0, 4.0, size, dtype=F64)
        rows.append(case(f"euclidean{size}-normal_{s:g}", PLANE, "normal", {"loc": loc, "scale": real([s] * size)}))
        full = {"loc": loc, "covariance_matrix": covariance(size, s)}
        rows.append(case(f"euclidean{size}-normal_full_{s:g}", PLANE, "normal", full))
    matrices = {"loc": torch.ones(2, 3, dtype=F64), "scale": real([0.7])}
    return [*rows, case("euclidean2x3-normal_0.7", geoopt.Euclidean(ndim=2), "normal", matrices)]


def manifolds() -> Manifolds:
    """Vectors and matrices."""
    return {**{f"euclidean{n}": (PLANE, (n,)) for n in (1, 3)}, "euclidean2x3": (geoopt.Euclidean(ndim=2), (2, 3))}
