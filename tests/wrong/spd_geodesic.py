"""Normal laws of affine-invariant SPD geometry with the mistakes that published formulas and code have."""

from __future__ import annotations

import math

import torch
from table.common import SPD, real, spd_matrix
from torch import Tensor

from mf_manifold.kernel import Params
from mf_manifold.kernels.spd_riemannian_normal import SPDRiemannianNormal
from mf_manifold.kernels.spd_wrapped_normal import SPDWrappedNormal
from mf_manifold.numerics.affine_invariant import radial, square_distance, tangent
from mf_manifold.numerics.linalg import sym_eigvals
from mf_manifold.numerics.special import log_sinhc
from wrong.common import Mutant


class MissingRootOfPi(SPDRiemannianNormal):
    """The normaliser (2 pi)^(3/2) s^2 exp(s^2 / 4) erf(s / 2) that is quoted for p = 2, too small by sqrt(pi)."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        s = w["scale"]
        log_z = 1.5 * math.log(2 * math.pi) + 2 * s.log() + s.square() / 4 + torch.erf(s / 2).log()
        return -square_distance(x, w["loc"]) / (2 * s.square()) - log_z


class FlatNormaliser(SPDRiemannianNormal):
    """The normaliser of flat space, the limit of narrow laws."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        s2 = w["scale"].square()
        return -square_distance(x, w["loc"]) / (2 * s2) - self.dim / 2 * torch.log(2 * math.pi * s2)


class WidenedWithoutRejection(SPDRiemannianNormal):
    """Samples of the wrapped normal law taken for those of the Riemannian one."""

    def rsample(self, w: Params, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Tensor:
        wrapped = SPDWrappedNormal(self.manifold, self.point_shape)
        return wrapped.rsample({"loc": w["loc"], "scale": w["scale"].unsqueeze(-1)}, sample_shape, generator)


class _OtherFactor(SPDWrappedNormal):
    def _factor(self, x: Tensor, loc: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        right = super()._log_prob(x, w)
        return right + radial(x, w["loc"])[1] - self._factor(x, w["loc"])


class HyperbolicFactor(_OtherFactor):
    """The volume factor of hyperbolic space, of the distance instead of the eigenvalue gaps."""

    def _factor(self, x: Tensor, loc: Tensor) -> Tensor:
        return (self.dim - 1) * log_sinhc(square_distance(x, loc).clamp_min(1e-30).sqrt())


class FullGaps(_OtherFactor):
    """sinh(h) / h instead of sinh(h / 2) / (h / 2)."""

    def _factor(self, x: Tensor, loc: Tensor) -> Tensor:
        values = sym_eigvals(tangent(x, loc))
        row, column = torch.triu_indices(values.shape[-1], values.shape[-1], 1)
        return log_sinhc(values[..., column] - values[..., row]).sum(-1)


class CholeskyRoot(SPDWrappedNormal):
    """Samples through the Cholesky factor of ``loc``, which turns an anisotropic law into another one."""

    def rsample(self, w: Params, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Tensor:
        factor = torch.linalg.cholesky(w["loc"])
        identity = torch.eye(factor.shape[-1]).to(factor).expand_as(factor)
        return factor @ super().rsample({**w, "loc": identity}, sample_shape, generator) @ factor.mT


def mutants() -> list[Mutant]:
    """With the checks that must catch them."""
    loc, shape = spd_matrix(2), (2, 2)
    wide, one = {"loc": loc, "scale": real(0.8)}, {"loc": loc, "scale": real([0.8])}
    several = {"loc": loc, "scale": real([0.2, 0.5, 0.9])}
    return [
        Mutant(MissingRootOfPi(SPD, shape), wide, "normalisation"),
        Mutant(FlatNormaliser(SPD, shape), wide, "normalisation"),
        Mutant(WidenedWithoutRejection(SPD, shape), wide, "sampler"),
        Mutant(HyperbolicFactor(SPD, shape), one, "normalisation"),
        Mutant(FullGaps(SPD, shape), one, "normalisation"),
        Mutant(CholeskyRoot(SPD, shape), several, "sampler"),
    ]
