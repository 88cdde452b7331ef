"""Wrong laws on spheres: confusions of dimensions, missing volume elements and masses, approximate constants."""

from __future__ import annotations

import math
from typing import Any

import torch
from table.common import SPHERE, covariance, real, unit_vector
from torch import Tensor

from mf_manifold import geometry
from mf_manifold.geometry import Shape
from mf_manifold.kernel import Params
from mf_manifold.kernels.sphere_kent import Kent
from mf_manifold.kernels.sphere_power_spherical import PowerSpherical
from mf_manifold.kernels.sphere_spherical_cauchy import SphericalCauchy
from mf_manifold.kernels.sphere_stereographic_normal import StereographicNormal
from mf_manifold.kernels.sphere_truncated_normal import TruncatedNormal
from mf_manifold.kernels.sphere_von_mises_fisher import VonMisesFisher
from mf_manifold.kernels.tangent_normal import Spread
from mf_manifold.numerics.bessel import bessel_ratio, log_vmf_normalizer

from .common import Mutant


class AmbientPowerSpherical(PowerSpherical):
    """The ambient dimension, which the paper calls d, in the place of the sphere's."""

    def _shape(self, width: Tensor) -> tuple[Tensor, ...]:
        return PowerSpherical(SPHERE, (self.dim + 2,))._shape(width)


class SinglePrecisionPowerSpherical(PowerSpherical):
    """The difference of two log-gammas in the dtype of the parameters."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        kappa, half = w["concentration"], self.dim / 2
        exact = self._shape(kappa.double())[1].to(x.dtype)
        log_norm = torch.lgamma(kappa + 2 * half) - torch.lgamma(kappa + half) - half * math.log(4 * math.pi)
        return super()._log_prob(x, w) + log_norm - exact


class PoissonKernel(SphericalCauchy):
    """The exponent (d + 1) / 2 of the exit distribution of Brownian motion with the constants of the Cauchy family."""

    def _from_chords(self, near2: Tensor, far2: Tensor, *shape: Tensor) -> Tensor:
        return shape[1] - (self.dim + 1) / 2 * torch.log((shape[0] * far2 + near2) / 4)


class NoStereographicVolume(StereographicNormal):
    """A normal density of the stereographic coordinates, taken for one of the surface."""

    def _from_chords(self, near2: Tensor, far2: Tensor, along: Tensor, *terms: Any) -> Tensor:
        return super()._from_chords(near2, far2, along, *terms) - self.dim * torch.log1p(near2 / far2)


class NeverRenormalised(TruncatedNormal):
    """The one-wrap density that several packages call the wrapped normal: it lacks the mass beyond the cut locus."""

    def _terms(self, spread: Spread) -> tuple[Any, ...]:
        return (spread.half_log_det + self.dim / 2 * math.log(2 * math.pi),)


class ClippedVelocities(TruncatedNormal):
    """Tangent vectors that are too long are shortened instead of drawn again."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        v = self._velocity(w, sample_shape, generator)
        return geometry.expmap(self.manifold, w["loc"], v * (3.0 / v.norm(dim=-1, keepdim=True)).clamp_max(1.0))


class FrozenRadius(TruncatedNormal):
    """Accepted lengths without their derivative by the scale."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return super().rsample({**w, "scale": w["scale"].detach()}, sample_shape, generator)


class AsymptoticKent(Kent):
    """The constant 2 pi / sqrt(kappa^2 - 4 beta^2) of concentrated laws, which most code uses for all."""

    def _terms(self, spread: Spread) -> tuple[Any, ...]:
        return super()._terms(spread)[0], math.log(2 * math.pi) + spread.half_log_det


class EntropyWithoutConcentration(VonMisesFisher):
    """The mean resultant length alone in the place of kappa A(kappa)."""

    def entropy(self, w: Params) -> Tensor:
        kappa = w["concentration"]
        return -(log_vmf_normalizer(3, kappa) - kappa) - bessel_ratio(3, kappa)


def mutants() -> list[Mutant]:
    """All wrong kernels of this module."""
    loc, kappa = unit_vector(3), real(5.0)
    oval = {"loc": loc, "covariance_matrix": covariance(3, 0.5)}
    return [
        Mutant(AmbientPowerSpherical(SPHERE, (3,)), {"loc": loc, "concentration": kappa}, "normalisation"),
        Mutant(SinglePrecisionPowerSpherical(SPHERE, (3,)), {"loc": loc, "concentration": real(1e5)}, "dtypes"),
        Mutant(PoissonKernel(SPHERE, (3,)), {"loc": loc, "scale": real(0.4)}, "normalisation"),
        Mutant(NoStereographicVolume(SPHERE, (3,)), {"loc": loc, "scale": real(0.5)}, "normalisation"),
        Mutant(NeverRenormalised(SPHERE, (3,)), {"loc": loc, "scale": real(1.5)}, "normalisation"),
        Mutant(NeverRenormalised(SPHERE, (3,), "full"), {"loc": loc, "covariance_matrix": covariance(3, 1.5)}, "normalisation"),
        Mutant(ClippedVelocities(SPHERE, (3,)), {"loc": loc, "scale": real(1.5)}, "sampler"),
        Mutant(FrozenRadius(SPHERE, (3,)), {"loc": loc, "scale": real(0.5)}, "pathwise"),
        Mutant(AsymptoticKent(SPHERE, (3,)), oval, "normalisation"),
        Mutant(EntropyWithoutConcentration(SPHERE, (3,)), {"loc": loc, "concentration": kappa}, "statistics"),
    ]
