"""Mistakes that published code has made with these laws."""

from __future__ import annotations

import math

import torch
from table.common import SPD, TORUS, real, spd_matrix
from torch import Tensor

from mf_manifold.geometry import Shape
from mf_manifold.kernel import Kernel, Params
from mf_manifold.kernels.spd_inverse_wishart import SPDInverseWishart
from mf_manifold.kernels.spd_log_cholesky_normal import SPDLogCholeskyNormal
from mf_manifold.kernels.spd_matrix_beta_prime import SPDMatrixBetaPrime
from mf_manifold.kernels.torus_sine_bivariate_von_mises import SineBivariateVonMises
from mf_manifold.kernels.torus_von_mises import VonMises
from mf_manifold.kernels.torus_wrapped_normal import TorusWrappedNormal
from mf_manifold.numerics.bessel import log_vmf_normalizer
from wrong.common import Mutant


class DotProductVonMises(VonMises):
    """``k cos(x - loc)`` in the dtype of the data: no digits are left of it in float32 at large concentrations."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        kappa = w["concentration"].expand(*w["concentration"].shape[:-1], self.dim)
        log_norm = log_vmf_normalizer(2, kappa) - kappa
        return (kappa * torch.cos(x - w["loc"]) + log_norm).sum(-1)


class FoldedVonMises(VonMises):
    """A sampler that draws angles from one side only."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return w["loc"] + (super().rsample(w, sample_shape, generator) - w["loc"]).abs()


class WrongDivergenceVonMises(VonMises):
    """An entropy by ``log I_0(k) - k A`` without ``log 2 pi``."""

    def entropy(self, w: Params) -> Tensor:
        return super().entropy(w) - self.dim * math.log(2 * math.pi)


class IndependentSine(SineBivariateVonMises):
    """The normaliser of independent angles."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        model = self._model(w)
        product = log_vmf_normalizer(2, model.k1) + log_vmf_normalizer(2, model.k2)
        return super()._log_prob(x, w) + (model.log_normaliser() + product).to(x.dtype)


class UnimodalSine(SineBivariateVonMises):
    """A sampler that takes the correlation for that of a law with one mode."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        bound = w["concentration"].prod(-1).sqrt()
        return super().rsample({**w, "correlation": w["correlation"].clamp(-bound, bound)}, sample_shape, generator)


class NormalEntropyTorus(TorusWrappedNormal):
    """The entropy of the normal law before wrapping."""

    def entropy(self, w: Params) -> Tensor:
        return (w["scale"].log() + (1 + math.log(2 * math.pi)) / 2).sum(-1)


class InverseWishartWithoutJacobian(SPDInverseWishart):
    """The density of the inverse by Lebesgue measure, its Jacobian ``|X|^-(p+1)`` forgotten."""

    base_measure = "lebesgue"


class TorchLikeInverseWishart(SPDInverseWishart):
    """A sampler that inverts Wishart draws of the scale matrix instead of its inverse."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        inverse = torch.linalg.inv(w["scale_matrix"]) * w["df"][..., None, None].square()
        return super().rsample({**w, "scale_matrix": inverse}, sample_shape, generator)


class BetaPrimeByCholesky(SPDMatrixBetaPrime):
    """A ratio whose denominator enters by the wrong triangular factor, which makes another law."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        scale = torch.linalg.cholesky(w["scale_matrix"])
        plain = torch.linalg.solve_triangular(scale, super().rsample(w, sample_shape, generator), upper=False)
        plain = torch.linalg.solve_triangular(scale, plain.mT, upper=False)
        factor = torch.linalg.cholesky(plain)
        return scale @ factor.mT @ factor @ scale.mT


class BetaPrimeScalarConstant(SPDMatrixBetaPrime):
    """The beta function of numbers in the place of that of matrices."""

    def _log_constant(self, a: Tensor, b: Tensor) -> Tensor:
        return a * a.log() + b * b.log() - (a + b) * (a + b).log() + torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)


class LogCholeskyRoots(SPDLogCholeskyNormal):
    """The factor 2^(p (p - 1) / 4) of symmetric coordinates, which triangular ones do not have."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        p = self.point_shape[0]
        return super()._log_prob(x, w) - p * (p - 1) / 4 * math.log(2)


class MedianForMean(SPDLogCholeskyNormal):
    """``loc`` for the mean: the square of the mean factor."""

    def mean(self, w: Params) -> Tensor:
        return w["loc"]


def _spd(kernel_class: type[Kernel], size: int, **params: float) -> tuple[Kernel, Params]:
    kernel = kernel_class(SPD, (size, size))
    name = "loc" if isinstance(kernel, SPDLogCholeskyNormal) else "scale_matrix"
    w = {k: real([v]) if k == "scale" else real(v) for k, v in params.items()}
    return kernel, {**w, name: spd_matrix(size) * params.get("df", 1.0)}


def mutants() -> list[Mutant]:
    """Each with the check that must catch it."""
    loc = real([0.5, -2.0])
    narrow, wide = {"loc": loc, "concentration": real([1e6, 10.0])}, {"loc": loc, "concentration": real([0.5, 3.0])}
    sine = {"loc": loc, "concentration": real([2.0, 1.0]), "correlation": real(-6.0)}
    return [
        Mutant(DotProductVonMises(TORUS, (2,)), narrow, "dtypes"),
        Mutant(FoldedVonMises(TORUS, (2,)), wide, "sampler"),
        Mutant(WrongDivergenceVonMises(TORUS, (2,)), wide, "statistics"),
        Mutant(IndependentSine(TORUS, (2,)), sine, "normalisation"),
        Mutant(UnimodalSine(TORUS, (2,)), sine, "sampler"),
        Mutant(NormalEntropyTorus(TORUS, (2,)), {"loc": loc, "scale": real([1.5, 0.5])}, "statistics"),
        Mutant(*_spd(InverseWishartWithoutJacobian, 2, df=7.5), "normalisation"),
        Mutant(*_spd(TorchLikeInverseWishart, 2, df=7.5), "sampler"),
        Mutant(*_spd(BetaPrimeByCholesky, 2, a=3.0, b=4.0), "sampler"),
        Mutant(*_spd(BetaPrimeScalarConstant, 2, a=3.0, b=4.0), "normalisation"),
        Mutant(*_spd(LogCholeskyRoots, 2, scale=0.2), "normalisation"),
        Mutant(*_spd(MedianForMean, 2, scale=0.2), "statistics"),
    ]
