"""Laws that cover a whole manifold, mixed into densities so that no point has none."""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from . import geometry
from .distributions import KernelDistribution
from .geometry import Shape
from .kernel import Kernel, kernel_for
from .neighbors import distance, length_unit

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
    if not kernel.event_shapes:
        return KernelDistribution(kernel, {}, validate_args=False)
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
    spread = (distance(manifold, center.expand_as(x), x) / length_unit(manifold)).square().mean() / kernel.dim
    rounding = 1e3 * torch.finfo(x.dtype).eps
    return center, (WIDENING * spread.sqrt()).clamp(rounding, kernel.max_scale)


class Background(nn.Module):
    """The background of an estimator: a law that covers the manifold, and its weight, both saved with the estimator.

    Before :meth:`fit` the weight is 0.
    """

    weight: Tensor

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__()
        self.kernel = covering_kernel(manifold, point_shape)
        origin = geometry.from_raw(manifold, torch.zeros(geometry.raw_dim(manifold, point_shape)), point_shape)
        for name, value in self.kernel.centered(origin, torch.tensor(1.0)).items():
            self.register_buffer(name, value)
        self.register_buffer("weight", torch.tensor(0.0))

    def fit(self, x: Tensor, weight: float) -> None:
        """Cover the data ``x`` (n,*E), see :func:`background_for`."""
        if not 0 <= weight < 1:
            raise ValueError(f"Expected a weight of the background in [0, 1), got {weight}.")
        law = background_for(self.kernel.manifold, self.kernel.point_shape, x)
        for name, value in law.params.items():
            setattr(self, name, value)
        self.weight = torch.as_tensor(weight).to(x)

    def remove(self) -> None:
        """Leave no background."""
        self.weight = torch.zeros_like(self.weight)

    @property
    def law(self) -> KernelDistribution | None:
        """The law, None where its weight is 0."""
        if not self.weight.is_meta and float(self.weight) == 0:
            return None
        params = {name: getattr(self, name) for name in self.kernel.event_shapes}
        return KernelDistribution(self.kernel, params, validate_args=False)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of :class:`mf_manifold.Mixture`."""
        return {"background": self.law, "background_weight": self.weight}
