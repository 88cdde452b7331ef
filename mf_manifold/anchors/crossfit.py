"""Scoring data under components that know nothing of them: the parts of a cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import geoopt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .. import geometry
from .neighbours import Local, Neighbours, embedded, logarithms
from .shapes import Shapes, tangent_log_prob

ROWS = 500  # points scored at once where no gradients are recorded


class Part(NamedTuple):
    """Points to score, their nearest anchors, and the statistics of all anchors, from which the points are absent."""

    local: Local
    anchor: Tensor  # (S,K) rows of local
    coords: Tensor  # (S,K,d) logarithms of the points at these anchors
    log_volume: Tensor  # (S,K) of the exponential map there
    log_background: Tensor  # (S)

    def __len__(self) -> int:
        return len(self.anchor)


class Scoring:
    """Makes parts, in single precision: the fit compares densities, it does not report them."""

    def __init__(self, manifold: geoopt.Manifold, points: Tensor, near: int, background: Callable[[Tensor], Tensor]) -> None:
        self.manifold, self.points, self.near, self.background = manifold, points, near, background
        self.embedded = embedded(manifold, points)

    def part(self, local: Local, x: Tensor, kept: Tensor) -> Part:
        """Points ``x`` (S,*E) to score under the anchors in the rows ``kept``, whose statistics are ``local``."""
        near = min(self.near, len(kept))
        tree = cKDTree(self.embedded[kept].numpy())
        found = torch.as_tensor(tree.query(embedded(self.manifold, x).numpy(), [*range(1, near + 1)])[1])
        anchor = found.to(x.device)
        at = self.points[kept[found].to(x.device).flatten()]
        coords = logarithms(self.manifold, at, x.repeat_interleave(near, 0).unsqueeze(1)).squeeze(1)
        velocity = geometry.from_coords(self.manifold, at, coords)
        log_volume = geometry.logdet_expmap(self.manifold, at, velocity)
        shape = (len(x), near)
        return Part(
            local.rows(kept.to(x.device)).single(),
            anchor,
            coords.unflatten(0, shape).float(),
            log_volume.unflatten(0, shape).float(),
            self.background(x).float(),
        )

    def held_out(self, neighbours: Neighbours, number: int, count: int) -> Part:
        """At most ``count`` points of one part of the cross-validation, under anchors and neighbours of the others."""
        assert neighbours.fold is not None
        kept = (neighbours.fold != number).nonzero().squeeze(1)
        rows = (neighbours.fold == number).nonzero().squeeze(1)[:count]
        return self.part(neighbours.local(number), self.points[rows.to(self.points.device)], kept)


def log_density(shapes: Shapes, part: Part, max_scale: float, rows: Tensor | slice = slice(None)) -> Tensor:
    """Log density of rows of a part, by the nearest anchors and nearest images only, a lower bound; -> (S)."""
    bumps = shapes(part.local, max_scale)
    log_q = tangent_log_prob(bumps, part.local, shapes.columns, part.anchor[rows], part.coords[rows])
    log_q = (log_q - part.log_volume[rows].unsqueeze(-1)).flatten(1).logsumexp(1)
    components, background = shapes.log_shares()
    return torch.logaddexp(log_q + components, part.log_background[rows] + background)


@torch.no_grad()
def total_loss(shapes: Shapes, part: Part, max_scale: float) -> float:
    """Sum of the negative log densities of all points of a part."""
    training = shapes.training
    shapes.eval()
    pieces = torch.arange(len(part)).split(ROWS)
    total = -sum(float(log_density(shapes, part, max_scale, rows).double().sum()) for rows in pieces)
    shapes.train(training)
    return total
