"""Kernels on submanifolds that are wrong on purpose, with the mistakes that are easy to make there."""

from __future__ import annotations

import torch
from table.common import real
from table.submanifolds import CIRCLE, ELLIPSE, PEAR, ROLL
from torch import Tensor

import mf_manifold as mf
from mf_manifold.geometry import Shape
from mf_manifold.kernel import Params
from mf_manifold.kernels.affine_normal import AffineProjectedNormal
from mf_manifold.kernels.ambient_normal import result_type
from mf_manifold.kernels.chart_pushforward_normal import PushforwardNormal
from mf_manifold.kernels.star_shaped_radial_normal import RadialNormal
from mf_manifold.kernels.surface_projected_normal import SurfaceProjectedNormal
from mf_manifold.kernels.surface_restricted_normal import RestrictedNormal
from mf_manifold.numerics.truncated_moments import log_truncated_moment

from .common import Mutant


class FocalDistance(SurfaceProjectedNormal):
    """The normal line of an ellipse followed to the centre of curvature, past the medial axis."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        fibre = self.manifold.fibre(x)
        line = self.along(x, fibre.normal, w)
        constant, slope = fibre.coefficients.unbind(-1)
        early = constant / slope  # the volume factor, linear, is zero this much before the medial axis
        factor = torch.stack([torch.zeros_like(slope), slope], dim=-1)
        moment = log_truncated_moment(factor, line.center - fibre.start + early, line.width)
        return (line.log_top + moment).to(result_type(x, w))


class NoVolumeFactor(SurfaceProjectedNormal):
    """The integral of the normal density along the normal line, the curvature of the surface forgotten."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        fibre = self.manifold.fibre(x)
        line = self.along(x, fibre.normal, w)
        flat = torch.tensor([1.0, 0.0], dtype=x.dtype)
        return line.log_top + log_truncated_moment(flat, line.center - fibre.start, line.width)


class NoCosine(RadialNormal):
    """A ray's solid angle over |x|^(D - 1), as if it met the surface at a right angle."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        cosine = (self.manifold.normal(x) * torch.nn.functional.normalize(x, dim=-1)).sum(-1)
        return super()._log_prob(x, w) - cosine.log()


class OnePreimage(PushforwardNormal):
    """Only the coordinates next to those of loc."""

    def _coordinate_log_prob(self, delta: Tensor, w: Params) -> Tensor:
        wrapped = torch.remainder(delta + torch.pi, 2 * torch.pi) - torch.pi
        return torch.distributions.Normal(0, w["scale"], validate_args=False).log_prob(wrapped).sum(-1)


class NoJacobian(PushforwardNormal):
    """The density of the coordinates passed off as that of the surface."""

    base_measure = "riemannian"


class AmbientNormalizer(RestrictedNormal):
    """The normaliser of the ambient space."""

    def log_normalizer(self, w: Params) -> Tensor:
        return self.point_shape[0] * (w["scale"].double().log() + torch.tensor(2 * torch.pi).double().log() / 2)


class SubspaceOfTheCovariance(AffineProjectedNormal):
    """The sampler of the law conditioned on the subspace, not of the projected one."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        precision = torch.linalg.inv(w["covariance_matrix"])
        basis = self.manifold.basis(w["loc"])
        inside = basis @ torch.linalg.inv(basis.mT @ precision @ basis) @ basis.mT
        outside = torch.eye(self.point_shape[0], dtype=inside.dtype) - basis @ basis.mT
        return super().rsample({"loc": w["loc"], "covariance_matrix": inside + outside}, sample_shape, generator)


def mutants() -> list[Mutant]:
    """All of them."""
    tip, top = (mf.geometry.project(m, x) for m, x in ((ELLIPSE, real([1.2, 0.9])), (PEAR, real([0.5, 0.6, 0.7]))))
    wide, turned = {"loc": tip, "scale": real(1.5)}, {"loc": real([0.6, 0.8]), "scale": real([2.0])}
    rolled = {"loc": ROLL.embedding(real([[1.5, 0.0]]))[0], "scale": real([0.1, 0.1])}
    sheet = mf.manifolds.AffineSubspace([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    tilted = torch.tensor([[1.0, 0.0, 0.8], [0.0, 1.0, 0.0], [0.8, 0.0, 1.0]], dtype=torch.float64)
    return [
        Mutant(FocalDistance(ELLIPSE, (2,)), wide, "normalisation"),
        Mutant(NoVolumeFactor(ELLIPSE, (2,)), wide, "normalisation"),
        Mutant(NoCosine(PEAR, (3,)), {"loc": top, "scale": real(0.5)}, "normalisation"),
        Mutant(OnePreimage(CIRCLE, (2,)), turned, "normalisation"),
        Mutant(NoJacobian(ROLL, (3,)), rolled, "normalisation"),
        Mutant(AmbientNormalizer(ELLIPSE, (2,)), {"loc": tip, "scale": real(0.3)}, "normalisation"),
        Mutant(
            SubspaceOfTheCovariance(sheet, (3,), "full"),
            {"loc": real([0.5, 0.0, 0.0]), "covariance_matrix": tilted},
            "sampler",
        ),
    ]
