"""From the surroundings of anchors to components: what the fit learns."""

from __future__ import annotations

import copy
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
        hidden, dropout: of a network.
        members: number of networks, whose outputs are averaged.
    """

    center: Tensor
    spread: Tensor

    def __init__(
        self, columns: Sequence[int], n_features: int, hidden: Sequence[int], dropout: float, members: int = 1
    ) -> None:
        super().__init__()
        self.columns, scales = list(columns), len(columns)
        self.refined = False  # whether the network adds to the shared parameters
        self.log_factor = nn.Parameter(_start(self.columns))
        self.roundness = nn.Parameter(torch.zeros(scales))
        self.log_width = nn.Parameter(torch.full((scales,), -2.0))
        self.log_weight = nn.Parameter(torch.zeros(scales))
        self.shift = nn.Parameter(torch.zeros(scales))
        self.background = nn.Parameter(torch.tensor(-5.0))
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))
        self.networks = nn.ModuleList(_network([n_features, *hidden, 4 * scales], dropout) for _ in range(members))

    @property
    def shared(self) -> list[nn.Parameter]:
        """The parameters that all anchors share."""
        return [self.log_factor, self.roundness, self.log_width, self.log_weight, self.shift, self.background]

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
        log_weights = self.log_weight + weight
        return Bumps(variances, self.shift + shift, log_weights - log_weights.flatten().logsumexp(0))

    def _corrections(self, features: Tensor) -> tuple[Tensor, ...]:
        if not self.refined:
            return (features.new_zeros(len(features), len(self.columns)),) * 4
        standard = ((features - self.center) / self.spread).clamp(-CLIP, CLIP)
        corrections = torch.stack([network(standard) for network in self.networks]).mean(0)
        return corrections.unflatten(-1, (4, -1)).unbind(1)

    def alone(self, number: int) -> Shapes:
        """A copy with one of the networks only."""
        shapes = copy.deepcopy(self)
        shapes.networks = nn.ModuleList([shapes.networks[number]])
        return shapes

    @torch.no_grad()
    def average(self, members: Sequence[Shapes]) -> None:
        """Take over the members' networks, whose outputs are averaged, and the mean of what else they have."""
        self.refined = any(member.refined for member in members)
        for own, theirs in zip(self.shared, zip(*(member.shared for member in members), strict=True), strict=True):
            own.copy_(torch.stack(theirs).mean(0))
        for network, member in zip(self.networks, members, strict=True):
            network.load_state_dict(member.networks[0].state_dict())

    def log_shares(self) -> tuple[Tensor, Tensor]:
        """Log weights of all components together and of the background."""
        return nn.functional.logsigmoid(-self.background), nn.functional.logsigmoid(self.background)


def _network(sizes: list[int], dropout: float) -> nn.Sequential:
    """A network whose outputs are zero to begin with."""
    layers: list[nn.Module] = []
    for a, b in zip(sizes[:-2], sizes[1:-1], strict=True):
        layers += [nn.Linear(a, b), nn.SiLU(), nn.Dropout(dropout)]
    head = nn.Linear(sizes[-2], sizes[-1])
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, head)


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
