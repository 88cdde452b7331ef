"""How the checks move on a manifold and measure how far they came: by geodesics, where a manifold has them."""

from __future__ import annotations

from functools import singledispatch

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..manifolds.product import join, split


@singledispatch
def has_geodesics(manifold: geoopt.Manifold) -> bool:
    """Whether expmap, logmap, dist and logdet_expmap exist; others may register steps of first order instead."""
    return True


@singledispatch
def step(manifold: geoopt.Manifold, x: Tensor, u: Tensor) -> Tensor:
    """The point reached from ``x`` by the tangent vector ``u``, to first order at least; (*B,*E) -> (*B,*E)."""
    return geometry.expmap(manifold, x, u)


@singledispatch
def difference(manifold: geoopt.Manifold, x: Tensor, y: Tensor) -> Tensor:
    """The tangent vector at ``x`` that leads to ``y``, to first order at least; (*B,*E) -> (*B,*E)."""
    return geometry.logmap(manifold, x, y)


@singledispatch
def distance(manifold: geoopt.Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Distance of two points, to first order at least; (*B,*E) -> (*B)."""
    return geometry.dist(manifold, x, y)


@has_geodesics.register(geoopt.ProductManifold)
def _(manifold: geoopt.ProductManifold) -> bool:
    return all(has_geodesics(part) for part in manifold.manifolds)


@has_geodesics.register(geoopt.Scaled)
def _(manifold: geoopt.Scaled) -> bool:
    return has_geodesics(manifold.base)


@step.register(geoopt.ProductManifold)
def _(manifold: geoopt.ProductManifold, x: Tensor, u: Tensor) -> Tensor:
    parts = zip(manifold.manifolds, split(manifold, x), split(manifold, u), strict=True)
    return join([step(*part) for part in parts], manifold.shapes)


@difference.register(geoopt.ProductManifold)
def _(manifold: geoopt.ProductManifold, x: Tensor, y: Tensor) -> Tensor:
    parts = zip(manifold.manifolds, split(manifold, x), split(manifold, y), strict=True)
    return join([difference(*part) for part in parts], manifold.shapes)


@distance.register(geoopt.ProductManifold)
def _(manifold: geoopt.ProductManifold, x: Tensor, y: Tensor) -> Tensor:
    parts = zip(manifold.manifolds, split(manifold, x), split(manifold, y), strict=True)
    return torch.linalg.vector_norm(torch.stack([distance(*part) for part in parts], dim=-1), dim=-1)
