"""Wrapped normal on the sphere S^d: a normal law in the tangent space at ``loc``, pushed through the exponential map."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.sphere import chord2
from .covariance import covariance_from_raw, covariance_option, num_covariance_raw

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


@register_kernel(geoopt.Sphere, "wrapped_normal")
class SphereWrappedNormal(Kernel):
    r"""Law of ``exp_loc(V)`` with ``V`` normal in the tangent space at ``loc``, all windings that matter summed.

    With the angle :math:`\theta` between ``x`` and ``loc`` and the unit tangent direction ``u``,

    .. math:: q(x) = \sum_{k \in Z} N((\theta + 2\pi k) u; 0, \Sigma) \, |(\theta + 2\pi k) / \sin\theta|^{d-1}.

    ``covariance="isotropic"`` has :math:`\Sigma = scale^2 I`; ``covariance="full"`` takes an ambient ``covariance_matrix`` S
    (D,D), of which the tangent part ``P S P`` with ``P = I - loc loc^T`` is the covariance of ``V``: no frame is needed, and S
    may be tangent already.

    For d >= 2 the exact density is unbounded at the antipode and, faintly, at ``loc``: angles below eps or within eps of
    pi are evaluated as eps away.

    **Measure**: surface of the unit sphere. **Exactness**: convergent series, see :func:`windings`. **Units**: radians.

    Shapes: ``loc`` (*B,D), ``scale`` (*B) in (0, 20], ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a scale above 20, where the series grows long and the law says nothing of ``loc``.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Sphere(), "wrapped_normal", loc=loc, scale=0.3)
    >>> round(float(d.log_prob(loc)), 6)                  # -log(2 pi 0.3^2)
    0.570069
    """

    parameter_names = ("loc", "scale | covariance_matrix")
    exactness = "series"
    log_scale_range = (-7.0, 0.0)
    max_scale = MAX_SCALE

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "isotropic") -> None:
        super().__init__(manifold, point_shape)
        self.covariance = covariance_option(covariance, ("isotropic", "full"))

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        return {"covariance": "full" if "covariance_matrix" in names else "isotropic"}

    @property
    def options(self) -> dict[str, Any]:
        return {"covariance": self.covariance}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        shape = self.point_shape
        spread: dict[str, Shape] = {"scale": ()} if self.covariance == "isotropic" else {"covariance_matrix": 2 * shape}
        return {"loc": shape, **spread}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        loc = OnManifold(self.manifold, self.point_shape)
        if self.covariance == "isotropic":
            return {"loc": loc, "scale": constraints.positive}
        return {"loc": loc, "covariance_matrix": constraints.positive_semidefinite}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        loc = w["loc"]
        near2, far2 = chord2(x, loc), chord2(x, -loc)
        if self.covariance == "full":
            return self._wind(near2, far2, *self._tangent_precision(x, w, near2 > far2))
        return self._isotropic(near2, far2, w["scale"])

    def _isotropic(self, near2: Tensor, far2: Tensor, scale: Tensor) -> Tensor:
        return self._wind(near2, far2, scale.pow(-2), -self.dim * scale.log(), _maximum(scale))

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.covariance == "full":
            return super().pairwise_log_prob(x, w)
        # one product in float64: the chord of a narrow component has no correct digit left in float32
        wide_x, wide_loc = x.double(), w["loc"].double()
        squares = wide_x.square().sum(-1, keepdim=True) + wide_loc.square().sum(-1)
        twice = 2 * wide_x @ wide_loc.mT
        return self._isotropic((squares - twice).to(x.dtype), (squares + twice).to(x.dtype), w["scale"])

    def _wind(self, near2: Tensor, far2: Tensor, precision: Tensor, log_norm: Tensor, max_scale: float) -> Tensor:
        """Sum over windings from the squared chords to loc and -loc, and the precision along the geodesic.

        Angle and sine come from both chords, which keeps their digits at loc and at the antipode.
        """
        if max_scale > MAX_SCALE:
            raise ValueError(f"Expected scales up to {MAX_SCALE} radians on the sphere, got {max_scale:.3g}.")
        floor = torch.finfo(near2.dtype).eps ** 2
        near, far = near2.clamp_min(floor).sqrt(), far2.clamp_min(floor).sqrt()
        theta, log_sine = 2 * torch.atan2(near, far), (near * far / 2).log()
        last = windings(max_scale, self.dim, near2.dtype)
        radii = [theta + 2 * math.pi * k for k in range(last + 1)]
        radii += [2 * math.pi * k - theta for k in range(1, last + 2)]
        terms = [(self.dim - 1) * r.log() - r.square() * (precision / 2) for r in radii]
        log_sum = functools.reduce(torch.logaddexp, terms)
        return log_sum - (self.dim - 1) * log_sine + (log_norm - self.dim / 2 * math.log(2 * math.pi))

    def _tangent_factor(self, w: Params) -> Tensor:
        """Cholesky factor of the tangent covariance, completed by its mean variance along ``loc``."""
        loc, cov = w["loc"], w["covariance_matrix"]
        outer = loc.unsqueeze(-1) * loc.unsqueeze(-2)
        projector = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device) - outer
        tangent = projector @ cov @ projector
        mean_variance = tangent.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] / self.dim
        factor, info = torch.linalg.cholesky_ex(tangent + mean_variance * outer)
        if not info.is_meta and (info > 0).any():
            raise ValueError(
                "Expected a covariance_matrix whose part tangent to the sphere at loc is positive definite; "
                f"{int((info > 0).sum())} of {info.numel()} are not."
            )
        return factor

    def _tangent_precision(self, x: Tensor, w: Params, beyond: Tensor) -> tuple[Tensor, Tensor, float]:
        """Precision along the geodesic to ``x``, minus half the log determinant, and a bound of the scale."""
        loc, factor = w["loc"], self._tangent_factor(w)
        trace = factor.square().sum((-2, -1))
        variance = trace / (self.dim + 1)  # the mean tangent variance, which completes the factor along loc
        log_norm = variance.log() / 2 - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        short = torch.where(beyond.unsqueeze(-1), x + loc, x - loc)
        tangent = short - (short * loc).sum(-1, keepdim=True) * loc
        white = torch.linalg.solve_triangular(factor, tangent.unsqueeze(-1), upper=False).squeeze(-1)
        sine2 = tangent.square().sum(-1)
        degenerate = sine2 <= torch.finfo(sine2.dtype).eps ** 2
        along = white.square().sum(-1) / torch.where(degenerate, torch.ones_like(sine2), sine2)
        return torch.where(degenerate, 1 / variance, along), log_norm, math.sqrt(_maximum(trace))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc = w["loc"]
        noise = torch.randn((*sample_shape, *loc.shape), generator=generator, dtype=loc.dtype, device=loc.device)
        if self.covariance == "isotropic":
            ambient = w["scale"].unsqueeze(-1) * noise
        else:
            ambient = (self._tangent_factor(w) @ noise.unsqueeze(-1)).squeeze(-1)
        velocity = ambient - (ambient * loc).sum(-1, keepdim=True) * loc
        return geometry.expmap(self.manifold, loc, velocity)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        if self.covariance == "isotropic":
            return {"loc": points, "scale": scale}
        eye = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
        return {"loc": points, "covariance_matrix": scale.square()[..., None, None] * eye}

    @property
    def num_raw_shape(self) -> int:
        return 1 if self.covariance == "isotropic" else num_covariance_raw(self.point_shape[0])

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().shaped(points, shape)
        return {"loc": points, "covariance_matrix": covariance_from_raw(self, shape, self.point_shape[0])}


def _maximum(value: Tensor) -> float:
    """Largest entry, read once a call to choose the number of windings; 1 where there is none to read."""
    return 1.0 if value.is_meta or value.numel() == 0 else float(value.detach().amax())
