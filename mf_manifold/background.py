"""Laws that cover a whole manifold, mixed into densities so that no point has none."""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from . import geometry
from .distributions import KernelDistribution
from .geometry import Shape
from .kernel import Kernel, kernel_for

WIDENING = 3.0  # of a bump relative to the data's distance from their centre


def background_for(manifold: geoopt.Manifold, point_shape: Shape, x: Tensor) -> KernelDistribution:
    """The uniform law on compact manifolds; elsewhere a bump around the data ``x`` (n,*E), three times as wide as they are.

    On products, each compact part has its uniform law.

    >>> import geoopt, torch, mf_manifold as mf
    >>> background_for(geoopt.Sphere(), (3,), torch.eye(3))
    uniform(; riemannian measure on Sphere)
    >>> background_for(geoopt.Euclidean(ndim=1), (2,), torch.randn(100, 2)).kernel.name
    'normal'
    """
    kernel = covering_kernel(manifold, tuple(point_shape))
    return KernelDistribution(kernel, kernel.centered(*_center_and_scale(manifold, kernel, x)), validate_args=False)


def covering_kernel(manifold: geoopt.Manifold, point_shape: Shape) -> Kernel:
    """The family of the background."""
    if isinstance(manifold, geoopt.ProductManifold):
        parts = [covering_kernel(p, s) for p, s in zip(manifold.manifolds, manifold.shapes, strict=True)]
        options = [part.options for part in parts]
        return kernel_for(manifold, point_shape, "product", kernels=[p.name for p in parts], part_options=options)
    if math.isfinite(geometry.log_volume(manifold, point_shape)):
        try:
            return kernel_for(manifold, point_shape, "uniform")
        except ValueError:  # of finite volume, but without a registered uniform law
            pass
    return kernel_for(manifold, point_shape)


def _center_and_scale(manifold: geoopt.Manifold, kernel: Kernel, x: Tensor) -> tuple[Tensor, Tensor]:
    point_shape = kernel.point_shape
    center = geometry.from_raw(manifold, geometry.to_raw(manifold, x).mean(0), point_shape)
    # per dimension, as the scale of a bump is
    spread = geometry.dist(manifold, center.expand_as(x), x).square().mean() / kernel.dim
    rounding = 1e3 * torch.finfo(x.dtype).eps
    return center, (WIDENING * spread.sqrt()).clamp(rounding, kernel.max_scale)
