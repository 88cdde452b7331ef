"""Correlation matrices."""

from __future__ import annotations

import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.testing.density import generator_for

from .common import F64, Case, Manifolds, case, covariance, real

CORRELATION = mf.manifolds.Correlation()


def correlation_matrix(size: int) -> Tensor:
    """A correlation matrix in general position."""
    dim = size * (size - 1) // 2
    raw = 0.6 * torch.randn(dim, dtype=F64, generator=generator_for(size))
    return mf.geometry.from_raw(CORRELATION, raw, (size, size))


def rows() -> list[Case]:
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


def manifolds() -> Manifolds:
    """Small and larger sizes."""
    return {f"correlation{n}": (CORRELATION, (n, n)) for n in (2, 3, 6)}
