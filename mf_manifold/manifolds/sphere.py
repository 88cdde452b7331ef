"""The unit sphere S^d in R^(d+1), any d >= 1: ``geoopt.Sphere`` and its subclasses."""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from geoopt import Sphere
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from ..numerics.curved import cos_sqrt, sinc_sqrt
from ..numerics.special import angle2_from_chord2, log_sinc_abs
from . import register_config

register_config("Sphere", lambda config: Sphere())


def chord2(x: Tensor, y: Tensor) -> Tensor:
    """Squared chord ``|x - y|^2`` from differences: relative accuracy survives at short distances."""
    return (x - y).square().sum(-1)


@geometry.check_manifold.register(Sphere)
def _(manifold: Sphere, point_shape: Shape) -> None:
    if len(point_shape) != 1 or point_shape[0] < 2:
        raise ValueError(f"Expected a point shape (D,) with D >= 2 on the sphere, got {tuple(point_shape)}.")
    if manifold.projector is not None:
        raise ValueError(
            "Expected a full sphere, got geoopt.Sphere with intersection= or complement=: the density of a sub-sphere "
            "needs coordinates of its subspace. Express the points in an orthonormal basis of the subspace."
        )


@geometry.to_config.register(Sphere)
def _(manifold: Sphere) -> dict[str, Any]:
    return {"type": "Sphere"}


@geometry.intrinsic_dim.register(Sphere)
def _(manifold: Sphere, point_shape: Shape) -> int:
    return point_shape[-1] - 1


@geometry.expmap.register(Sphere)
def _(manifold: Sphere, x: Tensor, u: Tensor) -> Tensor:
    r2 = u.square().sum(-1, keepdim=True)
    return geometry.project(manifold, cos_sqrt(r2) * x + sinc_sqrt(r2) * u)


@geometry.logmap.register(Sphere)
def _(manifold: Sphere, x: Tensor, y: Tensor) -> Tensor:
    x, y = torch.broadcast_tensors(x, y)
    c2 = chord2(x, y).unsqueeze(-1)
    far = c2 > 2
    # y - x and y + x have the same tangent part; the shorter one keeps it accurate near x and near -x
    near_y = torch.where(far, y + x, y - x)
    tangent = near_y - (near_y * x).sum(-1, keepdim=True) * x
    sin2 = tangent.square().sum(-1, keepdim=True)
    degenerate = far & (sin2 <= torch.finfo(x.dtype).eps ** 2)
    tangent = torch.where(degenerate, _any_tangent(x), tangent)
    sin2 = torch.where(far, torch.where(degenerate, torch.ones_like(sin2), sin2), torch.ones_like(sin2))
    angle2 = angle2_from_chord2(c2)
    factor_near = 1 / sinc_sqrt(torch.where(far, torch.zeros_like(angle2), angle2))
    return torch.where(far, _angle(x, y).unsqueeze(-1) * sin2.rsqrt(), factor_near) * tangent


def _angle(x: Tensor, y: Tensor) -> Tensor:
    """Angle from both chords: either alone loses half its digits next to one of the ends."""
    return 2 * torch.atan2(_root(chord2(x, y)), _root(chord2(x, -y)))


def _root(square: Tensor) -> Tensor:
    """Square root with gradient 0 at 0, the mean of the slopes on both sides of the kink."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), torch.zeros_like(square))


def _any_tangent(x: Tensor) -> Tensor:
    """A unit tangent vector: at the antipode every direction is a shortest one, and one has to be named."""
    axis = torch.nn.functional.one_hot(x.detach().abs().argmin(-1), x.shape[-1]).to(x)
    tangent = axis - (axis * x).sum(-1, keepdim=True) * x
    return tangent / tangent.norm(dim=-1, keepdim=True)


@geometry.dist.register(Sphere)
def _(manifold: Sphere, x: Tensor, y: Tensor) -> Tensor:
    return _angle(x, y)


@geometry.logdet_expmap.register(Sphere)
def _(manifold: Sphere, x: Tensor, u: Tensor) -> Tensor:
    r = torch.sqrt(u.square().sum(-1) + torch.finfo(u.dtype).tiny)
    return (x.shape[-1] - 2) * log_sinc_abs(r)


@geometry.from_coords.register(Sphere)
def _(manifold: Sphere, x: Tensor, v: Tensor) -> Tensor:
    return _reflect(x, torch.nn.functional.pad(v, (1, 0)))


def _reflect(x: Tensor, u: Tensor) -> Tensor:
    """The Householder reflection that exchanges e_0 and -sign(x_0) x, and the other axes and a tangent basis at x."""
    sign = torch.where(x[..., :1] >= 0, torch.ones_like(x[..., :1]), -torch.ones_like(x[..., :1]))
    normal = torch.cat([x[..., :1] + sign, x[..., 1:]], dim=-1)
    coefficient = (normal * u).sum(-1, keepdim=True) / (1 + x[..., :1].abs())
    return u - coefficient * normal


@geometry.to_coords.register(Sphere)
def _(manifold: Sphere, x: Tensor, u: Tensor) -> Tensor:
    return _reflect(x, u)[..., 1:]


@geometry.log_volume.register(Sphere)
def _(manifold: Sphere, point_shape: Shape) -> float:
    half = point_shape[-1] / 2
    return math.log(2) + half * math.log(math.pi) - math.lgamma(half)


@geometry.sample_uniform.register(Sphere)
def _(
    manifold: Sphere,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    x = torch.randn((*sample_shape, *point_shape), generator=generator, dtype=dtype, device=device)
    return geometry.project(manifold, x)


@geometry.project.register(Sphere)
def _(manifold: Sphere, x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


@geometry.raw_dim.register(Sphere)
def _(manifold: Sphere, point_shape: Shape) -> int:
    return point_shape[-1]


@geometry.from_raw.register(Sphere)
def _(manifold: Sphere, raw: Tensor, point_shape: Shape) -> Tensor:
    return torch.nn.functional.normalize(raw, dim=-1, eps=torch.finfo(raw.dtype).tiny ** 0.5)


@geometry.to_raw.register(Sphere)
def _(manifold: Sphere, x: Tensor) -> Tensor:
    return x


@geometry.violations.register(Sphere)
def _(manifold: Sphere, x: Tensor) -> list[tuple[str, Tensor]]:
    return [("are off it by | |x| - 1 |", (x.norm(dim=-1) - 1).abs())]


@register_measure(Sphere, "normalized")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) - geometry.log_volume(manifold, (x.shape[-1],))
