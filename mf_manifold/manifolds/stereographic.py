"""Stereographic projections: ``geoopt.PoincareBall(c)``, ``geoopt.SphereProjection(k)``, ``geoopt.Stereographic(k)``.

The metric is ``4 |dy|^2 / (1 + k |y|^2)^2`` with the curvature k, negative on the ball (``k = -c``). At k = 0 distances are
twice the Euclidean ones. Everything is computed in float64; near the boundary of the ball (``1 + k |y|^2 = 0``) the coordinates
themselves have few digits.
"""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from geoopt import PoincareBall, SphereProjection, Stereographic
from torch import Tensor, nn

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure
from ..model import Model, model_of
from ..numerics.curved import cos_sqrt, log_sinc_sqrt, sinc_sqrt
from . import register_config
from .lorentz import from_space, time
from .pairs import Pair, RoundPair

CLASSES: dict[str, tuple[type[Stereographic], str]] = {
    "PoincareBall": (PoincareBall, "isp_c"),
    "SphereProjection": (SphereProjection, "isp_k"),
    "Stereographic": (Stereographic, "k"),
}


def _build(config: dict[str, Any]) -> Stereographic:
    cls, parameter = CLASSES[config["type"]]
    manifold = cls(torch.ones((), dtype=getattr(torch, config["dtype"])))
    with torch.no_grad():
        getattr(manifold, parameter).fill_(config[parameter])
    return manifold


for _name in CLASSES:
    register_config(_name, _build)


def curvature(manifold: Stereographic, like: Tensor) -> Tensor:
    """The curvature in float64, read anew because it may be learned."""
    k: Tensor = manifold.k.to(device=like.device, dtype=torch.float64)
    return k


def gap(y: Tensor, k: Tensor) -> Tensor:
    """``1 + k |y|^2``; (*B,d) -> (*B,1)."""
    return 1 + k * y.square().sum(-1, keepdim=True)


def pair(manifold: Stereographic, x: Tensor, y: Tensor) -> Pair:
    """Two points in their stereographic coordinates."""
    k, a, b = curvature(manifold, x), x.double(), y.double()
    kind = RoundPair if float(manifold.k.detach()) > 0 else Pair
    return kind(a, gap(a, k), gap(b, k), b - a, k)


@geometry.check_manifold.register(Stereographic)
def _(manifold: Stereographic, point_shape: Shape) -> None:
    if len(point_shape) != 1 or point_shape[0] < 1:
        raise ValueError(f"Expected a point shape (d,) on a stereographic projection, got {tuple(point_shape)}.")
    if not manifold.k.is_meta:
        _finite(manifold)


def _finite(manifold: Stereographic) -> float:
    """The curvature as a number."""
    k = manifold.k.detach()
    if not (k.ndim == 0 and math.isfinite(float(k))):
        raise ValueError(f"Expected one finite curvature, got {k.tolist()}: geoopt's balls take c from 0 to 80.")
    return float(k)


@geometry.to_config.register(Stereographic)
def _(manifold: Stereographic) -> dict[str, Any]:
    # the parameter before its softplus: the curvature alone would not come back to the last bit
    name = next(n for n, (cls, _) in CLASSES.items() if isinstance(manifold, cls))
    value = getattr(manifold, CLASSES[name][1]).detach()
    return {"type": name, CLASSES[name][1]: float(value), "dtype": str(value.dtype).removeprefix("torch.")}


@geometry.intrinsic_dim.register(Stereographic)
def _(manifold: Stereographic, point_shape: Shape) -> int:
    return point_shape[-1]


@geometry.expmap.register(Stereographic)
def _(manifold: Stereographic, x: Tensor, u: Tensor) -> Tensor:
    k, a = curvature(manifold, x), x.double()
    own = gap(a, k)
    v = 2 * u.double() / own
    angle2 = k * v.square().sum(-1, keepdim=True)
    cosine, sine = cos_sqrt(angle2), sinc_sqrt(angle2)
    tilt = k * sine * (a * v).sum(-1, keepdim=True)
    below = (1 + cosine) / 2 - tilt + (own - 1) * (1 - cosine) / 2
    end = ((cosine - tilt) * a + own * sine / 2 * v) / below
    return geometry.project(manifold, end.to(torch.result_type(x, u)))


@geometry.logmap.register(Stereographic)
def _(manifold: Stereographic, x: Tensor, y: Tensor) -> Tensor:
    both = pair(manifold, x, y)
    return (both.log * both.gap / 2).to(torch.result_type(x, y))


@geometry.dist.register(Stereographic)
def _(manifold: Stereographic, x: Tensor, y: Tensor) -> Tensor:
    return pair(manifold, x, y).dist.to(torch.result_type(x, y))


@geometry.logdet_expmap.register(Stereographic)
def _(manifold: Stereographic, x: Tensor, u: Tensor) -> Tensor:
    k = curvature(manifold, x)
    v = 2 * u.double() / gap(x.double(), k)
    return (v.shape[-1] - 1) * log_sinc_sqrt(k * v.square().sum(-1)).to(torch.result_type(x, u))


@geometry.from_coords.register(Stereographic)
def _(manifold: Stereographic, x: Tensor, v: Tensor) -> Tensor:
    return (v.double() * gap(x.double(), curvature(manifold, x)) / 2).to(torch.result_type(x, v))


@geometry.log_volume.register(Stereographic)
def _(manifold: Stereographic, point_shape: Shape) -> float:
    model = _model(manifold)
    there = geometry.log_volume(model.manifold, model.to_shape(point_shape))
    return there + point_shape[-1] * float(model.log_stretch.detach())


@geometry.sample_uniform.register(Stereographic)
def _(manifold: Stereographic, point_shape: Shape, sample_shape: Shape = (), **options: Any) -> Tensor:
    model = _model(manifold)
    x = geometry.sample_uniform(model.manifold, model.to_shape(point_shape), sample_shape, **options)
    return model.from_model(x).to(x.dtype)


@geometry.project.register(Stereographic)
def _(manifold: Stereographic, x: Tensor) -> Tensor:
    """Points on the rim of the ball or beyond come to the largest radius that the dtype tells from it."""
    k = curvature(manifold, x)
    radius2 = -k * x.double().square().sum(-1, keepdim=True)
    inside = (1 - 4 * torch.finfo(x.dtype).eps) ** 2
    far = radius2 > inside
    return x * torch.where(far, (inside / torch.where(far, radius2, torch.ones_like(radius2))).sqrt(), 1.0).to(x.dtype)


@geometry.raw_dim.register(Stereographic)
def _(manifold: Stereographic, point_shape: Shape) -> int:
    model = _model(manifold)
    return geometry.raw_dim(model.manifold, model.to_shape(point_shape))


@geometry.from_raw.register(Stereographic)
def _(manifold: Stereographic, raw: Tensor, point_shape: Shape) -> Tensor:
    model = _model(manifold)
    x = model.from_model(geometry.from_raw(model.manifold, raw.double(), model.to_shape(point_shape)))
    return geometry.project(manifold, x.to(raw.dtype))


@geometry.to_raw.register(Stereographic)
def _(manifold: Stereographic, x: Tensor) -> Tensor:
    """Of the model, times the radius: raw coordinates are in units of the metric."""
    model = _model(manifold)
    raw = geometry.to_raw(model.manifold, model.to_model(x.double()))
    return (raw * torch.exp(model.log_stretch.to(raw))).to(x.dtype)


@geometry.violations.register(Stereographic)
def _(manifold: Stereographic, x: Tensor) -> list[tuple[str, Tensor]]:
    excess = (-curvature(manifold, x)).clamp_min(0).sqrt() * x.double().norm(dim=-1) - 1
    # the rim is no part of the ball, however little the excess
    return [("are not inside the ball: sqrt(c) |x| - 1", torch.where(excess < 0, 0.0, excess.clamp_min(1e-3)).to(x.dtype))]


@register_measure(Stereographic, "lebesgue")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    log_gap = gap(x.double(), curvature(manifold, x)).squeeze(-1).log()
    return (x.shape[-1] * (log_gap - math.log(2))).to(x.dtype)


class BallModel(geoopt.Lorentz):  # type: ignore[misc]
    """The hyperboloid of a ball, of the same curvature also while that is being learned."""

    def __init__(self, ball: Stereographic) -> None:
        nn.Module.__init__(self)
        self.ball = ball

    @property
    def k(self) -> Tensor:
        return -1 / self.ball.k.double()


def _ball_model(manifold: Stereographic) -> Model:
    def into(y: Tensor) -> Tensor:
        k = curvature(manifold, y)
        return from_space(2 * y / gap(y, k), -1 / k, y.dtype)

    def out_of(x: Tensor) -> Tensor:
        k = -1 / curvature(manifold, x)
        space = x[..., 1:]
        return k.sqrt() * space / (time(space, k) + k.sqrt())

    return Model(BallModel(manifold), torch.zeros_like(manifold.k), into, out_of, _one_more, _one_less, True)


def _sphere_model(manifold: Stereographic) -> Model:
    def into(y: Tensor) -> Tensor:
        k = curvature(manifold, y)
        own = gap(y, k)
        return torch.cat([(2 - own) / own, 2 * k.sqrt() * y / own], dim=-1)

    def out_of(x: Tensor) -> Tensor:
        first, rest = x[..., :1], x[..., 1:]
        # 1 + first cancels on the far side, where |rest|^2 / (1 - first) does not
        far = first < 0
        above = torch.where(far, rest.square().sum(-1, keepdim=True) / (1 - torch.where(far, first, 0.0)), 1 + first)
        return rest / (curvature(manifold, x).sqrt() * above)

    return Model(geoopt.Sphere(), -manifold.k.double().log() / 2, into, out_of, _one_more, _one_less, True)


def _one_more(shape: Shape) -> Shape:
    return (shape[0] + 1,)


def _one_less(shape: Shape) -> Shape:
    return (shape[0] - 1,)


@model_of.register(Stereographic)
def _model(manifold: Stereographic) -> Model:
    sign = _finite(manifold)
    if sign == 0:
        return Model(geoopt.Euclidean(ndim=1), torch.zeros_like(manifold.k), lambda y: 2 * y, lambda x: x / 2, wide=True)
    return _sphere_model(manifold) if sign > 0 else _ball_model(manifold)
