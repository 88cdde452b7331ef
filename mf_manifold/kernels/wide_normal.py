"""Normal laws in coordinates that must be found in float64, because logarithms or divisions lose digits in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry import Shape
from ..kernel import Params
from .coordinate_normal import CoordinateNormal


class WideCoordinateNormal(CoordinateNormal):
    """A :class:`CoordinateNormal` that computes in float64 inside, whatever the dtype of points and parameters."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x.double(), _wide(w)).to(x.dtype)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return super().rsample(_wide(w), sample_shape, generator).to(w["loc"].dtype)


def _wide(w: Params) -> Params:
    return {name: value.double() for name, value in w.items()}
