"""Flat tori: wrapped normal."""

from __future__ import annotations

import torch

from .common import F64, TORUS, Case, Manifolds, case, covariance


def rows() -> list[Case]:
    """Wrapped normal, diagonal and full, in the direct and in the Fourier regime."""
    rows = []
    for size in (1, 2, 3):
        loc = torch.linspace(-2.5, 3.0, size, dtype=F64)
        for s in (0.05, 0.8, 3.0):
            spread = s * torch.linspace(0.8, 1.2, size, dtype=F64)
            rows.append(case(f"torus{size}-wrapped_normal_{s:g}", TORUS, "wrapped_normal", {"loc": loc, "scale": spread}))
        for s in (0.05, 0.8, 4.5):
            full = {"loc": loc, "covariance_matrix": covariance(size, s)}
            rows.append(case(f"torus{size}-wrapped_normal_full_{s:g}", TORUS, "wrapped_normal", full))
        for s in (0.02, 0.26):  # covariance() has standard deviations up to 1.4 times s
            spread = s * torch.linspace(0.8, 1.2, size, dtype=F64)
            rows.append(case(f"torus{size}-truncated_normal_{s:g}", TORUS, "truncated_normal", {"loc": loc, "scale": spread}))
            full = {"loc": loc, "covariance_matrix": covariance(size, s)}
            rows.append(case(f"torus{size}-truncated_normal_full_{s:g}", TORUS, "truncated_normal", full))
    return rows


def manifolds() -> Manifolds:
    """Tori of one to three angles."""
    return {f"torus{n}": (TORUS, (n,)) for n in (1, 2, 3)}
