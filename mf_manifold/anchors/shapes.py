"""From the surroundings of anchors to components: what the fit learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .neighbours import Local

FLOOR = 1e-3  # least standard deviation, in units of the typical distance between neighbours
CLIP = 5.0  # standardised features beyond this are outliers


class Bumps(NamedTuple):
    """Components (i,j) around n anchors: ``N(shift mean; vectors diag(variances) vectors^T)`` in the tangent space."""

    variances: Tensor  # (n,J,d)
    shift: Tensor  # (n,J)
    log_weights: Tensor  # (n,J), normalised over all components


class Shapes(nn.Module):
    r"""Parameters of the components, for each scale j and, by a network, for each anchor's surroundings.

    With the eigenvalues :math:`\lambda` of the second moments of the nearest :math:`k_j` neighbours and their mean
    :math:`\bar\lambda`, a component has the variances

    .. math:: c_j ((1 - \rho_j) \lambda + \rho_j \bar\lambda) + s_j^2.

    The network's outputs are added to :math:`\log c_j`, :math:`\mathrm{logit}\, \rho_j`, the log weight and the shift.

    Args:
        columns: for each scale j the column of :class:`Local` that it reads.
        n_features: number of features of an anchor.
        hidden, dropout: of the network.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, columns: Sequence[int], n_features: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.columns, scales = list(columns), len(columns)
        self.refined = False  # whether the network adds to the shared parameters
        self.log_factor = nn.Parameter(_start(self.columns))
        self.roundness = nn.Parameter(torch.zeros(scales))
        self.log_width = nn.Parameter(torch.full((scales,), -2.0))
        self.log_weight = nn.Parameter(torch.zeros(scales))
        self.shift = nn.Parameter(torch.zeros(scales))
        self.background = nn.Parameter(torch.tensor(-5.0))
        self.plain = nn.Parameter(torch.tensor(-2.0))
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))
        sizes, layers = [n_features, *hidden], list[nn.Module]()
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(a, b), nn.SiLU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], 4 * scales))
        head = self.network[-1]
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)

    @property
    def shared(self) -> list[nn.Parameter]:
        """The parameters that all anchors share."""
        return [self.log_factor, self.roundness, self.log_width, self.log_weight, self.shift, self.background, self.plain]

    def standardise(self, features: Tensor) -> None:
        """Let the network see features with mean 0 and standard deviation 1."""
        self.center, self.spread = features.mean(0), features.std(0).clamp_min(1e-6)

    def forward(self, local: Local, max_scale: float) -> Bumps:
        factor, roundness, weight, shift = self._corrections(local.features)
        values = local.values[:, self.columns]
        share = torch.sigmoid(self.roundness + roundness).unsqueeze(-1)
        shape = (1 - share) * values + share * values.mean(-1, keepdim=True)
        width2 = (local.unit * torch.exp(self.log_width)).square().unsqueeze(-1)
        variances = torch.exp(self.log_factor + factor).unsqueeze(-1) * shape + width2
        variances = variances.clamp((FLOOR * local.unit) ** 2, max_scale**2)
        return Bumps(variances, self.shift + shift, self._log_weights(weight))

    def _log_weights(self, corrections: Tensor) -> Tensor:
        """A mixture of weights with and without the network, so that it cannot take all weight from where data may come."""
        shared = self.log_weight.expand_as(corrections)
        plain, corrected = (w - w.flatten().logsumexp(0) for w in (shared, shared + corrections))
        if not self.refined:
            return plain
        log_plain, log_corrected = nn.functional.logsigmoid(self.plain), nn.functional.logsigmoid(-self.plain)
        return torch.logaddexp(log_plain + plain, log_corrected + corrected)

    def _corrections(self, features: Tensor) -> tuple[Tensor, ...]:
        if not self.refined:
            return (features.new_zeros(len(features), len(self.columns)),) * 4
        standard = ((features - self.center) / self.spread).clamp(-CLIP, CLIP)
        corrections: Tensor = self.network(standard)
        return corrections.unflatten(-1, (4, -1)).unbind(1)

    def log_shares(self) -> tuple[Tensor, Tensor]:
        """Log weights of all components together and of the background."""
        return nn.functional.logsigmoid(-self.background), nn.functional.logsigmoid(self.background)


def _start(columns: list[int]) -> Tensor:
    """Log factors to begin with: half the second moments; for scales that share a column, around that."""
    start = []
    for j, column in enumerate(columns):
        among, position = columns.count(column), columns[:j].count(column)
        start.append(-0.5 + 2.0 * (position - (among - 1) / 2))
    return torch.tensor(start)


def tangent_log_prob(bumps: Bumps, local: Local, columns: list[int], anchor: Tensor, coords: Tensor) -> Tensor:
    """Weighted log density of logarithms ``coords`` (S,K,d) under the bumps of the anchors (S,K), all scales; -> (S,K,J).

    The quadratic forms are products of features of the points with entries of the precision matrices.
    """
    used, position = anchor.unique(return_inverse=True)
    vectors, variances = local.vectors[used][:, columns], bumps.variances[used]
    moved = bumps.shift[used].unsqueeze(-1) * local.mean[used][:, columns]
    precision = (vectors / variances.unsqueeze(-2)) @ vectors.mT
    linear = (precision @ moved.unsqueeze(-1)).squeeze(-1)
    dim = coords.shape[-1]
    log_norm = (variances.log().sum(-1) + dim * math.log(2 * math.pi)) / 2
    bias = bumps.log_weights[used] - log_norm - (linear * moved).sum(-1) / 2
    rows, columns_ = torch.triu_indices(dim, dim)
    halves = torch.where(rows == columns_, -0.5, -1.0).to(coords)
    psi = torch.cat([precision[..., rows, columns_] * halves, linear, bias.unsqueeze(-1)], dim=-1)
    phi = torch.cat([coords[..., rows] * coords[..., columns_], coords, torch.ones_like(coords[..., :1])], dim=-1)
    # a batched product of gathered rows takes half the time of an einsum
    gathered = psi.flatten(1).index_select(0, position.flatten()).unflatten(1, psi.shape[1:])
    return (gathered @ phi.flatten(0, 1).unsqueeze(-1)).squeeze(-1).unflatten(0, anchor.shape)
