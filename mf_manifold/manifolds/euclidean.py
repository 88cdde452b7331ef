"""Euclidean space R^n: ``geoopt.Euclidean``."""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from geoopt import Euclidean
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from . import register_config

register_config("Euclidean", lambda config: Euclidean(ndim=config["ndim"]))


@geometry.check_manifold.register(Euclidean)
def _(manifold: Euclidean, point_shape: Shape) -> None:
    if len(point_shape) != geometry.point_ndim(manifold):
        raise ValueError(
            f"Expected a point shape of {geometry.point_ndim(manifold)} dimension(s) on Euclidean(ndim={manifold.ndim}), "
            f"got {tuple(point_shape)}. Set geoopt.Euclidean(ndim={len(point_shape)})."
        )


@geometry.to_config.register(Euclidean)
def _(manifold: Euclidean) -> dict[str, Any]:
    return {"type": "Euclidean", "ndim": int(manifold.ndim)}


@geometry.intrinsic_dim.register(Euclidean)
def _(manifold: Euclidean, point_shape: Shape) -> int:
    return math.prod(point_shape)


@geometry.expmap.register(Euclidean)
def _(manifold: Euclidean, x: Tensor, u: Tensor) -> Tensor:
    return x + u


@geometry.logmap.register(Euclidean)
def _(manifold: Euclidean, x: Tensor, y: Tensor) -> Tensor:
    return y - x


@geometry.dist.register(Euclidean)
def _(manifold: Euclidean, x: Tensor, y: Tensor) -> Tensor:
    dims = tuple(range(-geometry.point_ndim(manifold), 0))
    return torch.linalg.vector_norm(y - x, dim=dims)


@geometry.logdet_expmap.register(Euclidean)
def _(manifold: Euclidean, x: Tensor, u: Tensor) -> Tensor:
    return zeros_like_batch(manifold, u)


@geometry.from_coords.register(Euclidean)
def _(manifold: Euclidean, x: Tensor, v: Tensor) -> Tensor:
    return v.reshape(*v.shape[:-1], *x.shape[x.ndim - geometry.point_ndim(manifold) :])


@geometry.to_coords.register(Euclidean)
def _(manifold: Euclidean, x: Tensor, u: Tensor) -> Tensor:
    return u.flatten(u.ndim - geometry.point_ndim(manifold))


@geometry.log_volume.register(Euclidean)
def _(manifold: Euclidean, point_shape: Shape) -> float:
    return math.inf


@geometry.project.register(Euclidean)
def _(manifold: Euclidean, x: Tensor) -> Tensor:
    return x


@geometry.raw_dim.register(Euclidean)
def _(manifold: Euclidean, point_shape: Shape) -> int:
    return math.prod(point_shape)


@geometry.from_raw.register(Euclidean)
def _(manifold: Euclidean, raw: Tensor, point_shape: Shape) -> Tensor:
    return raw.reshape(*raw.shape[:-1], *point_shape)


@geometry.to_raw.register(Euclidean)
def _(manifold: Euclidean, x: Tensor) -> Tensor:
    return x.flatten(x.ndim - geometry.point_ndim(manifold))


@geometry.violations.register(Euclidean)
def _(manifold: Euclidean, x: Tensor) -> list[tuple[str, Tensor]]:
    return []


@register_measure(Euclidean, "lebesgue")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x)
