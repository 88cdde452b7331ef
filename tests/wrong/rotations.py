"""Laws of rotations that are wrong on purpose, with the mistakes that published code has made."""

from __future__ import annotations

import math

import torch
from table.common import covariance, real
from table.rotations import ROTATIONS, concentration, quaternion, rotation
from torch import Tensor

from mf_manifold.geometry import Shape
from mf_manifold.kernel import Params
from mf_manifold.kernels.special_orthogonal_angular_central_gaussian import RotationACG
from mf_manifold.kernels.special_orthogonal_cayley_normal import CayleyNormal
from mf_manifold.kernels.special_orthogonal_isotropic_normal import IsotropicNormal
from mf_manifold.kernels.special_orthogonal_matrix_fisher import MatrixFisher, _below_top
from mf_manifold.kernels.special_orthogonal_projected_normal import RotationProjectedNormal
from mf_manifold.kernels.special_orthogonal_wrapped_normal import RotationWrappedNormal
from mf_manifold.numerics import quaternions
from mf_manifold.numerics.contour import log_quadratic_excess
from mf_manifold.numerics.special import angle2_from_chord2
from wrong.common import Mutant


class OneWinding(RotationWrappedNormal):
    """The shortest rotation alone."""

    def _wind(self, angle2: Tensor, square: Tensor, precision: Tensor, max_scale: float) -> Tensor:
        theta = angle2.clamp_min(1e-14).sqrt()
        return super()._wind(angle2, square, torch.full_like(precision, 1e6), max_scale) + 0 * theta


class NoVolumeOfAngle(RotationWrappedNormal):
    """A normal density of the rotation vector, without the volume of its exponential map."""

    def zonal(self, chord2: Tensor, scale: Tensor) -> Tensor:
        angle2 = 4 * angle2_from_chord2(chord2)
        return -angle2 / (2 * scale.square()) - 3 * scale.log() - 1.5 * math.log(2 * math.pi)


class HaarForAngles(RotationWrappedNormal):
    """A density by the volume of angles, taken for one by the uniform law: off by 8 pi^2."""

    base_measure = "haar"


class TwiceCovered(RotationProjectedNormal):
    """The factor of the double cover counted twice."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, w) + math.log(2)


class OneOfTwo(RotationProjectedNormal):
    """The density at q alone, nothing of what falls on -q."""

    def _radial(self, along: Tensor, off: Tensor) -> Tensor:
        mirrored = torch.log1p(-torch.special.ndtr(-along.abs()))
        return super()._radial(along, off) + mirrored


class EpsilonForScale(IsotropicNormal):
    """The law of exp(-l (l + 1) scale^2): its scale is a factor sqrt 2 off the standard deviation."""

    def zonal(self, chord2: Tensor, scale: Tensor) -> Tensor:
        return super().zonal(chord2, math.sqrt(2) * scale)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return super().rsample({**w, "scale": math.sqrt(2) * w["scale"]}, sample_shape, generator)


class SingleCharacters(IsotropicNormal):
    """The sum of characters in float32, which is noise where a narrow law is small."""

    def zonal(self, chord2: Tensor, scale: Tensor) -> Tensor:
        half = (4 * angle2_from_chord2(chord2)).clamp_min(1e-10).float().sqrt().unsqueeze(-1) / 2
        n = torch.arange(60, dtype=torch.float32)
        weight = (2 * n + 1) * torch.exp(-n * (n + 1) * scale.float().unsqueeze(-1).square() / 2)
        total = (weight * torch.sin((2 * n + 1) * half) / torch.sin(half)).sum(-1)
        return (total.abs().log() - math.log(8 * math.pi**2)).to(chord2.dtype)


class UnsignedSingularValues(MatrixFisher):
    """The normaliser from the ordinary singular values, whatever the sign of the determinant."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        s = torch.linalg.svdvals(w["concentration_matrix"].double())
        log_norm = log_quadratic_excess(_below_top(s)) + s.sum(-1) - math.log(2 * math.pi**2)
        return (w["concentration_matrix"] * x).sum((-2, -1)) - log_norm - math.log(8 * math.pi**2)


class CayleyPower(CayleyNormal):
    """The Jacobian with the power n instead of n - 1."""

    def zonal(self, chord2: Tensor, scale: Tensor) -> Tensor:
        return super().zonal(chord2, scale) + torch.log1p(chord2 * (1 - chord2 / 4) / (1 - chord2 / 2).square())


class CayleyHalfAngles(CayleyNormal):
    """Coordinates tan(angle / 2), whose standard deviation is half that of the angle."""

    def zonal(self, chord2: Tensor, scale: Tensor) -> Tensor:
        return super().zonal(chord2, 2 * scale)


class ThreeDimensionalACG(RotationACG):
    """The power of the sphere in space instead of that of quaternions."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        white = torch.linalg.solve_triangular(self._factor(w), self.quaternion(x).unsqueeze(-1), upper=False)
        return super()._log_prob(x, w) + white.square().sum((-2, -1)).log() / 2


class ScalarLast(RotationProjectedNormal):
    """Quaternions with the scalar part last in the density, first in the sampler."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        moved = quaternions.to_matrix(quaternions.unit(self.quaternion(x)).roll(-1, -1))
        return super()._log_prob(moved, w)


def mutants() -> list[Mutant]:
    """Each with the check that must catch it."""
    shape, wide = (3, 3), {"loc": rotation(3), "scale": real(1.2)}
    narrow, flat = {**wide, "scale": real(0.1)}, {"concentration_matrix": concentration([3.0, 2.0, -2.0])}
    vector = {"loc": quaternion()}
    return [
        Mutant(OneWinding(ROTATIONS, shape), wide, "normalisation"),
        Mutant(NoVolumeOfAngle(ROTATIONS, shape), {**wide, "scale": real(0.5)}, "normalisation"),
        Mutant(HaarForAngles(ROTATIONS, shape), narrow, "normalisation"),
        Mutant(TwiceCovered(ROTATIONS, shape), vector, "normalisation"),
        Mutant(OneOfTwo(ROTATIONS, shape), vector, "normalisation"),
        Mutant(EpsilonForScale(ROTATIONS, shape), narrow, "centered"),
        Mutant(SingleCharacters(ROTATIONS, shape), narrow, "normalisation"),
        Mutant(UnsignedSingularValues(ROTATIONS, shape), flat, "normalisation"),
        Mutant(CayleyPower(ROTATIONS, shape), wide, "normalisation"),
        Mutant(CayleyHalfAngles(ROTATIONS, shape), narrow, "sampler"),
        Mutant(ThreeDimensionalACG(ROTATIONS, shape), {"covariance_matrix": covariance(4, 1.0)}, "normalisation"),
        Mutant(ScalarLast(ROTATIONS, shape), {"loc": real([2.0, 0.5, 0.0, 1.0])}, "sampler"),
    ]
