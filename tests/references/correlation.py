"""Writes correlation.json: log densities of correlation matrices from their definitions, by mpmath.

Densities are by Lebesgue measure on the entries below the diagonal.
Run ``python tests/references/correlation.py`` from the root of the repository.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from common import Row, diagonal, difference, exact, normal, row, write
from mpmath import mp, mpf

RNG = np.random.default_rng(6)


def partial(x: Any, i: int, j: int) -> Any:
    """Correlation of variables i and j given all before j, by inverting the block of the variables involved."""
    index = [*range(j), j, i]
    block = mp.matrix([[x[a, b] for b in index] for a in index])
    inverse = block**-1
    n = len(index)
    return -inverse[n - 2, n - 1] / mp.sqrt(inverse[n - 2, n - 2] * inverse[n - 1, n - 1])


def fisher_z(x: Any) -> tuple[list[Any], Any]:
    """Coordinates row by row and the log density of dz with respect to the entries."""
    matrix = exact(x)
    p = matrix.rows
    z, log_jacobian = [], mpf(0)
    for i in range(1, p):
        for j in range(i):
            c = partial(matrix, i, j)
            z.append(mp.atanh(c))
            # dX = prod (1 - c^2)^((p - 2 - j) / 2) dc and dc = (1 - c^2) dz
            log_jacobian -= (mpf(p - 2 - j) / 2 + 1) * mp.log(1 - c * c)
    return z, log_jacobian


def partial_normal(loc: Any, covariance: Any, x: Any) -> Any:
    z, log_jacobian = fisher_z(x)
    return normal(difference(z, fisher_z(loc)[0]), covariance) + log_jacobian


def lkj(eta: float, x: Any) -> Any:
    """Constant of the vine: p - 1 - j partial correlations given j others, each Beta(b, b) on (-1, 1)."""
    matrix, e = exact(x), mpf(float(eta))
    p = matrix.rows
    log_c = mpf(0)
    for j in range(p - 1):
        b = e + mpf(p - 2 - j) / 2
        log_c += (p - 1 - j) * ((2 * b - 1) * mp.log(2) + 2 * mp.loggamma(b) - mp.loggamma(2 * b))
    return (e - 1) * mp.log(mp.det(matrix)) - log_c


def correlation(spread: float, size: int) -> Any:
    factor = np.tril(spread * RNG.normal(size=(size, size)), -1) + np.eye(size)
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    x = factor @ factor.T
    x = (x + x.T) / 2
    np.fill_diagonal(x, 1.0)
    return x


def correlation_rows() -> list[Row]:
    rows = []
    for size in (2, 3, 6, 12):
        for eta in (1e-3, 0.1, 0.5, 1.0, 7.0, 1e3, 1e6, 1e8):
            x = correlation(min(2.0, 1.5 / math.sqrt(eta)), size)
            rows.append(row("Correlation", "lkj", {"concentration": eta}, x, "lebesgue", lkj(eta, x)))
    for size in (2, 3, 5):
        for s in (1e-4, 0.1, 1.0, 5.0):
            loc = correlation(0.7, size)
            near = correlation(0.7, size)
            mix = min(1.0, s)
            x = (1 - mix) * loc + mix * near
            np.fill_diagonal(x, 1.0)
            value = partial_normal(loc, diagonal(s, size * (size - 1) // 2), x)
            params = {"loc": loc, "scale": [s]}
            rows.append(row("Correlation", "partial_correlation_normal", params, x, "lebesgue", value))
    root = RNG.normal(size=(3, 3)) * np.array([1e-2, 1.0, 3.0])
    cov = root @ root.T + 1e-4 * np.eye(3)
    loc, x = correlation(0.7, 3), correlation(3.0, 3)
    params = {"loc": loc, "covariance_matrix": cov}
    rows.append(row("Correlation", "partial_correlation_normal", params, x, "lebesgue", partial_normal(loc, exact(cov), x)))
    return rows


if __name__ == "__main__":
    write(__file__, correlation_rows())
