"""Wrapped normal on the sphere S^d: a normal law in the tangent space at ``loc``, pushed through the exponential map."""

from __future__ import annotations

import functools
import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..numerics.quadratic_forms import mean_cosine
from .tangent_normal import Spread, TangentKernel, largest_scale

MAX_SCALE = 20.0


def windings(max_scale: float, dim: int, dtype: torch.dtype) -> int:
    """Smallest K such that the windings ``theta + 2 pi k`` (0 <= k <= K) and ``2 pi k - theta`` (1 <= k <= K+1) suffice.

    The next pair changes the density by less than half an eps in relative terms, at every angle above eps, and the mass it
    leaves out is at most ``Q(d/2, (2K+2)^2 pi^2 / (2 scale^2))``.

    >>> windings(0.3, 2, torch.float64), windings(2.0, 2, torch.float64)
    (0, 2)
    """
    eps = torch.finfo(dtype).eps
    rate = 2 * math.pi**2 / max_scale**2
    if -rate + (dim - 1) * math.log(2 * math.pi / eps) < math.log(eps / 2):
        return 0
    k = 1
    while -rate * ((k + 1) ** 2 - 1) + (dim - 1) * math.log(k + 1) >= math.log(eps / 2):
        k += 1
    return k


def _log_sum(terms: list[Tensor]) -> Tensor:
    """Logarithm of the sum of exponentials, twice differentiable."""
    if torch.is_grad_enabled():
        return torch.logsumexp(torch.stack(terms), dim=0)
    return functools.reduce(torch.logaddexp, terms)  # faster, but its second derivatives are NaN where terms are far apart


@register_kernel(geoopt.Sphere, "wrapped_normal")
class SphereWrappedNormal(TangentKernel):
    r"""Law of ``exp_loc(V)`` with ``V`` normal in the tangent space at ``loc``, all windings that matter summed.

    With the angle :math:`\theta` between ``x`` and ``loc`` and the unit tangent direction ``u``,

    .. math:: q(x) = \sum_{k \in Z} N((\theta + 2\pi k) u; 0, \Sigma) \, |(\theta + 2\pi k) / \sin\theta|^{d-1}.

    ``covariance="isotropic"`` has :math:`\Sigma = scale^2 I`; ``covariance="full"`` takes an ambient ``covariance_matrix`` S
    (D,D), of which the tangent part ``P S P`` with ``P = I - loc loc^T`` is the covariance of ``V``: no frame is needed, and S
    may be tangent already.

    For d >= 2 the exact density is unbounded at the antipode and, faintly, at ``loc``: angles below eps or within eps of
    pi are evaluated as eps away. The likelihood is unbounded too, with ``loc`` opposite a datum, so that there is no fit.

    **Measure**: surface of the unit sphere. **Exactness**: convergent series, see :func:`windings`. **Range**: scales from 1e-4
    to 20 radians, covariances with condition numbers up to 1e6, any dimension. **Mean**: extrinsic, ``loc`` or, for wide laws,
    its antipode; ``loc`` where the mean vector is shorter than 1e-12. **Sampler**: exact, by the exponential map; pathwise in
    all parameters.

    Shapes: ``loc`` (*B,D), ``scale`` (*B) in (0, 20], ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a scale above 20, where the series grows long and the law says nothing of ``loc``; a tangent covariance that
            is not positive definite.

    References:
        Mardia, Jupp (2000), Directional Statistics, section 3.5.7, for the wrapped normal of the circle.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Sphere(), "wrapped_normal", loc=loc, scale=0.3)
    >>> round(float(d.log_prob(loc)), 6)                  # -log(2 pi 0.3^2)
    0.570069
    """

    exactness = "series"
    mean_kind = "extrinsic"
    log_scale_range = (-7.0, 0.0)
    max_scale = MAX_SCALE

    def _terms(self, spread: Spread) -> tuple[Any, ...]:
        max_scale = largest_scale(spread)
        if max_scale > MAX_SCALE:
            raise ValueError(f"Expected scales up to {MAX_SCALE} radians on the sphere, got {max_scale:.3g}.")
        return spread.half_log_det + self.dim / 2 * math.log(2 * math.pi), max_scale

    def _forgets_direction(self, terms: tuple[Any, ...]) -> bool:
        return windings(terms[1], self.dim, torch.float64) == 0  # windings arrive at loc from every direction

    def _from_chords(self, near2: Tensor, far2: Tensor, along: Tensor, *terms: Any) -> Tensor:
        """Sum over windings. Angle and sine come from both chords, which keeps their digits at loc and at the antipode."""
        log_norm, max_scale = terms
        floor = torch.finfo(near2.dtype).eps ** 2
        near, far = near2.clamp_min(floor).sqrt(), far2.clamp_min(floor).sqrt()
        theta, log_sine = 2 * torch.atan2(near, far), (near * far / 2).log()
        last = windings(max_scale, self.dim, near2.dtype)
        radii = [theta + 2 * math.pi * k for k in range(last + 1)]
        radii += [2 * math.pi * k - theta for k in range(1, last + 2)]
        sums = [(self.dim - 1) * r.log() - r.square() * (along / 2) for r in radii]
        return _log_sum(sums) - (self.dim - 1) * log_sine - log_norm

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return geometry.expmap(self.manifold, w["loc"], self._velocity(w, sample_shape, generator))

    def mean(self, w: Params) -> Tensor:
        cosine = mean_cosine(self._variances(self._spread(w)))
        # below its error the sign says nothing
        return self._signed(w, torch.where(cosine.abs() < 1e-12, torch.zeros_like(cosine), cosine))
