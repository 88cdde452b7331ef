"""LKJ distribution on correlation matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..manifolds.correlation import Correlation, below, factor_or_identity, from_partial_coordinates, full_rank, sinh_z
from ..numerics.gamma import digamma_half_step, log_beta_half, sample_log_gamma
from .shares import shares

MIN_CONCENTRATION, MAX_CONCENTRATION = 1e-3, 1e8
MAX_SINGULAR = 1e-3  # share of samples that may be singular to rounding
NEWTON_STEPS = 100


@register_kernel(Correlation, "lkj")
class LKJ(Kernel):
    r"""Law of correlation matrices whose density is a power of the determinant.

    .. math:: q_{leb}(X) = |X|^{\eta - 1} / c(\eta), \qquad
              q(X) = \prod_{i > j} \frac{(1 - c_{ij}^2)^{\beta_j}}{B(1/2, \beta_j)}, \quad \beta_j = \eta + (p - 2 - j) / 2

    with respect to Lebesgue measure on the entries below the diagonal, and to the Riemannian volume: the canonical partial
    correlations :math:`c_{ij}` (rows and columns counted from 0) are independent. The concentration :math:`\eta` = 1 is the
    uniform law of correlation matrices by Lebesgue measure; large ones gather at the identity. The law does not depend on the
    order of the variables. ``torch.distributions.LKJCholesky`` is the law of the Cholesky factor, by Lebesgue measure on its
    entries.

    **Measure**: Riemannian volume by default, ``measure="lebesgue"`` for the textbook's. **Exactness**: closed form.
    **Range**: concentrations from 1e-3 to 1e8; from 0.2 (0.44 in float32) for samples, of which more than one in a thousand
    would be singular to rounding below. **Mean**: Fréchet, the identity, also the extrinsic one. **Sampler**: independent
    partial correlations from normal and gamma variates, pathwise; a matrix that would be singular to rounding is returned a few
    roundings nearer to the identity.

    Shapes: ``concentration`` (*B).

    Raises:
        ValueError: a concentration outside its range, or too small for samples of its dtype.

    References:
        Lewandowski, Kurowicka, Joe (2009), Generating random correlation matrices based on vines and extended onion method.
        Joe (2006), Generating random correlation matrices based on partial correlations, for the Jacobian.

    >>> import torch, mf_manifold as mf
    >>> d = mf.distribution(mf.manifolds.Correlation(), "lkj", point_shape=(2, 2), concentration=1.0, measure="lebesgue")
    >>> round(float(d.log_prob(torch.tensor([[1.0, 0.3], [0.3, 1.0]])).exp()), 6)             # r is uniform on (-1, 1)
    0.5
    """

    parameter_names = ("concentration",)
    has_location = False
    mean_kind = "frechet"
    needs_double = True  # a float32 matrix has lost the digits of partial correlations near 1

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"concentration": ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"concentration": constraints.interval(MIN_CONCENTRATION, MAX_CONCENTRATION)}

    @classmethod
    def infer_point_shape(cls, manifold: geoopt.Manifold, params: Mapping[str, Any]) -> Shape:
        raise ValueError("Expected point_shape= for the LKJ law, such as point_shape=(3, 3) for matrices of 3 variables.")

    def _columns(self, like: Tensor) -> Tensor:
        """Columns 0 .. p-2, each of which holds p - 1 - j partial correlations."""
        return torch.arange(self.point_shape[0] - 1, dtype=torch.float64, device=like.device)

    def _shapes(self, w: Params) -> Tensor:
        """``beta_j`` of every column; (*B,p-1)."""
        columns = self._columns(w["concentration"])
        return w["concentration"].double().unsqueeze(-1) + (self.point_shape[0] - 2 - columns) / 2

    def _weighted(self, values: Tensor) -> Tensor:
        """Sum over all partial correlations of a value for each column."""
        return (values * (self.point_shape[0] - 1 - self._columns(values))).sum(-1)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        shapes = self._shapes(w)
        factor, full_rank = factor_or_identity(x)
        logs = torch.log1p(sinh_z(factor).square())
        columns = below(self.point_shape[0], x.device)[1]
        log_q = -(shapes[..., columns] * logs).sum(-1) - self._weighted(log_beta_half(shapes))
        return log_q.masked_fill(~full_rank, -math.inf).to(x.dtype)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        eta = w["concentration"]
        self._check_sampled(eta)
        columns = below(self.point_shape[0], eta.device)[1]
        shapes = self._shapes(w)[..., columns]
        shapes = shapes.expand((*sample_shape, *shapes.shape))
        noise = torch.randn(shapes.shape, generator=generator, dtype=shapes.dtype, device=shapes.device)
        # c^2 is Beta(1/2, beta): sinh z = c / sqrt(1 - c^2) is a normal variate over the root of a chi-squared one
        half = 0.5 * (math.log(2) + sample_log_gamma(shapes, generator))
        return full_rank(from_partial_coordinates(torch.asinh(noise * torch.exp(-half))), eta.dtype)

    def _check_sampled(self, eta: Tensor) -> None:
        if eta.is_meta or eta.numel() == 0:
            return
        least, smallest = _least_sampled(eta.dtype), float(eta.detach().min())
        if smallest < least:
            raise ValueError(
                f"Expected a concentration of at least {least:.2g} for samples in {eta.dtype}, got {smallest:.2g}: too many "
                f"would be singular to rounding. Take a larger one{'' if eta.dtype == torch.float64 else ' or float64'}."
            )

    @property
    def num_raw(self) -> int:
        return 1

    def params(self, raw: Tensor) -> Params:
        eta = _least_sampled(raw.dtype) + torch.nn.functional.softplus(raw[..., 0])
        return {"concentration": eta.clamp_max(MAX_CONCENTRATION)}

    def mean(self, w: Params) -> Tensor:
        p, eta = self.point_shape[0], w["concentration"]
        return torch.eye(p, dtype=eta.dtype, device=eta.device).expand(*eta.shape, p, p)

    def entropy(self, w: Params) -> Tensor:
        shapes = self._shapes(w)
        return self._weighted(shapes * digamma_half_step(shapes) + log_beta_half(shapes)).to(w["concentration"].dtype)

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        if kind != "lebesgue":
            return super().mean_log_ratio(w, kind)
        shapes = self._shapes(w)
        weights = (self.point_shape[0] - self._columns(shapes)) / 2
        return -self._weighted(weights * digamma_half_step(shapes)).to(w["concentration"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, LKJ) or other.point_shape != self.point_shape:
            return super().kl_divergence(w, other, v)
        a, b = self._shapes(w), self._shapes(v)
        terms = log_beta_half(b) - log_beta_half(a) + (b - a) * digamma_half_step(a)
        return self._weighted(terms).to(w["concentration"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        """Maximum likelihood by Newton's method on a concave function of one number; it stays within the range."""
        log_det = -(shares(x, weights) @ torch.log1p(sinh_z(factor_or_identity(x)[0]).square()).sum(-1))
        eta = torch.ones((), dtype=torch.float64, device=x.device)
        for _ in range(NEWTON_STEPS):
            shapes = self._shapes({"concentration": eta})
            slope = log_det + self._weighted(digamma_half_step(shapes))
            curvature = self._weighted(torch.polygamma(1, shapes + 0.5) - torch.polygamma(1, shapes))
            # a Newton step for 1 / eta, in which the slope is nearly straight, within factors of 4
            ratio = 1 / (1 + slope / (eta * curvature)).clamp(0.25, 4.0)
            eta = (eta * ratio).clamp(MIN_CONCENTRATION, MAX_CONCENTRATION)
            if bool((ratio - 1).abs() < 1e-13):
                break
        return {"concentration": eta.to(x.dtype)}


def _least_sampled(dtype: torch.dtype) -> float:
    """Concentration at which about MAX_SINGULAR of the samples have a determinant below a rounding, ``eps^eta``."""
    return math.log(MAX_SINGULAR) / math.log(torch.finfo(dtype).eps)
