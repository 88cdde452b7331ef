"""Kernels that are wrong on purpose, with the mistakes that published code has made."""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from table.common import PLANE, SPD, SPHERE, TORUS, real, spd_matrix, unit_vector
from torch import Tensor

from mf_manifold import geometry
from mf_manifold.geometry import Shape
from mf_manifold.kernel import Kernel, Params
from mf_manifold.kernels.coordinate_normal import EuclideanNormal
from mf_manifold.kernels.spd_log_normal import SPDLogNormal
from mf_manifold.kernels.spd_wishart import SPDWishart
from mf_manifold.kernels.sphere_von_mises_fisher import VonMisesFisher
from mf_manifold.kernels.sphere_wrapped_normal import SphereWrappedNormal
from mf_manifold.kernels.torus_wrapped_normal import TorusWrappedNormal
from mf_manifold.numerics.bessel import log_vmf_normalizer
from mf_manifold.numerics.special import log_sinhc, wishart_log_constant
from wrong.common import Mutant


def _gaussian(theta: Tensor, scale: Tensor, dim: int) -> Tensor:
    return -theta.square() / (2 * scale.square()) - dim * (scale.log() + math.log(2 * math.pi) / 2)


class NoVolumeFactor(SphereWrappedNormal):
    """A normal density of the distance, without the volume element of the exponential map."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return _gaussian(geometry.dist(self.manifold, x, w["loc"]), w["scale"], self.dim)


class PrincipalBranch(SphereWrappedNormal):
    """Only the shortest of the geodesics that reach a point."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        theta = geometry.dist(self.manifold, x, w["loc"])
        return _gaussian(theta, w["scale"], self.dim) + (self.dim - 1) * (theta / theta.sin()).log()


class OneTurnTorus(TorusWrappedNormal):
    """A normal density of the wrapped difference, its images forgotten."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        delta = geometry.logmap(self.manifold, w["loc"], x)
        return torch.distributions.Normal(0, w["scale"], validate_args=False).log_prob(delta).sum(-1)


class HyperbolicFactorOnSPD(SPDLogNormal):
    """The volume factor sinh(d) / d of hyperbolic space, of the distance instead of the eigenvalue gaps."""

    base_measure = "riemannian"

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        distance = torch.linalg.vector_norm(self.coordinates(x) - self.coordinates(w["loc"]), dim=-1)
        return super()._log_prob(x, w) - (self.point_shape[0] - 1) * log_sinhc(distance / math.sqrt(2))


class WishartWithoutRoots(SPDWishart):
    """The factor 2^(p (p - 1) / 4) between Lebesgue measure and the volume forgotten."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        p = self.point_shape[0]
        return super()._log_prob(x, w) + p * (p - 1) / 4 * math.log(2)


class WishartTraceConstant(SPDWishart):
    """Degrees of freedom off by one in the constant alone."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        p = self.point_shape[0]
        return super()._log_prob(x, w) + wishart_log_constant(w["df"] - 1, p) - wishart_log_constant(w["df"], p)


class WishartOneLess(SPDWishart):
    """A proper density, of one degree of freedom fewer than the sampler has."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, {**w, "df": w["df"] - 1})


class ClampedDistance(SphereWrappedNormal):
    """geoopt's distance, which is 0.0141 in float32 between equal points."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        distance = geoopt.Sphere().dist(x, w["loc"])
        near2 = (2 * (distance / 2).sin()).square()
        return self._from_chords(near2, 4 - near2, w["scale"].pow(-2), *self._terms(self._spread(w))).to(x.dtype)


class AmbientNormalizer(VonMisesFisher):
    """The normaliser of the sphere one dimension up: intrinsic and ambient dimension confused."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        own, other = (log_vmf_normalizer(n, w["concentration"]) for n in (self.point_shape[0], self.point_shape[0] + 1))
        return super()._log_prob(x, w) + other - own

    def bilinear(self, x: Tensor, w: Params) -> None:
        return None


class WideSampler(SphereWrappedNormal):
    """A sampler whose scale is 2 % too large."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return super().rsample({**w, "scale": 1.02 * w["scale"]}, sample_shape, generator)


class MirroredSampler(TorusWrappedNormal):
    """Correlations of the wrong sign: every single angle is right."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        signs = real([1.0, -1.0]).to(w["loc"])
        return w["loc"] + signs * geometry.logmap(self.manifold, w["loc"], super().rsample(w, sample_shape, generator))


class FrameDependent(SphereWrappedNormal):
    """Unequal standard deviations along the axes of a frame that no rotation keeps."""

    def _tangent(self, w: Params) -> Params:
        loc, deviations = w["loc"], w["scale"].unsqueeze(-1) * real([1.0, 1.5])
        axes = geometry.from_coords(self.manifold, loc.unsqueeze(-2), torch.eye(2, dtype=loc.dtype) * deviations.unsqueeze(-2))
        return {"loc": loc, "covariance_matrix": axes.mT @ axes}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        tangent = self._tangent(w)
        return SphereWrappedNormal(self.manifold, self.point_shape, "full").log_prob(x, tangent)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self.log_prob(x.unsqueeze(1), w)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        tangent = self._tangent(w)
        return SphereWrappedNormal(self.manifold, self.point_shape, "full").rsample(tangent, sample_shape, generator)


class ArccosGradient(SphereWrappedNormal):
    """The angle by arccos, whose gradient at loc is NaN."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        theta = torch.arccos((x * w["loc"]).sum(-1).clamp(-1, 1))
        near2, far2 = (2 * (theta / 2).sin()).square(), (2 * (theta / 2).cos()).square()
        return self._from_chords(near2, far2, w["scale"].pow(-2), *self._terms(self._spread(w)))


class DetachedScale(SphereWrappedNormal):
    """A density that does not tell its scale's gradient."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, {**w, "scale": w["scale"].detach()})


class DetachedLocation(SphereWrappedNormal):
    """Samples that do not follow the location when it moves."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return super().rsample({**w, "loc": w["loc"].detach()}, sample_shape, generator)


class ForgetsTheDevice(EuclideanNormal):
    """A constant made where torch makes them by default."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, w) + torch.zeros(())

    def bilinear(self, x: Tensor, w: Params) -> None:
        return None


class AlwaysDouble(EuclideanNormal):
    """Results in float64 whatever comes in."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, w).double()


class BroadcastsAway(EuclideanNormal):
    """A reduction over all trailing dimensions, right for one component only."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        white = (x - w["loc"]) / w["scale"]
        return -(white.square().flatten(max(x.ndim - 2, 0)).sum(-1) / 2) - w["scale"].log().sum() - math.log(2 * math.pi)

    def bilinear(self, x: Tensor, w: Params) -> None:
        return None


class DeadParameter(EuclideanNormal):
    """A network output that nothing depends on."""

    @property
    def num_raw_shape(self) -> int:
        return super().num_raw_shape + 1

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        return super().shaped(points, shape[..., :-1])


class VarianceForScale(EuclideanNormal):
    """``centered`` takes the standard deviation for a variance."""

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return super().centered(points, scale.sqrt())


class ShortBilinear(VonMisesFisher):
    """A matrix-product form without its bias: only the fast path is wrong."""

    def bilinear(self, x: Tensor, w: Params) -> Any:
        form = super().bilinear(x, w)
        return form._replace(bias=torch.zeros_like(form.bias))

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self.log_prob(x.unsqueeze(1), w)


def _on_sphere(kernel: type[Kernel], scale: float, check: str) -> Mutant:
    return Mutant(kernel(SPHERE, (3,)), {"loc": unit_vector(3), "scale": real(scale)}, check)


def _on_spd(kernel: type[Kernel], check: str) -> Mutant:
    return Mutant(kernel(SPD, (2, 2)), {"df": real(7.5), "covariance_matrix": spd_matrix(2)}, check)


def _in_plane(kernel: type[Kernel], check: str) -> Mutant:
    return Mutant(kernel(PLANE, (2,)), {"loc": real([1.0, -2.0]), "scale": real([0.7, 0.4])}, check)


def mutants() -> list[Mutant]:
    """All wrong kernels."""
    fisher = {"loc": unit_vector(3), "concentration": real(5.0)}
    angles, pair = real([1.0, -2.0]), torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)
    return [
        _on_sphere(NoVolumeFactor, 0.5, "normalisation"),
        _on_sphere(PrincipalBranch, 1.5, "normalisation"),
        Mutant(OneTurnTorus(TORUS, (2,)), {"loc": angles, "scale": real([1.5, 0.5])}, "normalisation"),
        Mutant(HyperbolicFactorOnSPD(SPD, (2, 2)), {"loc": spd_matrix(2), "scale": real([0.6])}, "normalisation"),
        _on_spd(WishartWithoutRoots, "normalisation"),
        _on_spd(WishartTraceConstant, "normalisation"),
        Mutant(AmbientNormalizer(SPHERE, (3,)), fisher, "normalisation"),
        _on_spd(WishartOneLess, "sampler"),
        _on_sphere(WideSampler, 0.3, "sampler"),
        Mutant(MirroredSampler(TORUS, (2,), "full"), {"loc": angles, "covariance_matrix": pair}, "neighbours"),
        _on_sphere(ClampedDistance, 0.001, "dtypes"),
        _in_plane(AlwaysDouble, "dtypes"),
        _on_sphere(FrameDependent, 0.3, "invariance"),
        _on_sphere(ArccosGradient, 0.3, "gradients"),
        _on_sphere(DetachedScale, 0.3, "gradients"),
        _on_sphere(DetachedLocation, 0.3, "pathwise"),
        _in_plane(ForgetsTheDevice, "device"),
        _in_plane(BroadcastsAway, "shapes"),
        _in_plane(DeadParameter, "life cycle"),
        _in_plane(VarianceForScale, "centered"),
        Mutant(ShortBilinear(SPHERE, (3,)), fisher, "backends"),
    ]
