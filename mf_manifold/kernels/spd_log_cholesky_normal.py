"""Log-Cholesky normal on SPD matrices: a normal law of the entries of the Cholesky factor."""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from ..kernel import Params, register_kernel
from ..manifolds.spd import is_log_euclidean
from ..numerics.linalg import svec, sym_dlogm
from .coordinate_normal import CoordinateNormal
from .stein import mean_volume_ratio, rounded_up


@register_kernel(geoopt.SymmetricPositiveDefinite, "log_cholesky_normal")
class SPDLogCholeskyNormal(CoordinateNormal):
    r"""Law of ``L L^T`` with the entries below the diagonal of L and the logarithms on it normal: no eigenvalues anywhere.

    .. math:: q(X) = N(v(X); v(loc), \Sigma) \; \frac{d\,vol_{LC}}{d\mu}(X), \quad
              v = (\log L_{11}, \dots, \log L_{pp}, L_{21}, L_{31}, L_{32}, \dots)

    These coordinates are orthonormal for the log-Cholesky metric, by whose volume the density is exactly the normal. The order
    of rows and columns matters: the family is invariant under changes of units ``X -> D X D`` with a diagonal D, not under
    rotations. ``scale`` is in the units of the coordinates; narrow bumps for kernel densities are made isotropic by the
    manifold's own metric.

    **Measure**: Riemannian volume of the manifold's metric. **Exactness**: closed form.

    **Range**: scales from 1e-4, matrices to 20 x 20 with condition numbers to 1e6; factors are taken in float64. **Mean**:
    extrinsic, by moments of normal and log-normal entries. **Sampler**: the square of a factor with normal noise, pathwise.
    ``fit`` takes the mean and the variances or covariance of the coordinates. Entropies exist for the affine-invariant metric,
    by its volume, by ``lebesgue``, ``frobenius`` and ``log_cholesky``.

    Shapes: ``loc`` (*B,p,p); ``scale`` (*B,m) or (*B,1) with m = p(p+1)/2; ``covariance_matrix`` (*B,m,m).

    Raises:
        ValueError: ``loc`` not SPD, a scale that is not positive, a covariance that is not positive definite.

    References:
        Lin (2019), Riemannian geometry of symmetric positive definite matrices via Cholesky decomposition, section 3.1 (the
        metric).

    >>> import geoopt, torch, mf_manifold as mf
    >>> spd, eye = geoopt.SymmetricPositiveDefinite(), torch.eye(2, dtype=torch.float64)
    >>> d = mf.distribution(spd, "log_cholesky_normal", loc=eye, scale=0.4, measure="log_cholesky")
    >>> round(float(d.log_prob(eye)), 6)                  # -3 log(0.4 sqrt(2 pi))
    -0.007943
    """

    base_measure = "log_cholesky"
    mean_kind = "extrinsic"
    needs_double = True  # float32 matrices are singular to rounding from condition numbers of 1e7, which training passes
    log_scale_range = (-7.0, 3.0)

    def coordinates(self, x: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(x.double())
        rows, columns = torch.tril_indices(x.shape[-1], x.shape[-1], -1, device=x.device)
        return torch.cat([factor.diagonal(dim1=-2, dim2=-1).log(), factor[..., rows, columns]], dim=-1)

    def from_coordinates(self, v: Tensor) -> Tensor:
        factor = self._lower(v, v[..., : self.point_shape[0]].exp())
        return factor @ factor.mT

    def rounded(self, x: Tensor, like: Tensor) -> Tensor:
        return rounded_up(x, like)

    def _lower(self, v: Tensor, diagonal: Tensor) -> Tensor:
        p = self.point_shape[0]
        index = self._positions(v)
        below = torch.ones(p, p, dtype=torch.bool, device=v.device).tril(-1)
        return torch.where(below, v[..., index], 0.0) + torch.diag_embed(diagonal)

    def _positions(self, like: Tensor) -> Tensor:
        """The coordinate that belongs to each entry of the factor; (p,p), 0 above the diagonal."""
        p = self.point_shape[0]
        row, column = torch.meshgrid(*[torch.arange(p, device=like.device)] * 2, indexing="ij")
        below = p + row * (row - 1) // 2 + column
        return torch.where(row > column, below, torch.where(row == column, row, 0))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        units = self._own_units(points.double())
        gram = units @ units.mT
        if self.covariance == "diagonal":
            return {"loc": points, "scale": scale.unsqueeze(-1) * gram.diagonal(dim1=-2, dim2=-1).rsqrt().to(points)}
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram)).to(points)
        return {"loc": points, "covariance_matrix": scale.square()[..., None, None] * inverse}

    def _own_units(self, x: Tensor) -> Tensor:
        """Velocities of the coordinate lines through ``x`` in orthonormal coordinates of the manifold's metric; (*B,m,m)."""
        factor, p = torch.linalg.cholesky(x), x.shape[-1]
        unit = self._lower(torch.eye(self.dim, dtype=x.dtype, device=x.device), torch.zeros_like(x[..., 0]).unsqueeze(-2))
        diagonal = torch.diag_embed(torch.eye(self.dim, p, dtype=x.dtype, device=x.device))
        moves = unit + diagonal * factor.diagonal(dim1=-2, dim2=-1)[..., None, None, :]
        if is_log_euclidean(self.manifold):
            half = moves @ factor.unsqueeze(-3).mT
            return svec(sym_dlogm(x.unsqueeze(-3), half + half.mT))
        white = torch.linalg.solve_triangular(factor.unsqueeze(-3), moves, upper=False)
        return svec(white + white.mT)

    def mean(self, w: Params) -> Tensor:
        v, cov, p = self.coordinates(w["loc"]), self.covariance_of(w), self.point_shape[0]
        v, cov = v.expand(*cov.shape[:-2], self.dim), cov.expand(*v.shape[:-1], self.dim, self.dim)
        index, total = self._positions(v), torch.zeros_like(cov[..., :p, :p])
        for k in range(p):
            total = total + self._column_square(v, cov, k, index[k + 1 :, k])
        return total.to(w["loc"].dtype)

    def _column_square(self, v: Tensor, cov: Tensor, k: int, below: Tensor) -> Tensor:
        """``E c c^T`` of column k of the factor: a log-normal entry, then normal ones at the coordinates ``below``."""
        spread, rest = cov[..., k, k], v[..., below]
        corner = (2 * v[..., k] + 2 * spread).exp()
        cross = (v[..., k] + spread / 2).exp().unsqueeze(-1) * (rest + cov[..., k, :][..., below])
        block = rest.unsqueeze(-1) * rest.unsqueeze(-2) + cov[..., below, :][..., below]
        top = torch.cat([corner.unsqueeze(-1), cross], dim=-1).unsqueeze(-2)
        square = torch.cat([top, torch.cat([cross.unsqueeze(-1), block], dim=-1)], dim=-2)
        return torch.nn.functional.pad(square, (k, 0, k, 0))

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        logs, p = self.coordinates(w["loc"])[..., : self.point_shape[0]], self.point_shape[0]
        if is_log_euclidean(self.manifold):
            return super().mean_log_ratio(w, kind)
        if kind == "log_cholesky":
            # log L_ii enters the ratio of volumes with the factor i - 1, so its mean is enough
            steps = torch.arange(p, dtype=logs.dtype, device=logs.device)
            return logs @ steps - p * (p + 3) / 4 * math.log(2)
        ratio = mean_volume_ratio(2 * logs.sum(-1), p, kind)
        return super().mean_log_ratio(w, kind) if ratio is None else ratio
