"""Which kernel suits components around data: exact, cheap for a pair, and with a covariance where the family has one."""

from __future__ import annotations

import inspect
from typing import Any

import geoopt

from ..geometry import Shape
from ..kernel import Kernel, borrows, kernel_class_for, kernel_for
from ..manifolds.torus import Torus
from ..model import model_of

# cheaper than the manifold's default, or with a covariance that the default lacks
PREFERRED: dict[type, str] = {geoopt.Sphere: "stereographic_normal", Torus: "truncated_normal"}


def anchor_kernel(manifold: geoopt.Manifold, point_shape: Shape, name: str | None, options: dict[str, Any] | None) -> Kernel:
    """The kernel of that name, or the one that suits the manifold; with full covariances unless the options say otherwise."""
    chosen, defaults = _preferred(manifold, point_shape)
    if name is not None:
        chosen, defaults = name, {} if borrows(manifold, name) else _full(manifold, name)
    return kernel_for(manifold, point_shape, chosen, **(defaults if options is None else options))


def _preferred(manifold: geoopt.Manifold, point_shape: Shape) -> tuple[str | None, dict[str, Any]]:
    model = model_of(manifold)
    if model is not None:
        base, options = _preferred(model.manifold, model.to_shape(point_shape))
        return None, {"base": base, "base_options": options}
    if isinstance(manifold, geoopt.ProductManifold):
        parts = [_preferred(part, shape) for part, shape in zip(manifold.manifolds, manifold.shapes, strict=True)]
        return "product", {"kernels": [name for name, _ in parts], "part_options": [options for _, options in parts]}
    name = next((PREFERRED[cls] for cls in type(manifold).__mro__ if cls in PREFERRED), None)
    return name, _full(manifold, name)


def _full(manifold: geoopt.Manifold, name: str | None) -> dict[str, Any]:
    parameters = inspect.signature(kernel_class_for(manifold, name).__init__).parameters
    return {"covariance": "full"} if "covariance" in parameters else {}
