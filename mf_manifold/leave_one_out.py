"""Leave-one-out scores of kernel densities that equal those of n refits, for the price of one and a few corrections.

A datum must not help to predict itself. It does so as a component, and, where widths come from neighbours, also through the
widths of the components that have it among their neighbours. Both are taken back here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .backends.online import LOG2E
from .backends.pairs import bilinear_pairs
from .kernel import Kernel, Params
from .neighbors import Neighbors

TILE, WIDE_TILE = 2**18, 2**21  # pairs held at once; more where every tile computes what belongs to the components anew
PAIRS = 2**13  # pairs whose components change, held at once


class Level(Protocol):
    """One component at every datum, and how it changes where one of its neighbours is left out."""

    @property
    def neighbors(self) -> int:
        """How many neighbours the components depend on."""

    def params(self, kernel: Kernel, points: Tensor) -> Params:
        """Parameters of the components at all points (n,*E)."""

    def without(self, kernel: Kernel, points: Tensor, component: Tensor, slot: Tensor) -> Params:
        """Parameters of ``component`` (P) fitted without its neighbour number ``slot`` (P), counted from 0."""


@dataclass(frozen=True)
class Scales:
    """Components of the width ``factor * d_k``, with the distance to the k-th neighbour; of the width ``factor`` for k = 0."""

    neighbors: int
    factor: float
    distances: Tensor  # (n,K), K > k
    floor: float
    largest: float

    def scales(self, forget: bool = False) -> Tensor:
        """The widths (n), or those after one of the k neighbours is left out."""
        if self.neighbors == 0:
            values = torch.full_like(self.distances[:, 0], self.factor)
        else:
            values = self.factor * self.distances[:, self.neighbors - 1 + int(forget)]
        return values.clamp(self.floor, self.largest)

    def params(self, kernel: Kernel, points: Tensor) -> Params:
        return kernel.centered(points, self.scales())

    def without(self, kernel: Kernel, points: Tensor, component: Tensor, slot: Tensor) -> Params:
        return kernel.centered(points[component], self.scales(forget=True)[component])


class LeaveOneOut:
    """Scores the data ``points[scored]`` under kernel densities of all other data."""

    def __init__(self, kernel: Kernel, points: Tensor, neighbors: Neighbors, scored: Tensor) -> None:
        self.kernel, self.points, self.scored = kernel, points, scored
        # every scored datum as a neighbour of others: its place among the scored, the other component, its slot there
        place = torch.full((len(points),), -1, device=points.device)
        place[scored] = torch.arange(len(scored), device=points.device)
        where = place[neighbors.indices]
        component, slot = (where >= 0).nonzero(as_tuple=True)
        row = where[component, slot]
        order = row.argsort(stable=True)
        self.row, self.component, self.slot = row[order], component[order], slot[order]

    @torch.no_grad()
    def scores(self, level: Level) -> Tensor:
        """Log of the mean density of the n - 1 other components at each scored datum; (S) float64."""
        params = level.params(self.kernel, self.points)
        changed = self.slot < level.neighbors
        row, component, slot = self.row[changed], self.component[changed], self.slot[changed]
        values = self._changed(level, row, component, slot)
        form = self.kernel.bilinear(self.points[self.scored], params)
        results, step = [], max(1, (TILE if form is not None else WIDE_TILE) // len(self.points))
        for start in range(0, len(self.scored), step):
            rows = self.scored[start : start + step]
            if form is None:
                log_q = self.kernel.pairwise_log_prob(self.points[rows], params)
            else:  # what depends on the components alone is computed once
                part = slice(start, start + step)
                log_q = bilinear_pairs(form._replace(phi=form.phi[part], offset=form.offset[part]))
            low, high = torch.searchsorted(row, torch.tensor([start, start + len(rows)], device=row.device)).tolist()
            log_q[row[low:high] - start, component[low:high]] = values[low:high]
            log_q[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
            results.append(_log_mean_exp(log_q))
        return torch.cat(results).double()

    def _changed(self, level: Level, row: Tensor, component: Tensor, slot: Tensor) -> Tensor:
        """Log densities of scored data under the components that had them among their neighbours, fitted without them."""
        values = [self.points.new_empty(0)]
        for part in torch.arange(len(row), device=row.device).split(PAIRS):
            params = level.without(self.kernel, self.points, component[part], slot[part])
            values.append(self.kernel.log_prob(self.points[self.scored[row[part]]], params))
        return torch.cat(values)


def _log_mean_exp(log_q: Tensor) -> Tensor:
    """Log mean over the n - 1 other components; powers of two and a floor, because exp is slow, above all on underflow."""
    top = log_q.amax(1, keepdim=True)
    total = log_q.sub_(top.clamp_min(torch.finfo(log_q.dtype).min)).mul_(LOG2E).clamp_min_(-115).exp2_().sum(1)
    return top.squeeze(1) + total.log() - math.log(log_q.shape[1] - 1)
