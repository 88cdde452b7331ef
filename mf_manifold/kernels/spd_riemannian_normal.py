"""Riemannian normal law on SPD matrices: a normal function of the affine-invariant distance, with its exact normaliser."""

from __future__ import annotations

import math
from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..numerics.affine_invariant import frechet_mean, square_distance
from ..numerics.sinh_ensemble import log_normalizer, mean_square
from ..numerics.sinh_sampler import sample_tangent
from .shares import shares
from .spd_geodesic import AffineInvariantKernel

MIN_SCALE, MAX_SCALE = 1e-6, 10.0


@register_kernel(geoopt.SymmetricPositiveDefinite, "riemannian_normal")
class SPDRiemannianNormal(AffineInvariantKernel):
    r"""Normal function of the affine-invariant distance, normalised exactly at every matrix size.

    .. math:: q(X) = \exp\bigl(-d(X, loc)^2 / 2 s^2\bigr) / Z_p(s), \quad d(X, M)^2 = \|\log M^{-1/2} X M^{-1/2}\|_F^2,

    .. math:: Z_p(s) = \frac{2^{p(p-1)/4} \pi^{p^2/2}}{\Gamma_p(p/2)} (2\pi s^2)^{p/2} e^{s^2 p(p^2-1)/24}\,
              \mathrm{Pf}[\mathrm{erf}(s (k - j) / 2)]

    with a border of ones for odd p. The Pfaffian is evaluated as a Hankel determinant of a positive weight
    (:mod:`mf_manifold.numerics.sinh_ensemble`), which does not cancel. The normaliser often quoted for p = 2 lacks a factor
    :math:`\sqrt\pi`.

    The law is that of the affine-invariant geometry also on the manifold with the log-Euclidean metric.

    **Measure**: Riemannian volume of the manifold's metric; the formula is by the affine-invariant one.
    **Exactness**: the normaliser by quadrature, to 1e-12 for every p.
    **Range**: ``scale`` in [1e-6, 10], condition numbers of ``loc`` and points to 1e6, any p.
    **Mean**: Fréchet, ``loc`` (affine-invariant metric).
    **Sampler**: exact rejection from a Gaussian matrix or from Brownian motions, whichever is accepted more often
    (:mod:`mf_manifold.numerics.sinh_sampler`): at least 0.5 for p <= 5, 0.2 for p <= 8. Not pathwise. Laws so wide that samples
    would be singular to rounding, ``s^2 (p - 1) + 2 s sqrt(2 p) > log(1 / eps)``, are refused.
    **Fit**: the Fréchet mean, and the root of ``E d^2 = mean of d^2`` by Newton steps.

    Shapes: ``loc`` (*B,p,p), ``scale`` (*B).

    Raises:
        ValueError: a scale outside the range; a law whose samples no matrix of its dtype holds.

    References:
        Said, Bombrun, Berthoumieu, Manton (2017), Riemannian Gaussian distributions on the space of symmetric positive definite
        matrices; de Bruijn (1955), On some multiple integrals involving determinants.

    >>> import geoopt, torch, mf_manifold as mf
    >>> spd, eye = geoopt.SymmetricPositiveDefinite(), torch.eye(2, dtype=torch.float64)
    >>> d = mf.distribution(spd, "riemannian_normal", loc=eye, scale=1.0)
    >>> round(float(d.log_prob(eye)), 6)      # -log(2 sqrt(2) pi^2 e^(1/4) erf(1/2))
    -2.926215
    """

    parameter_names = ("loc", "scale")
    exactness = "quadrature"
    has_rsample = False
    max_scale = MAX_SCALE
    log_scale_range = (-7.0, 1.0)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, "scale": ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"loc": OnManifold(self.manifold, self.point_shape), "scale": constraints.interval(MIN_SCALE, MAX_SCALE)}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self._from(square_distance(x, w["loc"]), w["scale"], log_normalizer(w["scale"], self.point_shape[0])).to(x.dtype)

    def _from(self, square: Tensor, scale: Tensor, log_z: Tensor) -> Tensor:
        return -square / (2 * scale.double().square()) - log_z

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        log_z = log_normalizer(w["scale"], self.point_shape[0])  # not again for every block

        def block(rows: slice) -> Tensor:
            points = x[rows].unsqueeze(1)
            log_q = self._from(square_distance(points, w["loc"]), w["scale"], log_z).to(x.dtype)
            return log_q + self._base_ratio(points)

        return by_blocks(block, len(x), self.batch_shape(w)[0], x)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc, p = w["loc"], self.point_shape[0]
        scale = w["scale"].detach().double().expand((*sample_shape, *loc.shape[:-2]))
        self._check_width(scale, loc.dtype)
        values, frames = sample_tangent(scale.reshape(-1), p, generator)
        half = (frames * (values / 2).exp().unsqueeze(-2)).reshape(*scale.shape, p, p)
        root = torch.linalg.cholesky(loc.double()) @ half
        return (root @ root.mT).to(loc.dtype)

    def _check_width(self, scale: Tensor, dtype: torch.dtype) -> None:
        p, most = self.point_shape[0], -math.log(torch.finfo(dtype).eps)
        widest = float(scale.amax()) if scale.numel() and not scale.is_meta else 0.0
        if widest**2 * (p - 1) + 2 * widest * math.sqrt(2 * p) > most:
            raise ValueError(
                f"Expected a scale whose samples are matrices that {dtype} can hold, got {widest:.3g} at size {p}: condition "
                "numbers would exceed 1 / eps. Take a smaller scale, a smaller size, or float64."
            )

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "scale": scale}

    def entropy(self, w: Params) -> Tensor:
        if not self._own_metric:
            return super().entropy(w)
        scale, p = w["scale"].double(), self.point_shape[0]
        entropy = log_normalizer(scale, p) + mean_square(scale, p) / (2 * scale.square())
        return entropy.to(w["loc"].dtype).expand(self.batch_shape(w))

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, SPDRiemannianNormal):
            return super().kl_divergence(w, other, v)
        if not self._same_location(w, v):
            raise self._no_divergence()
        s, t, p = w["scale"].double(), v["scale"].double(), self.point_shape[0]
        bend = (t.pow(-2) - s.pow(-2)) / 2
        return (log_normalizer(t, p) - log_normalizer(s, p) + bend * mean_square(s, p)).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        share = shares(x, weights)
        loc = frechet_mean(x, share)
        square = share @ square_distance(x, loc)
        return {"loc": loc.to(x.dtype), "scale": _scale_of(square, self.point_shape[0]).to(x.dtype)}


def _scale_of(square: Tensor, p: int) -> Tensor:
    """The scale with ``E d^2 = square``: Newton steps in logarithms from a bracket, as ``log E d^2`` rises with log s."""
    low, high = (torch.tensor(s, dtype=square.dtype, device=square.device) for s in (MIN_SCALE, MAX_SCALE))
    if not mean_square(low, p) < square < mean_square(high, p):
        raise ValueError(
            f"Expected points with a mean squared distance that a scale from {MIN_SCALE:g} to {MAX_SCALE:g} gives, got "
            f"{float(square):.3g}; at least two different points are needed."
        )
    log_s = ((2 * square / (p * (p + 1))).log() / 2).clamp(low.log(), high.log())
    for _ in range(60):
        with torch.enable_grad():
            at = log_s.detach().requires_grad_()
            miss = mean_square(at.exp(), p).log() - square.log()
            (slope,) = torch.autograd.grad(miss, at)
        step = (miss / slope).detach()
        log_s = (log_s - step).clamp(low.log(), high.log())
        if abs(float(step)) < 1e-14:
            break
    return log_s.exp()
