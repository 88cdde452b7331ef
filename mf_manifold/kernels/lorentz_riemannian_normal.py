"""Riemannian normal law on the hyperboloid: a Gaussian of the geodesic distance."""

from __future__ import annotations

import math
from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.lorentz import pair, radius2, shoot
from ..numerics import radial
from .hyperbolic import MAX_SCALE, all_pairs, check_finite, check_scale, frechet_mean, largest, network_scales, same_points
from .shares import shares


@register_kernel(geoopt.Lorentz, "riemannian_normal")
class HyperbolicRiemannianNormal(Kernel):
    r"""Normal density of the geodesic distance: the law of largest entropy with a given mean squared distance.

    .. math:: q(x) = \exp(-r^2 / (2\, scale^2)) / Z, \quad
              Z = A_{d-1} \int_0^\infty (R \sinh(r / R))^{d-1} e^{-r^2 / (2\, scale^2)}\, dr

    with the distance r of ``x`` to ``loc``, the radius of curvature :math:`R = \sqrt k` and the area :math:`A_{d-1}` of the
    unit sphere in d dimensions.

    The normaliser is integrated by Gauss-Legendre nodes around the mode of the integrand, in logarithms; the alternating sum
    of error functions that the literature gives cancels for narrow laws and overflows for wide ones. ``scale`` is smaller
    than the root mean square distance divided by :math:`\sqrt d`: the volume grows with the distance.

    **Measure**: Riemannian volume. **Exactness**: numeric normaliser.

    **Range**: ``scale`` in (0, 10 R], d up to 128. Points up to 15 R from the origin: beyond, a distance has a relative error
    of ``exp(15)`` and more float64 roundings. Samples lie about ``(d-1) scale^2 / R`` away from ``loc``; their coordinates
    overflow at 350 R (float64) and 85 R (float32): an error.

    **Mean**: Fréchet, ``loc``. **Sampler**: exact, by rejection of radii under a tangent normal law (at least 65 % accepted at
    any scale); pathwise, by implicit differentiation.

    ``fit`` takes the Fréchet mean (Newton) and the scale whose mean squared distance is that of the data: the maximum.

    Shapes: ``loc`` (*B,D), ``scale`` (*B).

    Raises:
        ValueError: a scale above ten radii of curvature, samples whose coordinates overflow.

    References:
        Said, Bombrun, Berthoumieu (2014), New Riemannian priors on the univariate normal model
        (d = 2).

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([1., 0., 0.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Lorentz(), "riemannian_normal", loc=loc, scale=1.0)
    >>> round(float(d.log_prob(loc)), 6)        # -log(pi sqrt(2 pi) exp(1/2) erf(1 / sqrt 2))
    -2.181953
    """

    parameter_names = ("loc", "scale")
    exactness = "numeric normaliser"
    mean_kind = "frechet"

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__(manifold, point_shape)
        self.max_scale = MAX_SCALE * math.sqrt(float(manifold.k.detach()))
        self.log_scale_range = network_scales(manifold, self.log_scale_range)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, "scale": ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"loc": OnManifold(self.manifold, self.point_shape), "scale": constraints.positive}

    def _unit(self, scale: Tensor) -> Tensor:
        """The scale in radii of curvature, in float64."""
        check_scale(scale, self.manifold)
        return scale.double() / radius2(self.manifold, scale).sqrt()

    def log_normalizer(self, scale: Tensor) -> Tensor:
        """``log Z`` in float64; (*B) -> (*B)."""
        half, unit = self.dim / 2, self._unit(scale)
        log_area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        log_radius = radius2(self.manifold, scale).log() / 2
        return log_area + self.dim * log_radius + radial.log_integral(unit, self.dim)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        distance2 = pair(self.manifold, w["loc"], x).dist2
        log_q = -distance2 / (2 * w["scale"].double().square()) - self.log_normalizer(w["scale"])
        return log_q.to(x.dtype)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        w = self.expand(w, self.batch_shape(w))
        precision, bias = (t.to(x.dtype) for t in (w["scale"].double().pow(-2), -self.log_normalizer(w["scale"])))
        smallest = largest(precision) ** -0.5 if precision.numel() and not precision.is_meta else 1.0
        log_q = all_pairs(self.manifold, x, w["loc"], lambda r2, _: bias - r2 * (precision / 2), smallest, stretched=False)
        return super().pairwise_log_prob(x, w) if log_q is None else log_q

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc, radius = w["loc"], radius2(self.manifold, w["loc"]).sqrt()
        shape = (*sample_shape, *self.batch_shape(w))
        r = radius * radial.sample(self._unit(w["scale"]).expand(shape), self.dim, generator)
        noise = torch.randn((*shape, self.dim), generator=generator, dtype=torch.float64, device=loc.device)
        v = r.unsqueeze(-1) * noise / noise.norm(dim=-1, keepdim=True)
        return check_finite(shoot(self.manifold, loc, v).to(loc.dtype))

    def mean(self, w: Params) -> Tensor:
        return w["loc"]

    def entropy(self, w: Params) -> Tensor:
        unit = self._unit(w["scale"])
        energy = radial.mean_square(unit, self.dim) / (2 * unit.square())
        return (self.log_normalizer(w["scale"]) + energy).to(w["scale"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, HyperbolicRiemannianNormal) or not same_points(w["loc"], v["loc"]):
            return super().kl_divergence(w, other, v)
        here, there = self._unit(w["scale"]), other._unit(v["scale"])
        gain = radial.mean_square(here, self.dim) * (there.pow(-2) - here.pow(-2)) / 2
        return (other.log_normalizer(v["scale"]) - self.log_normalizer(w["scale"]) + gain).to(w["scale"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        weights = shares(x, weights)
        loc = frechet_mean(self.manifold, x, weights)
        k = float(self.manifold.k.detach())
        square = float(weights @ pair(self.manifold, loc, x.double()).dist2) / k
        if square < 1e-28:
            raise ValueError("Expected points that are not all the same: the likelihood of a single point has no maximum.")
        scale = math.sqrt(k) * radial.scale_for(square, self.dim)
        return {"loc": loc.to(x.dtype), "scale": torch.tensor(scale, dtype=x.dtype, device=x.device)}

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "scale": scale}
