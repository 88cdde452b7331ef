"""Products of manifolds: ``geoopt.ProductManifold``, whose points are the flattened parts in one vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from geoopt import ProductManifold as Product
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from . import from_config, register_config

register_config(
    "ProductManifold",
    lambda config: Product(*((from_config(part), tuple(shape)) for part, shape in config["parts"])),
)


def split(manifold: Product, x: Tensor) -> list[Tensor]:
    """The parts of product points, each in its own point shape."""
    return [manifold.take_submanifold_value(x, i) for i in range(manifold.n_manifolds)]


def join(parts: list[Tensor], shapes: list[Shape]) -> Tensor:
    """Product points from their parts; the inverse of :func:`split`."""
    return torch.cat([p.flatten(p.ndim - len(s)) for p, s in zip(parts, shapes, strict=True)], dim=-1)


def _map(function: Callable[..., Tensor], manifold: Product, *points: Tensor) -> list[Tensor]:
    """``function(part, *values)`` for every part."""
    values = [split(manifold, x) for x in points]
    return [function(part, *(v[i] for v in values)) for i, part in enumerate(manifold.manifolds)]


def _split_sizes(sizes: list[int], v: Tensor) -> list[Tensor]:
    return list(torch.split(v, sizes, dim=-1))


def _dims(manifold: Product) -> list[int]:
    return [geometry.intrinsic_dim(m, s) for m, s in zip(manifold.manifolds, manifold.shapes, strict=True)]


def _raw_dims(manifold: Product) -> list[int]:
    return [geometry.raw_dim(m, s) for m, s in zip(manifold.manifolds, manifold.shapes, strict=True)]


@geometry.check_manifold.register(Product)
def _(manifold: Product, point_shape: Shape) -> None:
    if tuple(point_shape) != (manifold.n_elements,):
        raise ValueError(
            f"Expected the point shape ({manifold.n_elements},) of the product's flattened parts, got {tuple(point_shape)}."
        )
    for part, shape in zip(manifold.manifolds, manifold.shapes, strict=True):
        geometry.check_manifold(part, shape)


@geometry.to_config.register(Product)
def _(manifold: Product) -> dict[str, Any]:
    parts = zip(manifold.manifolds, manifold.shapes, strict=True)
    return {"type": "ProductManifold", "parts": [[geometry.to_config(m), list(s)] for m, s in parts]}


@geometry.intrinsic_dim.register(Product)
def _(manifold: Product, point_shape: Shape) -> int:
    return sum(_dims(manifold))


@geometry.expmap.register(Product)
def _(manifold: Product, x: Tensor, u: Tensor) -> Tensor:
    return join(_map(geometry.expmap, manifold, x, u), manifold.shapes)


@geometry.logmap.register(Product)
def _(manifold: Product, x: Tensor, y: Tensor) -> Tensor:
    return join(_map(geometry.logmap, manifold, x, y), manifold.shapes)


@geometry.dist.register(Product)
def _(manifold: Product, x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(_map(geometry.dist, manifold, x, y), dim=-1), dim=-1)


@geometry.logdet_expmap.register(Product)
def _(manifold: Product, x: Tensor, u: Tensor) -> Tensor:
    return torch.stack(_map(geometry.logdet_expmap, manifold, x, u), dim=-1).sum(-1)


@geometry.from_coords.register(Product)
def _(manifold: Product, x: Tensor, v: Tensor) -> Tensor:
    parts = zip(manifold.manifolds, split(manifold, x), _split_sizes(_dims(manifold), v), strict=True)
    return join([geometry.from_coords(m, p, c) for m, p, c in parts], manifold.shapes)


@geometry.to_coords.register(Product)
def _(manifold: Product, x: Tensor, u: Tensor) -> Tensor:
    return torch.cat(_map(geometry.to_coords, manifold, x, u), dim=-1)


@geometry.log_volume.register(Product)
def _(manifold: Product, point_shape: Shape) -> float:
    return sum(geometry.log_volume(m, s) for m, s in zip(manifold.manifolds, manifold.shapes, strict=True))


@geometry.sample_uniform.register(Product)
def _(manifold: Product, point_shape: Shape, sample_shape: Shape = (), **options: Any) -> Tensor:
    parts = zip(manifold.manifolds, manifold.shapes, strict=True)
    return join([geometry.sample_uniform(m, s, sample_shape, **options) for m, s in parts], manifold.shapes)


@geometry.project.register(Product)
def _(manifold: Product, x: Tensor) -> Tensor:
    return join(_map(geometry.project, manifold, x), manifold.shapes)


@geometry.raw_dim.register(Product)
def _(manifold: Product, point_shape: Shape) -> int:
    return sum(_raw_dims(manifold))


@geometry.from_raw.register(Product)
def _(manifold: Product, raw: Tensor, point_shape: Shape) -> Tensor:
    parts = zip(manifold.manifolds, _split_sizes(_raw_dims(manifold), raw), manifold.shapes, strict=True)
    return join([geometry.from_raw(m, r, s) for m, r, s in parts], manifold.shapes)


@geometry.to_raw.register(Product)
def _(manifold: Product, x: Tensor) -> Tensor:
    return torch.cat(_map(geometry.to_raw, manifold, x), dim=-1)


@geometry.violations.register(Product)
def _(manifold: Product, x: Tensor) -> list[tuple[str, Tensor]]:
    found = []
    for i, (part, value) in enumerate(zip(manifold.manifolds, split(manifold, x), strict=True)):
        found += [(f"{label} in part {i} ({part.name})", amount) for label, amount in geometry.violations(part, value)]
    return found
