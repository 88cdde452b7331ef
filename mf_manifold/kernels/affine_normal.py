"""Normal laws on affine subspaces: of their own coordinates, and of the ambient space projected."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..manifolds.affine import AffineSubspace
from .ambient_normal import AmbientNormal, result_type
from .covariance import cholesky_logdet
from .stein import narrowed


@register_kernel(AffineSubspace, "projected_normal", default=True)
class AffineProjectedNormal(AmbientNormal):
    r"""Law of the point of an affine subspace ``p + B R^d`` that is closest to a normal vector of the ambient space.

    .. math:: q(x) = N(B^T x; B^T loc, B^T \Sigma B)

    with orthonormal columns ``B``: a marginal of the normal law. What ``loc`` and :math:`\Sigma` say of directions across the
    subspace has no effect; :meth:`fit` has the sample mean, and the mean variance for those directions.

    **Measure**: Lebesgue measure of the subspace. **Exactness**: closed form.

    **Range**: ``scale`` or the root of every eigenvalue of ``covariance_matrix`` from 1e-6 to 1e6, condition numbers up to 1e6.
    **Mean**: Fréchet. **Sampler**: exact and pathwise.

    Shapes: ``loc`` (*B,D), in the subspace or not; ``scale`` (*B); ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a scale or an eigenvalue of the covariance that is not positive.

    References:
        Mardia, Kent, Bibby (1979), Multivariate Analysis, theorem 3.1.1 (linear maps of normal vectors).

    >>> import torch, mf_manifold as mf
    >>> line = mf.manifolds.AffineSubspace([[3.0], [4.0]])
    >>> d = mf.distribution(line, loc=torch.tensor([4.0, -3.0], dtype=torch.float64), scale=1.0)
    >>> round(float(d.log_prob(torch.zeros(2, dtype=torch.float64)).exp()), 6)      # 1 / sqrt(2 pi)
    0.398942
    """

    mean_kind = "frechet"

    def _marginal(self, w: Params) -> tuple[Tensor, Tensor]:
        """Mean (*B,d) and Cholesky factor (*B,d,d) of the coordinates."""
        loc = w["loc"].double()
        basis = self.manifold.basis(loc)
        if self.covariance == "isotropic":
            eye = torch.eye(self.dim, dtype=loc.dtype, device=loc.device)
            return self.manifold.coordinates(loc), w["scale"].double()[..., None, None] * eye
        root = torch.linalg.cholesky(w["covariance_matrix"].double())
        # the triangle of B^T L, not of B^T Sigma B, which would square its condition
        triangle = torch.linalg.qr(root.mT @ basis).R.mT
        return self.manifold.coordinates(loc), triangle * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        middle, factor = self._marginal(w)
        apart = (self.manifold.coordinates(x.double()) - middle).unsqueeze(-1)
        white = torch.linalg.solve_triangular(factor, apart, upper=False).squeeze(-1)
        log_q = -white.square().sum(-1) / 2 - cholesky_logdet(factor) - self.dim / 2 * math.log(2 * math.pi)
        return log_q.to(result_type(x, w))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return self.manifold.closest(self.ambient_draws(w, sample_shape, generator))

    def mean(self, w: Params) -> Tensor:
        return self.manifold.closest(w["loc"]).expand(*self.batch_shape(w), *self.point_shape)

    def entropy(self, w: Params) -> Tensor:
        _, factor = self._marginal(w)
        entropy = cholesky_logdet(factor) + self.dim / 2 * math.log(2 * math.pi * math.e)
        return entropy.to(w["loc"].dtype).expand(self.batch_shape(w))

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not (isinstance(other, AffineProjectedNormal) and geometry.same_manifold(self.manifold, other.manifold)):
            return super().kl_divergence(w, other, v)
        (middle, own), (center, theirs) = self._marginal(w), other._marginal(v)
        solved = torch.linalg.solve_triangular(theirs, own, upper=False)
        white = torch.linalg.solve_triangular(theirs, (middle - center).unsqueeze(-1), upper=False)
        squares = solved.square().sum((-2, -1)) + white.square().sum((-2, -1)) - self.dim
        return (squares / 2 + cholesky_logdet(theirs) - cholesky_logdet(own)).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        v = self.manifold.coordinates(x.double())
        share = torch.ones_like(v[:, 0]) if weights is None else weights.to(v)
        share = (share / share.sum()).unsqueeze(-1)
        middle = (share * v).sum(0)
        apart = share.sqrt() * (v - middle)
        variance = apart.square().sum() / self.dim
        loc = self.manifold.from_coordinates(middle).to(x.dtype)
        if not bool(variance > 0):
            raise ValueError(f"Expected points that are not all equal to fit a spread, got {len(x)} equal ones.")
        if self.covariance == "isotropic":
            return {"loc": loc, "scale": variance.sqrt().to(x.dtype)}
        basis = self.manifold.basis(v)
        across = torch.eye(self.point_shape[0], dtype=v.dtype, device=v.device) - basis @ basis.mT
        covariance = basis @ (apart.mT @ apart) @ basis.mT + variance * across
        if int(torch.linalg.cholesky_ex(covariance).info) > 0:
            raise ValueError(f"Expected more than {self.dim} points in general position to fit a covariance, got {len(x)}.")
        return {"loc": loc, "covariance_matrix": narrowed(covariance, x)}
