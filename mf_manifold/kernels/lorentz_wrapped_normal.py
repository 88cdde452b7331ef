"""Wrapped normal law on the hyperboloid: a normal law in the tangent space at ``loc``, pushed through the exponential map."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.lorentz import pair, radius2, shoot
from ..manifolds.pairs import Pair
from ..numerics.curved import log_sinc_sqrt
from ..numerics.radial import NODES, REACH, legendre
from .covariance import cholesky_logdet, covariance_from_raw, covariance_option, num_covariance_raw
from .hyperbolic import (
    MAX_SCALE,
    all_pairs,
    check_finite,
    check_scale,
    frechet_mean,
    largest,
    log_stretch,
    network_scales,
    same_points,
)
from .shares import shares
from .stein import narrowed


@register_kernel(geoopt.Lorentz, "wrapped_normal", default=True)
class HyperbolicWrappedNormal(Kernel):
    r"""Law of ``exp_loc(V)`` with ``V`` normal in the tangent space at ``loc``; the exponential map reaches each point once.

    .. math:: q(x) = N(v; 0, \Sigma) \left(\frac{r / R}{\sinh(r / R)}\right)^{d-1}, \quad v = \log_{loc}(x), \; r = |v|

    with the radius of curvature :math:`R = \sqrt k`. ``v`` and :math:`\Sigma` are in the orthonormal frame that parallel
    transport from the origin :math:`(R, 0, \ldots, 0)` along the geodesic brings to ``loc``: on this space it is smooth
    everywhere (in the ball it is that of the coordinate axes). A ``scale`` of size 1 is the same in all directions and needs
    no frame: such laws are invariant under all isometries, and all pairs of them take one matrix product.

    **Measure**: Riemannian volume. **Exactness**: closed form.

    **Range**: scales in (0, 10 R], condition numbers of covariances up to 1e6. Points up to 15 R from the origin: beyond, a
    distance has a relative error of ``exp(15)`` and more float64 roundings. Coordinates of samples overflow at 350 R (float64)
    and 85 R (float32): an error.

    **Mean**: Fréchet, ``loc``. **Sampler**: exact, pathwise.

    The entropy of an isotropic law adds the mean of ``log(sinh(r/R) / (r/R))``, by Gauss-Legendre nodes; divergences exist
    between laws at one ``loc``. ``fit`` maximises the likelihood over ``loc`` by L-BFGS from the Fréchet mean, the best
    covariance for each ``loc`` being the second moment of the logarithms.

    Shapes: ``loc`` (*B,D); ``scale`` (*B,d) or (*B,1), standard deviations along the frame; ``covariance_matrix`` (*B,d,d).

    Args:
        covariance: "isotropic" (``scale`` (*B,1), the default of networks and fits), "diagonal", or "full".

    Raises:
        ValueError: a scale above ten radii of curvature, samples whose coordinates overflow.

    References:
        Nagano, Yamaguchi, Fujita, Koyama (2019), A wrapped normal distribution on hyperbolic space for gradient-based learning,
        section 3.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([1., 0., 0.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Lorentz(), "wrapped_normal", loc=loc, scale=0.3)
    >>> round(float(d.log_prob(loc)), 6)                  # -log(2 pi 0.3^2)
    0.570069
    """

    parameter_names = ("loc", "scale | covariance_matrix")
    mean_kind = "frechet"

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "isotropic") -> None:
        super().__init__(manifold, point_shape)
        self.covariance = covariance_option(covariance, ("diagonal", "isotropic", "full"))
        self.max_scale = MAX_SCALE * math.sqrt(float(manifold.k.detach()))
        self.log_scale_range = network_scales(manifold, self.log_scale_range)

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        return {"covariance": "full" if "covariance_matrix" in names else "diagonal"}

    @property
    def options(self) -> dict[str, Any]:
        return {"covariance": self.covariance}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        if self.covariance == "full":
            return {"loc": self.point_shape, "covariance_matrix": (self.dim, self.dim)}
        return {"loc": self.point_shape, "scale": (1 if self.covariance == "isotropic" else self.dim,)}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        loc = OnManifold(self.manifold, self.point_shape)
        if self.covariance == "full":
            return {"loc": loc, "covariance_matrix": constraints.positive_definite}
        return {"loc": loc, "scale": constraints.independent(constraints.positive, 1)}

    def _factor(self, w: Params) -> Tensor:
        """Cholesky factor of the covariance (*B,d,d) in float64, or the scales (*B,d) or (*B,1)."""
        if self.covariance == "full":
            check_scale(w["covariance_matrix"].diagonal(dim1=-2, dim2=-1).sqrt(), self.manifold)
            return torch.linalg.cholesky(w["covariance_matrix"].double())
        check_scale(w["scale"], self.manifold)
        return w["scale"].double()

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        both, factor = pair(self.manifold, w["loc"], x), self._factor(w)
        square, log_det = self._whitened(both, factor)
        constant = self.dim / 2 * math.log(2 * math.pi)
        return (-square / 2 - log_det - constant - (self.dim - 1) * log_stretch(both)).to(x.dtype)

    def _whitened(self, both: Pair, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Squared length of the whitened logarithm, and half the log determinant of the covariance."""
        if self.covariance == "full":
            white = torch.linalg.solve_triangular(factor, both.log.unsqueeze(-1), upper=False).squeeze(-1)
            return white.square().sum(-1), cholesky_logdet(factor)
        if factor.shape[-1] == 1:
            return both.dist2 / factor.squeeze(-1).square(), self.dim * factor.squeeze(-1).log()
        return (both.log / factor).square().sum(-1), factor.log().sum(-1)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        factor, constant = self._factor(w), self.dim / 2 * math.log(2 * math.pi)
        loc = w["loc"].expand(*self.batch_shape(w), *self.point_shape)
        whitening, log_det = self._whitening(factor)
        bias = (-log_det - constant).to(x.dtype)
        if whitening is None:
            half = (factor.squeeze(-1).pow(-2) / 2).to(x.dtype)
            smallest = -largest(-factor)
        else:
            half, smallest = torch.full_like(bias, 0.5), 1 / (largest(whitening.abs()) or 1.0)
            whitening = whitening.expand(len(loc), self.dim, self.dim)
        log_q = all_pairs(
            self.manifold,
            x,
            loc,
            lambda square, stretch: bias - square * half - (self.dim - 1) * stretch,
            smallest or 1.0,
            whitening,
        )
        return super().pairwise_log_prob(x, w) if log_q is None else log_q

    def _whitening(self, factor: Tensor) -> tuple[Tensor | None, Tensor]:
        """The inverse of the factor (*B,d,d), None where it is a number, and half the log determinant of the covariance."""
        if self.covariance == "full":
            eye = torch.eye(self.dim, dtype=factor.dtype, device=factor.device)
            return torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False), cholesky_logdet(factor)
        if factor.shape[-1] == 1:
            return None, self.dim * factor.squeeze(-1).log()
        return torch.diag_embed(1 / factor), factor.log().sum(-1)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc, factor = w["loc"], self._factor(w)
        shape = (*sample_shape, *self.batch_shape(w), self.dim)
        noise = torch.randn(shape, generator=generator, dtype=loc.dtype, device=loc.device).double()
        v = (factor @ noise.unsqueeze(-1)).squeeze(-1) if self.covariance == "full" else factor * noise
        return check_finite(shoot(self.manifold, loc, v).to(loc.dtype))

    def mean(self, w: Params) -> Tensor:
        return w["loc"]

    def entropy(self, w: Params) -> Tensor:
        if self.covariance == "full" or (w["scale"].shape[-1] != 1 and self.dim > 1):
            return super().entropy(w)
        scale = self._factor(w).squeeze(-1)
        r, weights = (torch.as_tensor(a, device=scale.device) for a in _chi_rule(self.dim))
        curvature = -1 / radius2(self.manifold, scale)
        stretch = log_sinc_sqrt(curvature * (scale.unsqueeze(-1) * r).square()) @ weights
        entropy = self.dim * (scale.log() + math.log(2 * math.pi * math.e) / 2) + (self.dim - 1) * stretch
        return entropy.to(w["scale"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, HyperbolicWrappedNormal) or not same_points(w["loc"], v["loc"]):
            return super().kl_divergence(w, other, v)
        here, there = self._tangent_normal(w), other._tangent_normal(v)
        return torch.distributions.kl_divergence(here, there).to(w["loc"].dtype)

    def _tangent_normal(self, w: Params) -> torch.distributions.MultivariateNormal:
        factor = self._factor(w)
        if self.covariance != "full":
            factor = torch.diag_embed(factor.expand(*factor.shape[:-1], self.dim))
        return torch.distributions.MultivariateNormal(torch.zeros_like(factor[..., 0]), scale_tril=factor, validate_args=False)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        weights, wide = shares(x, weights), x.double()
        start = frechet_mean(self.manifold, wide, weights)
        spread = (weights @ pair(self.manifold, start, wide).dist2).sqrt()
        move = torch.zeros(self.dim, dtype=torch.float64, device=x.device, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [move], max_iter=300, tolerance_grad=1e-11, tolerance_change=1e-15, line_search_fn="strong_wolfe"
        )

        def cost() -> Tensor:
            optimizer.zero_grad()
            both = pair(self.manifold, shoot(self.manifold, start, spread * move), wide)
            value = self._half_log_det(self._second_moment(both, weights)) + (self.dim - 1) * (weights @ log_stretch(both))
            value.backward()
            return value

        self._half_log_det(self._second_moment(pair(self.manifold, start, wide), weights))
        with torch.enable_grad():
            optimizer.step(cost)
        loc = shoot(self.manifold, start, spread * move.detach())
        moment = self._second_moment(pair(self.manifold, loc, wide), weights)
        shape = {"covariance_matrix": narrowed(moment, x)} if self.covariance == "full" else {"scale": moment.sqrt().to(x)}
        return {"loc": loc.to(x.dtype), **shape}

    def _second_moment(self, both: Pair, weights: Tensor) -> Tensor:
        """Weighted second moment of logarithms: a matrix, the variances, or their mean."""
        v = both.log
        if self.covariance == "full":
            return (v.mT * weights) @ v
        variances = weights @ v.square()
        return variances if self.covariance == "diagonal" else variances.mean(-1, keepdim=True)

    def _half_log_det(self, moment: Tensor) -> Tensor:
        values = torch.linalg.eigvalsh(moment) if self.covariance == "full" else moment
        if not bool(values.min() > 1e-13 * values.max()) or not bool(values.max() > 1e-28):
            raise ValueError(
                f"Expected points that spread in all {self.dim} directions, got a second moment without full rank: "
                "the likelihood has no maximum. Fit more points, or covariance='isotropic'."
            )
        if self.covariance == "full":
            return cholesky_logdet(torch.linalg.cholesky(moment))
        return self.dim / len(moment) * moment.log().sum() / 2

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        if self.covariance != "full":
            return {"loc": points, "scale": scale.unsqueeze(-1)}
        eye = torch.eye(self.dim, dtype=points.dtype, device=points.device)
        return {"loc": points, "covariance_matrix": scale.square()[..., None, None] * eye}

    def around(self, points: Tensor, covariance: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().around(points, covariance)
        if self.covariance == "diagonal":
            return {"loc": points, "scale": covariance.diagonal(dim1=-2, dim2=-1).sqrt().clamp_max(self.max_scale)}
        return {"loc": points, "covariance_matrix": covariance}

    @property
    def num_raw_shape(self) -> int:
        return {"isotropic": 1, "diagonal": self.dim, "full": num_covariance_raw(self.dim)}[self.covariance]

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.covariance == "full":
            return {"loc": points, "covariance_matrix": covariance_from_raw(self, shape, self.dim)}
        return {"loc": points, "scale": self.scale_from_raw(shape)}


@functools.lru_cache(maxsize=64)
def _chi_rule(dim: int) -> tuple[Tensor, Tensor]:
    """Nodes and probabilities (K) of the length of a standard normal vector."""
    mode = math.sqrt(dim - 1)
    ends = torch.tensor([max(0.0, mode - REACH), mode + REACH], dtype=torch.float64, device="cpu")
    r, weights = legendre(ends[0], ends[1], NODES)
    return r, (weights.log() + (dim - 1) * r.log() - r.square() / 2).softmax(-1)
