"""Hyperbolic kernels that are wrong on purpose, with the mistakes that published code has made."""

from __future__ import annotations

import math

import geoopt
import torch
from table.common import real
from table.hyperbolic import ball, lorentz_point
from torch import Tensor

from mf_manifold.geometry import Shape
from mf_manifold.kernel import Params
from mf_manifold.kernels.hyperbolic import log_stretch
from mf_manifold.kernels.lorentz_riemannian_normal import HyperbolicRiemannianNormal
from mf_manifold.kernels.lorentz_wrapped_normal import HyperbolicWrappedNormal
from mf_manifold.kernels.stereographic import StereographicKernel
from mf_manifold.manifolds.lorentz import pair, radius2, shoot
from mf_manifold.numerics.special import log_sinhc
from wrong.common import Mutant


class TangentDensity(HyperbolicWrappedNormal):
    """The normal density of the logarithm, without the volume element of the exponential map."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, w) + (self.dim - 1) * log_stretch(pair(self.manifold, w["loc"], x)).to(x.dtype)


class CurvatureForRadius(HyperbolicWrappedNormal):
    """k taken for the curvature, of which it is the inverse, in the volume element."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        both, k = pair(self.manifold, w["loc"], x), radius2(self.manifold, x)
        return super()._log_prob(x, w) + (self.dim - 1) * (log_stretch(both) - log_sinhc(k.sqrt() * both.dist)).to(x.dtype)


class TwoThirds(HyperbolicRiemannianNormal):
    """(2 pi)^(2/3) for (2 pi)^(3/2) in the normaliser of the hyperbolic plane."""

    def log_normalizer(self, scale: Tensor) -> Tensor:
        return super().log_normalizer(scale) + (2 / 3 - 3 / 2) * math.log(2 * math.pi)


class AlternatingSum(HyperbolicRiemannianNormal):
    """The normaliser as the alternating sum of error functions that it is on paper."""

    def log_normalizer(self, scale: Tensor) -> Tensor:
        s, n, half = scale.double(), self.dim - 1, self.dim / 2
        total = torch.zeros_like(s)
        for k in range(n + 1):
            a = n - 2 * k
            total += (-1) ** k * math.comb(n, k) * torch.exp(a**2 * s**2 / 2) * (1 + torch.erf(a * s / math.sqrt(2)))
        log_area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        return log_area + (math.sqrt(math.pi / 2) * s * total).log() - n * math.log(2)


class TangentSampler(HyperbolicRiemannianNormal):
    """Samples of the wrapped law, whose radii do not feel the volume."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        shape = (*sample_shape, *self.batch_shape(w), self.dim)
        v = w["scale"].unsqueeze(-1) * torch.randn(shape, generator=generator, dtype=torch.float64)
        return shoot(self.manifold, w["loc"], v).to(w["loc"].dtype)


class LibraryDistance(HyperbolicRiemannianNormal):
    """geoopt's distance, from an inner product in float32."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        distance = self.manifold.dist(x, w["loc"])
        return -distance.square() / (2 * w["scale"].square()) - self.log_normalizer(w["scale"]).to(x.dtype)


class CoordinateVolume(StereographicKernel):
    """A density by the ball's coordinates that claims to be one by the volume."""

    base_measure = "lebesgue"


class UnitSphere(StereographicKernel):
    """A projected sphere whose radius is forgotten."""

    def _shift(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)


def mutants() -> list[Mutant]:
    """All wrong kernels."""
    wide, unit, sphere, y = geoopt.Lorentz(2.5), geoopt.Lorentz(), geoopt.SphereProjection(0.5), real([0.3, -0.4])
    loc, narrow = lorentz_point(wide, 2), {"loc": lorentz_point(unit, 10), "scale": real(0.01)}
    return [
        Mutant(TangentDensity(wide, (3,)), {"loc": loc, "scale": real([0.6])}, "normalisation"),
        Mutant(CurvatureForRadius(wide, (3,)), {"loc": loc, "scale": real([0.6])}, "normalisation"),
        Mutant(TwoThirds(wide, (3,)), {"loc": loc, "scale": real(0.6)}, "normalisation"),
        Mutant(AlternatingSum(unit, (11,)), narrow, "normalisation"),
        Mutant(TangentSampler(wide, (3,)), {"loc": loc, "scale": real(0.6)}, "sampler"),
        Mutant(LibraryDistance(wide, (3,)), {"loc": loc, "scale": real(0.001)}, "dtypes"),
        Mutant(CoordinateVolume(ball(1.5), (2,)), {"loc": y, "scale": real([0.5])}, "normalisation"),
        Mutant(UnitSphere(sphere, (2,)), {"loc": y, "concentration": real(5.0)}, "normalisation"),
    ]
