"""Manifolds that borrow the kernels of another one, to which they are isometric up to a constant factor.

``geoopt.Scaled`` borrows those of its base, a stereographic projection those of its sphere or hyperboloid. Registering
:func:`model_of` for a manifold, and a subclass of :class:`mf_manifold.kernels.model.ModelKernel` as its default kernel, makes
every kernel and every measure of the model available under its own name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import geoopt
from torch import Tensor

from .geometry import Shape


def _same(value: Any) -> Any:
    return value


class Model(NamedTuple):
    """A manifold, and the map to it that multiplies all distances by ``exp(-log_stretch)``.

    ``to_model`` and ``from_model`` map points (*B,*E); the shape maps tell E of one from that of the other. ``wide`` says that
    points are mapped, and densities computed, in float64: rounding the model's coordinates to float32 would move the points.
    """

    manifold: geoopt.Manifold
    log_stretch: Tensor
    to_model: Callable[[Tensor], Tensor] = _same
    from_model: Callable[[Tensor], Tensor] = _same
    to_shape: Callable[[Shape], Shape] = _same
    from_shape: Callable[[Shape], Shape] = _same
    wide: bool = False

    def widened(self, value: Tensor) -> Tensor:
        """The value in the precision in which the model's densities are computed."""
        return value.double() if self.wide else value


@singledispatch
def model_of(manifold: geoopt.Manifold) -> Model | None:
    """The manifold whose kernels this one borrows, at its present parameters; None where it has its own."""
    from . import manifolds  # noqa: F401  registers them, whichever module a program imports first

    implementation = model_of.dispatch(type(manifold))
    return None if implementation is model_of.dispatch(object) else implementation(manifold)


@model_of.register(geoopt.Scaled)
def _(manifold: geoopt.Scaled) -> Model:
    return Model(manifold.base, manifold.log_scale)
