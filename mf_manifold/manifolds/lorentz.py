"""Hyperbolic space as a hyperboloid: ``geoopt.Lorentz(k)``, points with ``<x, x> = -k``, curvature -1/k.

A point is its last d coordinates: the first one is computed anew wherever it is needed, so that its rounding, which grows like
``exp(2 r)``, spoils no distance. Everything is computed in float64.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from geoopt import Lorentz
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..numerics.curved import cos_sqrt, log_sinc_sqrt, sinc_sqrt
from . import register_config
from .pairs import Pair

register_config("Lorentz", lambda config: Lorentz(torch.tensor(config["k"], dtype=getattr(torch, config["dtype"]))))


def radius2(manifold: Lorentz, like: Tensor) -> Tensor:
    """Squared radius of curvature ``k`` in float64, read anew because it may be learned."""
    k: Tensor = manifold.k.to(device=like.device, dtype=torch.float64)
    return k


def time(space: Tensor, k: Tensor) -> Tensor:
    """The first coordinate ``sqrt(k + |space|^2)``; (*B,d) -> (*B,1)."""
    return torch.sqrt(k + space.square().sum(-1, keepdim=True))


def from_space(space: Tensor, k: Tensor, dtype: torch.dtype) -> Tensor:
    """The point with these last coordinates (*B,d)."""
    return torch.cat([time(space, k), space], dim=-1).to(dtype)


def pair(manifold: Lorentz, x: Tensor, y: Tensor) -> Pair:
    """Two points in stereographic coordinates ``space R / (time + R)``, R^2 = k."""
    k = radius2(manifold, x)
    radius, a, b = k.sqrt(), x[..., 1:].double(), y[..., 1:].double()
    difference, time_a, time_b = b - a, time(a, k), time(b, k)
    step = (difference * (a + b)).sum(-1, keepdim=True) / (time_a + time_b)  # of the first coordinate
    low, high = time_a + radius, time_b + radius
    y, z = radius * a / low, radius * b / high
    # differences of close points come from those of their coordinates; for distant ones that would cancel instead
    distant = (z - y).square().sum(-1, keepdim=True) > 0.01 * k
    delta = torch.where(distant, z - y, radius * (difference - a * (step / low)) / high)
    return Pair(y, 2 * radius / low, 2 * radius / high, delta, -1 / k)


def to_frame(manifold: Lorentz, x: Tensor, u: Tensor) -> Tensor:
    """Coordinates (*B,d), in the frame transported from the origin, of tangent vectors at ``x``."""
    k = radius2(manifold, x)
    a, v = x[..., 1:].double(), u[..., 1:].double()
    t = time(a, k)
    return v - a * (a * v).sum(-1, keepdim=True) / (t * (t + k.sqrt()))


def from_frame(manifold: Lorentz, x: Tensor, v: Tensor) -> Tensor:
    """The tangent vector at ``x`` with coordinates (*B,d) in the frame transported from the origin."""
    k = radius2(manifold, x)
    a, v, radius = x[..., 1:].double(), v.double(), k.sqrt()
    first = (a * v).sum(-1, keepdim=True) / radius
    return torch.cat([first, v + a * first / (time(a, k) + radius)], dim=-1)


def shoot(manifold: Lorentz, x: Tensor, v: Tensor) -> Tensor:
    """The exponential map of frame coordinates (*B,d) at ``x``, in float64."""
    k, space = radius2(manifold, x), x[..., 1:].double()
    angle2 = -v.square().sum(-1, keepdim=True) / k
    end = cos_sqrt(angle2) * space + sinc_sqrt(angle2) * from_frame(manifold, x, v)[..., 1:]
    return from_space(end, k, torch.float64)


@geometry.check_manifold.register(Lorentz)
def _(manifold: Lorentz, point_shape: Shape) -> None:
    if len(point_shape) != 1 or point_shape[0] < 2:
        raise ValueError(f"Expected a point shape (D,) with D >= 2 on the hyperboloid, got {tuple(point_shape)}.")
    if not manifold.k.is_meta and not (manifold.k.ndim == 0 and 0 < float(manifold.k.detach()) < math.inf):
        raise ValueError(f"Expected geoopt.Lorentz(k) with one positive k (curvature -1/k), got {manifold.k.tolist()}.")


@geometry.to_config.register(Lorentz)
def _(manifold: Lorentz) -> dict[str, Any]:
    return {"type": "Lorentz", "k": float(manifold.k.detach()), "dtype": str(manifold.k.dtype).removeprefix("torch.")}


@geometry.intrinsic_dim.register(Lorentz)
def _(manifold: Lorentz, point_shape: Shape) -> int:
    return point_shape[-1] - 1


@geometry.expmap.register(Lorentz)
def _(manifold: Lorentz, x: Tensor, u: Tensor) -> Tensor:
    return shoot(manifold, x, to_frame(manifold, x, u)).to(torch.result_type(x, u))


@geometry.logmap.register(Lorentz)
def _(manifold: Lorentz, x: Tensor, y: Tensor) -> Tensor:
    return from_frame(manifold, x, pair(manifold, x, y).log).to(torch.result_type(x, y))


@geometry.dist.register(Lorentz)
def _(manifold: Lorentz, x: Tensor, y: Tensor) -> Tensor:
    return pair(manifold, x, y).dist.to(torch.result_type(x, y))


@geometry.logdet_expmap.register(Lorentz)
def _(manifold: Lorentz, x: Tensor, u: Tensor) -> Tensor:
    v = to_frame(manifold, x, u)
    log_sinhc = log_sinc_sqrt(-v.square().sum(-1) / radius2(manifold, x))
    return (v.shape[-1] - 1) * log_sinhc.to(torch.result_type(x, u))


@geometry.from_coords.register(Lorentz)
def _(manifold: Lorentz, x: Tensor, v: Tensor) -> Tensor:
    return from_frame(manifold, x, v).to(torch.result_type(x, v))


@geometry.to_coords.register(Lorentz)
def _(manifold: Lorentz, x: Tensor, u: Tensor) -> Tensor:
    return to_frame(manifold, x, u).to(torch.result_type(x, u))


@geometry.log_volume.register(Lorentz)
def _(manifold: Lorentz, point_shape: Shape) -> float:
    return math.inf


@geometry.project.register(Lorentz)
def _(manifold: Lorentz, x: Tensor) -> Tensor:
    return from_space(x[..., 1:].double(), radius2(manifold, x), x.dtype)


@geometry.raw_dim.register(Lorentz)
def _(manifold: Lorentz, point_shape: Shape) -> int:
    return point_shape[-1] - 1


@geometry.from_raw.register(Lorentz)
def _(manifold: Lorentz, raw: Tensor, point_shape: Shape) -> Tensor:
    """The exponential map at the origin."""
    k, v = radius2(manifold, raw), raw.double()
    return from_space(sinc_sqrt(-v.square().sum(-1, keepdim=True) / k) * v, k, raw.dtype)


@geometry.to_raw.register(Lorentz)
def _(manifold: Lorentz, x: Tensor) -> Tensor:
    return pair(manifold, origin(manifold, x), x).log.to(x.dtype)


def origin(manifold: Lorentz, x: Tensor) -> Tensor:
    """The point ``(R, 0, ..., 0)``, in the shape of ``x``."""
    space = torch.zeros_like(x[..., 1:], dtype=torch.float64)
    return from_space(space, radius2(manifold, x), x.dtype)


@geometry.violations.register(Lorentz)
def _(manifold: Lorentz, x: Tensor) -> list[tuple[str, Tensor]]:
    first = time(x[..., 1:].double(), radius2(manifold, x)).squeeze(-1)
    off = ((x[..., 0] - first) / first).abs()
    return [("are off it by | x_0 / sqrt(k + |x_1..|^2) - 1 |", off.to(x.dtype))]
