"""Sine bivariate von Mises law of two correlated angles."""

from __future__ import annotations

import math
from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.torus import Torus, wrap
from ..numerics.climb import climb
from ..numerics.sine_model import SineModel
from .circular_statistics import mean_angles
from .rejection import accepted
from .shares import shares
from .torus_von_mises import von_mises_angles

LARGEST = 1e6


@register_kernel(Torus, "sine_bivariate_von_mises")
class SineBivariateVonMises(Kernel):
    r"""Two angles with a correlation: the maximum-entropy law with given mean directions and mean of ``sin a sin b``.

    .. math:: q(x) = \frac{1}{C} \exp(\kappa_1 \cos a + \kappa_2 \cos b + \lambda \sin a \sin b), \quad (a, b) = x - loc

    It has one mode as long as ``lambda^2 <= k1 k2``, and otherwise two; both cases are allowed. The normaliser
    ``C = 2 pi int exp(k1 cos a) I_0(sqrt(k2^2 + lambda^2 sin^2 a)) da`` is a one-dimensional integral of positive terms, taken
    by Gauss rules graded towards the mode of its integrand; its series in Bessel functions would need up to 1e6 terms.

    **Measure**: Lebesgue in radians. **Exactness**: quadrature, to rounding. **Units**: radians.

    **Range**: concentrations from 0 to 1e6, correlations from -1e6 to 1e6. **Mean**: Fréchet, equal to ``loc`` in both regimes
    (for positive concentrations). **Sampler**: rejection from a step function for the first angle, then a von Mises law for the
    second. ``fit`` climbs the likelihood in all five parameters (L-BFGS) from the mean directions and the normal approximation,
    and finds a local maximum.

    Shapes: ``loc`` (*B,2); ``concentration`` (*B,2) or (*B,1); ``correlation`` (*B), which is lambda.

    Raises:
        ValueError: points that are not two angles, a concentration outside [0, 1e6], a correlation outside [-1e6, 1e6], a fit
            to data that need more.

    References:
        Singh, Hnizdo, Demchuk (2002), Probabilistic model for two dependent circular variables, eq. (1.1); Mardia, Hughes,
        Taylor, Singh (2008), A multivariate von Mises distribution with applications to bioinformatics.

    >>> import math, torch, mf_manifold as mf
    >>> loc = torch.zeros(2, dtype=torch.float64)
    >>> torus = mf.manifolds.Torus()
    >>> d = mf.distribution(torus, "sine_bivariate_von_mises", loc=loc, concentration=2.0, correlation=0.0)
    >>> product = mf.distribution(torus, "von_mises", loc=loc, concentration=2.0)
    >>> bool(torch.isclose(d.log_prob(loc), product.log_prob(loc)))
    True
    """

    parameter_names = ("loc", "concentration", "correlation")
    exactness = "quadrature"
    mean_kind = "frechet"
    has_rsample = False
    log_scale_range = (-6.9, 1.0)  # concentrations up to 1e6

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__(manifold, point_shape)
        if self.dim != 2:
            raise ValueError(
                f"Expected two angles for sine_bivariate_von_mises, got {self.dim}: its normaliser is known for two. "
                "Use wrapped_normal with covariance_matrix= for more."
            )

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, "concentration": self.point_shape, "correlation": ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {
            "loc": OnManifold(self.manifold, self.point_shape),
            "concentration": constraints.independent(constraints.interval(0.0, LARGEST), 1),
            "correlation": constraints.interval(-LARGEST, LARGEST),
        }

    def _model(self, w: Params) -> SineModel:
        k1, k2 = w["concentration"].double().expand(*w["concentration"].shape[:-1], 2).unbind(-1)
        return SineModel(*torch.broadcast_tensors(k1, k2, w["correlation"].double()))  # type: ignore[no-untyped-call]

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        model, angle = self._model(w), x.double() - w["loc"].double()
        (depth1, depth2), (sine1, sine2) = (v.unbind(-1) for v in (2 * torch.sin(angle / 2).square(), torch.sin(angle)))
        exponent = model.correlation * sine1 * sine2 - model.k1 * depth1 - model.k2 * depth2
        return (exponent - model.log_normaliser()).to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        w = self.expand(w, self.batch_shape(w))
        model = self._model(w)
        single, products = _features(x.double())
        own, own_products = _features(w["loc"].double())
        concentration = torch.stack([model.k1, model.k2], dim=-1)
        # sin(x1 - m1) sin(x2 - m2): the products with both factors exchanged, with alternating signs
        signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=single.dtype, device=single.device)
        psi = [torch.cat([concentration, concentration], dim=-1) * own]
        psi.append(model.correlation.unsqueeze(-1) * signs * own_products.flip(-1))
        bias = -model.log_normaliser() - model.k1 - model.k2
        return Bilinear(torch.cat([single, products], -1), torch.cat(psi, dim=-1), bias, self._base_ratio(x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        model, batch = self._model(w).detach(), self.batch_shape(w)
        model = SineModel(*(v.expand(batch) for v in model))
        first = _first_angles(model, sample_shape, generator)
        given = torch.atan2(model.correlation * torch.sin(first), model.k2)
        second = given + von_mises_angles(model.conditional(first), generator)
        return wrap(w["loc"] + torch.stack([first, second], dim=-1).to(w["loc"].dtype))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        kappa = scale.pow(-2).unsqueeze(-1)
        return {"loc": points, "concentration": kappa, "correlation": torch.zeros_like(scale)}

    @property
    def num_raw_shape(self) -> int:
        return 3

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        kappa = self.scale_from_raw(shape[..., :2]).pow(-2)
        # a network's components have one mode each
        return {"loc": points, "concentration": kappa, "correlation": torch.tanh(shape[..., 2]) * kappa.prod(-1).sqrt()}

    def mean(self, w: Params) -> Tensor:
        return wrap(w["loc"])

    def entropy(self, w: Params) -> Tensor:
        model = self._model(w)
        return (model.log_normaliser() - model.mean_exponent()).to(w["loc"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, SineBivariateVonMises):
            return super().kl_divergence(w, other, v)
        model, target, shift = self._model(w), other._model(v), w["loc"].double() - v["loc"].double()
        gap1, gap2, sines, cosines = model.moments()
        (depth1, depth2), (cos1, cos2), (sin1, sin2) = (
            v.unbind(-1) for v in (2 * torch.sin(shift / 2).square(), shift.cos(), shift.sin())
        )
        # the other exponent, in angles that are shifted; odd moments vanish
        exponent = target.correlation * (cos1 * cos2 * sines + sin1 * sin2 * cosines)
        exponent = exponent - target.k1 * (depth1 + cos1 * gap1) - target.k2 * (depth2 + cos2 * gap2)
        own = model.mean_exponent() - model.log_normaliser()
        return (own - exponent + target.log_normaliser()).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        share, wide = shares(x, weights), x.double()
        center = mean_angles(wide, share)
        angle = wrap(wide - center)
        spread = (share @ angle.square()).sqrt()
        if not float(spread.amin()) > 2 / math.sqrt(LARGEST):
            raise ValueError(
                f"Expected two angles that both spread by more than {2 / math.sqrt(LARGEST):g} radians for a fit of "
                f"sine_bivariate_von_mises, got {spread.tolist()}."
            )
        single, products = (share @ part for part in _features(angle))
        sign = torch.sign(products[3]) + (products[3] == 0)

        def params(theta: Tensor) -> Params:
            kappa = theta[2:4].exp().clamp_max(LARGEST)
            correlation = torch.sinh(theta[4]) * kappa.prod().sqrt()
            return {"loc": theta[:2] * spread, "concentration": kappa, "correlation": correlation.clamp(-LARGEST, LARGEST)}

        def likelihood(theta: Tensor) -> Tensor:
            form = self.bilinear(angle[:1], {k: v.unsqueeze(0) for k, v in params(theta).items()})
            return (torch.cat([single, products]) @ form.psi[0]) + form.bias[0]

        start = torch.cat([torch.zeros_like(spread), -2 * spread.clamp_max(2).log(), sign.reshape(1) * 0.5])
        found = params(climb(likelihood, start))
        found["loc"] = wrap(found["loc"] + center)
        return {name: value.to(x) for name, value in found.items()}


def _features(x: Tensor) -> tuple[Tensor, Tensor]:
    """``cos x1, cos x2, sin x1, sin x2``, and the products ``cos cos, cos sin, sin cos, sin sin``; (*B,4) each."""
    cosine, sine = x.cos(), x.sin()
    (c1, c2), (s1, s2) = cosine.unbind(-1), sine.unbind(-1)
    return torch.cat([cosine, sine], dim=-1), torch.stack([c1 * c2, c1 * s2, s1 * c2, s1 * s2], dim=-1)


def _first_angles(model: SineModel, sample_shape: Shape, generator: torch.Generator | None) -> Tensor:
    """Samples of the marginal of the first angle; (*sample_shape,*B), float64."""
    edges, heights = (part.reshape(-1, part.shape[-1]) for part in model.cells())
    log_mass = heights + torch.log(edges[:, 1:] - edges[:, :-1])
    cumulated = torch.softmax(log_mass, dim=-1).cumsum(-1)
    flat = SineModel(*(v.reshape(-1) for v in model))
    shape = (*sample_shape, *model.k1.shape)
    component = torch.arange(len(edges), device=edges.device).reshape(model.k1.shape).expand(shape).reshape(-1)

    def propose(rows: Tensor) -> tuple[Tensor, Tensor]:
        own = component[rows]
        u = torch.rand(3, len(rows), generator=generator, dtype=edges.dtype, device=edges.device)
        cell = _cell(cumulated, own, u[0])
        low, high = edges[own, cell], edges[own, cell + 1]
        angle = low + (high - low) * u[1]
        log_q = SineModel(*(v[own] for v in flat)).log_marginal(angle)
        return angle * torch.sign(u[2] - 0.5), log_q - heights[own, cell]

    return accepted(propose, component.to(edges), generator).reshape(shape)


def _cell(cumulated: Tensor, component: Tensor, u: Tensor) -> Tensor:
    """The first cell whose cumulated mass reaches ``u``, for every draw by the row of its component."""
    # one sorted list of all components: component c lives between c and c + 1
    shifted = cumulated / cumulated[:, -1:] + torch.arange(len(cumulated), device=u.device).unsqueeze(-1)
    found = torch.searchsorted(shifted.reshape(-1), u + component)
    return (found - component * cumulated.shape[1]).clamp(0, cumulated.shape[1] - 1)
