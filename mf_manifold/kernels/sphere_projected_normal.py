"""Projected normal law on the sphere S^d: the direction of a normal vector of R^(d+1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..manifolds.sphere import chord2
from ..numerics.concave import maximise
from ..numerics.half_line import log_moment
from .covariance import colour, covariance_from_raw, covariance_option, num_covariance_raw, whitening
from .shares import shares
from .zonal import product_suffices

_LEAST_SPREAD = 1e-12  # mean squared chord from the mean direction, per dimension, below which points count as equal


@register_kernel(geoopt.Sphere, "projected_normal")
class ProjectedNormal(Kernel):
    r"""Law of ``Y / |Y|`` for a normal vector Y of the ambient space, for any mean and any covariance.

    .. math:: q(x) = \frac{\exp(-|m - t z|^2 / 2)}{(2\pi)^{D/2} |\Sigma|^{1/2} |L^{-1} x|^D}
              \int_0^\infty s^{D-1} e^{-(s - t)^2 / 2} ds, \quad
              z = \frac{L^{-1} x}{|L^{-1} x|},\ m = L^{-1} \mu,\ t = z \cdot m,\ \Sigma = L L^T.

    ``mean_vector`` is the mean of Y, any vector of R^D: no point of the sphere, hence not called ``loc``. Its length says how
    concentrated the law is: ``mean_vector = loc / scale`` is, for a small scale, a bump at ``loc`` with that standard
    deviation, and the zero vector the uniform law. Without ``covariance_matrix`` the covariance of Y is the identity. With one,
    (mean, covariance) and (a mean, a^2 covariance) are the same law for every a > 0. The density is smooth and bounded.
    ``covariance="isotropic"`` and ``"full"`` name the two variants.

    **Measure**: surface of the unit sphere. **Exactness**: closed form; the integral is a recurrence of error functions,
    evaluated by a Chebyshev series.

    **Range**: \|mean_vector\| up to 1e6 standard deviations, condition numbers of the covariance up to 1e6. Beyond, errors grow
    in proportion: like eps times the length, and like eps times the condition number. **Mean**: Fréchet, the direction of
    ``mean_vector`` (the first axis where that is zero, as every point is one); not available with a covariance matrix.
    **Sampler**: exact and pathwise.

    Entropy and divergences have no closed form. The fit of the isotropic variant is Newton's method on the mean vector, in
    which the log likelihood is strictly concave; the full one has none.

    Shapes: ``mean_vector`` (*B,D); ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a covariance matrix that is not positive definite, a fit to equal points.

    References:
        Presnell, Morrison, Littell (1998), Projected multivariate linear models for directional data.

    >>> import geoopt, torch, mf_manifold as mf
    >>> north = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Sphere(), "projected_normal", mean_vector=0 * north)
    >>> round(float(d.log_prob(north)), 6)                # uniform: -log(4 pi)
    -2.531024
    """

    parameter_names = ("mean_vector", "covariance_matrix (optional)")
    mean_kind: str | None = "frechet"
    location = "mean_vector"
    log_scale_range = (-7.0, 1.5)

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "isotropic") -> None:
        super().__init__(manifold, point_shape)
        self.covariance = covariance_option(covariance, ("isotropic", "full"))
        self.mean_kind = "frechet" if covariance == "isotropic" else None  # of the full law none is known in closed form

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        return {"covariance": "full" if "covariance_matrix" in names else "isotropic"}

    @property
    def options(self) -> dict[str, Any]:
        return {"covariance": self.covariance}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        shape = self.point_shape
        return {"mean_vector": shape, **({} if self.covariance == "isotropic" else {"covariance_matrix": 2 * shape})}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        full = {} if self.covariance == "isotropic" else {"covariance_matrix": constraints.positive_definite}
        return {"mean_vector": constraints.real_vector, **full}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        unit, mean = geometry.project(self.manifold, x.double()), w["mean_vector"].double()
        if self.covariance == "isotropic":
            return self._isotropic(unit, mean).to(x.dtype)
        inverse, log_det = whitening(w["covariance_matrix"])
        white = (inverse @ unit.unsqueeze(-1)).squeeze(-1)
        return (self._whitened(white, (inverse @ mean.unsqueeze(-1)).squeeze(-1)) - log_det).to(x.dtype)

    def _whitened(self, white: Tensor, mean: Tensor) -> Tensor:
        """Log density, but for the determinant, from ``L^-1 x`` and ``L^-1 mean``."""
        log_square = white.square().sum(-1).log()
        return self._isotropic(geometry.project(self.manifold, white), mean) - self.point_shape[0] / 2 * log_square

    def _isotropic(self, z: Tensor, mean: Tensor) -> Tensor:
        t = (z * mean).sum(-1)
        across = mean - t.unsqueeze(-1) * z  # the difference keeps the digits that |mean|^2 - t^2 loses
        return log_moment(self.dim, t) - across.square().sum(-1) / 2 - self._constant

    @property
    def _constant(self) -> float:
        return self.point_shape[0] / 2 * math.log(2 * math.pi)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        w = self.expand(w, self.batch_shape(w))
        unit, mean = geometry.project(self.manifold, x.double()), w["mean_vector"].double()
        if self.covariance == "full":
            return self._full_pairs(unit, mean, w, x)
        square = mean.square().sum(-1)
        if not product_suffices(square / 2, x.dtype):  # a product errs by eps |mean|^2
            return super().pairwise_log_prob(x, w)
        half = square / 2 + self._constant

        def block(rows: slice) -> Tensor:
            t = unit[rows] @ mean.mT
            return log_moment(self.dim, t.to(x.dtype), x.dtype) + (t.square() / 2 - half).to(x.dtype)

        return by_blocks(block, len(x), len(mean), x)

    def _full_pairs(self, unit: Tensor, mean: Tensor, w: Params, x: Tensor) -> Tensor:
        inverse, log_det = whitening(w["covariance_matrix"])
        white_mean = (inverse @ mean.unsqueeze(-1)).squeeze(-1)
        stacked = inverse.flatten(0, 1).mT  # one product whitens every point for every component

        def block(rows: slice) -> Tensor:
            white = (unit[rows] @ stacked).unflatten(1, white_mean.shape)
            return (self._whitened(white, white_mean) - log_det).to(x.dtype)

        return by_blocks(block, len(x), len(mean), x)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        mean = w["mean_vector"]
        noise = torch.randn((*sample_shape, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        if self.covariance == "full":
            noise = colour(noise, w["covariance_matrix"])
        return geometry.project(self.manifold, mean + noise)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        if self.covariance == "isotropic":
            return {"mean_vector": points / scale.unsqueeze(-1)}
        eye = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
        return {"mean_vector": points, "covariance_matrix": scale.square()[..., None, None] * eye}

    @property
    def num_raw_shape(self) -> int:
        return 1 if self.covariance == "isotropic" else num_covariance_raw(self.point_shape[0])

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().shaped(points, shape)
        return {"mean_vector": points, "covariance_matrix": covariance_from_raw(self, shape, self.point_shape[0])}

    def mean(self, w: Params) -> Tensor:
        if self.covariance == "full":
            return super().mean(w)
        vector = w["mean_vector"]
        axis = torch.zeros_like(vector)
        axis[..., 0] = 1
        return geometry.project(self.manifold, torch.where((vector == 0).all(-1, keepdim=True), axis, vector))

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        if self.covariance == "full":
            return super().fit(x, weights)
        unit = geometry.project(self.manifold, x.double())
        share = shares(x, weights)
        mean = share @ unit
        spread = share @ chord2(unit, mean / mean.norm().clamp_min(torch.finfo(mean.dtype).tiny)) / self.dim
        if float(spread) < _LEAST_SPREAD:
            raise ValueError("Expected points that are not all equal for a fit of projected_normal, got copies of one point.")
        start = mean / spread.sqrt()
        return {"mean_vector": maximise(lambda v: self._likelihood(v, unit, share), start).to(x.dtype)}

    def _likelihood(self, mean: Tensor, unit: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean log density of points (N,D) with its gradient and Hessian by the mean vector."""
        t = (unit @ mean).requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(log_moment(self.dim, t).sum(), t, create_graph=True)
            (curvature,) = torch.autograd.grad(slope.sum(), t)
        radius, variance = (t + slope).detach(), 1 + curvature  # of |Y| given its direction
        hessian = unit.mT @ ((share * variance).unsqueeze(-1) * unit) - torch.diag(torch.ones_like(mean))
        gradient = (share * radius) @ unit - mean
        return share @ self._isotropic(unit, mean), gradient, hessian
