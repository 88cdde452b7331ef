"""A kernel of the base manifold on ``geoopt.Scaled``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, Params, kernel_for, register_kernel


@register_kernel(geoopt.Scaled, "scaled", default=True)
class ScaledKernel(Kernel):
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

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        base: str | None = None,
        base_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(manifold, point_shape)
        self.base = kernel_for(manifold.base, point_shape, base, **(base_options or {}))
        self.has_rsample, self.needs_double = self.base.has_rsample, self.base.needs_double
        self.max_scale, self.has_location = self.base.max_scale, self.base.has_location
        self.antipodal, self.mean_kind = self.base.antipodal, self.base.mean_kind

    @property
    def options(self) -> dict[str, Any]:
        return {"base": self.base.name, "base_options": self.base.options}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return self.base.event_shapes

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return self.base.param_constraints

    def _shift(self, like: Tensor) -> Tensor:
        return self.dim * self.manifold.log_scale.to(like)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self.base.log_prob(x, w) - self._shift(x)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self.base.pairwise_log_prob(x, w) - self._shift(x)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear | None:
        form = self.base.bilinear(x, w)
        return form if form is None else form._replace(offset=form.offset - self._shift(x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return self.base.rsample(w, sample_shape, generator)

    def mean(self, w: Params) -> Tensor:
        return self.base.mean(w)

    def entropy(self, w: Params) -> Tensor:
        entropy = self.base.entropy(w)
        return entropy + self._shift(entropy)

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        ratio = self.base.mean_log_ratio(w, kind)
        return ratio if kind == "riemannian" else ratio - self._shift(ratio)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        return self.base.kl_divergence(w, other.base if isinstance(other, ScaledKernel) else other, v)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        return self.base.fit(x, weights)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return self.base.centered(points, scale)

    @property
    def num_raw(self) -> int:
        return self.base.num_raw

    def params(self, raw: Tensor) -> Params:
        return self.base.params(raw)

    @property
    def num_raw_shape(self) -> int:
        return self.base.num_raw_shape

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        return self.base.shaped(points, shape)
