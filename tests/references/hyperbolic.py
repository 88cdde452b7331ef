"""Log densities on hyperbolic spaces and stereographic projections from their definitions, in 50 digits.

    python tests/references/hyperbolic.py        # writes hyperbolic.json

Distances are ``R arcosh(-<x, y> / k)``, logarithms ``arcosh(a) / sqrt(a^2 - 1) (y - a x)`` carried to the origin by parallel
transport, normalisers adaptive integrals. Points are float64 numbers; their first coordinate is made exact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geoopt
import mpmath as mp
import torch
from torch import Tensor

from mf_manifold import geometry

mp.mp.dps = 60
F64 = torch.float64


def exact(values: Tensor) -> list[Any]:
    return [mp.mpf(v) for v in values.tolist()]


def minkowski(a: list[Any], b: list[Any]) -> Any:
    return -a[0] * b[0] + sum(u * v for u, v in zip(a[1:], b[1:], strict=True))


def on_hyperboloid(manifold: geoopt.Manifold, x: Tensor) -> tuple[Any, list[Any]]:
    """k and the exact point of ``Lorentz(k)`` of a point of the manifold."""
    if isinstance(manifold, geoopt.Lorentz):
        k, space = mp.mpf(float(manifold.k)), exact(x[1:])
    else:
        c = mp.mpf(float(-manifold.k.double()))
        y = exact(x)
        k, space = 1 / c, [2 * v / (1 - c * sum(t * t for t in y)) for v in y]
    return k, [mp.sqrt(k + sum(v * v for v in space)), *space]


def radius(manifold: geoopt.Manifold, loc: Tensor, x: Tensor) -> tuple[Any, Any]:
    """R and the distance."""
    (k, p), (_, q) = on_hyperboloid(manifold, loc), on_hyperboloid(manifold, x)
    return mp.sqrt(k), mp.sqrt(k) * mp.acosh(-minkowski(p, q) / k)


def frame_logarithm(manifold: geoopt.Manifold, loc: Tensor, x: Tensor) -> list[Any]:
    (k, p), (_, q) = on_hyperboloid(manifold, loc), on_hyperboloid(manifold, x)
    a = -minkowski(p, q) / k
    u = [mp.acosh(a) / mp.sqrt(a * a - 1) * (s - a * t) for s, t in zip(q, p, strict=True)]
    origin = [mp.sqrt(k)] + [mp.mpf(0)] * (len(p) - 1)
    factor = minkowski(origin, u) / (k - minkowski(p, origin))
    return [s + factor * (t + o) for s, t, o in zip(u, p, origin, strict=True)][1:]


def log_normal(v: list[Any], covariance: Tensor) -> Any:
    d = len(v)
    matrix = mp.matrix([[mp.mpf(float(c)) for c in row] for row in covariance])
    solved = mp.lu_solve(matrix, mp.matrix(v))
    square = sum(a * b for a, b in zip(v, solved, strict=True))
    return -(square + mp.log(mp.det(matrix)) + d * mp.log(2 * mp.pi)) / 2


def wrapped(manifold: geoopt.Manifold, w: dict[str, Tensor], x: Tensor) -> Any:
    v = frame_logarithm(manifold, w["loc"], x)
    d = len(v)
    if "scale" in w:
        scale = [mp.mpf(s) for s in w["scale"].expand(d).tolist()]
        normal = sum(-((a / s) ** 2) / 2 - mp.log(s) for a, s in zip(v, scale, strict=True)) - mp.mpf(d) / 2 * mp.log(2 * mp.pi)
    else:
        normal = log_normal(v, w["covariance_matrix"])
    big, r = radius(manifold, w["loc"], x)
    return normal - (d - 1) * mp.log(mp.sinh(r / big) / (r / big))


def riemannian(manifold: geoopt.Manifold, w: dict[str, Tensor], x: Tensor) -> Any:
    big, r = radius(manifold, w["loc"], x)
    s, d = mp.mpf(float(w["scale"])), geometry.intrinsic_dim(manifold, tuple(x.shape))
    log_f = lambda t: (d - 1) * mp.log(big * mp.sinh(t / big)) - t * t / (2 * s * s)  # noqa: E731
    middle = max((d - 1) * s * s / big, mp.sqrt(d - 1) * s)
    top = log_f(middle) if d > 1 else mp.mpf(0)
    inner = lambda t: mp.exp(log_f(t) - top) if t > 0 else mp.mpf(d == 1)  # noqa: E731
    ends = sorted({max(mp.mpf(0), middle + i * s) for i in range(-20, 21, 2)})
    integral = mp.quad(inner, ends)
    area = 2 * mp.pi ** (mp.mpf(d) / 2) / mp.gamma(mp.mpf(d) / 2)
    return -r * r / (2 * s * s) - mp.log(area) - mp.log(integral) - top


def fisher(manifold: geoopt.Manifold, w: dict[str, Tensor], x: Tensor) -> Any:
    """Von Mises-Fisher on a projected sphere of radius 1 / sqrt(k)."""
    k, d = mp.mpf(float(manifold.k.double())), len(x)

    def point(y: Tensor) -> list[Any]:
        v = exact(y)
        square = k * sum(t * t for t in v)
        return [(1 - square) / (1 + square), *[2 * mp.sqrt(k) * t / (1 + square) for t in v]]

    dot = sum(a * b for a, b in zip(point(w["loc"]), point(x), strict=True))
    kappa, nu = mp.mpf(float(w["concentration"])), mp.mpf(d + 1) / 2 - 1
    log_c = nu * mp.log(kappa) - (nu + 1) * mp.log(2 * mp.pi) - mp.log(mp.besseli(nu, kappa))
    return log_c + kappa * dot + mp.mpf(d) / 2 * mp.log(k)


FORMULAS = {"wrapped_normal": wrapped, "riemannian_normal": riemannian, "von_mises_fisher": fisher}


def row(manifold: geoopt.Manifold, kernel: str, w: dict[str, Tensor], x: Tensor) -> dict[str, Any]:
    value = FORMULAS[kernel](manifold, w, x)
    return {
        "manifold": geometry.to_config(manifold),
        "kernel": kernel,
        "params": {k: v.tolist() for k, v in w.items()},
        "x": x.tolist(),
        "measure": "riemannian",
        "log_prob": float(value),
    }


def place(manifold: geoopt.Manifold, dim: int, distance: float, generator: torch.Generator) -> Tensor:
    """A point at a distance from the origin in a random direction."""
    v = torch.nn.functional.normalize(torch.randn(dim, dtype=F64, generator=generator), dim=0)
    shape = (dim + 1,) if isinstance(manifold, geoopt.Lorentz) else (dim,)
    return geometry.from_raw(manifold, distance * v, shape)


def near(manifold: geoopt.Manifold, loc: Tensor, factor: Tensor, generator: torch.Generator) -> Tensor:
    """A point whose logarithm in the frame at ``loc`` is a normal vector times a matrix."""
    v = factor @ torch.randn(len(factor), dtype=F64, generator=generator)
    return geometry.expmap(manifold, loc, geometry.from_coords(manifold, loc, v))


def rows() -> list[dict[str, Any]]:
    out, g = [], torch.Generator().manual_seed(0)
    ball = lambda c: geoopt.PoincareBall(torch.tensor(c, dtype=F64))  # noqa: E731
    lorentz = lambda k: geoopt.Lorentz(torch.tensor(k, dtype=F64))  # noqa: E731
    spaces = [(lorentz(1.0), d) for d in (1, 2, 10, 64)] + [(lorentz(0.3), 3), (lorentz(25.0), 2)]
    spaces += [(ball(1.0), 2), (ball(0.3), 3), (ball(4.0), 16), (geoopt.Stereographic(torch.tensor(-0.5, dtype=F64)), 2)]
    for manifold, d in spaces:
        big = float(manifold.k) ** 0.5 if isinstance(manifold, geoopt.Lorentz) else float(-manifold.k) ** -0.5
        for scale, far in ((1e-6, 2.0), (1e-4, 8.0), (0.02, 12.0), (0.5, 0.0), (0.7, 3.0), (3.0, 1.0), (10.0, 0.5)):
            s = scale * big
            loc = place(manifold, d, far * big, g)
            reach = torch.eye(d, dtype=F64) * min(s, 12 * big / d**0.5)
            w = {"loc": loc, "scale": torch.tensor([s], dtype=F64)}
            out.append(row(manifold, "wrapped_normal", w, near(manifold, loc, reach, g)))
            w = {"loc": loc, "scale": torch.tensor(s, dtype=F64)}
            out.append(row(manifold, "riemannian_normal", w, near(manifold, loc, reach, g)))
        for scale in (1e-3, 0.5):
            loc = place(manifold, d, 1.5 * big, g)
            scales = scale * torch.logspace(-1.5, 0.0, d, dtype=F64)
            x = near(manifold, loc, torch.diag(scales), g)
            out.append(row(manifold, "wrapped_normal", {"loc": loc, "scale": scales}, x))
            if d <= 10:
                q = torch.linalg.qr(torch.randn(d, d, dtype=F64, generator=g)).Q
                factor = q @ torch.diag(scale * torch.logspace(-3, 0.0, d, dtype=F64))
                w = {"loc": loc, "covariance_matrix": factor @ factor.mT}
                out.append(row(manifold, "wrapped_normal", w, near(manifold, loc, factor, g)))
    far_side = torch.tensor([40.0, -3.0], dtype=F64)
    for k in (1.0, 0.2):
        sphere = geoopt.SphereProjection(torch.tensor(k, dtype=F64))
        for kappa in (0.5, 1e3, 1e6):
            for loc in (torch.tensor([0.3, -0.2], dtype=F64), far_side):
                x = near(sphere, loc, torch.eye(2, dtype=F64) * min(1.0, kappa**-0.5), g)
                w = {"loc": loc, "concentration": torch.tensor(kappa, dtype=F64)}
                out.append(row(sphere, "von_mises_fisher", w, x))
    return out


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(r) for r in rows())
    Path(__file__).with_suffix(".json").write_text(f'{{"tolerance": 1e-9, "rows": [\n{lines}\n]}}\n')
