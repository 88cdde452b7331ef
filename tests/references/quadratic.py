"""Log densities of projected normal, angular central Gaussian, Bingham and Watson laws: python tests/references/quadratic.py.

Projected laws are radial integrals of the ambient normal density. Bingham normalisers are integrals of Bessel functions on
S^1, S^2 and S^3, and a sum of exponentials where every eigenvalue is double; Watson's are mpmath's hypergeometric function.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np

mp.mp.dps = 60
Array = np.ndarray
generator = np.random.default_rng(0)


def unit(x: Array) -> mp.matrix:
    """The point, normalised without rounding."""
    v = mp.matrix(x.tolist())
    return v / mp.norm(v)


def inner(a: mp.matrix, b: mp.matrix) -> Any:
    return mp.fsum(p * q for p, q in zip(a, b, strict=True))


def projected(x: Array, mean: Array, covariance: Array | None) -> Any:
    """log int_0^inf r^(D-1) N(r x; mean, covariance) dr."""
    d, z, m = len(x), unit(x), mp.matrix(mean.tolist())
    s = mp.eye(d) if covariance is None else mp.matrix(covariance.tolist())
    white_z, white_m = mp.lu_solve(s, z), mp.lu_solve(s, m)
    a, b, c = inner(z, white_z), inner(z, white_m), inner(m, white_m)
    mode = (b + mp.sqrt(b * b + 4 * a * (d - 1))) / (2 * a)
    exponent = lambda r: (d - 1) * mp.log(r) - (a * r * r - 2 * b * r + c) / 2  # noqa: E731
    width, top = 1 / mp.sqrt(a + (d - 1) / mode**2), exponent(mode)
    low = max(mp.mpf(0), mode - 14 * width)
    nodes = [low + (mode - low) * k / 4 for k in range(5)] + [mode + width * k for k in (2, 4, 8, 16, 32)]
    integral = mp.quad(lambda r: mp.exp(exponent(r) - top) if r else mp.mpf(0), nodes)
    return top + mp.log(integral) - mp.log(mp.det(2 * mp.pi * s)) / 2


def bessel_i0(z: Any) -> Any:
    """I_0(z) exp(-|z|)."""
    return mp.exp(-abs(z)) * mp.besseli(0, z)


def graded(scale: Any) -> list[Any]:
    """0, scale times powers of 4, 1: panels for a peak at 0 of that width."""
    inside = [scale * 4**k for k in range(-1, 40) if scale * 4**k < 1]
    return [mp.mpf(0), *inside, mp.mpf(1)]


def log_bingham(values: list[Any]) -> Any:
    """log int exp(sum a_i x_i^2) - max a."""
    a = sorted((v - max(values) for v in values), reverse=True)
    if len(a) == 2:
        return mp.log(2 * mp.pi * bessel_i0(a[1] / 2))
    if len(a) == 3:
        # x_1^2 + x_2^2 = 1 - z^2 with z along the smallest eigenvalue
        f = lambda z: mp.exp(a[2] * z * z) * bessel_i0((1 - z * z) * a[1] / 2)  # noqa: E731
        return mp.log(4 * mp.pi * mp.quad(f, graded(1 / mp.sqrt(1 - a[2]))))
    if len(a) == 4:
        # u = x_3^2 + x_4^2
        f = lambda u: mp.exp(u * a[2]) * bessel_i0((1 - u) * a[1] / 2) * bessel_i0(u * (a[2] - a[3]) / 2)  # noqa: E731
        return mp.log(2 * mp.pi**2 * mp.quad(f, graded(1 / (1 - a[2]))))
    single = a[::2]
    assert a == [v for v in single for _ in range(2)], "eigenvalues in pairs"
    with mp.workdps(900):
        terms = [mp.exp(v) / mp.fprod(v - o for j, o in enumerate(single) if j != i) for i, v in enumerate(single)]
        return mp.log(2 * mp.pi ** (len(a) // 2) * mp.fsum(terms))


def bingham(x: Array, matrix: Array) -> Any:
    a, z = mp.matrix(matrix.tolist()), unit(x)
    diagonal = not np.any(matrix - np.diag(np.diag(matrix)))
    values = [mp.mpf(v) for v in np.diag(matrix)] if diagonal else list(mp.eigsy(a, eigvals_only=True))
    return inner(z, a * z) - max(values) - log_bingham(values)


def watson(x: Array, loc: Array, kappa: float) -> Any:
    half, k = mp.mpf(len(x)) / 2, mp.mpf(kappa)
    log_area = mp.log(2) + half * mp.log(mp.pi) - mp.loggamma(half)
    # Kummer's transformation keeps the hypergeometric function of moderate size
    log_f = max(k, 0) + mp.log(mp.hyp1f1(half - mp.mpf(1) / 2 if k > 0 else mp.mpf(1) / 2, half, -abs(k)))
    return k * inner(unit(x), unit(loc)) ** 2 - log_f - log_area


def random_unit(d: int) -> Array:
    v = generator.normal(size=d)
    return v / np.linalg.norm(v)


def near(loc: Array, scale: float) -> Array:
    v = loc + scale * generator.normal(size=len(loc))
    return v / np.linalg.norm(v)


def stretched(d: int, condition: float) -> Array:
    """A symmetric positive definite matrix with this condition number."""
    q = np.linalg.qr(generator.normal(size=(d, d)))[0]
    s = (q * np.geomspace(1.0, condition, d)) @ q.T
    return (s + s.T) / 2


def row(kernel: str, x: Array, value: Any, **params: Any) -> dict[str, Any]:
    listed = {k: np.asarray(v).tolist() for k, v in params.items()}
    head = {"manifold": {"type": "Sphere"}, "kernel": kernel, "params": listed, "x": x.tolist()}
    return {**head, "measure": "riemannian", "log_prob": float(value)}


def projected_rows() -> list[dict[str, Any]]:
    rows = []
    for d in (2, 3, 7, 16, 64):
        for length in (0.0, 1e-3, 1.0, 30.0, 1e4, 1e6):
            loc = random_unit(d)
            for x in (near(loc, 1 / (1 + length)), random_unit(d), -loc):
                rows.append(row("projected_normal", x, projected(x, length * loc, None), mean_vector=length * loc))
    for d, condition, length in ((2, 1e6, 3.0), (3, 10.0, 0.0), (3, 1e6, 1.0), (4, 100.0, 1e3), (10, 1e4, 5.0)):
        mean, cov = length * random_unit(d), stretched(d, condition)
        for x in (near(mean, 0.1) if length else random_unit(d), random_unit(d)):
            value = projected(x, mean, cov)
            rows.append(row("projected_normal", x, value, mean_vector=mean, covariance_matrix=cov))
    return rows


def central_rows() -> list[dict[str, Any]]:
    rows = []
    for d in (2, 3, 12):
        for condition in (1.0, 50.0, 1e6):
            cov = stretched(d, condition)
            for x in (random_unit(d), near(np.linalg.eigh(cov)[1][:, -1], 1e-3)):
                rows.append(row("angular_central_gaussian", x, projected(x, np.zeros(d), cov), covariance_matrix=cov))
    return rows


def bingham_rows() -> list[dict[str, Any]]:
    rows = []
    for d in (2, 3, 4):
        for spread in (1e-3, 2.0, 60.0, 1e4, 1e6):
            q = np.linalg.qr(generator.normal(size=(d, d)))[0]
            a = (q * np.concatenate([[-spread], -spread * generator.random(d - 2), [0.0]])) @ q.T
            a = (a + a.T) / 2 + 5 * np.eye(d)
            for x in (random_unit(d), near(q[:, -1], 1 / np.sqrt(1 + spread))):
                rows.append(row("bingham", x, bingham(x, a), concentration_matrix=a))
    for d in (6, 16, 64):
        for spread in (3.0, 100.0, 1e6) if d < 64 else (1e6,):
            a = np.diag(np.repeat(-np.linspace(0, spread, d // 2), 2))
            x = near(np.eye(d)[0], 1 / np.sqrt(1 + spread))
            rows.append(row("bingham", x, bingham(x, a), concentration_matrix=a))
    return rows


def watson_rows() -> list[dict[str, Any]]:
    rows = []
    for d in (2, 3, 5, 16, 64):
        for kappa in (-1e8, -1e6, -300.0, -4.0, 0.0, 1e-4, 4.0, 300.0, 1e6, 1e8):
            loc = random_unit(d)
            across = generator.normal(size=d)
            across -= (across @ loc) * loc
            narrow = near(loc if kappa > 0 else across / np.linalg.norm(across), 1 / np.sqrt(1 + abs(kappa)))
            for x in (narrow, random_unit(d)):
                rows.append(row("watson", x, watson(x, loc, kappa), loc=loc, concentration=kappa))
    return rows


if __name__ == "__main__":
    table = [*projected_rows(), *central_rows(), *bingham_rows(), *watson_rows()]
    content = {"tolerance": 1e-9, "rows": table}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content) + "\n")
    print(len(table), "rows")
