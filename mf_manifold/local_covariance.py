"""Covariances of neighbours in tangent spaces, and kernels that take them: manifold Parzen windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import geoopt
import torch
from torch import Tensor

from . import geometry
from .geometry import Shape
from .kernel import Kernel, Params, kernel_for
from .kernels.product import ProductKernel
from .kernels.stein import narrowed
from .neighbors import Neighbors, length_unit

NARROW, FRAME_ERROR = 1e-3, 0.02  # scale of the law that tries a kernel's frame, and the error that it may have
NAMES = ("wrapped_normal", None)  # kernels with a covariance in tangent spaces; None is the manifold's default


def local_kernel(manifold: geoopt.Manifold, point_shape: Shape, name: str | None, options: dict[str, Any]) -> Kernel:
    """The kernel of that name with full covariances; without a name the wrapped normal law, or the manifold's default.

    Raises:
        ValueError: none of them has full covariances.
    """
    if isinstance(manifold, geoopt.ProductManifold) and not options:
        parts = [local_kernel(m, s, None, {}) for m, s in zip(manifold.manifolds, manifold.shapes, strict=True)]
        return kernel_for(manifold, point_shape, name, kernels=[p.name for p in parts], part_options=[p.options for p in parts])
    if options:
        return kernel_for(manifold, point_shape, name, **options)
    log_euclidean = getattr(getattr(manifold, "default_metric", None), "value", None) == "LEM"
    for candidate in (name,) if name is not None else NAMES[::-1] if log_euclidean else NAMES:
        for full in ({"covariance": "full"}, {"base": candidate, "base_options": {"covariance": "full"}}):
            try:
                return kernel_for(manifold, point_shape, None if "base" in full else candidate, **full)
            except (TypeError, ValueError):
                continue
    raise ValueError(
        f"Expected a kernel with covariance='full' on {manifold.name} for local covariances, found none by the name {name!r}. "
        "Use bandwidth='adaptive', or pass kernel and kernel_options."
    )


def tangent_coordinates(manifold: geoopt.Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Orthonormal coordinates of the logarithms at points (n,*E) of points (n,k,*E); -> (n,k,d) float64.

    They are those of :func:`mf_manifold.geometry.from_coords`, by least squares, which is exact for tangent vectors.
    """
    logs = geometry.logmap(manifold, x.double().unsqueeze(1), y.double()).flatten(2)
    return torch.linalg.lstsq(_frames(manifold, x.double()).mT, logs.mT).solution.mT


def _frames(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """Orthonormal tangent vectors at points (n,*E), flattened; -> (n,d,prod E)."""
    dim = geometry.intrinsic_dim(manifold, tuple(x.shape[1:]))
    axes = torch.eye(dim, dtype=x.dtype, device=x.device).expand(len(x), dim, dim)
    return geometry.from_coords(manifold, x.unsqueeze(1).expand(-1, dim, *x.shape[1:]), axes).flatten(2)


def covariance_params(kernel: Kernel, points: Tensor, covariance: Tensor) -> Params:
    """Parameters of laws at points (n,*E) with covariances (n,d,d) in the frames of ``geometry.from_coords``.

    On products only the parts' own blocks count, because the parts of a component are independent.
    """
    params = kernel.centered(points, torch.ones_like(covariance[:, 0, 0]).to(points))
    if isinstance(kernel, ProductKernel):
        start, values = 0, kernel.manifold
        for i, part in enumerate(kernel.parts):
            block = slice(start, start + part.dim)
            own = covariance_params(part, values.take_submanifold_value(points, i), covariance[:, block, block])
            params |= {f"{name}_{i}": value for name, value in own.items()}
            start += part.dim
        return params
    unit = length_unit(kernel.manifold)
    value = covariance / unit**2
    if params["covariance_matrix"].shape[-1] != kernel.dim:  # an ambient matrix; across the manifold any variance will do
        frames = unit * _frames(kernel.manifold, points.double())
        variance = value.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        eye = torch.eye(frames.shape[-1], dtype=frames.dtype, device=frames.device)
        value = frames.mT @ value @ frames + variance * (eye - frames.mT @ frames)
    return {**params, "covariance_matrix": narrowed((value + value.mT) / 2, points)}


def check_frame(kernel: Kernel, point: Tensor) -> None:
    """Try on a narrow law at a point (*E) whether the kernel's covariance means what :func:`covariance_params` takes it for.

    Raises:
        ValueError: the kernel has no covariance, or one in other coordinates.
    """
    if isinstance(kernel, ProductKernel):
        for i, part in enumerate(kernel.parts):
            check_frame(part, kernel.manifold.take_submanifold_value(point, i))
        return
    if "covariance_matrix" not in kernel.event_shapes:
        raise ValueError(f"Expected a kernel with covariance='full' for local covariances, got {kernel}.")
    x, d = point.double().unsqueeze(0), kernel.dim
    mixed = torch.eye(d, dtype=torch.float64) + torch.ones(d, d, dtype=torch.float64).tril() / 2
    covariance = (NARROW * length_unit(kernel.manifold)) ** 2 * (mixed @ mixed.mT).to(x.device)
    steps = torch.linalg.cholesky(covariance).mT  # rows of Mahalanobis length 1
    frames = _frames(kernel.manifold, x)[0].unflatten(-1, x.shape[1:])
    moves = torch.tensordot(steps, frames, dims=1)
    around = geometry.expmap(kernel.manifold, x.expand(d, *x.shape[1:]), moves)
    params = covariance_params(kernel, x, covariance.unsqueeze(0))
    drop = kernel.log_prob(x, params) - kernel.log_prob(around, params)
    if not bool((drop - 0.5).abs().max() < FRAME_ERROR):
        raise ValueError(
            f"Expected a kernel whose covariance is that of tangent vectors, but {kernel.name} on {kernel.manifold.name} means "
            "it otherwise. Use its kernel 'wrapped_normal', or bandwidth='adaptive'."
        )


@dataclass(frozen=True)
class Covariances:
    r"""Components with the covariance ``factor * C_k(i) + ridge I``, C_k the mean outer product of the k nearest logarithms."""

    neighbors: int
    factor: float
    ridge: float
    logs: Tensor  # (n,K,d), K > k

    def covariance(self) -> Tensor:
        """(n,d,d), float64."""
        near = self.logs[:, : self.neighbors]
        return self._widened(near.mT @ near / self.neighbors)

    def _widened(self, moments: Tensor) -> Tensor:
        eye = torch.eye(moments.shape[-1], dtype=moments.dtype, device=moments.device)
        return self.factor * moments + self.ridge * eye

    def params(self, kernel: Kernel, points: Tensor) -> Params:
        return covariance_params(kernel, points, self.covariance())

    def without(self, kernel: Kernel, points: Tensor, component: Tensor, slot: Tensor) -> Params:
        near = self.logs[component, : self.neighbors].clone()
        near[torch.arange(len(slot), device=slot.device), slot] = self.logs[component, self.neighbors]
        return covariance_params(kernel, points[component], self._widened(near.mT @ near / self.neighbors))


def neighbor_logs(kernel: Kernel, points: Tensor, neighbors: Neighbors) -> Tensor:
    """Coordinates of the neighbours' logarithms; (n,K,d) float64."""
    rows = torch.arange(len(points), device=points.device).split(max(1, 2**20 // math.prod(neighbors.indices.shape[1:])))
    return torch.cat([tangent_coordinates(kernel.manifold, points[r], points[neighbors.indices[r]]) for r in rows])
