"""Pairs of points in stereographic coordinates, the one chart in which distances of constant curvature do not cancel.

With curvature k, coordinates y and the gap ``1 + k |y|^2``, the metric is ``4 |dy|^2 / gap^2``. Everything about a pair follows
from the difference of the coordinates and from the gaps (both without cancellation): hyperboloid, ball and projected sphere
share these few lines. All of it is in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.curved import arc_ratio, sine_ratio


@dataclass(frozen=True)
class Pair:
    """Two points: coordinates of the first (*B,d), both gaps (*B,1), coordinates of the second minus those of the first."""

    y: Tensor
    gap: Tensor
    other_gap: Tensor
    delta: Tensor
    curvature: Tensor

    @property
    def chord2(self) -> Tensor:
        """Squared chord ``4 |delta|^2 / (gap gap')`` in the ambient (Minkowski or Euclidean) space of the model; (*B)."""
        return 4 * (self.delta.square().sum(-1) / (self.gap * self.other_gap).squeeze(-1))

    @property
    def dist2(self) -> Tensor:
        """Squared distance (*B), with a finite gradient at 0."""
        chord2 = self.chord2
        return chord2 * arc_ratio(self.curvature * chord2)

    @property
    def dist(self) -> Tensor:
        """Distance (*B), with gradient 0 at 0, the mean of the slopes on both sides of the kink."""
        square = self.dist2
        positive = square > 0
        return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), torch.zeros_like(square))

    @property
    def log(self) -> Tensor:
        """The logarithm of the second point at the first, in the frame transported from the origin; (*B,d).

        That frame is the one of the coordinate axes, scaled to unit length: ``2 dy / gap``.
        """
        ratio = sine_ratio(self.curvature * self.chord2).unsqueeze(-1)
        return 2 * ratio / (self.gap * self.other_gap) * self.moved

    @property
    def moved(self) -> Tensor:
        """The difference as the first point sees it: the logarithm but for a factor; (*B,d)."""
        square = self.delta.square().sum(-1, keepdim=True)
        return self.gap * self.delta + self.curvature * square * self.y


class RoundPair(Pair):
    """Two points of positive curvature: beyond a right angle the chord to the far side has the digits."""

    @property
    def far(self) -> Tensor:
        """Whether the points are more than a right angle apart; (*B)."""
        return self.curvature * self.chord2 > 2

    @property
    def dist2(self) -> Tensor:
        far, chord2 = self.far, self.chord2
        near = torch.where(far, torch.zeros_like(chord2), chord2)
        return torch.where(far, self._far_angle().square() / self.curvature, near * arc_ratio(self.curvature * near))

    def _far_angle(self) -> Tensor:
        """The angle, right where it is obtuse: ``|moved| = |delta| sqrt(gap gap') cos(angle / 2)``."""
        far = self.far
        size2, length2 = self.delta.square().sum(-1), self.moved.square().sum(-1)
        known = far & (length2 > 0)
        sine = torch.where(far, self.curvature * self.chord2 / 4, torch.ones_like(size2)).sqrt()
        below = torch.where(far, size2, torch.ones_like(size2)) * (self.gap * self.other_gap).squeeze(-1)
        cosine = torch.where(known, torch.where(known, length2, torch.ones_like(length2)).sqrt(), torch.zeros_like(length2))
        return 2 * torch.atan2(sine, cosine / below.sqrt())

    @property
    def log(self) -> Tensor:
        """As for any pair; opposite a point, where every direction is a shortest one, that of the first axis."""
        far, moved = self.far.unsqueeze(-1), self.moved
        near = torch.where(self.far, torch.zeros_like(self.chord2), self.chord2)
        ratio = 2 * sine_ratio(self.curvature * near).unsqueeze(-1) / (self.gap * self.other_gap)
        length2 = moved.square().sum(-1, keepdim=True)
        opposite = far & (length2 == 0)
        axis = torch.nn.functional.one_hot(torch.zeros_like(far[..., 0], dtype=torch.long), moved.shape[-1]).to(moved)
        direction = torch.where(opposite, axis, moved)
        unit = torch.where(far & ~opposite, length2, torch.ones_like(length2)).rsqrt()
        angle = self._far_angle().unsqueeze(-1) / self.curvature.clamp_min(torch.finfo(moved.dtype).tiny).sqrt()
        return torch.where(far, angle * unit * direction, ratio * torch.where(far, torch.zeros_like(moved), moved))
