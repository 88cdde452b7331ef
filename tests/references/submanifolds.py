"""Log densities on submanifolds by integrals of arbitrary precision, from the definitions: writes submanifolds.json.

Run it from the root of the repository: ``python tests/references/submanifolds.py``.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp

from mf_manifold import geometry
from mf_manifold.manifolds import AffineSubspace, Ellipsoid, TorusOfRevolution, surface

mp.mp.dps = 30
ROWS: list[dict[str, Any]] = []
RANDOM = random.Random(5)


def mpf(values: list[Any]) -> mp.matrix:
    return mp.matrix(values)


def covariance_of(params: dict[str, Any], size: int) -> mp.matrix:
    if "scale" in params:
        return mp.eye(size) * mp.mpf(params["scale"]) ** 2
    return mpf(params["covariance_matrix"])


def gauss_log(y: mp.matrix, loc: mp.matrix, precision: mp.matrix, log_det: mp.mpf) -> mp.mpf:
    d = y - loc
    return -(d.T * precision * d)[0] / 2 - log_det / 2 - mp.mpf(len(y)) / 2 * mp.log(2 * mp.pi)


def line_integral(
    params: dict[str, Any], at: Callable[[Any], mp.matrix], factor: Callable[[Any], Any], low: Any, high: Any
) -> Any:
    """Log of the integral of N(at(t)) factor(t), the line ``at`` being affine in t."""
    size = len(at(mp.mpf(0)))
    covariance = covariance_of(params, size)
    precision, log_det, loc = covariance**-1, mp.log(mp.det(covariance)), mpf(params["loc"])
    base, step = at(mp.mpf(0)) - loc, at(mp.mpf(1)) - at(mp.mpf(0))
    rate = (step.T * precision * step)[0]
    center, width = -(step.T * precision * base)[0] / rate, 1 / mp.sqrt(rate)
    start = gauss_log(at(mp.mpf(0)), loc, precision, log_det)

    def log_density(t: Any) -> Any:
        return start - rate * (t / 2 - center) * t

    degree = size - 1
    mode = low + ((center - low) + mp.sqrt((center - low) ** 2 + 4 * degree * width**2)) / 2
    narrow = 1 / mp.sqrt(1 / width**2 + degree / (mode - low) ** 2)
    decay = width**2 / (abs(center - low) + width)
    points = {low, *(center + k * width for k in (-9, -6, -3, -1, 0, 1, 3, 6, 9, 12))}
    points |= {mode + k * narrow for k in range(-10, 21, 2)} | {low + k * decay for k in (1, 4, 10, 20, 40, 80)}
    if high is not None:
        near = width**2 / (abs(center - high) + width)
        points |= {high, *(high - k * near for k in (1, 4, 10, 20, 40, 80))}
    else:
        points.add(max(points) + 30 * width)
    inside = sorted(p for p in points if p >= low and (high is None or p <= high))
    top = max(log_density(p) for p in inside)
    value = mp.quad(lambda t: mp.exp(log_density(t) - top) * factor(t), inside)
    return mp.log(value) + top


def add(manifold: Any, kernel: str, params: dict[str, Any], x: list[float], value: Any) -> None:
    ROWS.append(
        {
            "manifold": geometry.to_config(manifold),
            "kernel": kernel,
            "params": params,
            "x": x,
            "measure": "riemannian",
            "log_prob": float(value),
        }
    )


def random_covariance(size: int, scale: float, condition: float) -> list[list[float]]:
    """Eigenvalues from scale^2 to condition scale^2 along random directions."""
    q, _ = mp.qr(mp.matrix([[RANDOM.gauss(0, 1) for _ in range(size)] for _ in range(size)]))
    values = [scale**2 * condition ** (i / (size - 1)) for i in range(size)]
    made = q * mp.diag(values) * q.T
    return [[float((made[i, j] + made[j, i]) / 2) for j in range(size)] for i in range(size)]


def spreads(size: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"scale": s} for s in (1e-5, 0.05, 1e3)]
    found += [{"covariance_matrix": random_covariance(size, s, c)} for s, c in ((1e-3, 1e6), (0.3, 10.0))]
    return found


def ellipsoid_point(axes: list[float], u: list[float]) -> list[float]:
    norm = math.sqrt(sum(v * v for v in u))
    return [a * v / norm for a, v in zip(axes, u, strict=True)]


def exact_point(axes: list[float], x: list[float]) -> mp.matrix:
    gauge = mp.sqrt(sum((mp.mpf(v) / mp.mpf(a)) ** 2 for v, a in zip(x, axes, strict=True)))
    return mpf([mp.mpf(v) / gauge for v in x])


def ellipsoid_normal(axes: list[float], x: mp.matrix) -> tuple[mp.matrix, Any]:
    g = mpf([x[i] / mp.mpf(a) ** 2 for i, a in enumerate(axes)])
    size = mp.sqrt((g.T * g)[0])
    return g / size, size


def projected_on_ellipsoid(axes: list[float], params: dict[str, Any], x: list[float]) -> Any:
    """Along the normal up to where the coordinate of the shortest axis vanishes; the factor is det(1 + t W), W the shape."""
    p = exact_point(axes, x)
    n, size = ellipsoid_normal(axes, p)
    dim, shortest = len(axes), axes.index(min(axes))
    tangent = mp.eye(dim) - n * n.T
    shape = tangent * mp.diag([1 / mp.mpf(a) ** 2 for a in axes]) * tangent / size

    curvatures = mp.eigsy(shape, eigvals_only=True)  # and a zero, for the normal

    def factor(t: Any) -> Any:
        return mp.fprod(1 + t * k for k in curvatures)

    low = -p[shortest] / n[shortest]
    return line_integral(params, lambda t: p + t * n, factor, low, None)


def radial_on_ellipsoid(axes: list[float], params: dict[str, Any], x: list[float]) -> Any:
    p = exact_point(axes, x)
    n, _ = ellipsoid_normal(axes, p)
    size, dim = mp.sqrt((p.T * p)[0]), len(axes)
    value = line_integral(params, lambda r: r * p / size, lambda r: r ** (dim - 1), mp.mpf(0), None)
    return value + mp.log((p.T * n)[0] / size**dim)


def projected_on_torus(major: float, minor: float, params: dict[str, Any], x: list[float]) -> Any:
    """Points at (rho, z) = (R + w cos, w sin): volume w rho dw dphi dtheta over area r (R + r cos) dphi dtheta."""
    R, r, rho = mp.mpf(major), mp.mpf(minor), mp.sqrt(mp.mpf(x[0]) ** 2 + mp.mpf(x[1]) ** 2)
    theta = mp.atan2(mp.mpf(x[2]), rho - R)
    c, s, around = mp.cos(theta), mp.sin(theta), [mp.mpf(x[0]) / rho, mp.mpf(x[1]) / rho]

    def at(w: Any) -> mp.matrix:
        return mpf([(R + w * c) * around[0], (R + w * c) * around[1], w * s])

    return line_integral(params, at, lambda w: w * (R + w * c) / (r * (R + r * c)), mp.mpf(0), -R / c if c < 0 else None)


def surfaces() -> None:
    for axes in ([1.0, 30.0], [1.5, 0.8, 1.0], [3.0, 1.0, 1.0]):
        manifold, size = Ellipsoid(axes), len(axes)
        for i, spread in enumerate(spreads(size)):
            u = [RANDOM.gauss(0, 1) for _ in axes]
            x = ellipsoid_point(axes, u)
            width = spread.get("scale", 0.3)
            loc = [v * RANDOM.choice([0.9, 1.0, 1.3]) if i % 2 else v + width * RANDOM.gauss(0, 1) for v in x]
            params = {"loc": loc, **spread}
            add(manifold, "projected_normal", params, x, projected_on_ellipsoid(axes, params, x))
            add(manifold, "radial_normal", params, x, radial_on_ellipsoid(axes, params, x))
    for dim in (20, 64):
        axes = [1.0 + (i % 3) for i in range(dim)]
        for scale, side in ((1e-5, 1.0), (0.01, 1.0), (1.0, -1.0), (1e3, 1e5)):
            x = ellipsoid_point(axes, [RANDOM.gauss(0, 1) for _ in axes])
            params = {"loc": [side * v + 0.1 * scale * RANDOM.gauss(0, 1) for v in x], "scale": scale}
            add(Ellipsoid(axes), "radial_normal", params, x, radial_on_ellipsoid(axes, params, x))
            if dim <= 20:
                add(Ellipsoid(axes), "projected_normal", params, x, projected_on_ellipsoid(axes, params, x))
    for major, minor in ((2.0, 0.7), (1.0, 0.99)):
        for spread, angle in zip(spreads(3), itertools.cycle((0.4, 3.0)), strict=False):
            phi = RANDOM.uniform(-3, 3)
            ring = major + minor * math.cos(angle)
            x = [ring * math.cos(phi), ring * math.sin(phi), minor * math.sin(angle)]
            params = {"loc": [v + spread.get("scale", 0.2) * RANDOM.gauss(0, 1) for v in x], **spread}
            value = projected_on_torus(major, minor, params, x)
            add(TorusOfRevolution(major, minor), "projected_normal", params, x, value)


def affine() -> None:
    basis, offset = [[1.0, 0.5], [0.0, 1.0], [2.0, -1.0]], [0.0, 1.0, 0.0]
    q, _ = mp.qr(mpf(basis))
    b = q[:, :2]
    for spread in spreads(3):
        v = mpf([RANDOM.gauss(0, 1), RANDOM.gauss(0, 1)])
        x = [float(t) for t in mpf(offset) + mpf(basis) * v]
        params = {"loc": [t + spread.get("scale", 0.1) * RANDOM.gauss(0, 1) for t in x], **spread}
        covariance = b.T * covariance_of(params, 3) * b
        value = gauss_log(b.T * mpf(x), b.T * mpf(params["loc"]), covariance**-1, mp.log(mp.det(covariance)))
        add(AffineSubspace(basis, offset), "projected_normal", params, x, value)


CHARTS: dict[str, tuple[Callable[..., list[Any]], Callable[[list[Any]], list[Any]], list[Any]]] = {
    "circle": (lambda a: [mp.cos(a), mp.sin(a)], lambda x: [mp.atan2(x[1], x[0])], [2 * mp.pi]),
    "cylinder": (
        lambda a, h: [mp.cos(a), mp.sin(a), h],
        lambda x: [mp.atan2(x[1], x[0]), x[2]],
        [2 * mp.pi, None],
    ),
    "helix": (lambda a: [mp.cos(a), mp.sin(a), a / (2 * mp.pi)], lambda x: [2 * mp.pi * x[2]], [None]),
    "swiss_roll": (
        lambda s, h: [mp.exp(s) * mp.cos(mp.exp(s)), h, mp.exp(s) * mp.sin(mp.exp(s))],
        lambda x: [mp.log(x[0] ** 2 + x[2] ** 2) / 2, x[1]],
        [None, None],
    ),
    "paraboloid": (lambda a, b: [a, b, (a * a + b * b) / 2], lambda x: [x[0], x[1]], [None, None]),
}


def pushed_forward(name: str, params: dict[str, Any], x: list[float]) -> Any:
    embed, invert, periods = CHARTS[name]
    u, m = (mpf(invert([mp.mpf(v) for v in p])) for p in (x, params["loc"]))
    dim = len(u)
    diagonal = "scale" in params
    covariance = mp.diag([mp.mpf(s) ** 2 for s in params["scale"]]) if diagonal else mpf(params["covariance_matrix"])
    precision, log_det = covariance**-1, mp.log(mp.det(covariance))
    widest = max(float(mp.sqrt(covariance[i, i])) for i in range(dim))
    turns = range(-3 - int(4 * widest), 4 + int(4 * widest))
    shifts = itertools.product(*[[0] if p is None else [k * p for k in turns] for p in periods])
    total = mp.fsum(mp.exp(gauss_log(u + mpf(list(s)), m, precision, log_det)) for s in shifts)
    columns = [
        [mp.diff(lambda *v, k=k: embed(*v)[k], tuple(u), tuple(int(i == j) for j in range(dim))) for k in range(len(x))]
        for i in range(dim)
    ]
    jacobian = mpf(columns).T
    return mp.log(total) - mp.log(mp.det(jacobian.T * jacobian)) / 2


def charts() -> None:
    for name, (embed, _, periods) in CHARTS.items():
        dim = len(periods)
        choices: list[dict[str, Any]] = [{"scale": [s] * dim} for s in (1e-4, 3.0)]
        if dim == 2:
            choices += [{"covariance_matrix": random_covariance(2, s, c)} for s, c in ((1e-3, 1e6), (0.6, 20.0))]
        for spread in choices:
            size = spread.get("scale", [0.3])[0]
            u = [RANDOM.uniform(0.5, 3) for _ in range(dim)]
            x, loc = ([float(v) for v in embed(*p)] for p in (u, [v + size * RANDOM.gauss(0, 1) for v in u]))
            params = {"loc": loc, **spread}
            add(surface(name), "pushforward_normal", params, x, pushed_forward(name, params, x))


def restricted() -> None:
    """On a circle and an ellipse by the angle, on the torus around the axis by a Bessel function."""
    for axes, scale in itertools.product(([1.0, 1.0], [2.0, 1.0]), (1e-3, 0.3, 10.0)):
        angle = RANDOM.uniform(-3, 3)
        x = [axes[0] * math.cos(angle), axes[1] * math.sin(angle)]
        loc = [v + scale * min(1.0, 1 / scale) * RANDOM.gauss(0, 1) for v in x]
        s, m = mp.mpf(scale), [mp.mpf(v) for v in loc]

        def exponent(t: Any, axes: Any = axes, s: Any = s, m: Any = m) -> Any:
            return -((axes[0] * mp.cos(t) - m[0]) ** 2 + (axes[1] * mp.sin(t) - m[1]) ** 2) / (2 * s**2)

        nodes = [angle + k * min(s, mp.mpf(1)) for k in (-40, -25, -15, -10, -6, -3, -1, 0, 1, 3, 6, 10, 15, 25, 40)]
        ends = [angle - mp.pi, *(t for t in nodes if abs(t - angle) < mp.pi), angle + mp.pi]
        top = max(exponent(t) for t in ends)
        mass = mp.quad(
            lambda t: mp.exp(exponent(t) - top) * mp.hypot(axes[0] * mp.sin(t), axes[1] * mp.cos(t)),  # noqa: B023
            ends,
        )
        p = exact_point(axes, x)
        value = -((p[0] - m[0]) ** 2 + (p[1] - m[1]) ** 2) / (2 * s**2) - top - mp.log(mass)
        add(Ellipsoid(axes), "restricted_normal", {"loc": loc, "scale": scale}, x, value)
    R, r = mp.mpf(2), mp.mpf("0.75")
    for scale in (0.1, 0.6, 5.0):
        s, m = mp.mpf(scale), [mp.mpf(2.5), mp.mpf(0.0), mp.mpf(0.25)]

        def ring(t: Any, s: Any = s, m: Any = m) -> Any:
            rho, z = R + r * mp.cos(t), r * mp.sin(t)
            around = 2 * mp.pi * mp.besseli(0, rho * m[0] / s**2)
            return r * rho * around * mp.exp(-(rho**2 + m[0] ** 2 + (z - m[2]) ** 2) / (2 * s**2))

        mass = mp.quad(ring, [k * mp.pi / 8 for k in range(-8, 9)])
        x = [2.75, 0.0, 0.0]
        value = -((x[0] - m[0]) ** 2 + m[2] ** 2) / (2 * s**2) - mp.log(mass)
        add(TorusOfRevolution(2.0, 0.75), "restricted_normal", {"loc": [2.5, 0.0, 0.25], "scale": scale}, x, value)


if __name__ == "__main__":
    for part in (surfaces, affine, charts, restricted):
        part()
    path = Path(__file__).with_suffix(".json")
    lines = ",\n".join(json.dumps(row) for row in ROWS)
    path.write_text(f'{{"tolerance": 1e-9, "rows": [\n{lines}\n]}}\n')
    print(f"{len(ROWS)} rows in {path}")
