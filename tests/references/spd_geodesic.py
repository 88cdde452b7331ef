"""Log densities of the normal laws of affine-invariant SPD geometry to 60 digits: python tests/references/spd_geodesic.py.

Matrix functions come from mpmath's eigenvectors. The normaliser of the Riemannian normal law is an integral over eigenvalue
gaps for p <= 3, relative to the same integral for Gaussian matrices, and de Bruijn's Pfaffian as it stands for larger p.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np

mp.mp.dps = 60
SPD, LEM = ({"type": "SymmetricPositiveDefinite", "metric": metric} for metric in ("AIM", "LEM"))
Matrix = np.ndarray
generator = np.random.default_rng(0)


def function(matrix: mp.matrix, f: Any) -> mp.matrix:
    """f of a symmetric matrix."""
    values, vectors = mp.eigsy(matrix)
    return vectors * mp.diag([f(v) for v in values]) * vectors.T


def tangent(x: Matrix, loc: Matrix) -> mp.matrix:
    inverse = function(mp.matrix(loc.tolist()), lambda v: 1 / mp.sqrt(v))
    return function(inverse * mp.matrix(x.tolist()) * inverse, mp.log)


def svec(t: mp.matrix) -> list[Any]:
    p = t.rows
    return [t[i, i] for i in range(p)] + [mp.sqrt(2) * t[i, j] for i in range(p) for j in range(i)]


def log_sinhc_gaps(symmetric: mp.matrix) -> Any:
    values = list(mp.eigsy(symmetric, eigvals_only=True))
    halves = [(b - a) / 2 for i, a in enumerate(values) for b in values[i + 1 :]]
    return mp.fsum(mp.log(mp.sinh(h) / h) for h in halves if abs(h) > mp.mpf(10) ** -40)


def wrapped(x: Matrix, loc: Matrix, covariance: Matrix) -> Any:
    """By the affine-invariant volume."""
    t, cov = tangent(x, loc), mp.matrix(covariance.tolist())
    v = mp.matrix(svec(t))
    return -(v.T * mp.lu_solve(cov, v))[0] / 2 - mp.log(mp.det(2 * mp.pi * cov)) / 2 - log_sinhc_gaps(t)


@functools.cache
def log_z(p: int, scale: float) -> Any:
    s, m = mp.mpf(scale), p * (p + 1) // 2
    gaussian = m * mp.log(2 * mp.pi * s * s) / 2
    sinhc = lambda h: mp.sinh(h / 2) / (h / 2) if h else mp.mpf(1)  # noqa: E731
    far = 14 + 6 * s
    if p == 1:
        return gaussian
    if p == 2:
        over_gaps = lambda f: mp.quad(lambda z: z * mp.exp(-z * z / 4) * f(s * z), mp.linspace(0, far, 9))  # noqa: E731
    elif p == 3:

        def over_gaps(f: Any) -> Any:
            def integrand(a: Any, b: Any) -> Any:
                weight = mp.exp(-(a * a + a * b + b * b) / 3) * a * b * (a + b)
                return weight * f(s * a) * f(s * b) * f(s * (a + b))

            with mp.workdps(20):
                return mp.quad(integrand, mp.linspace(0, far, 4), mp.linspace(0, far, 4))

    else:
        return pfaffian_form(p, s)
    return gaussian + mp.log(over_gaps(sinhc) / over_gaps(lambda h: mp.mpf(1)))


def pfaffian_form(p: int, s: Any) -> Any:
    with mp.workdps(600):
        size = p + p % 2
        e = mp.zeros(size)
        for j in range(p):
            for k in range(p):
                e[j, k] = mp.erf(s * (k - j) / 2)
            if p % 2:
                e[j, p], e[p, j] = 1, -1
        log_gamma = mp.mpf(p * (p - 1)) / 4 * mp.log(mp.pi) + mp.fsum(mp.loggamma(mp.mpf(p - j) / 2) for j in range(p))
        constant = mp.mpf(p * (p - 1)) / 4 * mp.log(2) + mp.mpf(p * p) / 2 * mp.log(mp.pi) - log_gamma
        return constant + mp.mpf(p) / 2 * mp.log(2 * mp.pi * s * s) + s * s * p * (p * p - 1) / 24 + mp.log(mp.det(e)) / 2


def riemannian(x: Matrix, loc: Matrix, scale: float) -> Any:
    return -mp.fsum(v * v for v in svec(tangent(x, loc))) / (2 * mp.mpf(scale) ** 2) - log_z(len(x), scale)


def matrix_of(p: int, condition: float) -> Matrix:
    """A float64 SPD matrix with that condition number."""
    q = np.linalg.qr(generator.normal(size=(p, p)))[0]
    a = (q * np.geomspace(1, 1 / condition, p)) @ q.T * generator.uniform(0.5, 2)
    return (a + a.T) / 2


def near(loc: Matrix, scale: float) -> Matrix:
    """About ``scale`` from ``loc``, rounded to float64."""
    t = generator.normal(size=loc.shape) * scale
    root = function(mp.matrix(loc.tolist()), mp.sqrt)
    x = root * function(mp.matrix(((t + t.T) / 2).tolist()), mp.exp) * root
    a = np.array([[float(x[i, j]) for j in range(len(loc))] for i in range(len(loc))])
    return (a + a.T) / 2


def covariance_of(m: int, scale: float) -> Matrix:
    a = generator.normal(size=(m, m)) / m**0.5
    c = scale**2 * (a @ a.T + np.eye(m))
    return (c + c.T) / 2


def row(kernel: str, x: Matrix, params: dict[str, Any], value: Any, manifold: dict[str, str] = SPD) -> dict[str, Any]:
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in params.items()}
    kind = "riemannian" if manifold is SPD else "affine_invariant"
    return {"manifold": manifold, "kernel": kernel, "params": plain, "x": x.tolist(), "measure": kind, "log_prob": float(value)}


def rows() -> list[dict[str, Any]]:
    out = []
    cases = [(1, 1e-4, 1, 1), (1, 3.0, 1, 1)]
    cases += [(2, s, c, None) for s, c in ((1e-4, 1), (1e-4, 1e6), (0.5, 1e6), (3.0, 10))]
    cases += [(2, 3.0, 1e6, 1e6), (3, 1e-4, 10), (3, 1e-3, 1e6), (3, 1.0, 1e6), (3, 0.7, 1e6, 1e6), (3, 3.0, 100)]
    cases += [(5, 0.01, 1e6), (5, 1.0, 1e6, 1e6), (5, 3.0, 10), (8, 1.5, 100)]
    cases += [(20, 1e-4, 1e3), (20, 0.1, 1e6), (20, 3.0, 10, 1e6)]
    for p, s, condition, *far in cases:
        loc = matrix_of(p, condition)
        x = matrix_of(p, far[0]) if far and far[0] else near(loc, s)
        out.append(row("riemannian_normal", x, {"loc": loc, "scale": s}, riemannian(x, loc, s)))
        m = p * (p + 1) // 2
        t = tangent(x, loc)
        quadratic, gaps = mp.fsum(v * v for v in svec(t)), log_sinhc_gaps(t)
        value = -quadratic / (2 * mp.mpf(s) ** 2) - m * mp.log(2 * mp.pi * mp.mpf(s) ** 2) / 2 - gaps
        out.append(row("wrapped_normal", x, {"loc": loc, "scale": [s]}, value))
        if p <= 5:
            cov = covariance_of(m, s)
            out.append(row("wrapped_normal", x, {"loc": loc, "covariance_matrix": cov}, wrapped(x, loc, cov)))
    loc = matrix_of(3, 100)
    x, scales = near(loc, 0.5), generator.uniform(0.2, 0.8, 6)
    squares = np.diag(scales) ** 2
    out.append(row("wrapped_normal", x, {"loc": loc, "scale": scales}, wrapped(x, loc, squares)))
    out.append(row("wrapped_normal", loc, {"loc": loc, "scale": scales}, wrapped(loc, loc, squares), LEM))
    out.append(row("riemannian_normal", x, {"loc": loc, "scale": 0.4}, riemannian(x, loc, 0.4), LEM))
    return out


if __name__ == "__main__":
    target = Path(__file__).with_suffix(".json")
    target.write_text(json.dumps({"tolerance": 1e-9, "rows": rows()}) + "\n")
