"""Power spherical distribution on the sphere S^d of any dimension."""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..numerics.special import digamma_difference, log_gamma_ratio
from .maximise import best_location, mean_direction, root, weighted
from .zonal import ZonalKernel, around, chords

MAX_CONCENTRATION = 1e10


@register_kernel(geoopt.Sphere, "power_spherical")
class PowerSpherical(ZonalKernel):
    r"""A power of 1 + cos(angle): close to von Mises-Fisher, without Bessel functions, with pathwise samples in any dimension.

    .. math:: q(x) = \frac{\Gamma(d + \kappa)}{2^d \pi^{d/2} \Gamma(d/2 + \kappa)} \Big(\frac{1 + loc \cdot x}{2}\Big)^\kappa

    Here :math:`d` is the dimension of the sphere, not of the space around it. A narrow law is close to a tangent normal with
    standard deviation :math:`\sqrt{2 / \kappa}`: twice the concentration of a von Mises-Fisher law of equal width. The density
    is 0 at the antipode of ``loc``, where its logarithm is -inf with gradient 0.

    **Measure**: surface of the unit sphere. **Exactness**: closed form; the two log-gammas, huge and almost equal, are
    subtracted analytically. **Range**: concentrations in [0, 1e10], any dimension. **Mean**: Fréchet, ``loc``, also the
    projected extrinsic mean. **Sampler**: exact, a beta variate by two gamma variates; pathwise in both parameters.

    The entropy is in closed form. The fit maximises the likelihood: the location by Newton's method from the mean direction,
    independently of the concentration, which is then the root of a monotone equation; equal points give the cap 1e10.

    Shapes: ``loc`` (*B,D), ``concentration`` (*B) in [0, 1e10].

    Raises:
        ValueError: a concentration outside [0, 1e10], ``loc`` off the sphere.

    References:
        De Cao, Aziz (2020), The Power Spherical distribution, arXiv:2006.04437.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Sphere(), "power_spherical", loc=loc, concentration=3.0)
    >>> round(float(d.log_prob(loc).exp() * math.pi), 6)  # (1 + kappa) / (4 pi) on S^2
    1.0
    """

    parameter_names = ("loc", "concentration")
    log_scale_range = (-7.0, 1.5)
    width_constraint = constraints.interval(0.0, MAX_CONCENTRATION)

    def _shape(self, width: Tensor) -> tuple[Tensor, ...]:
        d = self.dim
        return width, log_gamma_ratio(width + d / 2, d / 2) - d * math.log(2) - d / 2 * math.log(math.pi)

    def _from_chords(self, near2: Tensor, far2: Tensor, *shape: Tensor) -> Tensor:
        kappa, log_norm = shape
        empty = far2 == 0
        by_near = torch.log1p(near2.clamp_max(2.0) / -4)
        by_far = torch.log(far2.masked_fill(empty, 4.0) / 4)
        log_q = kappa * torch.where(near2 < 2, by_near, by_far) + log_norm
        return log_q.masked_fill(empty & (kappa > 0), -math.inf)

    def _slope(self, width: Tensor) -> Tensor:
        return width / 4

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc = w["loc"].expand(*sample_shape, *w["loc"].shape)
        kappa = w["concentration"].expand(loc.shape[:-1])
        half = torch.full_like(kappa, self.dim / 2)
        a, b = (torch._standard_gamma(shape, generator=generator) for shape in (half + kappa, half))
        # each depth with all its digits: the law is narrow around loc or, where it is wide, has density 0 at the antipode
        return around(self.manifold, loc, 2 * b / (a + b), 2 * a / (a + b), generator)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "concentration": 2 * scale.pow(-2)}

    def entropy(self, w: Params) -> Tensor:
        kappa, log_norm = self._shape(w["concentration"].double())
        entropy = kappa * digamma_difference(kappa + self.dim / 2, self.dim / 2) - log_norm
        return entropy.expand(self.batch_shape(w)).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        points, a = weighted(x, weights)

        def mean_log(loc: Tensor) -> Tensor:
            near2, far2 = chords(points, loc)
            return a @ self._from_chords(near2, far2, *torch.tensor([[1.0], [0.0]], dtype=a.dtype, device=a.device))

        loc = best_location(self.manifold, mean_log, mean_direction(points, a))
        target, half = -mean_log(loc), self.dim / 2
        # the mean of -log((1 + cos) / 2) falls with the concentration, from its value for the uniform law
        shape = root(lambda v: target - digamma_difference(v, half), half, MAX_CONCENTRATION + half, target)
        return {"loc": loc.to(x.dtype), "concentration": (shape - half).clamp_min(0.0).to(x.dtype)}
