"""Write `zonal.json`: log densities of laws around a point of the sphere by mpmath, from their definitions.

Run as `python tests/references/zonal.py`; it takes a minute or two.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import geoopt
import mpmath as mp

from mf_manifold import geometry

mp.mp.dps = 50
SPHERE = geometry.to_config(geoopt.Sphere())
Vector = list[Any]
Rows = list[dict[str, Any]]


def dot(a: Vector, b: Vector) -> Any:
    return mp.fsum(s * t for s, t in zip(a, b, strict=True))


def exact(v: list[float]) -> Vector:
    """A point with its float64 entries taken exactly, then normalised."""
    w = [mp.mpf(t) for t in v]
    size = mp.sqrt(dot(w, w))
    return [t / size for t in w]


def random_unit(size: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [float(t) for t in exact([rng.gauss(0, 1) for _ in range(size)])]


def orthogonal(v: Vector, basis: list[Vector]) -> Vector:
    """The unit vector along the part of v that is orthogonal to an orthonormal basis."""
    for b in basis:
        c = dot(v, b)
        v = [s - c * t for s, t in zip(v, b, strict=True)]
    size = mp.sqrt(dot(v, v))
    return [t / size for t in v]


def at(loc: list[float], angle: float, seed: int) -> list[float]:
    """A point at an angle from loc in a random direction, rounded to float64."""
    w = exact(loc)
    tangent = orthogonal(exact(random_unit(len(loc), seed + 1000)), [w])
    return [float(mp.cos(angle) * s + mp.sin(angle) * t) for s, t in zip(w, tangent, strict=True)]


def tangent_frame(loc: Vector) -> list[Vector]:
    """Orthonormal tangent vectors by Gram-Schmidt from the axes that are least along loc."""
    basis = [loc]
    for i in sorted(range(len(loc)), key=lambda i: abs(loc[i]))[:-1]:
        basis.append(orthogonal([mp.mpf(int(i == j)) for j in range(len(loc))], basis))
    return basis[1:]


def area(d: int) -> Any:
    return 2 * mp.pi ** (mp.mpf(d + 1) / 2) / mp.gamma(mp.mpf(d + 1) / 2)


def von_mises_fisher(x: Vector, loc: Vector, params: dict[str, Any]) -> Any:
    kappa, half = mp.mpf(params["concentration"]), mp.mpf(len(x)) / 2
    if not kappa:
        return -mp.log(area(len(x) - 1))
    log_c = (half - 1) * mp.log(kappa) - half * mp.log(2 * mp.pi) - mp.log(mp.besseli(half - 1, kappa))
    return log_c + kappa * dot(x, loc)


def power_spherical(x: Vector, loc: Vector, params: dict[str, Any]) -> Any:
    """(1 + c)^kappa over area(S^(d-1)) times the integral of (1 + t)^kappa (1 - t^2)^(d/2 - 1), a beta function."""
    d, k = len(x) - 1, mp.mpf(params["concentration"])
    half = mp.mpf(d) / 2
    integral = 2 ** (k + d - 1) * mp.beta(k + half, half)
    return k * mp.log(1 + dot(x, loc)) - mp.log((area(d - 1) if d > 1 else 2) * integral)


def spherical_cauchy(x: Vector, loc: Vector, params: dict[str, Any]) -> Any:
    d, s = len(x) - 1, mp.mpf(params["scale"])
    rho = (1 - s) / (1 + s)
    return d * mp.log((1 - rho**2) / (1 + rho**2 - 2 * rho * dot(x, loc))) - mp.log(area(d))


def normal(coords: Vector, covariance: Any) -> Any:
    """Log density of a normal law in tangent coordinates."""
    white = mp.lu_solve(covariance, mp.matrix(coords))
    return -dot(coords, list(white)) / 2 - mp.log(mp.det(covariance)) / 2 - mp.mpf(len(coords)) / 2 * mp.log(2 * mp.pi)


def tangent_covariance(frame: list[Vector], params: dict[str, Any]) -> Any:
    if "scale" in params:
        return mp.eye(len(frame)) * mp.mpf(params["scale"]) ** 2
    f = mp.matrix(frame)
    return f * mp.matrix(params["covariance_matrix"]) * f.T


def stereographic_normal(x: Vector, loc: Vector, params: dict[str, Any]) -> Any:
    frame = tangent_frame(loc)
    v = [2 * dot(x, f) / (1 + dot(x, loc)) for f in frame]
    return normal(v, tangent_covariance(frame, params)) + len(frame) * mp.log(1 + dot(v, v) / 4)


def plane_log_mass(variances: Vector) -> Any:
    """log P(|V| < pi) in the plane, by polar coordinates."""
    a, b = (1 / v for v in variances)
    narrow = mp.sqrt(b / a)  # the peak is at a right angle to the axis of the small variance
    ends = [0, *(mp.pi / 2 - p * narrow for p in (1000, 100, 30, 10, 3, 1) if p * narrow < 1), mp.pi / 2]

    def angle(t: Any) -> Any:
        q = a * mp.cos(t) ** 2 + b * mp.sin(t) ** 2
        return -mp.expm1(-q * mp.pi**2 / 2) / q

    return mp.log(4 * mp.quad(angle, ends) * mp.sqrt(a * b) / (2 * mp.pi))


def log_mass(covariance: Any) -> Any:
    """log P(|V| < pi), by Ruben's series of chi-square laws."""
    d, variances = covariance.rows, sorted(mp.eigsy(covariance, eigvals_only=True))
    if variances[-1] < mp.mpf("0.03"):
        return mp.mpf(0)  # the tail is below exp(-pi^2 / 0.06)
    if d == 2:
        return plane_log_mass(variances)
    beta, rates = variances[0], [1 - variances[0] / v for v in variances]
    weights, sums, total, k = [mp.sqrt(mp.fprod(beta / v for v in variances))], [], mp.mpf(0), 0
    while True:
        inside = mp.gammainc(mp.mpf(d) / 2 + k, 0, mp.pi**2 / (2 * beta), regularized=True)
        total += weights[k] * inside
        if (1 - mp.fsum(weights)) * inside < mp.mpf(10) ** -25 * total:
            return mp.log(total)
        k += 1
        sums.append(mp.fsum(r**k for r in rates))
        weights.append(mp.fsum(sums[k - 1 - r] * weights[r] for r in range(k)) / (2 * k))


def truncated_normal(x: Vector, loc: Vector, params: dict[str, Any]) -> Any:
    frame = tangent_frame(loc)
    d, t = len(frame), [dot(x, f) for f in frame]
    sine = mp.sqrt(dot(t, t))
    theta = mp.atan2(sine, dot(x, loc))
    covariance = tangent_covariance(frame, params)
    if "scale" in params:
        end = mp.pi**2 / (2 * mp.mpf(params["scale"]) ** 2)
        mass = mp.mpf(0) if end > 1000 else mp.log(mp.gammainc(mp.mpf(d) / 2, 0, end, regularized=True))
    else:
        mass = log_mass(covariance)
    return normal([theta / sine * c for c in t], covariance) + (d - 1) * mp.log(theta / sine) - mass


def wrapped_normal(x: Vector, loc: Vector, params: dict[str, Any]) -> Any:
    frame = tangent_frame(loc)
    d, t = len(frame), [dot(x, f) for f in frame]
    sine = mp.sqrt(dot(t, t))
    theta, covariance = mp.atan2(sine, dot(x, loc)), tangent_covariance(frame, params)
    white = mp.lu_solve(covariance, mp.matrix(t))
    along = dot(t, list(white)) / sine**2
    at_loc = normal([mp.mpf(0)] * d, covariance)
    last = 3 + math.ceil(5 * mp.sqrt(sum(covariance[i, i] for i in range(d))))
    radii = [abs(theta + 2 * mp.pi * k) for k in range(-last, last + 1)]
    return at_loc + mp.log(mp.fsum((r / sine) ** (d - 1) * mp.exp(-(r**2) * along / 2) for r in radii))


def kent_series(kappa: Any, beta: Any) -> Any:
    """log C by Kent's series of Bessel functions."""
    total, j, half = mp.mpf(0), 0, mp.mpf(1) / 2
    while True:
        term = mp.gamma(j + half) / mp.gamma(j + 1) * beta ** (2 * j) if j or beta else mp.gamma(half)
        term *= (kappa / 2) ** (-2 * j - half) * mp.besseli(2 * j + half, kappa)
        total, j = total + term, j + 1
        if term < total * mp.mpf(10) ** -30:
            return mp.log(2 * mp.pi * total)


def kent_integral(kappa: Any, beta: Any) -> Any:
    """log C by the integral over the angle from the mean, for concentrated laws."""

    def integrand(r: Any) -> Any:
        z = beta * mp.sin(r) ** 2
        exponent = -2 * kappa * mp.sin(r / 2) ** 2 + z
        return mp.exp(exponent) * mp.besseli(0, z) * mp.exp(-z) * mp.sin(r) if exponent > -200 else mp.mpf(0)

    narrow, wide = 1 / mp.sqrt(kappa + 2 * beta), 1 / mp.sqrt(kappa - 2 * beta)
    ends = sorted({p * w for p in (1, 3, 6, 10, 16) for w in (narrow, wide, mp.sqrt(narrow * wide)) if p * w < mp.pi})
    with mp.workdps(25):
        return kappa + mp.log(2 * mp.pi * mp.quad(integrand, [0, *ends, mp.pi]))


def kent(x: Vector, loc: Vector, params: dict[str, Any]) -> Any:
    frame = tangent_frame(loc)
    values, vectors = mp.eigsy(tangent_covariance(frame, params))
    minor, major = (dot(x, [mp.fsum(vectors[i, j] * frame[i][k] for i in range(2)) for k in range(3)]) for j in (0, 1))
    a, b = 1 / values[1], 1 / values[0]
    kappa, beta = (a + b) / 2, (b - a) / 4
    log_c = kent_series(kappa, beta) if kappa < 300 else kent_integral(kappa, beta)
    return kappa * dot(x, loc) + beta * (major**2 - minor**2) - log_c


def tangential(loc: list[float], largest: float, condition: float, seed: int, along: float = 1.0) -> list[list[float]]:
    """A covariance with tangent variances from ``largest / condition`` to ``largest`` and ``along`` times that along loc."""
    rng, basis, d = random.Random(seed), [exact(loc)], len(loc) - 1
    while len(basis) <= d:
        basis.append(orthogonal([mp.mpf(rng.gauss(0, 1)) for _ in loc], basis))
    values = [along * largest, *(largest * condition ** (-i / mp.mpf(max(d - 1, 1))) for i in range(d))]
    return [
        [float(mp.fsum(v * b[i] * b[j] for v, b in zip(values, basis, strict=True))) for j in range(d + 1)]
        for i in range(d + 1)
    ]


CLASSICAL = (von_mises_fisher, wrapped_normal)
NEWER = (power_spherical, spherical_cauchy, stereographic_normal, truncated_normal, kent)
LAWS = {f.__name__: f for f in (*CLASSICAL, *NEWER)}


def row(kernel: str, params: dict[str, Any], x: list[float]) -> dict[str, Any]:
    value = LAWS[kernel](exact(x), exact(params["loc"]), params)
    return {"manifold": SPHERE, "kernel": kernel, "params": params, "x": x, "measure": "riemannian", "log_prob": float(value)}


def zonal_rows() -> Rows:
    rows = []
    for size in (2, 3, 4, 16, 64):
        loc, d = random_unit(size, size), size - 1
        for kappa in (0.0, 1e-3, 3.0, 1e3, 1e6, 1e10):
            for angle in (min((2 * d / (kappa + 1)) ** 0.5, 2.0), 0.3, 3.1415):
                rows.append(row("power_spherical", {"loc": loc, "concentration": kappa}, at(loc, angle, size)))
        for scale in (1e-8, 1e-4, 0.1, 0.9, 1.0):
            for angle in (min(2 * scale, 2.0), 0.3, 3.1415):
                rows.append(row("spherical_cauchy", {"loc": loc, "scale": scale}, at(loc, angle, size)))
    return rows


def tangent_rows() -> Rows:
    rows, both = [], ("stereographic_normal", "truncated_normal")
    for size in (2, 3, 4, 16, 64):
        loc, d = random_unit(size, size), size - 1
        for scale in (1e-4, 0.03, 0.5, 2.0, 20.0):
            for angle in (min(scale * d**0.5, 2.5), 3.1):
                rows += [row(name, {"loc": loc, "scale": scale}, at(loc, angle, size)) for name in both]
    shapes = ((3, 1.0, 1e6), (3, 1e-4, 1e2), (3, 100.0, 1e6), (4, 0.5, 1e1), (4, 100.0, 5.0), (10, 0.3, 4.0))
    for size, largest, condition in shapes:
        loc = random_unit(size, size)
        for along in (0.0, 100.0 / condition):
            params = {"loc": loc, "covariance_matrix": tangential(loc, largest, condition, size, along)}
            for angle in (min(1.0, largest**0.5), 2.9):
                rows += [row(name, params, at(loc, angle, size)) for name in both]
    return rows


def kent_rows() -> Rows:
    # largest variance and condition number of the tangent covariance: kappa from 1e-6 to 1e6
    shapes = (
        *((1e6, 1.0), (1.0, 1.0), (1e-6, 1.0), (1e-6, 1.9), (1e-2, 10.0)),
        *((0.3, 3.0), (1.0, 1e2), (1.0, 1e6), (1e-3, 1e3), (50.0, 20.0)),
    )
    rows, loc = [], random_unit(3, 3)
    for largest, condition in shapes:
        params = {"loc": loc, "covariance_matrix": tangential(loc, largest, condition, 7)}
        for angle, seed in ((min(largest**0.5, 2.0), 3), (min((largest / condition) ** 0.5, 2.5), 8), (3.1, 4)):
            rows.append(row("kent", params, at(loc, angle, seed)))
    return rows


def classical_rows() -> Rows:
    rows = []
    for size in (2, 3, 4, 8, 64):
        loc, d = random_unit(size, size + 100), size - 1
        for kappa in (0.0, 1e-6, 0.3, 20.0, 1e3, 1e6, 1e8):
            for angle in (min((d / (kappa + 1)) ** 0.5, 1.7), 0.4, 3.14):
                rows.append(row("von_mises_fisher", {"loc": loc, "concentration": kappa}, at(loc, angle, size)))
        for scale in (1e-4, 0.02, 0.5, 1.0, 4.0, 20.0):
            for angle in (min(scale * d**0.5, 2.5), 1e-3, 3.1):
                rows.append(row("wrapped_normal", {"loc": loc, "scale": scale}, at(loc, angle, size)))
    shapes = ((2, 1.0, 1.0), (3, 1.0, 1e6), (3, 1e-6, 1e2), (3, 200.0, 1e3), (8, 0.3, 30.0), (8, 40.0, 5.0))
    for size, largest, condition in shapes:
        loc = random_unit(size, size + 200)
        params = {"loc": loc, "covariance_matrix": tangential(loc, largest, condition, size)}
        for angle in (min(largest**0.5, 1.0), 1e-3, 2.9):
            rows.append(row("wrapped_normal", params, at(loc, angle, size)))
    return rows


if __name__ == "__main__":
    content = {"tolerance": 1e-9, "rows": [*zonal_rows(), *tangent_rows(), *kent_rows(), *classical_rows()]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content) + "\n")
    print(len(content["rows"]), "rows")
