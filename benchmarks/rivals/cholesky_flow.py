"""A spline flow on SPD matrices through their Cholesky factors, for training by reverse Kullback-Leibler divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from zuko.flows import MAF, NSF


class CholeskyFlow(nn.Module):
    r"""Density of ``X = L L'`` where the entries of L, the diagonal by its logarithm, come from a flow.

    .. math:: \log q(X) = \log q_u(u) - p \log 2 - \sum_{i=1}^p (p - i + 2) \log L_{ii}

    One pass draws a sample together with its log density; the log density of a given matrix inverts the flow, which takes as
    many passes as there are entries. In float64.

    **Measure**: Lebesgue, the entries i <= j.

    Args:
        p: size of the matrices.
        splines: rational-quadratic splines, otherwise affine layers.
        transforms, hidden: layers, widths of the hidden layers of each conditioner.

    Reference: Muirhead (1982), Aspects of Multivariate Statistical Theory, theorem 2.1.9 (Jacobian of X = L L').
    """

    def __init__(self, p: int, *, splines: bool = True, transforms: int = 4, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.p, self.dim = p, p * (p + 1) // 2
        family = NSF if splines else MAF
        self.transform = family(self.dim, transforms=transforms, hidden_features=tuple(hidden)).transform
        self.shift, self.log_spread = nn.Parameter(torch.zeros(self.dim)), nn.Parameter(torch.zeros(self.dim))
        self.register_buffer("power", torch.arange(p + 1, 1, -1.0))
        rows, columns = torch.tril_indices(p, p)
        order = torch.cat([(rows == columns).nonzero(), (rows != columns).nonzero()]).squeeze(-1)  # the diagonal first
        self.register_buffer("rows", rows[order])
        self.register_buffer("columns", columns[order])
        self.double()

    @property
    def parameter_count(self) -> int:
        """Number of trained reals."""
        return sum(parameter.numel() for parameter in self.parameters())

    def rsample_and_log_prob(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Samples (n,p,p), differentiable in the weights, and their log densities (n)."""
        z = torch.randn(n, self.dim, generator=generator, dtype=torch.float64).to(self.shift)
        y, log_det = self.transform().call_and_ladj(z)
        u = self.shift + self.log_spread.exp() * y
        factor = (
            torch.zeros(n, self.p, self.p)
            .to(u)
            .index_put(
                (torch.arange(n, device=u.device)[:, None], self.rows, self.columns),
                torch.cat([u[:, : self.p].exp(), u[:, self.p :]], dim=-1),
            )
        )
        return factor @ factor.mT, self._log_base(z) - log_det - self._log_volume(u)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at matrices; (N,p,p) -> (N)."""
        factor = torch.linalg.cholesky(x.to(self.shift))[:, self.rows, self.columns]
        u = torch.cat([factor[:, : self.p].log(), factor[:, self.p :]], dim=-1)
        z = self.transform().inv((u - self.shift) * (-self.log_spread).exp())
        return self._log_base(z) - self.transform().call_and_ladj(z)[1] - self._log_volume(u)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Independent samples; -> (n,p,p)."""
        with torch.no_grad():
            return self.rsample_and_log_prob(n, torch.Generator().manual_seed(seed))[0]

    def _log_base(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(-1) - 0.5 * self.dim * math.log(2 * math.pi)

    def _log_volume(self, u: Tensor) -> Tensor:
        """Log determinant of the map from the flow's output to the entries of X."""
        return self.log_spread.sum() + self.p * math.log(2) + (self.power * u[:, : self.p]).sum(-1)
