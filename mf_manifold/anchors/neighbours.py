"""The surroundings of data: logarithms of their neighbours, and statistics of the nearest of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import geoopt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .. import geometry

BLOCK = 2**19  # coordinates of logarithms taken at once
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # neighbours whose distances are features
AROUND = (4, 16)  # neighbours whose own surroundings are features
COPIES = 0.01  # distances below this share of the rounding error allowed for are those of copies
REFERENCE = 4  # the neighbour whose distance is the unit of the others


class Local(NamedTuple):
    """Statistics of the nearest ``k`` neighbours of n anchors, for J different k, in orthonormal coordinates at the anchors."""

    mean: Tensor  # (n,J,d)
    values: Tensor  # (n,J,d), eigenvalues of the second moments
    vectors: Tensor  # (n,J,d,d), their eigenvectors in columns
    features: Tensor  # (n,F), free of the unit of length
    unit: float  # typical distance to a near neighbour

    def rows(self, kept: Tensor) -> Local:
        """The statistics of some of the anchors."""
        return Local(self.mean[kept], self.values[kept], self.vectors[kept], self.features[kept], self.unit)

    def single(self) -> Local:
        """The same statistics in single precision."""
        return Local(self.mean.float(), self.values.float(), self.vectors.float(), self.features.float(), self.unit)


def logarithms(manifold: geoopt.Manifold, at: Tensor, points: Tensor) -> Tensor:
    """Orthonormal coordinates (n,K,d) at the points ``at`` (n,*E) of the logarithms of ``points`` (n,K,*E)."""
    blocks = []
    for a, y in zip(*(t.split(max(1, BLOCK // points[0].numel())) for t in (at, points)), strict=True):
        tall = a.unsqueeze(1).expand_as(y)
        blocks.append(geometry.to_coords(manifold, tall, geometry.logmap(manifold, tall, y)))
    return torch.cat(blocks)


def embedded(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """Coordinates (n,R) whose Euclidean distances order near neighbours as the manifold's distance does, nearly."""
    return geometry.to_raw(manifold, x).double().cpu()


class Neighbours:
    """The nearest other data of every datum, nearest first.

    Args:
        points: data (n,*E).
        sizes: increasing numbers k of neighbours that the statistics are of.
        fold: (n,) number of the part of a cross-validation that each datum belongs to. There are enough neighbours for
            statistics that ignore one part.
    """

    def __init__(self, manifold: geoopt.Manifold, points: Tensor, sizes: Sequence[int], fold: Tensor | None = None) -> None:
        self.sizes, self.fold = tuple(sizes), fold
        tree, x = cKDTree(embedded(manifold, points).numpy()), embedded(manifold, points).numpy()
        count, most = sizes[-1], len(points) - 1
        while True:
            count = min(most, math.ceil(1.2 * count) + 8)
            found = torch.as_tensor(tree.query(x, count + 1)[1])
            index = _without_self(found)
            if count == most or fold is None or self._fewest(index) >= sizes[-1]:
                break
        coords = logarithms(manifold, points, points[index.to(points.device)])
        length = coords.norm(dim=-1)
        order = length.argsort(dim=1)
        self.index = index.gather(1, order.cpu())
        self.coords = coords.gather(1, order.unsqueeze(-1).expand_as(coords))
        self.rounding = 1e3 * torch.finfo(points.dtype).eps * max(1.0, float(abs(x).max()))

    def _fewest(self, index: Tensor) -> int:
        """Fewest neighbours that any datum keeps when a part is ignored."""
        assert self.fold is not None
        part = self.fold[index]
        return index.shape[1] - max(int((part == f).sum(1).max()) for f in self.fold.unique().tolist())

    def local(self, ignored: int | None = None) -> Local:
        """Statistics of all neighbours, or of those outside one part of the cross-validation."""
        largest, coords, index = self.sizes[-1], self.coords, self.index
        typical = torch.ones(len(index), dtype=torch.bool)
        if ignored is not None:
            assert self.fold is not None
            typical = self.fold != ignored
            kept = (self.fold[index] == ignored).to(torch.int8).argsort(dim=1, stable=True)[:, :largest]
            index = index.gather(1, kept)
            coords = coords.gather(1, kept.to(coords.device).unsqueeze(-1).expand(-1, -1, coords.shape[-1]))
        return self._statistics(coords[:, :largest], index[:, :largest].to(coords.device), typical.to(coords.device))

    def _statistics(self, coords: Tensor, index: Tensor, typical: Tensor) -> Local:
        """Statistics of the neighbours ``index`` (n,K) with logarithms (n,K,d); ``typical`` rows give the unit of length."""
        sizes, rounding = self.sizes, self.rounding
        means, moments = [], []
        total, square = torch.zeros_like(coords[:, 0]), coords.new_zeros(len(coords), coords.shape[2], coords.shape[2])
        for low, high in zip((0, *sizes[:-1]), sizes, strict=True):
            ring = coords[:, low:high]
            total, square = total + ring.sum(1), square + ring.mT @ ring
            means.append(total / high)
            moments.append(square / high)
        values, vectors = torch.linalg.eigh(torch.stack(moments, dim=1))
        values, mean = values.clamp_min(0), torch.stack(means, dim=1)
        steps = [k for k in STEPS if k <= sizes[-1]]
        length = coords.norm(dim=-1)
        logs = length[:, [k - 1 for k in steps]].clamp_min(rounding).log()
        reference = logs[:, min(steps.index(min(REFERENCE, steps[-1])), logs.shape[1] - 1), None]
        unit = self._unit(length[typical])
        spread = values.clamp_min(rounding**2).log() / 2 - reference.unsqueeze(-1)
        lean = mean.norm(dim=-1) / values.sum(-1).clamp_min(rounding**2).sqrt()
        # whether the neighbours have near neighbours themselves tells an isolated datum from one at the rim of a cluster
        theirs = [reference[index[:, :k], 0].mean(1, keepdim=True) - reference for k in AROUND]
        features = torch.cat([reference - unit, logs - reference, spread.flatten(1), lean, *theirs], dim=1)
        return Local(mean, values, vectors, features, float(unit.exp()))

    def _unit(self, length: Tensor) -> Tensor:
        """Log of the typical distance to a near neighbour, or to a later one where that is a copy, from distances (n,K)."""
        own = length[:, min(REFERENCE, length.shape[1]) - 1 :]
        near = torch.where(own > COPIES * self.rounding, own, torch.inf).amin(1)
        found = near[torch.isfinite(near)]
        if not len(found):
            raise ValueError(
                f"Expected points of which some are no copies of {self.sizes[-1]} others, got {len(length)} that all are, to "
                "rounding. Remove copies."
            )
        return found.log().median()


def _without_self(found: Tensor) -> Tensor:
    """Neighbours without the datum itself, or, among copies that hide it, without the last one."""
    own = found == torch.arange(len(found)).unsqueeze(1)
    own[~own.any(1), -1] = True
    return found[~own].reshape(len(found), -1)
