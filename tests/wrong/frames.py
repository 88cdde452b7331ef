"""Laws of frames and subspaces that are wrong on purpose, with mistakes that published code has made."""

from __future__ import annotations

import torch
from table.common import real, spd_matrix
from table.frames import GRASSMANN, STIEFEL, frame
from torch import Tensor

from mf_manifold.geometry import Shape
from mf_manifold.kernel import Params
from mf_manifold.kernels.frames_angular_central_gaussian import MatrixAngularCentralGaussian
from mf_manifold.kernels.grassmann_gnomonic_normal import GnomonicNormal
from mf_manifold.kernels.stiefel_cayley_normal import StiefelCayleyNormal
from mf_manifold.kernels.stiefel_langevin import MatrixLangevin
from wrong.common import Mutant


class OneColumnDeterminant(MatrixAngularCentralGaussian):
    """The factor |Sigma|^(-1/2) of the law of one column for any number of them."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        k = self.point_shape[1]
        return super()._log_prob(x, w) + (k - 1) / 2 * torch.logdet(w["covariance_matrix"]).to(x.dtype)


class TriangularOrientation(MatrixAngularCentralGaussian):
    """Gram-Schmidt in place of the polar factor: uniform without a covariance, another law with one."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        factor = torch.linalg.cholesky(w["covariance_matrix"])
        shape = (*sample_shape, *factor.shape[:-2], *self.point_shape)
        z = factor @ torch.randn(shape, generator=generator, dtype=factor.dtype)
        upper = torch.linalg.cholesky(z.mT @ z).mT
        return torch.linalg.solve_triangular(upper, z, upper=True, left=False)


class SmallConcentration(MatrixLangevin):
    """The normaliser's expansion for small concentrations, exp(|F|^2 / 2n)."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        inner = (x * w["loc"]).sum((-2, -1)) * w["concentration"]
        return inner - self.point_shape[1] * w["concentration"].square() / (2 * self.point_shape[0])


class IndependentColumns(MatrixLangevin):
    """Columns drawn one by one around their own axes, orthogonalised afterwards."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        one = MatrixLangevin(self.manifold, (self.point_shape[0], 1))
        columns = [{"loc": w["loc"][..., j : j + 1], "concentration": w["concentration"]} for j in range(2)]
        first, second = (one.rsample(column, sample_shape, generator) for column in columns)
        second = second - first * (first * second).sum(-2, keepdim=True)
        return torch.cat([first, second / second.norm(dim=-2, keepdim=True)], dim=-1)


class NoVolumeOfSlopes(GnomonicNormal):
    """A normal density of the slopes, without the volume element of the chart."""

    def _from_inner(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        log_det = torch.linalg.slogdet(loc.mT @ x).logabsdet
        return super()._from_inner(x, loc, scale) + self.point_shape[0] * log_det


class TangentCayley(StiefelCayleyNormal):
    """The Jacobian of the Cayley transform of square matrices' first columns with the power n for n - 1."""

    def _density(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        eye = torch.eye(x.shape[-1], dtype=x.dtype)
        return super()._density(x, loc, scale) - torch.linalg.slogdet((eye + loc.mT @ x) / 2).logabsdet


def mutants() -> list[Mutant]:
    """All of them."""
    cov, kappa = {"covariance_matrix": spd_matrix(3)}, {"loc": frame(3, 2), "concentration": real(3.0)}
    return [
        Mutant(OneColumnDeterminant(GRASSMANN, (3, 2)), cov, "normalisation"),
        Mutant(TriangularOrientation(STIEFEL, (3, 2)), cov, "sampler"),
        Mutant(NoVolumeOfSlopes(GRASSMANN, (3, 2)), {"loc": frame(3, 2), "scale": real(0.6)}, "normalisation"),
        Mutant(TangentCayley(STIEFEL, (3, 2)), {"loc": frame(3, 2), "scale": real(0.6)}, "normalisation"),
        Mutant(SmallConcentration(STIEFEL, (3, 2)), kappa, "normalisation"),
        Mutant(IndependentColumns(STIEFEL, (3, 2)), kappa, "sampler"),
    ]
