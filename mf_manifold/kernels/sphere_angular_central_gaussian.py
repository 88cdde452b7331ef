"""Angular central Gaussian law on the sphere S^d: the direction of a normal vector of R^(d+1) with mean zero."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..numerics.contour import mean_log_quadratic_form
from ..numerics.linalg import congruence, svec, sym_eigvals
from .covariance import colour, covariance_from_raw, num_covariance_raw, whitening
from .shares import shares

_STEPS, _TOLERANCE, _WORST_CONDITION = 2000, 1e-12, 1e13


@register_kernel(geoopt.Sphere, "angular_central_gaussian")
class AngularCentralGaussian(Kernel):
    r"""Law of ``Y / |Y|`` for a normal vector Y with mean zero: q(x) = q(-x), with tails like those of a Cauchy law.

    .. math:: q(x) = \frac{\Gamma(D/2)}{2 \pi^{D/2} |\Sigma|^{1/2}} (x^T \Sigma^{-1} x)^{-D/2}

    The covariance counts up to a factor: all its multiples are the same law. A narrow law is a multivariate Cauchy law in
    tangent coordinates, whose squared distances have no mean of the order of its squared width; so the family makes no bumps
    for ``KernelDensity``.

    **Measure**: surface of the unit sphere. **Exactness**: closed form.

    **Range**: condition numbers up to 1e6; beyond, errors grow like eps times the condition number, to 1e-9 nats at 1e8 and
    2e-6 at 1e12. **Mean**: not available, x and -x are equally likely. **Sampler**: exact and pathwise.

    Entropy and divergences are a one-dimensional integral by a rule that is exact to rounding. The fit solves Tyler's
    fixed-point equation; steps are as long as the Fisher information asks while they gain, and Tyler's own otherwise. It
    returns the covariance with trace D.

    Shapes: ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a covariance matrix that is not positive definite; a fit to points of which too many lie in a subspace.

    References:
        Tyler (1987), Statistical analysis for the angular central Gaussian distribution on the sphere.

    >>> import geoopt, torch, mf_manifold as mf
    >>> axis = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> cov = torch.diag(torch.tensor([1., 1., 4.], dtype=torch.float64))
    >>> d = mf.distribution(geoopt.Sphere(), "angular_central_gaussian", covariance_matrix=cov)
    >>> round(float(d.log_prob(axis)), 6)                 # -log(4 pi) - log(2) + 1.5 log(4)
    -1.14473
    """

    parameter_names = ("covariance_matrix",)
    location = "covariance_matrix"
    has_location = False
    antipodal = True
    log_scale_range = (-4.0, 1.0)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"covariance_matrix": 2 * self.point_shape}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"covariance_matrix": constraints.positive_definite}

    @property
    def _log_area(self) -> float:
        return geometry.log_volume(self.manifold, self.point_shape)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        inverse, log_det = whitening(w["covariance_matrix"])
        unit = geometry.project(self.manifold, x.double())
        log_square = (inverse @ unit.unsqueeze(-1)).squeeze(-1).square().sum(-1).log()
        return (-self._log_area - log_det - self.point_shape[0] / 2 * log_square).to(x.dtype)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        inverse, log_det = whitening(w["covariance_matrix"])
        precision, half = svec(inverse.mT @ inverse), self.point_shape[0] / 2
        size = precision[:, : self.point_shape[0]].sum(-1)  # the trace, taken out so that float32 neither over- nor underflows
        features, forms = squares(geometry.project(self.manifold, x.double())), (precision / size.unsqueeze(-1)).mT
        bias = (-self._log_area - log_det - half * size.log()).to(x.dtype)

        def block(rows: slice) -> Tensor:
            return bias - half * (features[rows] @ forms).to(x.dtype).log()

        return by_blocks(block, len(x), len(bias), x)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        cov = w["covariance_matrix"]
        noise = torch.randn((*sample_shape, *cov.shape[:-1]), generator=generator, dtype=cov.dtype, device=cov.device)
        return geometry.project(self.manifold, colour(noise, cov))

    @property
    def num_raw(self) -> int:
        return self.num_raw_shape

    @property
    def num_raw_shape(self) -> int:
        return num_covariance_raw(self.point_shape[0])

    def params(self, raw: Tensor) -> Params:
        return self.shaped(raw, raw)

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        return {"covariance_matrix": covariance_from_raw(self, shape, self.point_shape[0])}

    def entropy(self, w: Params) -> Tensor:
        # x^T cov^-1 x = 1 / (u^T cov u) with u uniform
        cov = w["covariance_matrix"].double()
        _, log_det = whitening(cov)
        mean = mean_log_quadratic_form(sym_eigvals(cov))
        return (self._log_area + log_det - self.point_shape[0] / 2 * mean).to(w["covariance_matrix"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, AngularCentralGaussian):
            return super().kl_divergence(w, other, v)
        cov = w["covariance_matrix"]
        (_, own), (inverse, theirs) = whitening(cov), whitening(v["covariance_matrix"])
        mean = mean_log_quadratic_form(sym_eigvals(congruence(inverse, cov.double())))
        return (theirs - own + self.point_shape[0] / 2 * mean).to(cov.dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        unit = geometry.project(self.manifold, x.double())
        share = shares(x, weights)
        cov = _tyler(unit, share)
        return {"covariance_matrix": cov.to(x.dtype)}


def squares(x: Tensor) -> Tensor:
    """Coordinates of x x^T in which inner products are traces; (N,D) -> (N,D(D+1)/2)."""
    return svec(x.unsqueeze(-1) * x.unsqueeze(-2))


def _tyler(x: Tensor, share: Tensor) -> Tensor:
    """The covariance, of trace D, with D sum share x x^T / (x^T cov^-1 x) = cov, from points (N,D)."""
    dim = x.shape[1]
    factor = torch.eye(dim, dtype=x.dtype, device=x.device)
    for _ in range(_STEPS):
        white = torch.linalg.solve(factor, x.mT).mT
        white = white / white.norm(dim=-1, keepdim=True)
        values, vectors = torch.linalg.eigh(dim * white.mT @ (share.unsqueeze(-1) * white))
        if float((values - 1).abs().amax()) < _TOLERANCE:
            cov = factor @ factor.mT
            return dim * cov / cov.diagonal().sum()
        squared = (white @ vectors).square()
        power = next((p for p in ((dim + 2) / 2, 1.0) if _gain(values, squared, share, p) > 0), 1.0)
        factor = factor @ (vectors * values.clamp_min(0).pow(power / 2))
        factor = factor / factor.norm()
        if not float(torch.linalg.cond(factor)) ** 2 < _WORST_CONDITION:
            break
    raise ValueError(
        "Expected points in general position for a fit of angular_central_gaussian: a subspace of dimension r may hold less "
        f"than the share r/{dim} of them. Drop the copies, or describe the points within their subspace."
    )


def _gain(values: Tensor, squared: Tensor, share: Tensor, power: float) -> float:
    """How much a step to the given power of the fixed-point matrix adds to the mean log likelihood."""
    forms = (squared * values.clamp_min(torch.finfo(values.dtype).tiny).pow(-power)).sum(-1)
    return float(-power * values.log().sum() - squared.shape[1] * (share @ forms.log()))
