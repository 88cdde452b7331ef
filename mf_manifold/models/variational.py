"""Parts of variational mixtures: the bound, and the network that guesses components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import geoopt
import torch
from torch import Tensor, nn

from .. import geometry
from ..geometry import Shape
from ..nets import mlp

if TYPE_CHECKING:
    from .component_mixture import ComponentMixture


def evidence_lower_bound(log_joint: Tensor, log_q: Tensor) -> Tensor:
    r"""The variational bound of a mixture's log density, with the exact sum over its components.

    .. math:: \mathrm{ELBO}(x) = \sum_k q(k \mid x) \, [\log \pi_k p_k(x) - \log q(k \mid x)]
              = \log p(x) - \mathrm{KL}(q(\cdot \mid x) \,\|\, p(\cdot \mid x))

    A component whose q underflows to 0 adds nothing, whatever its density.

    Args:
        log_joint: ``log pi_k + log p_k(x)``, (*S,K).
        log_q: normalised log probabilities of the components, (*S,K).

    >>> joint = torch.tensor([[-1.0, -3.0]])
    >>> bool((evidence_lower_bound(joint, joint.log_softmax(-1)) - joint.logsumexp(-1)).abs() < 1e-6)     # no gap
    True
    >>> evidence_lower_bound(joint, torch.tensor([[0.5, 0.5]]).log()) - joint.logsumexp(-1)
    tensor([-0.4338])
    """
    q = log_q.exp()
    return (q * (log_joint - log_q).masked_fill(q == 0, 0.0)).sum(-1)


class Encoder(nn.Module):
    r"""A perceptron that guesses which component a point is of.

    .. math:: q(k \mid x) = \operatorname{softmax}_k(\mathrm{net}(x) / T)

    It sees the unconstrained coordinates of :func:`mf_manifold.geometry.to_raw` (on spheres the point itself, on tori cosines
    and sines), standardised by the data.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, hidden: Sequence[int], n_components: int) -> None:
        super().__init__()
        self._manifold = (manifold,)  # in a tuple: manifolds are modules, whose buffers are no weights of the network
        features = geometry.raw_dim(manifold, point_shape)
        self.register_buffer("shift", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.network = mlp(features, hidden, n_components)

    def standardise(self, x: Tensor) -> None:
        """Learn centre and spread of the coordinates from points (n,*E)."""
        raw = geometry.to_raw(self._manifold[0], x)
        spread = raw.std(0)
        self.shift, self.spread = raw.mean(0), torch.where(spread > 0, spread, 1.0)

    def forward(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        """``log q(k | x)``; (*S,*E) -> (*S,K)."""
        raw = (geometry.to_raw(self._manifold[0], x) - self.shift) / self.spread
        return torch.log_softmax(self.network(raw) / temperature, dim=-1)


def log_prob_of_own(mixture: ComponentMixture, x: Tensor, labels: Tensor) -> Tensor:
    """Mean log density of points (n,*E), each under the component that its label (n) names."""
    total = x.new_zeros(())
    for k, component in enumerate(mixture.components):
        own = labels == k
        if bool(own.any()):
            total = total + component.log_prob(x[own], "riemannian").sum()
    return total / len(x)
