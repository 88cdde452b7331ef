"""Dirichlet distribution on the simplex."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..manifolds.simplex import Simplex, closure
from ..numerics.gamma import sample_log_gamma, stirling_remainder, stirling_slope
from .shares import shares

MIN_CONCENTRATION, MAX_CONCENTRATION = 1e-3, 1e12
MAX_PRODUCT = 1e8  # beyond, a product of features errs by more than 1e-7 nats
NEWTON_STEPS = 100


@register_kernel(Simplex, "dirichlet")
class Dirichlet(Kernel):
    r"""Law of the shares of independent gamma variates.

    .. math:: q(x) = \frac{\sqrt K}{B(\alpha)} \prod_i x_i^{\alpha_i}

    with respect to the Aitchison volume, where it is bounded and 0 at the boundary for every concentration; the textbook's
    exponents :math:`\alpha_i - 1` are those of ``measure="lebesgue"``, by which the density blows up at the boundary where a
    concentration is below 1. It is evaluated as :math:`\sum_i \alpha_i \log(x_i / m_i)`, m the mean, against a normaliser from
    which Stirling's large parts have cancelled on paper.

    **Measure**: Aitchison volume by default; ``lebesgue`` on the first K - 1 parts is torch's. **Exactness**: closed form.
    **Range**: concentrations from 1e-3 to 1e12, any K. **Mean**: extrinsic, ``concentration / concentration.sum()``; the
    Fréchet mean is ``softmax(digamma(concentration))``. **Sampler**: normalised gamma variates, in logarithms, pathwise; a part
    below the smallest normal number of the dtype is returned as that number.

    Shapes: ``concentration`` (*B,K).

    Raises:
        ValueError: a concentration outside its range.

    References:
        Aitchison (1986), The Statistical Analysis of Compositional Data, for the geometry.
        Minka (2000), Estimating a Dirichlet distribution, for the Newton steps of ``fit``.

    >>> import torch, mf_manifold as mf
    >>> d = mf.distribution(mf.manifolds.Simplex(), "dirichlet", concentration=torch.ones(3), measure="lebesgue")
    >>> d.log_prob(torch.tensor([0.2, 0.3, 0.5])).exp()        # uniform on a triangle of area 1/2
    tensor(2.)
    """

    parameter_names = ("concentration",)
    location = "concentration"
    mean_kind = "extrinsic"

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"concentration": self.point_shape}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        interval = constraints.interval(MIN_CONCENTRATION, MAX_CONCENTRATION)
        return {"concentration": constraints.independent(interval, 1)}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        alpha, wide = w["concentration"].double(), x.double()
        inside = (wide > 0).all(-1)
        wide = torch.where(inside.unsqueeze(-1), wide, torch.ones_like(wide))
        total = alpha.sum(-1)
        exponent = total * _excess(wide / wide.sum(-1, keepdim=True), alpha / total.unsqueeze(-1))
        return (_log_constant(alpha) + exponent).masked_fill(~inside, -math.inf).to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear | None:
        wide, alpha = x.double(), w["concentration"].double()
        if not x.is_meta and not bool((wide > 0).all() & (alpha <= MAX_PRODUCT).all()):
            return None  # features must be finite
        logs = torch.log(wide / wide.sum(-1, keepdim=True))
        middle = logs.detach().mean(0) if len(x) else torch.zeros_like(logs.detach().sum(0))
        # log q(x) = log q(y) + alpha . log(x / y) with y amid the data, so that the product does not cancel
        return Bilinear(
            logs - middle.log_softmax(-1),
            alpha,
            self._log_prob(torch.softmax(middle, -1), w),
            self._base_ratio(x),
        )

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        alpha = w["concentration"]
        logs = sample_log_gamma(alpha.double().expand((*sample_shape, *alpha.shape)), generator)
        return closure(logs).to(alpha.dtype).clamp_min(torch.finfo(alpha.dtype).tiny)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        # log x_i has a variance of about 1 / alpha_i; the 1/2 keeps the Fréchet mean, softmax(digamma), at the point
        precision = points.reciprocal().mean(-1, keepdim=True) / scale.square().unsqueeze(-1)
        precision = precision.clamp_max(0.999 * MAX_CONCENTRATION / points.amax(-1, keepdim=True))
        return {"concentration": precision * points + 0.5}

    def mean(self, w: Params) -> Tensor:
        alpha = w["concentration"].double()
        return (alpha / alpha.sum(-1, keepdim=True)).to(w["concentration"].dtype)

    def entropy(self, w: Params) -> Tensor:
        alpha = w["concentration"].double()
        total, size = alpha.sum(-1), self.point_shape[0]
        rest = (alpha * stirling_slope(alpha)).sum(-1) - total * stirling_slope(total)
        return ((size - 1) / 2 - rest - _log_constant(alpha)).to(w["concentration"].dtype)

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        size, alpha = self.point_shape[0], w["concentration"].double()
        constants = {"aitchison": None, "lebesgue": 0.5 * math.log(size), "hausdorff": math.log(size)}
        if kind not in constants:
            return super().mean_log_ratio(w, kind)
        constant = constants[kind]
        logs = _mean_logs(alpha).sum(-1)
        return (torch.zeros_like(logs) if constant is None else logs + constant).to(w["concentration"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, Dirichlet):
            return super().kl_divergence(w, other, v)
        a, b = w["concentration"].double(), v["concentration"].double()
        total_a, total_b = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
        # E_a of sum b_i log(x_i / m_i), m the mean of the other, with digamma split as in _mean_logs
        apart = total_b.squeeze(-1) * _excess(a / total_a, b / total_b)
        spread = (b * (stirling_slope(a) - 0.5 / a - stirling_slope(total_a) + 0.5 / total_a)).sum(-1)
        result = -self.entropy({"concentration": a}) - (_log_constant(b) + apart + spread)
        return result.to(w["concentration"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        """Maximum likelihood by Newton's method on a concave function; the Hessian is diagonal plus a rank of one."""
        wide = x.double()
        share = shares(x, weights)
        logs = share @ torch.log(wide / wide.sum(-1, keepdim=True))
        mean = share @ wide
        gap = float((mean * (mean.log() - logs)).sum())
        if not gap > 1e-12:
            raise ValueError("Expected points that differ, got equal ones: their concentration is infinite. Give more points.")
        alpha = mean * (len(mean) - 1) / (2 * gap)
        for _ in range(NEWTON_STEPS):
            step = _newton_step(alpha, logs)
            alpha = torch.maximum(alpha + step, alpha / 4)
            if bool((step.abs() <= 1e-12 * alpha).all()):
                break
        return {"concentration": alpha.clamp(MIN_CONCENTRATION, MAX_CONCENTRATION).to(x.dtype)}


def _newton_step(alpha: Tensor, logs: Tensor) -> Tensor:
    slope = logs - _mean_logs(alpha)
    curvature, common = torch.polygamma(1, alpha), torch.polygamma(1, alpha.sum())
    # (diag(curvature) - common 11')^-1 slope
    shift = common * (slope / curvature).sum() / (1 - common * (1 / curvature).sum())
    return (slope + shift) / curvature


def _excess(x: Tensor, m: Tensor) -> Tensor:
    """``sum_i m_i log(x_i / m_i)`` of points of the simplex, summed so that it is of second order where x is near m."""
    d = (x - m) / m
    near = d.abs() < 0.5
    logs = torch.where(near, torch.log1p(torch.where(near, d, 0.0)), torch.log(torch.where(near, 1.0, x / m)))
    return (m * (logs - d)).sum(-1)


def _log_constant(alpha: Tensor) -> Tensor:
    """Log density, by the Aitchison volume, at the mean."""
    size, total = alpha.shape[-1], alpha.sum(-1)
    logs = (alpha.log().sum(-1) - total.log() - (size - 1) * math.log(2 * math.pi) + math.log(size)) / 2
    return logs + stirling_remainder(total) - stirling_remainder(alpha).sum(-1)


def _mean_logs(alpha: Tensor) -> Tensor:
    """``E log x_i = digamma(alpha_i) - digamma(sum alpha)``."""
    total = alpha.sum(-1, keepdim=True)
    small = stirling_slope(alpha) - 0.5 / alpha - stirling_slope(total) + 0.5 / total
    return torch.log(alpha / total) + small
