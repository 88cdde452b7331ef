"""Projected normal, angular central Gaussian, Bingham and Watson laws with the mistakes that published code has made."""

from __future__ import annotations

import math

import torch
from table.common import SPHERE, covariance, real, unit_vector
from torch import Tensor

from mf_manifold.geometry import Shape, project
from mf_manifold.kernel import Params
from mf_manifold.kernels.sphere_angular_central_gaussian import AngularCentralGaussian
from mf_manifold.kernels.sphere_bingham import Bingham
from mf_manifold.kernels.sphere_projected_normal import ProjectedNormal
from mf_manifold.kernels.sphere_watson import Watson
from mf_manifold.numerics.half_line import log_moment
from mf_manifold.numerics.linalg import sym_eigvals

from .common import Mutant


class RadiusWithoutJacobian(ProjectedNormal):
    """One power of the radius too few in the integral over it."""

    def _isotropic(self, z: Tensor, mean: Tensor) -> Tensor:
        t = (z * mean).sum(-1)
        return super()._isotropic(z, mean) + log_moment(self.dim - 1, t) - log_moment(self.dim, t)


class ForgottenDeterminant(ProjectedNormal):
    """The normal density's determinant dropped."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, w) + torch.logdet(w["covariance_matrix"]) / 2


class DetachedMean(ProjectedNormal):
    """Samples that do not follow the mean vector."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return super().rsample({**w, "mean_vector": w["mean_vector"].detach()}, sample_shape, generator)


class IntrinsicExponent(AngularCentralGaussian):
    """The exponent d / 2 of the intrinsic dimension."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        form = (x * torch.linalg.solve(w["covariance_matrix"], x.unsqueeze(-1)).squeeze(-1)).sum(-1)
        return super()._log_prob(x, w) + form.log() / 2


class CovarianceForPrecision(AngularCentralGaussian):
    """A proper density, of the inverse matrix."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, {"covariance_matrix": torch.linalg.inv(w["covariance_matrix"])})


class LeadingTerm(Bingham):
    """The normaliser by the narrow law's leading term, pi^(d/2) prod gap^(-1/2) at each pole."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        values = sym_eigvals(w["concentration_matrix"])
        gaps = values[..., -1:] - values[..., :-1]
        form = (x * (w["concentration_matrix"] @ x.unsqueeze(-1)).squeeze(-1)).sum(-1) - values[..., -1]
        return form - math.log(2) - self.dim / 2 * math.log(math.pi) + gaps.log().sum(-1) / 2

    def bilinear(self, x: Tensor, w: Params) -> None:
        return None


class EnvelopeAsSample(Bingham):
    """Proposals of the rejection sampler taken for its samples."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        values, vectors = torch.linalg.eigh(w["concentration_matrix"])
        shape = (*sample_shape, *values.shape)
        noise = torch.randn(shape, generator=generator, dtype=values.dtype)
        axes = noise * (1 + 2 * (values[..., -1:] - values)).rsqrt()
        return project(self.manifold, (vectors @ axes.unsqueeze(-1)).squeeze(-1))


class IntrinsicWatson(Watson):
    """The hypergeometric function with the intrinsic dimension in place of the ambient one."""

    def _excess(self, kappa: Tensor) -> Tensor:
        lower = Watson(self.manifold, (self.point_shape[0] - 1,))._excess(kappa)
        zero = torch.zeros_like(kappa)
        return lower - Watson(self.manifold, (self.point_shape[0] - 1,))._excess(zero) + super()._excess(zero)


class GirdleAsPoles(Watson):
    """The sign of the concentration lost in the sampler."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return super().rsample({**w, "concentration": w["concentration"].abs()}, sample_shape, generator)


def mutants() -> list[Mutant]:
    """With the checks that must catch them."""
    loc, shape = unit_vector(3), (3,)
    wide, matrix = {"mean_vector": 2 * loc}, {"concentration_matrix": -covariance(3, 3.0)}
    full, central = {"mean_vector": loc, "covariance_matrix": covariance(3, 0.5)}, {"covariance_matrix": covariance(3, 1.0)}
    return [
        Mutant(RadiusWithoutJacobian(SPHERE, shape), wide, "normalisation"),
        Mutant(ForgottenDeterminant(SPHERE, shape, "full"), full, "normalisation"),
        Mutant(DetachedMean(SPHERE, shape), wide, "pathwise"),
        Mutant(IntrinsicExponent(SPHERE, shape), central, "normalisation"),
        Mutant(CovarianceForPrecision(SPHERE, shape), central, "sampler"),
        Mutant(LeadingTerm(SPHERE, shape), matrix, "normalisation"),
        Mutant(EnvelopeAsSample(SPHERE, shape), matrix, "sampler"),
        Mutant(IntrinsicWatson(SPHERE, shape), {"loc": loc, "concentration": real(5.0)}, "normalisation"),
        Mutant(GirdleAsPoles(SPHERE, shape), {"loc": loc, "concentration": real(-3.0)}, "sampler"),
    ]
