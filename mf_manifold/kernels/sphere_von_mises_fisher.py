"""Von Mises-Fisher distribution on the sphere S^d of any dimension."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.bilinear import Bilinear
from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.sphere import chord2
from ..numerics.bessel import bessel_ratio, log_vmf_normalizer, one_minus_bessel_ratio
from .maximise import mean_direction, root, weighted
from .rejection import accepted
from .zonal import around, unit

MAX_CONCENTRATION = 1e10


@register_kernel(geoopt.Sphere, "von_mises_fisher", default=True)
class VonMisesFisher(Kernel):
    r"""Exponential family of the linear statistic, the default kernel of the sphere: closed form, bounded, one matrix product.

    .. math:: q(x) = C_D(\kappa) \exp(\kappa\, loc \cdot x), \quad
              C_D(\kappa) = \frac{\kappa^{D/2-1}}{(2\pi)^{D/2} I_{D/2-1}(\kappa)}.

    The exponent is evaluated as :math:`-\kappa |x - loc|^2 / 2` against ``C_D exp(kappa)``, so that concentrations of 1e6 keep
    their digits in float32.

    **Measure**: surface of the unit sphere. **Exactness**: closed form. **Range**: concentrations in [0, 1e10], any dimension.
    **Mean**: Fréchet, ``loc``, also the projected extrinsic mean. **Sampler**: exact; on S^2 by inversion of the distribution
    function of the angle, pathwise in both parameters; elsewhere the rejection sampler of Wood (1994), no gradients.

    Entropy and divergence are in closed form. The fit maximises the likelihood: the mean direction, and the concentration at
    which the mean resultant length is that of the points, by bisection of a monotone equation in a form that keeps the digits
    of narrow data; equal points give the cap 1e10.

    Shapes: ``loc`` (*B,D), ``concentration`` (*B) in [0, 1e10].

    Raises:
        ValueError: a concentration outside [0, 1e10], ``loc`` off the sphere.

    References:
        Mardia, Jupp (2000), Directional Statistics, eq. (9.3.4), and section 10.3.1 for the maximum of the likelihood.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Sphere(), "von_mises_fisher", loc=loc, concentration=0.0)
    >>> round(float(d.log_prob(loc)), 6)                  # uniform: -log(4 pi)
    -2.531024
    """

    parameter_names = ("loc", "concentration")
    mean_kind = "frechet"
    log_scale_range = (-7.0, 1.5)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether samples are pathwise differentiable: those on S^2."""
        return self.point_shape[0] == 3

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, "concentration": ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {
            "loc": OnManifold(self.manifold, self.point_shape),
            "concentration": constraints.interval(0.0, MAX_CONCENTRATION),
        }

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        kappa = w["concentration"].double()
        log_q = log_vmf_normalizer(self.point_shape[0], kappa) - kappa / 2 * chord2(unit(x), unit(w["loc"]))
        return log_q.to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        w = self.expand(w, self.batch_shape(w))
        # -kappa |x - loc|^2 / 2 multiplied out; in float64, which the backend keeps only where the product needs it
        kappa, loc, wide = w["concentration"].double().unsqueeze(-1), unit(w["loc"]), unit(x)
        phi = torch.cat([wide, wide.square().sum(-1, keepdim=True), torch.ones_like(wide[:, :1])], dim=-1)
        psi = kappa * torch.cat([loc, -torch.ones_like(loc[:, :1]) / 2, -loc.square().sum(-1, keepdim=True) / 2], dim=-1)
        bias = log_vmf_normalizer(self.point_shape[0], w["concentration"])
        return Bilinear(phi, psi, bias, self._base_ratio(x))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "concentration": scale.pow(-2)}

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        shape = (*sample_shape, *w["loc"].shape)
        loc, kappa = w["loc"].expand(shape), w["concentration"].expand(shape[:-1])
        if shape[-1] == 3:
            depth = _inverse_cdf(kappa, generator)
        else:
            depth = _wood(kappa.reshape(-1), shape[-1] - 1, generator).reshape(shape[:-1])
        return around(self.manifold, loc, depth, 2 - depth, generator)

    def mean(self, w: Params) -> Tensor:
        return w["loc"].expand(*self.batch_shape(w), *self.point_shape)

    def entropy(self, w: Params) -> Tensor:
        size, kappa = self.point_shape[0], w["concentration"].double()
        entropy = kappa * one_minus_bessel_ratio(size, kappa) - log_vmf_normalizer(size, kappa)
        return entropy.expand(self.batch_shape(w)).to(w["loc"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, VonMisesFisher):
            return super().kl_divergence(w, other, v)
        size, kappa, target = self.point_shape[0], w["concentration"].double(), v["concentration"].double()
        log_norms = log_vmf_normalizer(size, kappa) - log_vmf_normalizer(size, target)
        shortfall = (target - kappa) * one_minus_bessel_ratio(size, kappa)
        turned = target * bessel_ratio(size, kappa) * chord2(unit(w["loc"]), unit(v["loc"])) / 2
        return (log_norms + shortfall + turned).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        _, a = weighted(x, weights)
        return {name: value[0] for name, value in self.fit_many(x, a.unsqueeze(1)).items()}

    def fit_many(self, x: Tensor, weights: Tensor) -> Params:
        points, a = unit(x), (weights.double() / weights.double().sum(0)).mT
        loc, size = mean_direction(points, a), self.point_shape[0]
        # one minus the mean resultant length from chords, which keep the digits that the difference would lose
        chords = by_blocks(lambda rows: chord2(points[rows].unsqueeze(1), loc), len(points), len(loc), points)
        gap = ((a * chords.mT).sum(-1) / 2).clamp(1e-300, 1.0)
        logit = ((a @ points).norm(dim=-1) + 1e-300).log() - gap.log()

        def excess(kappa: Tensor) -> Tensor:
            return bessel_ratio(size, kappa).log() - one_minus_bessel_ratio(size, kappa).log() - logit

        kappa = root(excess, 1e-12, MAX_CONCENTRATION, gap)
        return {"loc": loc.to(x.dtype), "concentration": kappa.to(x.dtype)}


def _inverse_cdf(kappa: Tensor, generator: torch.Generator | None) -> Tensor:
    """1 - cos(angle) on S^2 by inversion: ``-log(1 - u + u exp(-2 kappa)) / kappa`` for u in [0, 1), pathwise in kappa.

    Not with u and 1 - u exchanged: a uniform variate may be 0, where the logarithm would be infinite, but never 1.
    """
    u = torch.rand(kappa.shape, generator=generator, dtype=kappa.dtype, device=kappa.device)
    small = kappa < torch.finfo(kappa.dtype).eps
    safe = torch.where(small, torch.ones_like(kappa), kappa)
    inverted = -torch.log1p(u * torch.expm1(-2 * safe)) / safe
    # below eps the expansion in kappa is exact to rounding, and it has the right gradient at kappa = 0
    series = 2 * u - 2 * kappa * u * (1 - u)
    return torch.where(small, series, inverted)


def _wood(kappa: Tensor, dim: int, generator: torch.Generator | None) -> Tensor:
    """1 - cos(angle) on S^dim for concentrations (N), by rejection from a beta envelope (Wood 1994).

    In float64 and in terms of depths, so that nothing cancels at large kappa: as Wood writes it, the acceptance has an error of
    kappa roundings.
    """
    wide = kappa.detach().double()
    b = dim / (2 * wide + torch.sqrt(4 * wide.square() + dim**2))
    middle = 2 * b / (1 + b)  # the depth at which the envelope touches

    def propose(rows: Tensor) -> tuple[Tensor, Tensor]:
        envelope, touch = b[rows], middle[rows]
        half = torch.full_like(envelope, dim / 2)
        g1, g2 = (torch._standard_gamma(half, generator=generator) for _ in range(2))
        z = g1 / (g1 + g2)
        depth = 2 * envelope * z / (1 - (1 - envelope) * z)
        # (1 - x0 (1 - depth)) / (1 - x0^2) for x0 = 1 - touch
        ratio = (touch + (1 - touch) * depth) / (touch * (2 - touch))
        return depth, wide[rows] * (touch - depth) + dim * torch.log(ratio)

    return accepted(propose, wide, generator).to(kappa.dtype)
