"""Writes frames.json: log densities on the simplex, correlation matrices and frames from their definitions, by mpmath.

Run ``python tests/references/frames.py`` from the root of the repository.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from mpmath import mp, mpf

mp.dps = 50
Row = dict[str, Any]
RNG = np.random.default_rng(5)


def row(manifold: str, kernel: str, params: dict[str, Any], x: Any, measure: str, log_prob: Any) -> Row:
    """One line of the file; parameters and points are float64."""
    plain = {k: np.asarray(v, dtype=float).tolist() for k, v in params.items()}
    point = np.asarray(x, dtype=float).tolist()
    return {
        "manifold": {"type": manifold},
        "kernel": kernel,
        "params": plain,
        "x": point,
        "measure": measure,
        "log_prob": float(log_prob),
    }


def exact(values: Any) -> Any:
    """Float64 numbers as mpmath numbers."""
    array = np.asarray(values, dtype=float)
    return mp.matrix(array.tolist()) if array.ndim == 2 else [mpf(float(v)) for v in array]


# Simplex: densities with respect to Lebesgue measure on all parts but the last.


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


def normal(delta: list[Any], covariance: Any) -> Any:
    vector = mp.matrix(delta)
    exponent = (vector.T * mp.lu_solve(covariance, vector))[0]
    return -exponent / 2 - mp.log(mp.det(covariance)) / 2 - len(delta) * mp.log(2 * mp.pi) / 2


def difference(a: list[Any], b: list[Any]) -> list[Any]:
    return [u - v for u, v in zip(a, b, strict=True)]


def diagonal(scale: Any, size: int) -> Any:
    s = np.broadcast_to(np.asarray(scale, dtype=float), (size,))
    return mp.diag([mpf(float(v)) ** 2 for v in s])


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


# Correlation matrices: densities with respect to Lebesgue measure on the entries below the diagonal.


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
        for eta in (0.5, 1.0, 7.0, 1e3, 1e6, 1e8):
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


# Frames and subspaces: densities with respect to the uniform probability.


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


def main() -> None:
    content = {"tolerance": 1e-9, "rows": [*simplex_rows(), *correlation_rows(), *frame_rows()]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content).replace("}, {\"manifold", "},\n{\"manifold"))


if __name__ == "__main__":
    main()
