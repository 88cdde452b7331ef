"""A kernel of the base manifold on ``geoopt.Scaled``."""

from __future__ import annotations

import geoopt
import torch
from torch import Tensor

from ..kernel import register_kernel
from .model import ModelKernel


@register_kernel(geoopt.Scaled, "scaled", default=True)
class ScaledKernel(ModelKernel):
    r"""The law of a kernel on the base manifold, with respect to the volume of the scaled metric.

    .. math:: q_{scaled}(x) = q_{base}(x) / s^d

    Points and parameters stay those of the base (unit vectors and radians on a scaled sphere), as geoopt does it; only
    distances and the reference volume carry the factor s. Every kernel name of the base manifold is understood.

    **Measure**: Riemannian volume of the scaled metric, ``s^d`` times that of the base.

    >>> import geoopt, torch, mf_manifold as mf
    >>> globe, loc = geoopt.Scaled(geoopt.Sphere(), 6371.0), torch.tensor([0., 0., 1.])
    >>> d = mf.distribution(globe, "von_mises_fisher", loc=loc, concentration=0.0)
    >>> area = 1 / d.log_prob(loc).exp()                  # square kilometres
    >>> round(float(area) / 1e6)
    510
    """

    parameter_names = ("those of the base kernel",)
    exactness = "that of the base"

    @property
    def _unit(self) -> Tensor:
        """1: a scale stays in units of the base, in radians on a scaled sphere."""
        return torch.ones_like(self.manifold.scale)
