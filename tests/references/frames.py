"""Writes frames.json: log densities of frames and subspaces from their definitions, by mpmath.

Run ``python tests/references/frames.py`` from the root of the repository.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from common import Row, exact, row, write
from mpmath import mp, mpf

RNG = np.random.default_rng(7)


def orthonormal(x: Any) -> Any:
    """The frame next to a float64 one, by Newton's iteration for the polar factor."""
    y = exact(x)
    for _ in range(4):
        y = y * (3 * mp.eye(y.cols) - y.T * y) / 2
    return y


def central(covariance: Any, x: Any) -> Any:
    sigma, frame = exact(covariance), orthonormal(x)
    n, k = frame.rows, frame.cols
    inner = frame.T * sigma**-1 * frame
    return -mpf(k) / 2 * mp.log(mp.det(sigma)) - mpf(n) / 2 * mp.log(mp.det(inner))


def muirhead(n: int, a: Any, b: Any) -> Any:
    """log 0F1(n/2; diag(a, b)^2 / 4) by Muirhead's series in hypergeometric functions of a number."""
    c, x, y = mpf(n) / 2, a * a / 4, b * b / 4
    total, j, term = mpf(0), 0, mpf(1)
    while j < 4 or term > total * mpf(10) ** -30:
        term = (x * y) ** j / (mp.rf(c, 2 * j) * mp.rf(c - mpf(1) / 2, j) * mp.factorial(j)) * mp.hyp0f1(c + 2 * j, x + y)
        total, j = total + term, j + 1
    return mp.log(total)


def conditional(n: int, a: Any, b: Any) -> Any:
    """The same by integrating over one coordinate of the first column, for concentrations beyond the series."""

    def fisher(kappa: Any) -> Any:
        nu = mpf(n - 1) / 2 - 1
        if kappa == 0:
            return mpf(1)
        return mp.gamma(nu + 1) * (2 / kappa) ** nu * mp.besseli(nu, kappa)

    def integrand(phi: Any) -> Any:
        c = mp.cos(phi)
        return c ** (n - 2) * fisher(a * c) * fisher(b * c) * mp.exp(-a - b)

    unit = 1 / mp.sqrt(a + b + n)
    points = [mpf(0), *(u * unit for u in (2, 4, 7, 11, 16, 22) if u * unit < mp.pi / 2), mp.pi / 2]
    total = mp.quad(integrand, points[:-1] if len(points) > 7 else points)
    return mp.log(2 * total * mp.gamma(mpf(n) / 2) / (mp.sqrt(mp.pi) * mp.gamma(mpf(n - 1) / 2))) + a + b


def langevin(loc: Any, matrix: Any, x: Any) -> Any:
    where, frame, inner = orthonormal(loc), orthonormal(x), exact(matrix)
    n = where.rows
    product = inner * (where.T * frame)
    exponent = mp.fsum(product[i, i] for i in range(product.rows))
    values = [max(v, mpf(0)) for v in mp.eigsy(inner, eigvals_only=True)]
    if len(values) == 1:
        return exponent - mp.log(mp.hyp0f1(mpf(n) / 2, values[0] ** 2 / 4))
    a, b = values
    return exponent - (muirhead(n, a, b) if a + b < 150 else conditional(n, a, b))


def gnomonic(loc: Any, scale: float, x: Any) -> Any:
    """By the volume of the Grassmannian, from the slopes of the subspace over loc."""
    where, other, s = orthonormal(loc), orthonormal(x), mpf(float(scale))
    n, k = where.rows, where.cols
    slopes = (other - where * (where.T * other)) * (where.T * other) ** -1
    gram = slopes.T * slopes
    square = mp.fsum(gram[i, i] for i in range(k))
    log_volume = mpf(n) / 2 * mp.log(mp.det(mp.eye(k) + gram))
    return -square / (2 * s**2) - k * (n - k) * (mp.log(s) + mp.log(2 * mp.pi) / 2) + log_volume


def complete(frame: Any) -> Any:
    """A square orthogonal matrix that begins with the columns of a frame, by Gram-Schmidt on the axes."""
    columns = [frame[:, j] for j in range(frame.cols)]
    for axis in sorted(range(frame.rows), key=lambda i: mp.norm(frame[i, :])):
        rest = mp.matrix(frame.rows, 1)
        rest[axis] = 1
        for _ in range(2):
            for c in columns:
                rest = rest - c * (c.T * rest)[0]
        if len(columns) < frame.rows and mp.norm(rest) > mpf(10) ** -3:
            columns.append(rest / mp.norm(rest))
    return mp.matrix([[c[i] for c in columns] for i in range(frame.rows)])


def cayley(loc: Any, scale: float, x: Any) -> Any:
    """By the canonical volume: normal law of the skew matrix, its Jacobian as the determinant of the derivative written out."""
    where, other, s = orthonormal(loc), orthonormal(x), mpf(float(scale))
    n, k = where.rows, where.cols
    seen = complete(where).T * other
    f = (mp.eye(k) - seen[:k, :]) * (mp.eye(k) + seen[:k, :]) ** -1  # B^T B - A
    b = seen[k:, :] * (mp.eye(k) + f) / 2
    skew = mp.matrix(n, n)
    for i in range(n):
        for j in range(n):
            if i < k and j < k:
                skew[i, j] = (f[j, i] - f[i, j]) / 2
            elif j < k:
                skew[i, j], skew[j, i] = b[i - k, j], -b[i - k, j]
    inverse = (mp.eye(n) + skew) ** -1
    entries = [(i, j) for j in range(k) for i in range(j + 1, n)]
    columns = []
    for i, j in entries:
        step = mp.matrix(n, n)
        step[i, j], step[j, i] = mpf(1), mpf(-1)
        moved = 2 * inverse * step * inverse.T  # Q^T dQ of Q = (1 + S) / (1 - S)
        columns.append([moved[a, c] for a, c in entries])
    log_volume = mp.log(abs(mp.det(mp.matrix(columns))))
    square = 4 * mp.fsum(skew[i, j] ** 2 for i, j in entries)
    return -square / (2 * s**2) - len(entries) * mp.log(s * mp.sqrt(2 * mp.pi) / 2) - log_volume


def random_frame(n: int, k: int) -> Any:
    return np.linalg.qr(RNG.normal(size=(n, k)))[0]


def frame_rows() -> list[Row]:
    rows = []
    for n, k in ((2, 1), (3, 2), (6, 3), (20, 2)):
        for decades in (0, 3, 6):
            turn = np.linalg.qr(RNG.normal(size=(n, n)))[0]
            root = turn * np.logspace(0, -decades / 2, n)
            covariance = root @ root.T
            covariance = (covariance + covariance.T) / 2
            for x in (random_frame(n, k), turn[:, :k]):
                for name, manifold in (("Grassmann", {}), ("Stiefel", {"canonical": True})):
                    value = central(covariance, x)
                    params = {"covariance_matrix": covariance}
                    line = row(name, "matrix_angular_central_gaussian", params, x, "normalized", value)
                    line["manifold"].update(manifold)
                    rows.append(line)
    for n, k in ((3, 1), (3, 2), (5, 3), (6, 4)):
        for scale in (1e-6, 1e-3, 0.5, 4.0):
            loc = random_frame(n, k)
            x, _ = np.linalg.qr(loc + min(1.0, scale) * RNG.normal(size=(n, k)))
            x *= np.sign(np.sum(x * loc, axis=0))
            line = row("Stiefel", "cayley_normal", {"loc": loc, "scale": scale}, x, "riemannian", cayley(loc, scale, x))
            line["manifold"]["canonical"] = True
            rows.append(line)
    for n, k in ((2, 1), (3, 2), (7, 3), (30, 2)):
        for scale in (1e-6, 1e-3, 0.3, 30.0):
            loc = random_frame(n, k)
            x, _ = np.linalg.qr(loc + min(1.0, scale) * RNG.normal(size=(n, k)))
            params = {"loc": loc, "scale": scale}
            rows.append(row("Grassmann", "gnomonic_normal", params, x, "riemannian", gnomonic(loc, scale, x)))
    for n, k in ((2, 1), (3, 1), (3, 2), (4, 2), (9, 2), (40, 2)):
        for kappa in (0.0, 0.1, 3.0, 60.0, 3e3, 1e6, 1e8):
            loc = random_frame(n, k)
            x, _ = np.linalg.qr(loc + min(1.0, 1 / math.sqrt(1 + kappa)) * RNG.normal(size=(n, k)))
            x *= np.sign(np.sum(x * loc, axis=0))
            value = langevin(loc, kappa * np.eye(k), x)
            line = row("Stiefel", "matrix_langevin", {"loc": loc, "concentration": kappa}, x, "normalized", value)
            line["manifold"]["canonical"] = True
            rows.append(line)
    for n, values in ((3, (1e6, 1e-3)), (4, (40.0, 0.0)), (5, (1e8, 1e4)), (12, (300.0, 7.0))):
        turn = np.linalg.qr(RNG.normal(size=(2, 2)))[0]
        matrix = (turn * np.array(values)) @ turn.T
        matrix = (matrix + matrix.T) / 2
        loc = random_frame(n, 2)
        x, _ = np.linalg.qr(loc + 1e-3 * RNG.normal(size=(n, 2)))
        x *= np.sign(np.sum(x * loc, axis=0))
        params = {"loc": loc, "concentration_matrix": matrix}
        line = row("Stiefel", "matrix_langevin", params, x, "normalized", langevin(loc, matrix, x))
        line["manifold"]["canonical"] = False
        rows.append(line)
    return rows


if __name__ == "__main__":
    write(__file__, frame_rows())
