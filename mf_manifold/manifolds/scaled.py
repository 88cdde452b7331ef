"""Manifolds with all distances multiplied by a constant: ``geoopt.Scaled``.

Points stay those of the base manifold (the scaled sphere keeps unit vectors); lengths and the volume change.
"""

from __future__ import annotations

from typing import Any

from geoopt import Scaled
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from . import from_config, register_config

register_config("Scaled", lambda config: Scaled(from_config(config["base"]), config["scale"]))


@geometry.check_manifold.register(Scaled)
def _(manifold: Scaled, point_shape: Shape) -> None:
    geometry.check_manifold(manifold.base, point_shape)


@geometry.to_config.register(Scaled)
def _(manifold: Scaled) -> dict[str, Any]:
    return {"type": "Scaled", "base": geometry.to_config(manifold.base), "scale": float(manifold.scale)}


@geometry.intrinsic_dim.register(Scaled)
def _(manifold: Scaled, point_shape: Shape) -> int:
    return geometry.intrinsic_dim(manifold.base, point_shape)


@geometry.expmap.register(Scaled)
def _(manifold: Scaled, x: Tensor, u: Tensor) -> Tensor:
    return geometry.expmap(manifold.base, x, u)


@geometry.logmap.register(Scaled)
def _(manifold: Scaled, x: Tensor, y: Tensor) -> Tensor:
    return geometry.logmap(manifold.base, x, y)


@geometry.dist.register(Scaled)
def _(manifold: Scaled, x: Tensor, y: Tensor) -> Tensor:
    return geometry.dist(manifold.base, x, y) * manifold.scale.to(x)


@geometry.logdet_expmap.register(Scaled)
def _(manifold: Scaled, x: Tensor, u: Tensor) -> Tensor:
    return geometry.logdet_expmap(manifold.base, x, u)


@geometry.from_coords.register(Scaled)
def _(manifold: Scaled, x: Tensor, v: Tensor) -> Tensor:
    return geometry.from_coords(manifold.base, x, v / manifold.scale.to(v))


@geometry.to_coords.register(Scaled)
def _(manifold: Scaled, x: Tensor, u: Tensor) -> Tensor:
    return geometry.to_coords(manifold.base, x, u) * manifold.scale.to(u)


@geometry.log_volume.register(Scaled)
def _(manifold: Scaled, point_shape: Shape) -> float:
    dim = geometry.intrinsic_dim(manifold, point_shape)
    return geometry.log_volume(manifold.base, point_shape) + dim * float(manifold.log_scale)


@geometry.sample_uniform.register(Scaled)
def _(manifold: Scaled, point_shape: Shape, sample_shape: Shape = (), **options: Any) -> Tensor:
    return geometry.sample_uniform(manifold.base, point_shape, sample_shape, **options)


@geometry.project.register(Scaled)
def _(manifold: Scaled, x: Tensor) -> Tensor:
    return geometry.project(manifold.base, x)


@geometry.raw_dim.register(Scaled)
def _(manifold: Scaled, point_shape: Shape) -> int:
    return geometry.raw_dim(manifold.base, point_shape)


@geometry.from_raw.register(Scaled)
def _(manifold: Scaled, raw: Tensor, point_shape: Shape) -> Tensor:
    return geometry.from_raw(manifold.base, raw, point_shape)


@geometry.to_raw.register(Scaled)
def _(manifold: Scaled, x: Tensor) -> Tensor:
    return geometry.to_raw(manifold.base, x)


@geometry.violations.register(Scaled)
def _(manifold: Scaled, x: Tensor) -> list[tuple[str, Tensor]]:
    return geometry.violations(manifold.base, x)
