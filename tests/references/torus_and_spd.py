"""Log densities of laws on tori and of Wishart kin with 50 digits: python tests/references/torus_and_spd.py.

From the definitions: textbook densities by Lebesgue measure with determinants and inverses by LU, Jacobian determinants of the
coordinate maps, sums over images, the Bessel series of the sine model (its integral where that has too many terms).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np

mp.mp.dps = 50
TORUS = {"type": "Torus"}
SPD, LEM = ({"type": "SymmetricPositiveDefinite", "metric": metric} for metric in ("AIM", "LEM"))
Matrix = np.ndarray
generator = np.random.default_rng(0)


def row(manifold: Any, kernel: str, x: Any, params: dict[str, Any], measure: str, value: Any) -> dict[str, Any]:
    return {
        "manifold": manifold,
        "kernel": kernel,
        "params": {k: np.asarray(v).tolist() for k, v in params.items()},
        "x": np.asarray(x).tolist(),
        "measure": measure,
        "log_prob": float(value),
    }


# tori


def von_mises(x: Matrix, loc: Matrix, kappa: Matrix) -> Any:
    terms = [
        mp.mpf(k) * mp.cos(mp.mpf(a) - mp.mpf(m)) - mp.log(2 * mp.pi * mp.besseli(0, mp.mpf(k)))
        for a, m, k in zip(x, loc, kappa, strict=True)
    ]
    return mp.fsum(terms)


def bessel_terms(kappa: Any, count: int) -> list[Any]:
    """I_m(k) e^-k / k^m for m = 0, 1, ..., by the downward recurrence of I_m, scaled to its sum e^k."""
    if kappa == 0:
        return [1 / (mp.mpf(2) ** m * mp.factorial(m)) for m in range(count)]
    top = count + int(8 * mp.sqrt(kappa)) + 80
    values = [mp.mpf(0)] * (top + 2)
    values[top] = mp.mpf(1)
    for m in range(top, 0, -1):
        values[m - 1] = 2 * m / kappa * values[m] + values[m + 1]
    total = values[0] + 2 * mp.fsum(values[1:])
    return [v / total / kappa**m for m, v in enumerate(values[:count])]


def sine_series(k1: Any, k2: Any, correlation: Any, count: int) -> Any:
    """log C - k1 - k2 by its series (Singh, Hnizdo, Demchuk 2002)."""
    first, second, factor, total = bessel_terms(k1, count), bessel_terms(k2, count), mp.mpf(1), mp.mpf(0)
    for m in range(count):
        term = factor * first[m] * second[m]
        total += term
        factor *= mp.mpf((2 * m + 1) * (2 * m + 2)) / (m + 1) ** 2 * correlation**2 / 4
    assert term < total * mp.mpf(10) ** -25 or correlation == 0, (k1, k2, correlation, count)
    return mp.log(4 * mp.pi**2 * total)


def sine_integral(k1: Any, k2: Any, correlation: Any) -> Any:
    """The same by the integral over the second angle, whose integrand in the first is a Bessel function too."""

    def log_marginal(b: Any) -> Any:
        r = mp.sqrt(k1**2 + (correlation * mp.sin(b)) ** 2)
        return k2 * (mp.cos(b) - 1) - k1 + mp.log(mp.besseli(0, r))

    square = k2**2 * (k1**2 + correlation**2) / (correlation**2 * (k2**2 + correlation**2))
    mode = mp.acos(mp.sqrt(min(square, mp.mpf(1))))
    width = 1 / mp.sqrt(k2 + abs(correlation) + 1)
    steps = [0, 1, 2, 4, 7, 11, 16, 30, 60, 120, 250, 500, 1000]
    points = sorted({min(max(mode + s * width * k, mp.mpf(0)), mp.pi) for s in (1, -1) for k in steps} | {mp.mpf(0), mp.pi})
    with mp.workdps(30):
        top = log_marginal(mode)
        return top + mp.log(4 * mp.pi * mp.quad(lambda b: mp.exp(log_marginal(b) - top), points))


def sine(x: Matrix, loc: Matrix, kappa: list[float], correlation: float, count: int | None) -> Any:
    k1, k2, lam = (mp.mpf(v) for v in (*kappa, correlation))
    a, b = (mp.mpf(float(u)) - mp.mpf(float(m)) for u, m in zip(x, loc, strict=True))
    norm = sine_integral(k1, k2, lam) if count is None else sine_series(k1, k2, lam, count)
    return k1 * (mp.cos(a) - 1) + k2 * (mp.cos(b) - 1) + lam * mp.sin(a) * mp.sin(b) - norm


def images(x: Matrix, loc: Matrix, covariance: Matrix, count: int) -> Any:
    cov = mp.matrix(covariance.tolist())
    inverse, log_det = mp.inverse(cov), mp.log(mp.det(2 * mp.pi * cov)) / 2
    total = mp.mpf(0)
    for turns in np.ndindex(*[2 * count + 1] * len(x)):
        angles = zip(x.tolist(), loc.tolist(), turns, strict=True)
        v = mp.matrix([mp.mpf(a) - mp.mpf(m) + 2 * mp.pi * (t - count) for a, m, t in angles])
        total += mp.exp(-(v.T * inverse * v)[0] / 2)
    return mp.log(total) - log_det


def torus_rows() -> list[dict[str, Any]]:
    rows = []
    for kappa in (0.0, 1e-6, 0.5, 30.0, 1e4, 1e6, 1e8):
        loc = np.array([3.14])
        for shift in (0.0, 0.7 / math.sqrt(kappa + 1), -5 / math.sqrt(kappa + 1), 3.0):
            x = np.array([(3.14 + shift + math.pi) % (2 * math.pi) - math.pi])
            params = {"loc": loc, "concentration": [kappa]}
            rows.append(row(TORUS, "von_mises", x, params, "riemannian", von_mises(x, loc, [kappa])))
    loc, kappa = generator.uniform(-3, 3, 10), 10 ** generator.uniform(-2, 7, 10)
    x = loc + generator.normal(size=10) / np.sqrt(kappa + 1)
    params = {"loc": loc, "concentration": kappa}
    rows.append(row(TORUS, "von_mises", x, params, "normalized", von_mises(x, loc, kappa) + 10 * mp.log(2 * mp.pi)))
    for k1, k2, lam, count in (
        (0.0, 0.0, 0.0, 1), (0.0, 0.0, 3.0, 60), (0.0, 5.0, -3.0, 60), (1.0, 2.0, 0.5, 40), (10.0, 3.0, 20.0, 120),
        (100.0, 200.0, -300.0, 700), (1e4, 1e4, 9e3, 900), (1e4, 1e4, 1e4, 1500), (1e4, 1.0, 500.0, 800),
        (1e6, 1e6, 0.0, 1), (1e6, 1e6, 5e5, 60), (1e6, 1e6, 1e6, None), (1e6, 0.0, 1e6, None), (0.0, 0.0, 1e6, None),
        (1e6, 1.0, -1e3, 120),
    ):  # fmt: skip
        loc = np.array([3.0, -1.0])
        params = {"loc": loc, "concentration": [k1, k2], "correlation": lam}
        for shift in ([0.0, 0.0], [0.5 / math.sqrt(k1 + 1), -1 / math.sqrt(k2 + 1)], [2.0, 1.0]):
            x = loc + np.array(shift)
            rows.append(row(TORUS, "sine_bivariate_von_mises", x, params, "riemannian", sine(x, loc, [k1, k2], lam, count)))
    for scale in (1e-4, 0.05, 0.7, 2.0, 2.6, 6.0):
        loc, x = np.array([3.0]), np.array([3.0 + min(2 * scale, 2.5) - 2 * math.pi])
        params = {"loc": loc, "scale": [scale]}
        value = images(x, loc, np.array([[scale**2]]), 12)
        rows.append(row(TORUS, "wrapped_normal", x, params, "riemannian", value))
    for cov in ([[0.01, 0.005], [0.005, 0.02]], [[2.0, 1.5], [1.5, 3.0]], [[30.0, 20.0], [20.0, 40.0]]):
        loc, x = np.array([3.0, -2.0]), np.array([-2.9, -1.0])
        params = {"loc": loc, "covariance_matrix": cov}
        rows.append(row(TORUS, "wrapped_normal", x, params, "riemannian", images(x, loc, np.array(cov), 14)))
    return rows


# SPD matrices


def spd(p: int, condition: float, size: float = 1.0) -> Matrix:
    rotation = np.linalg.qr(generator.normal(size=(p, p)))[0]
    x = size * (rotation * condition ** np.linspace(-1, 0, p)) @ rotation.T
    return (x + x.T) / 2


def near(x: Matrix, spread: float) -> Matrix:
    factor, noise = np.linalg.cholesky(x), generator.normal(size=x.shape)
    y = factor @ (np.eye(len(x)) + spread * (noise + noise.T) / 2) @ factor.T
    return (y + y.T) / 2


def exact(x: Matrix) -> mp.matrix:
    return mp.matrix(x.tolist())


def log_gamma(p: int, a: Any) -> Any:
    return mp.mpf(p * (p - 1)) / 4 * mp.log(mp.pi) + mp.fsum(mp.loggamma(a - mp.mpf(j) / 2) for j in range(p))


def trace_of_ratio(inverse: mp.matrix, x: mp.matrix) -> Any:
    p = x.rows
    return mp.fsum(inverse[i, j] * x[j, i] for i in range(p) for j in range(p))


def wishart(x: Matrix, df: float, scale: Matrix) -> Any:
    """By Lebesgue measure."""
    p, nu, x, scale = len(x), mp.mpf(df), exact(x), exact(scale)
    powers = (nu - p - 1) / 2 * mp.log(mp.det(x)) - nu / 2 * mp.log(mp.det(scale)) - nu * p / 2 * mp.log(2)
    return powers - trace_of_ratio(mp.inverse(scale), x) / 2 - log_gamma(p, nu / 2)


def inverse_wishart(x: Matrix, df: float, scale: Matrix) -> Any:
    """By Lebesgue measure."""
    p, nu, x, scale = len(x), mp.mpf(df), exact(x), exact(scale)
    powers = nu / 2 * mp.log(mp.det(scale)) - (nu + p + 1) / 2 * mp.log(mp.det(x)) - nu * p / 2 * mp.log(2)
    return powers - trace_of_ratio(mp.inverse(x), scale) / 2 - log_gamma(p, nu / 2)


def beta_prime(x: Matrix, a: float, b: float, scale: Matrix) -> Any:
    """By Lebesgue measure (Gupta, Nagar 2000, definition 5.2.2, with a scale)."""
    p, a, b, x, scale = len(x), mp.mpf(a), mp.mpf(b), exact(x), exact(scale)
    half = mp.mpf(p + 1) / 2
    powers = (a - half) * mp.log(mp.det(x)) + b * mp.log(mp.det(scale)) - (a + b) * mp.log(mp.det(x + scale))
    return powers + log_gamma(p, a + b) - log_gamma(p, a) - log_gamma(p, b)


def normal(delta: list[Any], scale: float) -> Any:
    s = mp.mpf(scale)
    return -mp.fsum((d / s) ** 2 for d in delta) / 2 - len(delta) * mp.log(s * mp.sqrt(2 * mp.pi))


def svec_log(x: Matrix) -> tuple[list[Any], list[Any]]:
    """Orthonormal coordinates of the logarithm, and its eigenvalues."""
    values, vectors = mp.eigsy(exact(x))
    logs = [mp.log(v) for v in values]
    s, p = vectors * mp.diag(logs) * vectors.T, len(x)
    return [s[i, i] for i in range(p)] + [mp.sqrt(2) * s[i, j] for i in range(p) for j in range(i)], logs


def log_normal(x: Matrix, loc: Matrix, scale: float) -> Any:
    """By the affine-invariant volume: divided differences of exp against those of the metric."""
    (v, logs), (center, _) = svec_log(x), svec_log(loc)
    gaps = [(logs[i] - logs[j]) / 2 for i in range(len(x)) for j in range(i)]
    return normal([a - b for a, b in zip(v, center, strict=True)], scale) - mp.fsum(
        mp.log(mp.sinh(g) / g) for g in gaps if abs(g) > mp.mpf(10) ** -30
    )


def log_cholesky(x: Matrix, loc: Matrix, scale: float) -> Any:
    """By Lebesgue measure: the normal density over the Jacobian determinant of the entries by the coordinates."""
    p, own, center = len(x), mp.cholesky(exact(x)), mp.cholesky(exact(loc))
    entries = [(i, j) for i in range(p) for j in range(i + 1)]
    v = [[mp.log(f[i, j]) if i == j else f[i, j] for i, j in entries] for f in (own, center)]
    jacobian = mp.zeros(len(entries))
    for column, (i, j) in enumerate(entries):
        move = mp.zeros(p)
        move[i, j] = own[i, i] if i == j else 1
        change = move * own.T + own * move.T
        for k, (r, c) in enumerate(entries):
            jacobian[k, column] = change[r, c]
    return normal([a - b for a, b in zip(*v, strict=True)], scale) - mp.log(abs(mp.det(jacobian)))


def spd_rows() -> list[dict[str, Any]]:
    rows = []
    for p, condition in ((1, 1.0), (2, 1e6), (3, 10.0), (8, 1e6), (20, 1e6)):
        for df in (p - 1 + 1e-6, p - 0.5, p + 3.0, 1e3, 1e6, 1e8)[:: 1 if p < 20 else 2]:
            mode, width = spd(p, condition, 3.0), 0.5 / math.sqrt(df + 4 * p)
            for x in (near(mode, width), spd(p, condition)):
                w, v = {"df": df, "covariance_matrix": mode / df}, {"df": df, "scale_matrix": mode * df}
                rows.append(row(SPD, "wishart", x, w, "lebesgue", wishart(x, df, w["covariance_matrix"])))
                rows.append(row(SPD, "inverse_wishart", x, v, "lebesgue", inverse_wishart(x, df, v["scale_matrix"])))
        low = (p - 1) / 2
        for a, b in ((low + 1e-6, low + 0.5), (p + 1.0, p + 2.0), (1e6, low + 3), (low + 3, 1e6), (1e6, 1e6))[
            :: 1 if p < 20 else 2
        ]:
            scale = spd(p, condition)
            for x in (near(a / b * scale, 0.3 / math.sqrt(min(a, b) + 2 * p)), spd(p, condition)):
                w = {"a": a, "b": b, "scale_matrix": scale}
                rows.append(row(SPD, "matrix_beta_prime", x, w, "lebesgue", beta_prime(x, a, b, scale)))
    for p, condition, scale in ((1, 1.0, 1e-4), (2, 10.0, 1e-4), (2, 1e6, 0.5), (3, 1e3, 2.0), (5, 1e6, 0.1), (10, 1e6, 0.1)):
        loc = spd(p, condition)
        for x in (near(loc, scale / 2 if scale < 1 else 0.2), loc):
            w = {"loc": loc, "scale": [scale]}
            rows.append(row(SPD, "log_normal", x, w, "riemannian", log_normal(x, loc, scale)))
            rows.append(row(LEM, "log_cholesky_normal", x, w, "lebesgue", log_cholesky(x, loc, scale)))
    return rows


if __name__ == "__main__":
    content = {"tolerance": 1e-9, "rows": [*torus_rows(), *spd_rows()]}
    lines = ",\n".join(json.dumps(r) for r in content["rows"])
    text = f'{{"tolerance": {content["tolerance"]}, "rows": [\n{lines}\n]}}\n'
    Path(__file__).with_suffix(".json").write_text(text)
