"""Reference values of log densities on rotations in 50 digits, written to rotations.json: python tests/references/rotations.py.

From the definitions: windings and characters are summed, normalisers and projected laws integrated numerically.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp
import torch

import mf_manifold as mf
from mf_manifold.numerics import quaternions
from mf_manifold.numerics.orthogonal import hat, num_skew

mp.mp.dps = 50
SO, UNIT = mf.manifolds.SpecialOrthogonal(), mf.manifolds.UnitQuaternions()
VOLUME = 8 * mp.pi**2
Values = Any


def exact(value: Values) -> mp.matrix:
    """The float64 numbers themselves."""
    return mp.matrix(torch.as_tensor(value, dtype=torch.float64).tolist())


def rotation(value: Values) -> mp.matrix:
    """The rotation nearest to float64 numbers, by Newton's iteration, or that of a quaternion."""
    if torch.as_tensor(value).ndim == 1:
        return mp.matrix(quaternion_matrix(quaternion(value)))
    x = exact(value)
    for _ in range(8):
        x = (x + (x**-1).T) / 2
    return x


def quaternion(value: Values) -> mp.matrix:
    """A unit quaternion from a rotation matrix or from a rounded quaternion."""
    value = torch.as_tensor(value, dtype=torch.float64)
    if value.ndim == 1:
        q = exact(value)
        return q / mp.norm(q)
    r = rotation(value)
    form = mp.matrix(4, 4)
    trace = r[0, 0] + r[1, 1] + r[2, 2]
    axial = [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]
    form[0, 0] = 1 + trace
    for i in range(3):
        form[0, i + 1] = form[i + 1, 0] = axial[i]
        for j in range(3):
            form[i + 1, j + 1] = r[i, j] + r[j, i] + ((1 - trace) if i == j else 0)
    best = max(range(4), key=lambda i: form[i, i])
    column = form[:, best]
    return column / mp.norm(column)


def turn(loc: Values, x: Values) -> tuple[Any, mp.matrix]:
    """Angle and axis of the rotation from loc to x, in the frame of loc."""
    p, q = quaternion(loc), quaternion(x)
    w = sum(p[i] * q[i] for i in range(4))
    u, v = p[1:4], q[1:4]
    cross = mp.matrix([u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]])
    vector = p[0] * v - q[0] * u - cross
    if w < 0:
        w, vector = -w, -vector
    size = mp.norm(vector)
    return 2 * mp.atan2(size, w), vector / size if size else mp.matrix([1, 0, 0])


def wrapped(loc: Values, x: Values, covariance: mp.matrix) -> Any:
    """Sum over windings."""
    theta, axis = turn(loc, x)
    along, det = (axis.T * covariance**-1 * axis)[0], mp.det(covariance)
    terms = [
        mp.exp(-((theta + 2 * mp.pi * k) ** 2) * along / 2) * (theta + 2 * mp.pi * k) ** 2 / (4 * mp.sin(theta / 2) ** 2)
        for k in range(-60, 61)
    ]
    return mp.log(sum(terms)) - mp.log(det) / 2 - mp.mpf(3) / 2 * mp.log(2 * mp.pi)


def heat(loc: Values, x: Values, s: Any) -> Any:
    """Characters for wide laws, images for the narrowest."""
    theta, _ = turn(loc, x)
    if s >= 0.05:
        with mp.workdps(120):
            top = int(mp.sqrt(2 * 260) / s) + 10
            terms = [
                (2 * n + 1) * mp.exp(-n * (n + 1) * s**2 / 2) * mp.sin((n + mp.mpf(1) / 2) * theta) for n in range(top)
            ]
            return mp.log(sum(terms) / mp.sin(theta / 2) / VOLUME)
    return s**2 / 8 - mp.mpf(3) / 2 * mp.log(2 * mp.pi * s**2) - theta**2 / (2 * s**2) + mp.log(theta / 2 / mp.sin(theta / 2))


def fisher(f: Values, x: Values) -> Any:
    """Lee's integral for the normaliser."""
    matrix = exact(f)
    q = quaternion(x)
    r = mp.matrix(quaternion_matrix(q))
    _, s, _ = mp.svd_r(matrix)
    a, b, c = s[0], s[1], s[2] * mp.sign(mp.det(matrix)) if mp.det(matrix) else s[2]

    def integrand(u: Any) -> Any:
        logs = (a - b) * (1 - u) / 2 + (a + b) * (1 + u) / 2 + c * u - (a + b + c)
        return scaled_bessel((a - b) * (1 - u) / 2) * scaled_bessel((a + b) * (1 + u) / 2) * mp.exp(logs) / 2

    # peaks at u = 1 and, for a negative determinant, at u = -1
    ends = [mp.mpf(10) ** -k for k in range(9)]
    nodes = [-1] + [-1 + e for e in reversed(ends)][:-1] + [0] + [1 - e for e in ends[1:]] + [1]
    log_norm = mp.log(mp.quad(integrand, nodes)) + a + b + c
    return sum(matrix[i, j] * r[i, j] for i in range(3) for j in range(3)) - log_norm - mp.log(VOLUME)


def scaled_bessel(z: Any) -> Any:
    """exp(-z) I_0(z), by its asymptotic series for large z."""
    if z < 200:
        return mp.besseli(0, z) * mp.exp(-z)
    total, term = mp.mpf(0), mp.mpf(1)
    for k in range(1, 60):
        total += term
        term *= mp.mpf((2 * k - 1) ** 2) / (8 * k * z)
    return total / mp.sqrt(2 * mp.pi * z)


def quaternion_matrix(q: mp.matrix) -> list[list[Any]]:
    """Rotation matrix of a unit quaternion."""
    w, x, y, z = q
    return [
        [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
    ]


def projected(loc: Values, covariance: mp.matrix, x: Values) -> Any:
    """Integral of the normal density along the whole line through the quaternion."""
    q, m, inverse = quaternion(x), exact(loc), covariance**-1
    curvature, tilt = (q.T * inverse * q)[0], (q.T * inverse * m)[0]
    peak, width = tilt / curvature, 1 / mp.sqrt(curvature)
    rest = (m.T * inverse * m)[0] - tilt**2 / curvature
    nodes = sorted([peak + k * width for k in (-16, -8, -4, -2, 0, 2, 4, 8, 16)] + [mp.mpf(0)])
    line = mp.quad(lambda t: abs(t) ** 3 * mp.exp(-((t - peak) ** 2) / (2 * width**2)), nodes)
    return mp.log(line / 8) - rest / 2 - 2 * mp.log(2 * mp.pi) - mp.log(mp.det(covariance)) / 2


def cayley(loc: Values, covariance: mp.matrix, x: Values) -> Any:
    """Normal density of 2 (M + 1)^-1 (M - 1), its Jacobian by the determinant of 1 - A."""
    m = rotation(loc).T * rotation(x)
    n = m.rows
    eye = mp.eye(n)
    a = (m + eye) ** -1 * (m - eye)
    entries = [(a[i, j] - a[j, i]) for i in range(n) for j in range(i)]
    y = mp.matrix([entries[2], -entries[1], entries[0]] if n == 3 else entries)
    square = (y.T * covariance**-1 * y)[0]
    log_normal = -square / 2 - mp.log(mp.det(covariance)) / 2 - mp.mpf(len(entries)) / 2 * mp.log(2 * mp.pi)
    return log_normal + (n - 1) * mp.log(mp.det(eye - a))


def circle(loc: Values, x: Values, s: Any) -> Any:
    """Images on the circle."""
    m = rotation(loc).T * rotation(x)
    delta = mp.atan2(m[1, 0], m[0, 0])
    return mp.log(sum(mp.npdf(delta + 2 * mp.pi * k, 0, s) for k in range(-60, 61)))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


G = generator()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def some_rotation(n: int) -> torch.Tensor:
    return mf.geometry.sample_uniform(SO, (n, n), generator=G, dtype=torch.float64)


def away(loc: torch.Tensor, angle: float) -> torch.Tensor:
    """A rotation this far from loc, in a random direction."""
    n = loc.shape[-1]
    v = normal(num_skew(n))
    return loc @ torch.linalg.matrix_exp(hat(angle * v / v.norm(), n))


def spread(size: int, scale: float, condition: float) -> torch.Tensor:
    """A covariance with eigenvalues from scale^2 down to scale^2 / condition."""
    q = torch.linalg.qr(normal(size, size)).Q
    c = q @ torch.diag(scale**2 * torch.logspace(0, -torch.tensor(condition).log10(), size, dtype=torch.float64)) @ q.T
    return (c + c.T) / 2


Row = dict[str, Any]


def row(kernel: str, params: dict[str, Any], x: torch.Tensor, value: Any) -> Row:
    manifold = UNIT if x.ndim == 1 else SO
    plain = {k: torch.as_tensor(v, dtype=torch.float64).tolist() for k, v in params.items()}
    config = mf.geometry.to_config(manifold)
    fields = {"manifold": config, "kernel": kernel, "params": plain, "x": x.tolist(), "measure": "riemannian"}
    return {**fields, "log_prob": float(value)}


def bump_rows() -> list[Row]:
    """Laws by the angle, near, in the tail, and at a turn by pi."""
    rows = []
    laws: dict[str, Callable[[Any, Any, float], Any]] = {
        "wrapped_normal": lambda loc, x, s: wrapped(loc, x, mp.mpf(s) ** 2 * mp.eye(3)),
        "isotropic_normal": lambda loc, x, s: heat(loc, x, mp.mpf(s)),
        "cayley_normal": lambda loc, x, s: cayley(loc, mp.mpf(s) ** 2 * mp.eye(3), x),
    }
    for kernel, law in laws.items():
        for s in (1e-4, 1e-2, 0.3, 1.0, 1.49, 1.51, 4.0, 18.0):
            for angle in (s, 3 * s, 3.0, torch.pi - 1e-4):
                if angle < torch.pi and (s > 0.1 or angle < 0.1) and not (kernel == "cayley_normal" and s < 1 and angle > 3.1):
                    loc = some_rotation(3)
                    x = away(loc, angle)
                    rows.append(row(kernel, {"loc": loc, "scale": s}, x, law(loc, x, s)))
        q = quaternions.unit(normal(4))
        p = quaternions.unit(q + 0.3 * normal(4))
        rows.append(row(kernel, {"loc": q, "scale": 0.5}, -p, law(q, -p, 0.5)))
    return rows


def covariance_rows() -> list[Row]:
    """Correlated laws, and SO(n)."""
    rows = []
    for s, condition in ((1e-3, 1e6), (0.5, 100.0), (1.5, 1e4), (2.0, 3.0)):
        for factor in (0.3, 1.5):
            loc, c = some_rotation(3), spread(3, s, condition)
            v = torch.linalg.cholesky(c) @ normal(3) * factor
            x = loc @ torch.linalg.matrix_exp(hat(v, 3))
            params = {"loc": loc, "covariance_matrix": c}
            rows.append(row("wrapped_normal", params, x, wrapped(loc, x, exact(c))))
            rows.append(row("cayley_normal", params, x, cayley(loc, exact(c), x)))
    for n in (2, 4, 5, 6):
        for s in (1e-4, 0.2, 1.0):
            loc = some_rotation(n)
            x = away(loc, s * num_skew(n) ** 0.5)
            c = spread(num_skew(n), s, 10.0)
            eye = mp.mpf(s) ** 2 * mp.eye(num_skew(n))
            rows.append(row("cayley_normal", {"loc": loc, "scale": s}, x, cayley(loc, eye, x)))
            rows.append(row("cayley_normal", {"loc": loc, "covariance_matrix": c}, x, cayley(loc, exact(c), x)))
    for s in (1e-4, 0.5, 3.0):
        loc = some_rotation(2)
        x = away(loc, s)
        rows.append(row("wrapped_normal", {"loc": loc, "scale": s}, x, circle(loc, x, mp.mpf(s))))
    return rows


def quaternion_law_rows() -> list[Row]:
    """Fisher, projected normal and angular central Gaussian laws."""
    rows = []
    shapes = [(0, 0, 0), (2, 1, 0.5), (5, 5, -5), (30, 2, -1), (1e3, 10, 1), (1e3, 900, -800), (1e6, 1e6, 1e6), (1e6, 10, -9)]
    shapes += [(1e6, 1e3, 0), (1e-3, 1e-4, 0), (100, 0, 0), (1e6, 9e5, -8.9e5)]
    for values in shapes:
        u, v = some_rotation(3), some_rotation(3)
        f = u @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v.T
        width = 1 / (1 + values[1] + values[2]) ** 0.5
        x = away(u @ v.T, min(width, 2.0))
        rows.append(row("matrix_fisher", {"concentration_matrix": f}, x, fisher(f, x)))
    for length in (0.0, 1e-3, 1.0, 5.0, 40.0, 1e3, 2e4):
        direction = quaternions.unit(normal(4))
        x = quaternions.unit(direction + normal(4) / (1 + length))
        loc = length * direction
        rows.append(row("projected_normal", {"loc": loc}, x, projected(loc, mp.eye(4), x)))
    for condition in (1.0, 100.0, 1e6):
        for length in (0.1, 3.0, 100.0):
            c = spread(4, 1.0, condition)
            loc = length * normal(4)
            x = quaternions.to_matrix(quaternions.unit(loc + torch.linalg.cholesky(c) @ normal(4)))
            rows.append(row("projected_normal", {"loc": loc, "covariance_matrix": c}, x, projected(loc, exact(c), x)))
            value = projected(torch.zeros(4, dtype=torch.float64), exact(c), x)
            rows.append(row("angular_central_gaussian", {"covariance_matrix": c}, x, value))
    return rows


def main() -> None:
    rows = [*bump_rows(), *covariance_rows(), *quaternion_law_rows()]
    content = {"tolerance": 1e-9, "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n")
    print(len(rows), "rows")


if __name__ == "__main__":
    main()
