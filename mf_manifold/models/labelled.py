"""Labels for some of the data of a mixture: their objective, how they spread, how they are split."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree
from torch import Tensor

from ..bases import neighbour_graph
from ..losses import Batch
from .variational import log_prob_of_own

LABELLED = 1024  # points with labels in a step, at most


def checked_labels(labels: Tensor, n: int, n_components: int) -> Tensor:
    """Labels of n points, from -1 for unknown ones to ``n_components - 1``, as whole numbers.

    Raises:
        ValueError: another shape or type, values out of range, no known label.
    """
    if labels.shape != (n,) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"Expected one whole number a point as labels, got {labels.dtype} of shape {tuple(labels.shape)}.")
    least, most = int(labels.min()), int(labels.max())
    if least < -1 or not 0 <= most < n_components:
        raise ValueError(
            f"Expected labels from 0 to {n_components - 1}, at least one, and -1 where unknown, got {least} to {most}."
        )
    return labels.long()


def split_rows(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and to hold out, of which those without labels come first."""
    if not 0 < fraction < 1:
        raise ValueError(f"Expected 0 < validation_fraction < 1, got {fraction}.")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    order = order[(labels[order] >= 0).long().argsort(stable=True)]
    count = max(1, round(fraction * len(labels)))
    return order[count:], order[:count]


def spread_labels(x: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """Labels (n) of points (n,f): that of the known point (m,f) from which the shortest path along the points leads there.

    Paths are those of the graph of nearest neighbours, an edge of which costs its squared length: many short hops along a curve
    are shorter than a jump to another.

    Reference: Bijral, Ratliff, Srebro (2011), Semi-supervised learning with density based distances.

    >>> along = torch.linspace(0, 5, 50)
    >>> low, high = (torch.stack([along, torch.full((50,), height)], dim=1) for height in (0.0, 3.0))
    >>> found = spread_labels(torch.cat([low, high]), torch.stack([low[0], high[-1]]), torch.tensor([0, 1]))
    >>> found.reshape(2, 50).unique_consecutive(dim=1)
    tensor([[0],
            [1]])
    """
    graph = neighbour_graph(torch.cat([known, x]).double().cpu().numpy())
    graph.data = np.maximum(graph.data**2, np.finfo(float).tiny)
    sources = dijkstra(graph, directed=False, indices=range(len(known)), min_only=True, return_predecessors=True)[2]
    return labels[torch.as_tensor(sources[len(known) :]).long().to(labels.device)]


def named_clusters(clusters: Tensor, x: Tensor, known: Tensor, labels: Tensor, n_components: int) -> Tensor:
    """Clusters (n) of points (n,f), renamed so that most known points (m,f) are in the cluster of their label (m).

    >>> x, known = torch.tensor([[0.0], [0.1], [9.0]]), torch.tensor([[9.1]])
    >>> named_clusters(torch.tensor([0, 0, 1]), x, known, torch.tensor([0]), n_components=2)
    tensor([1, 1, 0])
    """
    nearest = cKDTree(x.double().cpu().numpy()).query(known.double().cpu().numpy())[1]
    shared = np.zeros((n_components, n_components))
    np.add.at(shared, (clusters.cpu().numpy()[nearest], labels.cpu().numpy()), 1)
    return torch.as_tensor(linear_sum_assignment(shared, maximize=True)[1]).to(clusters)[clusters]


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

    Raises:
        ValueError: a weight that is not positive, no labelled points.

    Reference: Variational mixture of normalizing flows, arXiv 2009.00585; its labelled term has both logarithms with weight 1.
    """

    def __init__(self, x: Tensor, labels: Tensor, n: int, weight: float = 1.0) -> None:
        if not weight > 0 or not len(labels):
            raise ValueError(f"Expected a positive weight of the labels and some to train on, got {weight} and {len(labels)}.")
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
