"""A mixture of normal laws as the base of a flow, trained with it."""

from __future__ import annotations

import geoopt
import torch
from torch import Tensor, nn

import mf_manifold as mf
from mf_manifold.estimator import LazyDistribution


class MixtureBase(LazyDistribution):
    """M normal laws of R^d with free means, scales and weights; means begin uniform on [-2.5, 2.5]^d, scales at 0.5."""

    def __init__(self, dim: int, modes: int = 10) -> None:
        super().__init__(geoopt.Euclidean(ndim=1), (dim,))
        self.kernel, self.modes = mf.kernel_for(self.manifold, self.point_shape, "normal"), modes
        self.loc, self.log_scale = nn.Parameter(torch.empty(modes, dim)), nn.Parameter(torch.empty(modes, dim))
        self.log_weights = nn.Parameter(torch.empty(modes))
        self.reset(None, 0.0)

    def forward(
        self, context: Tensor | None = None, n_components: int | None = None, generator: torch.Generator | None = None
    ) -> mf.Mixture:
        return mf.Mixture(self.kernel, {"loc": self.loc, "scale": self.log_scale.exp()}, self.log_weights)

    @torch.no_grad()
    def reset(self, x: Tensor | None, background: float) -> None:
        self.loc.uniform_(-2.5, 2.5)
        self.log_scale.fill_(0.5).log_()
        self.log_weights.zero_()

    def config(self) -> dict[str, int]:
        return {"dim": self.point_shape[0], "modes": self.modes}
