"""Wrapped normal on rotations of the plane and of space: a normal rotation vector, pushed through the exponential map."""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds import SpecialOrthogonal, UnitQuaternions
from ..numerics import quaternions
from ..numerics.circular import log_wrapped_normal_1d
from ..numerics.curved import cos_sqrt, sinc_sqrt
from ..numerics.special import angle2_from_chord2
from .rotation import LOG_TWO_PI, CovarianceKernel, whiten

MAX_SCALE = 20.0
NEAREST2 = 1e-14  # squared angle below which the faint pole at loc is cut off


def _turns(max_scale: float) -> int:
    """Smallest K >= 1 such that angles 2 pi k +- theta with k > K change the density by less than an eps, at every theta."""
    rate, digits, k = 2 * math.pi**2 / max_scale**2, -math.log(torch.finfo(torch.float64).eps / 80), 1
    while rate * k * (k + 1) < digits + 2 * math.log(k + 1):
        k += 1
    return k


def _maximum(value: Tensor) -> float:
    """Largest entry, read once a call to choose the number of windings; 1 where there is none to read."""
    return 1.0 if value.is_meta or value.numel() == 0 else float(value.detach().amax())


@register_kernel(UnitQuaternions, "wrapped_normal")
@register_kernel(SpecialOrthogonal, "wrapped_normal")
class RotationWrappedNormal(CovarianceKernel):
    r"""Law of ``loc exp(V)`` with a normal rotation vector V in the frame of ``loc``, all windings that matter summed.

    With the angle :math:`\theta` from ``loc`` to ``x`` and the unit axis u,

    .. math:: q(x) = \sum_{k \in Z} N((\theta + 2\pi k) u; 0, \Sigma) \, \frac{(\theta + 2\pi k)^2}{4 \sin^2(\theta / 2)}.

    ``covariance="isotropic"`` has :math:`\Sigma = scale^2 I`; ``covariance="full"`` a ``covariance_matrix`` of the coordinates
    of :func:`mf_manifold.geometry.from_coords` at ``loc``, the rotation vector in the body frame. At :math:`\theta = \pi` two
    windings are equal, so that one alone is half the density there. At ``loc`` the exact density has a faint pole (of the
    windings once around), which is cut off at angles of 1e-7. On SO(2) it is the wrapped normal of the angle.

    **Measure**: Riemannian volume, that of the angle metric. **Exactness**: series.

    **Range**: scales (roots of the variances) from 1e-4 to 20, condition numbers of the covariance to 1e6.
    **Mean**: Fréchet, ``loc``. **Sampler**: the definition, pathwise.

    Shapes: ``loc`` (*B,n,n) with n = 2 or 3, or quaternions (*B,4); ``scale`` (*B), ``covariance_matrix`` (*B,d,d), d = 1 or 3.

    Raises:
        ValueError: a scale above 20; n > 3, where the windings form a lattice of several angles.

    References:
        Mardia, Jupp (2000), Directional Statistics, section 3.5.7, for SO(2); the volume factor is that of Rodrigues' formula.

    >>> import torch, mf_manifold as mf
    >>> d = mf.distribution(mf.manifolds.SpecialOrthogonal(), "wrapped_normal", loc=torch.eye(3).double(), scale=0.3)
    >>> round(float(d.log_prob(torch.eye(3).double())), 6)          # -1.5 log(2 pi 0.09)
    0.855103
    """

    exactness = "series"
    max_scale = MAX_SCALE

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "isotropic") -> None:
        super().__init__(manifold, point_shape, covariance)
        self.require_size(2, 3)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.size == 2:
            return self._on_circle(x, w)
        return self.by_angle(x, w) if self.covariance == "isotropic" else self._full(x, w)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.size == 3 and self.covariance == "isotropic":
            return self.pairs_by_angle(x, w, x.dtype)
        return super().pairwise_log_prob(x, w)

    def _on_circle(self, x: Tensor, w: Params) -> Tensor:
        scale = w["scale"] if self.covariance == "isotropic" else w["covariance_matrix"][..., 0, 0].sqrt()
        angle, center = (torch.atan2(t[..., 1, 0], t[..., 0, 0]) for t in (x.double(), w["loc"].double()))
        self._check_scale(_maximum(scale))
        return log_wrapped_normal_1d(angle - center, scale.double()).to(x.dtype)

    def _check_scale(self, max_scale: float) -> None:
        if max_scale > MAX_SCALE:
            raise ValueError(f"Expected scales up to {MAX_SCALE} radians on rotations, got {max_scale:.3g}.")

    def zonal(self, chord2: Tensor, scale: Tensor) -> Tensor:
        angle2 = 4 * angle2_from_chord2(chord2)
        precision, max_scale = scale.pow(-2), _maximum(scale)
        self._check_scale(max_scale)
        return self._wind(angle2, precision * angle2, precision, max_scale) - 3 * scale.log()

    def _full(self, x: Tensor, w: Params) -> Tensor:
        self._check_scale(math.sqrt(_maximum(w["covariance_matrix"].diagonal(dim1=-2, dim2=-1))))
        factor = self.factor(w)
        v = quaternions.rotation_vector(quaternions.relative(self.quaternion(w["loc"]), self.quaternion(x)))
        square, angle2 = whiten(factor, v).square().sum(-1), v.square().sum(-1)
        trace = factor.square().sum((-2, -1))
        tiny = angle2 < NEAREST2
        along = torch.where(tiny, 3 / trace, square / torch.where(tiny, torch.ones_like(angle2), angle2))
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (self._wind(angle2, square, along, math.sqrt(_maximum(trace))) - log_det).to(x.dtype)

    def _wind(self, angle2: Tensor, square: Tensor, precision: Tensor, max_scale: float) -> Tensor:
        """Sum over windings relative to the shortest rotation, whose quadratic form is ``square``."""
        theta = angle2.clamp_min(NEAREST2).sqrt()
        others = torch.zeros_like(theta)
        for k in range(1, _turns(max_scale) + 1):
            for turn in (2 * math.pi * k - theta, 2 * math.pi * k + theta):
                # turn^2 - theta^2 as a product, which does not cancel
                gap = (turn - theta) * (turn + theta)
                others = others + torch.exp(2 * (turn / theta).log() - precision * gap / 2)
        return torch.log1p(others) - square / 2 - 2 * sinc_sqrt(angle2 / 4).log() - 1.5 * LOG_TWO_PI

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        v = self.normal_coordinates(w, sample_shape, generator)
        if self.size == 2:
            return geometry.expmap(self.manifold, w["loc"], geometry.from_coords(self.manifold, w["loc"], v))
        half2 = v.square().sum(-1, keepdim=True) / 4
        return self.turned(w["loc"], torch.cat([cos_sqrt(half2), sinc_sqrt(half2) * v / 2], dim=-1))

    def entropy(self, w: Params) -> Tensor:
        if self.covariance == "isotropic" and self.size == 3:
            return self.angle_entropy(w)
        return super().entropy(w)
