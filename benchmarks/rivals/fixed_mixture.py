"""A mixture whose components are free parameters, trained by the same objectives as a marginal flow."""

from __future__ import annotations

from typing import Any

import geoopt
import torch
from torch import Tensor, nn

import mf_manifold as mf
from mf_manifold import geometry
from mf_manifold.geometry import Shape


class FixedMixture(nn.Module):
    """M components with a raw location, a raw shape and a log weight each; called like a flow, it returns the same mixture.

    Args:
        start: points (n,*E); components begin at M of them, evenly picked.
        scale: of all components at the beginning.
        shared_shape: one shape for all.
    """

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        kernel: str | None,
        start: Tensor,
        scale: float,
        *,
        n_components: int,
        shared_shape: bool = False,
        kernel_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.kernel = mf.kernel_for(manifold, point_shape, kernel, **(kernel_options or {}))
        rows = torch.linspace(0, len(start) - 1, n_components).long()
        self.where = nn.Parameter(geometry.to_raw(manifold, start[rows]).clone())
        count = 1 if shared_shape else n_components
        raw = torch.full((count, self.kernel.num_raw_shape), self.kernel.raw_from_scale(scale))
        self.shape, self.log_weights = nn.Parameter(raw.to(start)), nn.Parameter(torch.zeros(n_components).to(start))

    def forward(self, context: Tensor | None = None, n_components: int | None = None, generator: Any = None) -> mf.Mixture:
        shape = self.shape.expand(len(self.where), -1)
        return mf.Mixture(self.kernel, self.kernel.params(torch.cat([self.where, shape], dim=-1)), self.log_weights)

    def freeze(self) -> mf.Mixture:
        return self().detach()
