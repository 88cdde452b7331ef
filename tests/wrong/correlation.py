"""Laws of correlation matrices that are wrong on purpose, with mistakes that published code has made."""

from __future__ import annotations

import torch
from table.common import real
from table.correlation import CORRELATION, correlation_matrix
from torch import Tensor

from mf_manifold.kernel import Params
from mf_manifold.kernels.correlation_lkj import LKJ
from mf_manifold.kernels.correlation_partial_normal import PartialCorrelationNormal
from mf_manifold.manifolds.correlation import below
from wrong.common import Mutant


class FactorDensity(LKJ):
    """The density of the Cholesky factor taken for that of the correlation matrix."""

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        p = x.shape[-1]
        powers = p - 1 - torch.arange(p, dtype=x.dtype)
        logs = torch.linalg.cholesky(x).diagonal(dim1=-2, dim2=-1).log()
        return super()._log_prob(x, w) + (powers * logs)[..., 1:].sum(-1)


class SameShapes(LKJ):
    """Partial correlations that all follow the beta law of the first column."""

    def _shapes(self, w: Params) -> Tensor:
        return super()._shapes(w)[..., :1].expand(*w["concentration"].shape, self.point_shape[0] - 1)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return LKJ(self.manifold, self.point_shape)._log_prob(x, w)


class PlainFisher(PartialCorrelationNormal):
    """Fisher's z of the correlations themselves, which do not fill a space."""

    def coordinates(self, x: Tensor) -> Tensor:
        rows, columns = below(x.shape[-1], x.device)
        return torch.atanh(x[..., rows, columns].double())


def mutants() -> list[Mutant]:
    """All of them."""
    eta, correlated = {"concentration": real(1.5)}, {"loc": correlation_matrix(3), "scale": real([0.3])}
    return [
        Mutant(FactorDensity(CORRELATION, (3, 3)), eta, "normalisation"),
        Mutant(SameShapes(CORRELATION, (3, 3)), eta, "sampler"),
        Mutant(PlainFisher(CORRELATION, (3, 3)), correlated, "normalisation"),
    ]
