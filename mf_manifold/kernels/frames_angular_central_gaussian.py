"""Matrix angular central Gaussian distribution on Stiefel and Grassmann manifolds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.bilinear import Bilinear
from ..backends.pairs import bilinear_pairs
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..manifolds.frames import log_det_gram, polar
from ..manifolds.grassmann import Grassmann
from ..numerics.linalg import svec
from .covariance import cholesky_logdet, covariance_from_raw, num_covariance_raw
from .shares import shares

MAX_FEATURES, PRODUCT_ERROR = 300, 1e-10
NARROWEST = 4.0  # eigenvalue of a centred covariance, in roundings of a matrix: narrower, it would not be positive definite
FIT_STEPS, FIT_TOLERANCE, MAX_CONDITION = 2000, 1e-13, 1e13


@register_kernel(Grassmann, "matrix_angular_central_gaussian")
@register_kernel(geoopt.Stiefel, "matrix_angular_central_gaussian")
class MatrixAngularCentralGaussian(Kernel):
    r"""Law of the orientation ``Z (Z^T Z)^(-1/2)`` of a matrix Z whose k columns are independent N(0, covariance_matrix).

    .. math:: q(X) = |\Sigma|^{-k/2} \, |X^T \Sigma^{-1} X|^{-n/2}

    with respect to the uniform probability. It depends on the span of X alone: on the Stiefel manifold all bases of a
    subspace are alike, and on the Grassmannian it is a law of subspaces with the span of the k leading eigenvectors as its
    mode. A multiple of the covariance gives the same law. For k = 1 it is the angular central Gaussian. Its tails are heavy,
    as those of a Student law: ``centered`` (on the Grassmannian) matches the curvature of a normal law at the mode, not the
    mean squared distance, and no bump in float32 is narrower than a scale of 7e-4.

    **Measure**: Riemannian volume by default, ``measure="normalized"`` for the formula above. **Exactness**: closed form.
    **Range**: condition numbers of the covariance up to 1e6; beyond, as many digits are lost as a matrix in float64 lacks.
    **Mean**: Fréchet on the Grassmannian, the span of the k leading eigenvectors, at which the mean direction vanishes by
    symmetry; not available on the Stiefel manifold, where ``X`` and ``X Q`` are alike. **Sampler**: the definition, pathwise.

    Shapes: ``covariance_matrix`` (*B,n,n); k is that of ``point_shape=(n, k)``.

    Raises:
        ValueError: a covariance that is not positive definite, no ``point_shape``.

    References:
        Chikuse (1990), The matrix angular central Gaussian distribution.
        Tyler (1987), Statistical analysis for the angular central Gaussian distribution on the sphere, for the fixed-point
            iteration of ``fit``.

    >>> import torch, mf_manifold as mf
    >>> name, cov = "matrix_angular_central_gaussian", torch.diag(torch.tensor([4.0, 1.0, 1.0]))
    >>> space = mf.manifolds.Grassmann()
    >>> d = mf.distribution(space, name, point_shape=(3, 1), covariance_matrix=cov, measure="normalized")
    >>> d.log_prob(torch.tensor([[1.0], [0.0], [0.0]])).exp()            # 4^(-1/2) (1/4)^(-3/2)
    tensor(4.)
    """

    parameter_names = ("covariance_matrix",)
    location = "covariance_matrix"
    base_measure = "normalized"
    needs_double = True

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__(manifold, point_shape)
        self.has_location = isinstance(manifold, Grassmann)
        self.mean_kind = "frechet" if self.has_location else None

    @classmethod
    def infer_point_shape(cls, manifold: geoopt.Manifold, params: Mapping[str, Any]) -> Shape:
        raise ValueError(f"Expected point_shape= for {cls.name}, such as point_shape=(3, 2) for 2 columns in R^3.")

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"covariance_matrix": (self.point_shape[0], self.point_shape[0])}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"covariance_matrix": constraints.positive_definite}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        n, k = self.point_shape
        factor = torch.linalg.cholesky(w["covariance_matrix"].double())
        white = torch.linalg.solve_triangular(factor, x.double(), upper=False)
        return (-k * cholesky_logdet(factor) - n / 2 * log_det_gram(white)).to(x.dtype)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        form = self._compound(x, w)
        if form is None:
            return super().pairwise_log_prob(x, w)
        n, k = self.point_shape
        offset = self._base_ratio(x).unsqueeze(1) - k * cholesky_logdet(torch.linalg.cholesky(w["covariance_matrix"].double()))
        return (offset - n / 2 * torch.log(bilinear_pairs(form))).to(x.dtype)

    def _compound(self, x: Tensor, w: Params) -> Bilinear | None:
        """``|X^T P X|`` as a quadratic form of the k x k minors of X (Cauchy and Binet), where the product keeps its digits."""
        n, k = self.point_shape
        minors = math.comb(n, k)
        if minors * (minors + 1) // 2 > MAX_FEATURES or x.is_meta or len(x) == 0 or len(w["covariance_matrix"]) == 0:
            return None
        precision = torch.linalg.inv(w["covariance_matrix"].double())
        values = torch.linalg.eigvalsh(precision.detach())
        if n / 2 * torch.finfo(torch.float64).eps * float((values[:, -1] / values[:, 0]).amax()) ** k > PRODUCT_ERROR:
            return None
        index = torch.tensor(list(itertools.combinations(range(n), k)), device=x.device)
        pluecker = torch.linalg.det(x.double()[:, index])
        compound = torch.linalg.det(precision[:, index[:, None, :, None], index[None, :, None, :]])
        phi = svec(pluecker.unsqueeze(-1) * pluecker.unsqueeze(-2))
        zeros = torch.zeros_like(phi[:, 0])
        return Bilinear(phi, svec(compound), torch.zeros_like(compound[:, 0, 0]), zeros)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        factor = torch.linalg.cholesky(w["covariance_matrix"].double())
        shape = (*sample_shape, *factor.shape[:-2], *self.point_shape)
        noise = torch.randn(shape, generator=generator, dtype=factor.dtype, device=factor.device)
        return polar(factor @ noise).to(w["covariance_matrix"].dtype)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        # log q = -n/2 log(1 + (1/e - 1) sin^2) for each angle, e the variance across: curvature n (1/e - 1) = 1 / scale^2
        n = self.point_shape[0]
        across = n * scale.square() / (1 + n * scale.square())
        across = across.clamp_min(NARROWEST * n * torch.finfo(points.dtype).eps)
        eye = torch.eye(n, dtype=points.dtype, device=points.device)
        return {"covariance_matrix": points @ points.mT + across[..., None, None] * (eye - points @ points.mT)}

    @property
    def num_raw(self) -> int:
        return super().num_raw if self.has_location else num_covariance_raw(self.point_shape[0])

    def params(self, raw: Tensor) -> Params:
        if self.has_location:
            return super().params(raw)  # bumps, whose locations training can start at data
        return {"covariance_matrix": covariance_from_raw(self, raw, self.point_shape[0])}

    def mean(self, w: Params) -> Tensor:
        if not self.has_location:
            return super().mean(w)
        return torch.linalg.eigh(w["covariance_matrix"]).eigenvectors[..., -self.point_shape[1] :]

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        """Maximum likelihood by Tyler's fixed-point iteration; the covariance has trace n."""
        n, k = self.point_shape
        wide, share = x.double(), shares(x, weights)
        cov = torch.eye(n, dtype=torch.float64, device=x.device)
        for _ in range(FIT_STEPS):
            middle = torch.linalg.inv(wide.mT @ torch.linalg.solve(cov, wide))
            new = ((share[:, None, None] * wide) @ middle @ wide.mT).sum(0)
            new = (new + new.mT) / 2 * (n / new.diagonal().sum())
            change, cov = (new - cov).abs().amax(), new
            values = torch.linalg.eigvalsh(cov)
            if not float(values[-1]) < MAX_CONDITION * float(values[0]):
                raise ValueError(
                    f"Expected more than n / k = {n / k:g} points in general position, got {len(x)}, too many of which lie "
                    "in one subspace: their likelihood has no maximum. Give more points."
                )
            if float(change) <= FIT_TOLERANCE * float(values[-1]):
                break
        return {"covariance_matrix": cov.to(x.dtype)}
