"""Projected normal law of unit quaternions, q and -q taken together: a law of rotations of space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds import SpecialOrthogonal, UnitQuaternions
from ..numerics import quaternions
from ..numerics.linalg import svec
from .covariance import cholesky_logdet, covariance_from_raw, covariance_option, num_covariance_raw
from .rotation import LOG_TWO_PI, SpaceRotationKernel, whiten


def log_absolute_moment(t: Tensor) -> Tensor:
    """``log int |s|^3 exp(-(s - t)^2 / 2) ds`` over the line: both half-lines, in positive terms."""
    cubic = math.sqrt(2 * math.pi) * t * (t.square() + 3) * torch.erf(t / math.sqrt(2))
    return torch.log(cubic + 2 * (t.square() + 2) * torch.exp(-t.square() / 2))


def in_body_frame(q: Tensor, first: Tensor, covariance: Tensor) -> Tensor:
    """Covariance (*B,4,4) of ``q (a, v)`` for a of variance ``first`` (*B) and v of ``covariance`` (*B,3,3), independent."""
    frame = quaternions.multiply(q.unsqueeze(-2), torch.eye(4, dtype=q.dtype, device=q.device))
    along, across = frame[..., :1, :], frame[..., 1:, :]
    return along.mT * first[..., None, None] * along + across.mT @ covariance @ across


@register_kernel(UnitQuaternions, "projected_normal")
@register_kernel(SpecialOrthogonal, "projected_normal")
class RotationProjectedNormal(SpaceRotationKernel):
    r"""Law of the rotation of the quaternion Y / |Y| for Y normal in R^4: closed form, smooth, bounded, all correlations.

    With ``loc`` :math:`\mu`, the covariance :math:`\Sigma = L L^T`, :math:`z = L^{-1} q / |L^{-1} q|` for a quaternion q of the
    rotation, :math:`m = L^{-1} \mu` and :math:`t = z \cdot m`,

    .. math:: q(x) = \frac{e^{-|m - t z|^2 / 2}}{8\, (2\pi)^2\, |\Sigma|^{1/2} |L^{-1} q|^4} \int_{-\infty}^{\infty} |s|^3
              e^{-(s - t)^2/2} ds,

    where the integral, :math:`\sqrt{2\pi}\, (t^3 + 3t)\, \mathrm{erf}(t/\sqrt 2) + 2 (t^2 + 2) e^{-t^2/2}`, adds what falls on
    q and on -q. Without a covariance it is the identity, and the law depends on the angle from ``loc`` alone, with the standard
    deviation 2 / ``|loc|`` where that is small. Multiplying ``loc`` by a and the covariance by a^2 does not change the law.

    **Measure**: Riemannian volume, that of the angle metric. **Exactness**: closed form.

    **Range**: ``loc`` up to 2e4 standard deviations long, condition numbers of the covariance to 1e6.
    **Mean**: Fréchet, the rotation of ``loc``, without a covariance; not available with one. **Sampler**: the definition,
    pathwise.

    Shapes: ``loc`` (*B,4) in R^4, scalar part first, not 0 if a mean is asked for; ``covariance_matrix`` (*B,4,4).

    Raises:
        ValueError: a covariance that is not positive definite, n other than 3.

    References:
        Mardia, Jupp (2000), Directional Statistics, sections 9.3.3 and 13.2.1, for projected normal laws and quaternions.

    >>> import torch, mf_manifold as mf
    >>> so3, eye = mf.manifolds.SpecialOrthogonal(), torch.eye(3).double()
    >>> d = mf.distribution(so3, "projected_normal", loc=torch.zeros(4).double(), measure="haar")
    >>> round(abs(float(d.log_prob(eye))), 6)                       # uniform
    0.0
    """

    parameter_names = ("loc", "covariance_matrix (optional)")
    log_scale_range = (-7.0, 1.0)

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "identity") -> None:
        super().__init__(manifold, point_shape)
        self.covariance = covariance_option(covariance, ("identity", "full"))
        self.mean_kind = "frechet" if covariance == "identity" else None
        if covariance == "full":
            self.log_scale_range = (-5.0, 1.0)  # a float32 covariance of wider range is not always positive definite

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        return {"covariance": "full" if "covariance_matrix" in names else "identity"}

    @property
    def options(self) -> dict[str, Any]:
        return {"covariance": self.covariance}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": (4,), **({} if self.covariance == "identity" else {"covariance_matrix": (4, 4)})}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        loc = {"loc": constraints.independent(constraints.real, 1)}
        return loc if self.covariance == "identity" else {**loc, "covariance_matrix": constraints.positive_definite}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        q, loc = self.quaternion(x), w["loc"].double()
        if self.covariance == "identity":
            along = (q * loc).sum(-1)
            off = (loc - along.unsqueeze(-1) * q).square().sum(-1)
            return self._radial(along, off).to(x.dtype)
        factor = torch.linalg.cholesky(w["covariance_matrix"].double())
        z, m = whiten(factor, q), whiten(factor, loc)
        length = z.norm(dim=-1)
        z = z / length.unsqueeze(-1)
        along = (z * m).sum(-1)
        off = (m - along.unsqueeze(-1) * z).square().sum(-1)
        return (self._radial(along, off) - 4 * length.log() - cholesky_logdet(factor)).to(x.dtype)

    def _radial(self, along: Tensor, off: Tensor) -> Tensor:
        return log_absolute_moment(along) - off / 2 - 2 * LOG_TWO_PI - math.log(8)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        """One product in float64; with covariances two, of squares and of the quaternions themselves."""
        w = self.expand(w, self.batch_shape(w))
        q, loc = self.quaternion(x), w["loc"].double()
        if self.covariance == "identity":
            length2 = loc.square().sum(-1)

            def block(rows: slice) -> Tensor:
                along = q[rows] @ loc.mT
                off = (length2 - along.square()).clamp_min(0)
                return self._radial(along.to(x.dtype), off.to(x.dtype))

            return by_blocks(block, len(q), len(loc), x)
        factor = torch.linalg.cholesky(w["covariance_matrix"].double())
        squares, features = svec(q.unsqueeze(-1) * q.unsqueeze(-2)), svec(torch.cholesky_inverse(factor))
        direction = torch.cholesky_solve(loc.unsqueeze(-1), factor).squeeze(-1)
        length2, log_det = (loc * direction).sum(-1), cholesky_logdet(factor)

        def full_block(rows: slice) -> Tensor:
            size2 = squares[rows] @ features.mT
            along = (q[rows] @ direction.mT) * size2.rsqrt()
            off = (length2 - along.square()).clamp_min(0)
            return (self._radial(along, off) - 2 * size2.log() - log_det).to(x.dtype)

        return by_blocks(full_block, len(q), len(loc), x)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc, shape = w["loc"], (*sample_shape, *self.batch_shape(w), 4)
        noise = torch.randn(shape, generator=generator, dtype=loc.dtype, device=loc.device)
        if self.covariance == "full":
            noise = (torch.linalg.cholesky(w["covariance_matrix"].double()).to(loc.dtype) @ noise.unsqueeze(-1)).squeeze(-1)
        return self.point(quaternions.unit(loc + noise))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        q = self.quaternion(points).to(points.dtype)
        if self.covariance == "identity":
            return {"loc": q * (2 / scale.unsqueeze(-1))}
        eye = torch.eye(4, dtype=q.dtype, device=q.device)
        return {"loc": q, "covariance_matrix": (scale.square() / 4)[..., None, None] * eye}

    @property
    def num_raw_shape(self) -> int:
        return 1 if self.covariance == "identity" else num_covariance_raw(3)

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.covariance == "identity":
            return super().shaped(points, shape)
        q, tangent = self.quaternion(points).to(points.dtype), covariance_from_raw(self, shape, 3) / 4
        first = tangent.diagonal(dim1=-2, dim2=-1).mean(-1)
        return {"loc": q, "covariance_matrix": in_body_frame(q, first, tangent)}

    def mean(self, w: Params) -> Tensor:
        if self.covariance == "full":
            return super().mean(w)
        length = w["loc"].norm(dim=-1, keepdim=True)
        one = torch.eye(4, dtype=length.dtype, device=length.device)[0]
        return self.point(torch.where(length > 0, w["loc"] / torch.where(length > 0, length, torch.ones_like(length)), one))
