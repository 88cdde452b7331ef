"""Stereographic normal on the sphere S^d: a normal law in the tangent space at ``loc``, pushed by stereographic projection."""

from __future__ import annotations

import functools
import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..numerics.quadratic_forms import stereographic_means
from .maximise import best_location, mean_direction, weighted
from .stein import narrowed
from .tangent_normal import Spread, TangentKernel
from .zonal import chords, unit


@register_kernel(geoopt.Sphere, "stereographic_normal")
class StereographicNormal(TangentKernel):
    r"""Normal law of stereographic coordinates around ``loc``: one preimage, bounded, full covariance, no series.

    .. math:: q(x) = N(v; 0, \Sigma) \, (1 + |v|^2 / 4)^d, \quad
              v = \frac{2 (x - (loc \cdot x)\, loc)}{1 + loc \cdot x}, \quad |v| = 2 \tan(\theta / 2).

    ``covariance="isotropic"`` has :math:`\Sigma = scale^2 I`; ``covariance="full"`` takes an ambient ``covariance_matrix`` S
    (D,D), of which the tangent part ``P S P`` with ``P = I - loc loc^T`` is :math:`\Sigma`; S may be tangent already. The
    density is 0 at the antipode of ``loc``, where its logarithm is -inf with gradient 0. ``loc`` is the mode as long as no
    variance exceeds 2/d; a wide law lies around the antipode.

    **Measure**: surface of the unit sphere. **Exactness**: closed form; entropy and side of the mean by a quadrature that is
    exact to rounding. **Range**: any positive scale (checked from 1e-4 to 20), covariances with condition numbers up to 1e6,
    any dimension. **Mean**: extrinsic, ``loc`` or, for wide laws, its antipode. **Sampler**: exact, by projection; pathwise
    in all parameters.

    The fit maximises the likelihood: the best covariance for a location is in closed form, and the location is a local maximum
    of what remains, by Newton's method from the mean direction.

    Shapes: ``loc`` (*B,D), ``scale`` (*B), ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a tangent covariance that is not positive definite; a fit to points that lie in a smaller sphere.

    References:
        Stereographic coordinates and their volume element: Lee (2018), Introduction to Riemannian Manifolds, chapter 3.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Sphere(), "stereographic_normal", loc=loc, scale=0.3)
    >>> round(float(d.log_prob(loc)), 6)                  # -log(2 pi 0.3^2)
    0.570069
    """

    mean_kind = "extrinsic"
    log_scale_range = (-7.0, 0.5)

    def _terms(self, spread: Spread) -> tuple[Any, ...]:
        return (spread.half_log_det + self.dim / 2 * math.log(2 * math.pi),)

    def _from_chords(self, near2: Tensor, far2: Tensor, along: Tensor, *terms: Any) -> Tensor:
        empty = far2 == 0
        quarter = near2 / torch.where(empty, torch.ones_like(far2), far2)  # |v|^2 / 4
        log_q = self.dim * torch.log1p(quarter) - 2 * quarter * along - terms[0]
        return torch.where(empty, torch.full_like(log_q, -math.inf), log_q)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.covariance == "isotropic":
            return super().pairwise_log_prob(x, w)
        # whitened tangent parts are linear in x: products keep the digits of narrow laws that squared chords would lose
        w = self.expand(w, self.batch_shape(w))
        point, loc, spread = unit(x), unit(w["loc"]), self._spread(w)
        assert spread.factor is not None
        eye = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device).expand_as(spread.factor)
        white = torch.linalg.solve_triangular(spread.factor, eye, upper=False)
        white = white - (white @ loc.unsqueeze(-1)) * loc.unsqueeze(-2)
        (log_norm,), axes, ones = self._terms(spread), white.permute(1, 2, 0), torch.ones_like(point[:, :1])
        left, right = torch.cat([point, ones], dim=-1), torch.cat([2 * loc, 2 * torch.ones_like(loc[:, :1])], dim=-1).mT

        def block(rows: slice) -> Tensor:
            far2 = (left[rows] @ right).clamp_min(0.0)
            square = functools.reduce(torch.add, ((point[rows] @ axis).square() for axis in axes))
            empty = far2 == 0
            safe = torch.where(empty, torch.ones_like(far2), far2)
            log_q = -self.dim * torch.log(safe / 4) - 8 * square / safe.square() - log_norm
            return torch.where(empty, torch.full_like(log_q, -math.inf), log_q).to(x.dtype)

        return by_blocks(block, len(x), len(loc), x)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        velocity = self._velocity(w, sample_shape, generator)
        quarter = velocity.square().sum(-1, keepdim=True) / 4
        return geometry.project(self.manifold, ((1 - quarter) * w["loc"] + velocity) / (1 + quarter))

    def mean(self, w: Params) -> Tensor:
        return self._signed(w, 2 * stereographic_means(self._variances(self._spread(w)))[0] - 1)

    def entropy(self, w: Params) -> Tensor:
        spread = self._spread(w)
        normal = spread.half_log_det + self.dim / 2 * math.log(2 * math.pi * math.e)
        entropy = normal - self.dim * stereographic_means(self._variances(spread))[1]
        return entropy.expand(self.batch_shape(w)).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        points, a = weighted(x, weights)
        start = mean_direction(points, a)
        rank = self._moments(points, a, start)[1]
        if self.covariance == "full":  # points of a great subsphere do not spread across it, seen from a loc on it
            rank = min(rank, int(torch.linalg.matrix_rank(points[a > 0], rtol=1e-10)) - 1)
        if rank < self.dim if self.covariance == "full" else rank == 0:
            raise ValueError(
                f"Expected points that determine a covariance in {self.dim} directions, got {len(x)} that span {rank}; "
                "more points, or equal variances in all directions (covariance='isotropic'), have a maximum."
            )
        loc = best_location(self.manifold, lambda loc: self._profile(points, a, loc), start)
        spread = self._moments(points, a, loc)[0]
        if self.covariance == "isotropic":
            return {"loc": loc.to(x.dtype), "scale": (spread.trace() / self.dim).sqrt().to(x.dtype)}
        # completed along loc, so that it is positive definite
        complete = spread + spread.trace() / self.dim * loc.unsqueeze(-1) * loc
        return {"loc": loc.to(x.dtype), "covariance_matrix": narrowed(complete, x)}

    def _moments(self, points: Tensor, a: Tensor, loc: Tensor) -> tuple[Tensor, int]:
        """Second moments of the stereographic coordinates around loc, and the number of directions in which they vary."""
        near2, far2 = chords(points, loc)
        short = torch.where((near2 > far2).unsqueeze(-1), points + loc, points - loc)
        v = 4 * (short - (short @ loc).unsqueeze(-1) * loc) / far2.unsqueeze(-1)
        moments = (v.mT * a) @ v
        values = torch.linalg.eigvalsh(moments.detach())
        return moments, int((values > 1e-12 * values[-1] + 1e-28).sum())

    def _profile(self, points: Tensor, a: Tensor, loc: Tensor) -> Tensor:
        """Mean log likelihood at loc, up to a constant, with the best covariance for it."""
        near2, far2 = chords(points, loc)
        moments = self._moments(points, a, loc)[0]
        if self.covariance == "isotropic":
            half_log_det = self.dim / 2 * torch.log(moments.diagonal().sum())
        else:
            variance = moments.diagonal().sum() / self.dim
            complete = moments + variance * loc.unsqueeze(-1) * loc
            half_log_det = (torch.linalg.slogdet(complete).logabsdet - variance.log()) / 2
        return self.dim * (a @ torch.log1p(near2 / far2)) - half_log_det
