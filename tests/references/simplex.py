"""Writes simplex.json: log densities on the simplex from their definitions, by mpmath.

Densities are by Lebesgue measure on all parts but the last.
Run ``python tests/references/simplex.py`` from the root of the repository.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from common import Row, diagonal, difference, exact, normal, row, write
from mpmath import mp, mpf

RNG = np.random.default_rng(5)


def closed(x: Any) -> list[Any]:
    parts = exact(x)
    total = mp.fsum(parts)
    return [v / total for v in parts]


def dirichlet(alpha: Any, x: Any) -> Any:
    a, parts = exact(alpha), closed(x)
    constant = mp.loggamma(mp.fsum(a)) - mp.fsum(mp.loggamma(v) for v in a)
    return constant + mp.fsum((v - 1) * mp.log(p) for v, p in zip(a, parts, strict=True))


def log_ratios(x: Any) -> list[Any]:
    """Balances of the geometric mean of the first j parts against the next one."""
    logs = [mp.log(v) for v in closed(x)]
    return [mp.sqrt(mpf(j) / (j + 1)) * (mp.fsum(logs[:j]) / j - logs[j]) for j in range(1, len(logs))]


def logistic_normal(loc: Any, covariance: Any, x: Any) -> Any:
    value = normal(difference(log_ratios(x), log_ratios(loc)), covariance)
    return value - mp.log(len(x)) / 2 - mp.fsum(mp.log(v) for v in closed(x))


def composition(logs: Any) -> Any:
    parts = np.exp(np.asarray(logs, dtype=float))
    return parts / parts.sum()


def simplex_rows() -> list[Row]:
    rows = []
    for size in (2, 3, 10, 50):
        for level in (1e-3, 0.3, 1.0, 40.0, 1e4, 1e8, 1e12):
            alpha = np.clip(level * RNG.uniform(0.5, 2.0, size), 1e-3, 1e12)
            noise = min(6.0, 3 / math.sqrt(level))
            x = composition(np.log(alpha) + noise * RNG.normal(size=size))
            rows.append(row("Simplex", "dirichlet", {"concentration": alpha}, x, "lebesgue", dirichlet(alpha, x)))
    uneven = np.array([1e-3, 1.0, 1e8])
    far = np.array([1e-30, 0.5, 0.5])
    rows.append(row("Simplex", "dirichlet", {"concentration": uneven}, far, "lebesgue", dirichlet(uneven, far)))
    for size in (2, 4, 12):
        for s in (1e-4, 0.05, 1.0, 20.0):
            loc = composition(RNG.normal(size=size))
            x = composition(np.log(loc) + min(s, 8.0) * RNG.normal(size=size))
            value = logistic_normal(loc, diagonal(s, size - 1), x)
            rows.append(row("Simplex", "logistic_normal", {"loc": loc, "scale": [s]}, x, "lebesgue", value))
    root = RNG.normal(size=(3, 3)) * np.array([1e-2, 1.0, 10.0])
    cov = root @ root.T + 1e-4 * np.eye(3)
    loc, x = composition([1.0, -2.0, 0.5, 3.0]), composition([2.0, -1.0, 0.7, 1.0])
    params = {"loc": loc, "covariance_matrix": cov}
    rows.append(row("Simplex", "logistic_normal", params, x, "lebesgue", logistic_normal(loc, exact(cov), x)))
    return rows


if __name__ == "__main__":
    write(__file__, simplex_rows())
