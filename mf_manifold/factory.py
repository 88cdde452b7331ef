"""Distributions from a manifold, the name of a kernel, and its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from . import geometry
from .distributions import KernelDistribution, check_names
from .geometry import Shape
from .kernel import Kernel, Params, borrows, kernel_class_for, kernel_for
from .measure import Measure
from .model import Model, model_of


def _as_tensors(params: dict[str, Any], event_dims: Mapping[str, int]) -> Params:
    like = [v for v in params.values() if isinstance(v, Tensor) and v.is_floating_point()]
    dtype = like[0].dtype if like else torch.get_default_dtype()
    device = like[0].device if like else None
    out = {}
    for name, value in params.items():
        tensor = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else dtype, device=device)
        tensor = tensor.as_subclass(torch.Tensor) if isinstance(tensor, geoopt.ManifoldTensor) else tensor
        missing = event_dims[name] - tensor.ndim
        out[name] = tensor.reshape((1,) * missing + tuple(tensor.shape)) if missing > 0 else tensor
    return out


Name = str | Sequence[str | None] | None


def _product_with(manifold: geoopt.ProductManifold, name: Name, params: Mapping[str, Any]) -> Kernel:
    names = [None] * manifold.n_manifolds if name is None or isinstance(name, str) else list(name)
    if len(names) != manifold.n_manifolds:
        raise ValueError(f"Expected a kernel name for each of {manifold.n_manifolds} parts, got {names}.")
    parts = []
    for i, (part, part_name) in enumerate(zip(manifold.manifolds, names, strict=True)):
        own = {k.removesuffix(f"_{i}"): v for k, v in params.items() if k.endswith(f"_{i}")}
        parts.append(_kernel_with(part, part_name, own, manifold.shapes[i]))
    options = [part.options for part in parts]
    return kernel_for(manifold, (manifold.n_elements,), "product", kernels=[part.name for part in parts], part_options=options)


def _on_model(manifold: geoopt.Manifold, model: Model, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters with a location of the shape that it has on the model, from which point shapes are inferred."""
    ndim, loc = geometry.point_ndim(manifold), torch.as_tensor(params.get("loc", 0.0))
    if loc.ndim < ndim:
        return params
    return {**params, "loc": loc.new_empty(model.to_shape(tuple(loc.shape[loc.ndim - ndim :])))}


def _kernel_with(manifold: geoopt.Manifold, name: Name, params: Mapping[str, Any], point_shape: Shape | None) -> Kernel:
    """The kernel whose variant the keyword arguments imply, and its point shape if that is not given."""
    if isinstance(manifold, geoopt.ProductManifold):
        return _product_with(manifold, name, params)
    if name is not None and not isinstance(name, str):
        raise ValueError(f"Expected one kernel name on {type(manifold).__name__}, got {list(name)}.")
    model = model_of(manifold)
    if model is not None and (name is None or borrows(manifold, name)):
        shape = None if point_shape is None else model.to_shape(tuple(point_shape))
        base = _kernel_with(model.manifold, name, _on_model(manifold, model, params), shape)
        return kernel_for(manifold, model.from_shape(base.point_shape), base.name, **base.options)
    kernel_class = kernel_class_for(manifold, name)
    options = kernel_class.options_for(set(params))
    shape = kernel_class.infer_point_shape(manifold, params) if point_shape is None else tuple(point_shape)
    return kernel_class(manifold, shape, **options)


def distribution(
    manifold: geoopt.Manifold,
    name: Name = None,
    *,
    point_shape: Shape | None = None,
    measure: Measure | str | None = None,
    validate_args: bool | None = None,
    **params: Any,
) -> KernelDistribution:
    """A distribution on a manifold by the name of its kernel, such as ``"wrapped_normal"`` on ``geoopt.Sphere()``.

    **Measure**: the Riemannian volume of the manifold's metric, or the one named by ``measure``.

    Args:
        manifold: a geoopt manifold.
        name: registry name, on products one for each part; None takes the manifold's default kernel.
        point_shape: shape of a point, for kernels whose parameters do not tell it, such as ``"uniform"``.
        measure: reference measure of ``log_prob``.
        params: the kernel's parameters; numbers or tensors, broadcast over batch dimensions.

    Raises:
        ValueError: unknown kernel, wrong parameter names, values outside their domain, points off the manifold.

    >>> import geoopt, torch, mf_manifold as mf
    >>> d = mf.distribution(geoopt.Sphere(), "von_mises_fisher", loc=torch.tensor([0., 0., 1.]), concentration=50.0)
    >>> d.log_prob(torch.tensor([0., 0., 1.])).exp()      # 50 / (2 pi) per unit of surface
    tensor(7.9577)
    """
    kernel = _kernel_with(manifold, name, params, point_shape)
    check_names(kernel, params)
    return KernelDistribution(kernel, _as_tensors(params, kernel.event_dims), measure, validate_args)
