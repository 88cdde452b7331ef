"""Parts of variational mixtures: the bound, the network that guesses components, the objective with labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import geoopt
import torch
from scipy.sparse.csgraph import dijkstra
from torch import Tensor, nn

from .. import geometry
from ..bases import neighbour_graph
from ..geometry import Shape
from ..losses import Batch
from ..nets import mlp

if TYPE_CHECKING:
    from .component_mixture import ComponentMixture

LABELLED = 1024  # points with labels in a step, at most


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


def spread_labels(x: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """Labels (n) of points (n,f): that of the known point (m,f) from which the shortest path along the points leads there.

    Paths are those of the graph of nearest neighbours, so that labels follow curves and do not jump gaps.

    >>> along = torch.linspace(0, 5, 50)
    >>> low, high = (torch.stack([along, torch.full((50,), height)], dim=1) for height in (0.0, 1.0))
    >>> found = spread_labels(torch.cat([low, high]), torch.stack([low[0], high[-1]]), torch.tensor([0, 1]))
    >>> found.reshape(2, 50).unique_consecutive(dim=1)
    tensor([[0],
            [1]])
    """
    graph = neighbour_graph(torch.cat([known, x]).double().cpu().numpy())
    sources = dijkstra(graph, directed=False, indices=range(len(known)), min_only=True, return_predecessors=True)[2]
    return labels[torch.as_tensor(sources[len(known) :]).long().to(labels.device)]


class LabelledBound:
    r"""The objective with labels for some of the data: the bound of all data, and at labelled ones what their label says.

    .. math:: L = -\frac1n \sum_{i=1}^{n} \mathrm{ELBO}(x_i)
              - \frac1m \sum_{j=1}^{m} \Bigl[\frac{m}{n} \log p_{y_j}(x_j) + w \log q(y_j \mid x_j)\Bigr]

    The first sum is over the step's batch. The second has all m labelled points in every step (1024 of them, drawn anew, where
    there are more), since they may be few. A label adds the weight of one datum to its component's likelihood: with more, the
    densities would gather on the labelled points.

    Args:
        x: labelled points (m,*E).
        labels: their components (m), from 0 to K - 1.
        n: number of training data, labelled and not.
        weight: w, of the cross-entropy of the encoder.

    Reference: Variational mixture of normalizing flows, arXiv 2009.00585; its labelled term has both logarithms with weight 1.
    """

    def __init__(self, x: Tensor, labels: Tensor, n: int, weight: float = 1.0) -> None:
        if not weight > 0:
            raise ValueError(f"Expected a positive weight of the labels, got {weight}.")
        self.x, self.labels, self.n, self.weight = x, labels, n, weight

    def identity(self) -> list[Any]:
        """What a resumed run must share: the labelled points, their labels, the weight."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.labels):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return [digest.hexdigest(), self.n, self.weight]

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        mixture = batch.draw(model)
        x, labels = self.x, self.labels
        if len(x) > LABELLED:
            rows = torch.randperm(len(x), generator=batch.generator)[:LABELLED].to(x.device)
            x, labels = x[rows], labels[rows]
        guessed = model.encoder(x, model.temperature_at(batch.progress)).gather(1, labels.unsqueeze(1)).mean()
        share = len(self.x) / self.n
        return model.loss(mixture, batch) - share * log_prob_of_own(mixture, x, labels) - self.weight * guessed
