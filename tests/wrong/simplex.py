"""Laws of compositions that are wrong on purpose, with mistakes that published code has made."""

from __future__ import annotations

import math

import torch
from table.common import real
from table.simplex import SIMPLEX, composition
from torch import Tensor

from mf_manifold.geometry import Shape
from mf_manifold.kernel import Params
from mf_manifold.kernels.simplex_dirichlet import Dirichlet
from mf_manifold.kernels.simplex_logistic_normal import LogisticNormal
from wrong.common import Mutant


class TextbookDirichlet(Dirichlet):
    """The textbook's exponents alpha - 1, which belong to Lebesgue measure, with respect to the Aitchison volume."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, w) - x.log().sum(-1)


class GammaSampler(Dirichlet):
    """Normalised gamma variates with one degree of freedom too many, as boosted ones without their uniform factor have."""

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return super().rsample({"concentration": w["concentration"] + 1}, sample_shape, generator)


class AdditiveNormalizer(LogisticNormal):
    """The Jacobian of the additive log-ratio, without sqrt K, on isometric coordinates."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, w) + math.log(x.shape[-1]) / 2


def mutants() -> list[Mutant]:
    """All of them."""
    alpha, composed = {"concentration": real([2.0, 0.8, 4.0])}, {"loc": composition(3), "scale": real([0.5])}
    return [
        Mutant(TextbookDirichlet(SIMPLEX, (3,)), alpha, "normalisation"),
        Mutant(GammaSampler(SIMPLEX, (3,)), alpha, "sampler"),
        Mutant(AdditiveNormalizer(SIMPLEX, (3,)), composed, "normalisation"),
    ]
