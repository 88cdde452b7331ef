"""Normal laws in global coordinates: on Euclidean space, and what other spaces with a flat chart build on."""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..numerics.linalg import svec
from .covariance import cholesky_logdet, coordinate_change, pushed, whitening
from .diagonal_or_full import DiagonalOrFull
from .shares import shares
from .stein import narrowed, stein_loss

PROBE = 0.1  # standard deviations over which the change of coordinates is taken to be linear
ROUNDING = 64 * torch.finfo(torch.float64).eps  # relative spreads below this are those of equal coordinates


class CoordinateNormal(DiagonalOrFull):
    """Normal law of global coordinates in R^d whose Lebesgue measure is ``base_measure``.

    A subclass gives :meth:`coordinates` and :meth:`from_coordinates`, inverse to each other.
    """

    def coordinates(self, x: Tensor) -> Tensor:
        """Points (*B,*E) to coordinates (*B,d), in float64 where float32 would lose digits."""
        raise NotImplementedError

    def from_coordinates(self, v: Tensor) -> Tensor:
        """Coordinates (*B,d) to points (*B,*E)."""
        raise NotImplementedError

    def rounded(self, x: Tensor, like: Tensor) -> Tensor:
        """Points in the dtype of ``like``; where rounding may leave the manifold, a subclass sees to it that they stay."""
        return x.to(like)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        delta = self.coordinates(x) - self.coordinates(w["loc"])
        if self.covariance == "diagonal":
            scale = w["scale"].double().expand(*w["scale"].shape[:-1], self.dim)
            white, log_det = delta / scale, scale.log().sum(-1)
        else:
            factor = torch.linalg.cholesky(w["covariance_matrix"].double())
            white = torch.linalg.solve_triangular(factor, delta.double().unsqueeze(-1), upper=False).squeeze(-1)
            log_det = cholesky_logdet(factor)
        return (-white.square().sum(-1) / 2 - log_det - self.dim / 2 * math.log(2 * math.pi)).to(x.dtype)

    def own_covariance(self, points: Tensor, covariance: Tensor) -> Tensor:
        wide, covariance = points.double(), covariance.double()
        steps = PROBE * covariance.diagonal(dim1=-2, dim2=-1).mean(-1).sqrt()
        change = coordinate_change(self.manifold, wide, steps, self.coordinates)
        return pushed(covariance, change).to(points.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear | None:
        w = self.expand(w, self.batch_shape(w))
        v, c = self.coordinates(x).double(), self.coordinates(w["loc"]).double()
        shift = c.detach().mean(0)  # products of centred features keep digits that far-off data would lose
        v, c = v - shift, c - shift
        if self.covariance == "full":
            return self._full_form(v, c, w["covariance_matrix"], self._base_ratio(x))
        precision = w["scale"].double().pow(-2).expand(-1, self.dim)
        phi = torch.cat([v, v.square(), torch.ones_like(v[:, :1])], dim=-1)
        psi = torch.cat([precision * c, -precision / 2, -(precision * c.square()).sum(-1, keepdim=True) / 2], dim=-1)
        bias = precision.log().sum(-1) / 2 - self.dim / 2 * math.log(2 * math.pi)
        return Bilinear(phi, psi, bias, self._base_ratio(x))

    def _full_form(self, v: Tensor, c: Tensor, covariance: Tensor, offset: Tensor) -> Bilinear:
        inverse, half_log_det = whitening(covariance)
        white = (inverse @ c.unsqueeze(-1)).squeeze(-1)
        linear = (inverse.mT @ white.unsqueeze(-1)).squeeze(-1)
        phi = torch.cat([v, svec(v.unsqueeze(-1) * v.unsqueeze(-2))], dim=-1)
        psi = torch.cat([linear, -svec(inverse.mT @ inverse) / 2], dim=-1)
        bias = -half_log_det - white.square().sum(-1) / 2 - self.dim / 2 * math.log(2 * math.pi)
        return Bilinear(phi, psi, bias, offset)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        center = self.coordinates(w["loc"])
        noise = torch.randn((*sample_shape, *center.shape), generator=generator, dtype=center.dtype, device=center.device)
        if self.covariance == "diagonal":
            moves = w["scale"] * noise
        else:
            moves = (torch.linalg.cholesky(w["covariance_matrix"].double()).to(noise) @ noise.unsqueeze(-1)).squeeze(-1)
        return self.rounded(self.from_coordinates(center + moves), w["loc"])

    def covariance_of(self, w: Params) -> Tensor:
        """Covariance matrix of the coordinates (*B,d,d), float64."""
        if self.covariance == "full":
            return w["covariance_matrix"].double()
        scale = w["scale"].double()
        return torch.diag_embed(scale.square().expand(*scale.shape[:-1], self.dim))

    def mean(self, w: Params) -> Tensor:
        return w["loc"] if self.mean_kind == "frechet" else super().mean(w)

    def entropy(self, w: Params) -> Tensor:
        if self.covariance == "diagonal":
            log_det = w["scale"].double().expand(*w["scale"].shape[:-1], self.dim).log().sum(-1)
        else:
            log_det = cholesky_logdet(torch.linalg.cholesky(w["covariance_matrix"].double()))
        ratio = self.mean_log_ratio(w, self.base_measure).to(log_det)
        return (log_det + self.dim / 2 * (1 + math.log(2 * math.pi)) - ratio).to(w["loc"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if type(other) is not type(self) or not isinstance(other, CoordinateNormal):
            return super().kl_divergence(w, other, v)
        delta = self.coordinates(w["loc"]).double() - other.coordinates(v["loc"]).double()
        if self.covariance == other.covariance == "diagonal":
            scale, target = w["scale"].double(), v["scale"].double()
            ratio = (scale / target).expand(*torch.broadcast_shapes(scale.shape, target.shape)[:-1], self.dim)
            spread = ratio.square() - 1 - 2 * ratio.log()
            distance = (delta / target).square().sum(-1)
            return ((spread.sum(-1) + distance) / 2).to(w["loc"].dtype)
        own, target = self.covariance_of(w), other.covariance_of(v)
        factor = torch.linalg.cholesky(target)
        white = torch.linalg.solve_triangular(factor, delta.unsqueeze(-1), upper=False).squeeze(-1)
        return ((stein_loss(own, target, own - target) + white.square().sum(-1)) / 2).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        return {name: value[0] for name, value in self.fit_many(x, shares(x, weights).unsqueeze(1)).items()}

    def fit_many(self, x: Tensor, weights: Tensor) -> Params:
        v, share = self.coordinates(x).double(), (weights.double() / weights.double().sum(0)).mT
        center = share @ v
        loc = self.rounded(self.from_coordinates(center), x)
        away = v - center.unsqueeze(1)
        scale = (share.unsqueeze(-1) * away.square()).sum(1).sqrt()
        self._demand_spread(bool((scale > ROUNDING * center.abs()).all()), scale)
        if self.covariance == "diagonal":
            return {"loc": loc, "scale": scale.to(x)}
        unit = away / scale.unsqueeze(1) * share.sqrt().unsqueeze(-1)
        correlation = unit.mT @ unit
        self._demand_spread(float(torch.linalg.eigvalsh(correlation)[..., 0].amin()) > self.dim * ROUNDING, scale)
        return {"loc": loc, "covariance_matrix": narrowed(scale.unsqueeze(-1) * correlation * scale.unsqueeze(-2), x)}

    def _demand_spread(self, enough: bool, scale: Tensor) -> None:
        if not enough:
            raise ValueError(
                f"Expected points that spread in every direction of the {self.dim} coordinates of {self.name}, got standard "
                f"deviations from {float(scale.amin()):.3g} to {float(scale.amax()):.3g}, perhaps dependent: fit more points"
                + (", or a diagonal covariance." if self.covariance == "full" else ".")
            )


@register_kernel(geoopt.Euclidean, "normal", default=True)
class EuclideanNormal(CoordinateNormal):
    r"""Normal distribution on R^n.

    .. math:: q(x) = N(x; loc, \Sigma)

    **Measure**: Lebesgue. **Exactness**: closed form.

    **Range**: any positive scale; covariance matrices with condition numbers to 1e6, which are factored in float64.
    **Mean**: Fréchet, equal to ``loc``. **Sampler**: ``loc`` plus scaled normal noise, pathwise. ``fit`` takes the mean and the
    (biased) variances or covariance.

    Shapes: ``loc`` (*B,*E); ``scale`` (*B,n) or (*B,1), standard deviations broadcast against ``loc`` as torch does;
    ``covariance_matrix`` (*B,n,n).

    Raises:
        ValueError: a scale that is not positive, a covariance that is not positive definite, a fit to points that do not
            spread.

    References:
        Mardia, Kent, Bibby (1979), Multivariate Analysis, eq. (2.5.1).

    >>> import geoopt, torch, mf_manifold as mf
    >>> d = mf.distribution(geoopt.Euclidean(ndim=1), "normal", loc=torch.zeros(2), scale=1.0)
    >>> d.log_prob(torch.zeros(2)).exp()                  # 1 / (2 pi)
    tensor(0.1592)
    """

    log_scale_range = (-14.0, 14.0)
    mean_kind = "frechet"

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        return super().mean_log_ratio(w, "riemannian" if kind == "lebesgue" else kind)

    def coordinates(self, x: Tensor) -> Tensor:
        return x.flatten(x.ndim - len(self.point_shape))

    def from_coordinates(self, v: Tensor) -> Tensor:
        return v.reshape(*v.shape[:-1], *self.point_shape)
