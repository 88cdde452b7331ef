"""Frames: spherical coordinates column by column, quadrature in them, rotations from both sides.

The first column is a point of S^(n-1); a rotation takes it back to the centre's, and what the second column becomes is a
point of S^(n-2), and so on. The invariant volume is the product of the areas, so these coordinates integrate a density
without geodesics.
"""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from ... import geometry
from ...geometry import Shape
from ...manifolds.frames import complement
from ...manifolds.stiefel import is_canonical
from ...numerics.special import log_sinc_abs
from ..density import NormalChart, chart
from ..perturb import special_points
from ..steps import distance, has_geodesics
from ..symmetry import Transform, random_isometry, random_rotation

_SPHERE = geoopt.Sphere()


def _turn(start: Tensor, end: Tensor, z: Tensor) -> Tensor:
    """``z`` under the rotation that takes one unit vector to another, in their plane."""
    both = start + end
    along = (both * z).sum(-1, keepdim=True) / (1 + (start * end).sum(-1, keepdim=True))
    return z - along * both + 2 * (start * z).sum(-1, keepdim=True) * end


class ColumnChart(NormalChart):
    """Normal coordinates of the columns on their spheres."""

    @property
    def _dims(self) -> list[int]:
        n, k = self.center.shape[-2:]
        return [n - 1 - j for j in range(k)]

    def _basis(self, j: int) -> Tensor:
        return complement(self.center[..., : j + 1])

    def coords(self, x: Tensor) -> Tensor:
        columns, found = list(torch.broadcast_tensors(x, self.center)[0].unbind(-1)), []
        for j, column in enumerate(columns):
            middle = self.center[..., j]
            velocity = geometry.logmap(_SPHERE, middle, column)
            found.append((velocity.unsqueeze(-2) @ self._basis(j)).squeeze(-2))
            for i in range(j + 1, len(columns)):
                columns[i] = _turn(column, middle, columns[i])
        return torch.cat(found, dim=-1)

    def point(self, v: Tensor) -> Tensor:
        columns: list[Tensor] = []
        for j, part in reversed(list(enumerate(v.split(self._dims, dim=-1)))):
            middle = self.center[..., j]
            column = geometry.expmap(_SPHERE, middle, (self._basis(j) @ part.unsqueeze(-1)).squeeze(-1))
            columns = [column, *(_turn(middle, column, later) for later in columns)]
        return torch.stack(columns, dim=-1)

    def _angles(self, v: Tensor) -> Tensor:
        return torch.stack([part.norm(dim=-1) for part in v.split(self._dims, dim=-1)], dim=-1)

    def log_volume(self, v: Tensor) -> Tensor:
        k = self.center.shape[-1]
        powers = torch.tensor(self._dims, dtype=v.dtype) - 1
        metric = 0.0 if is_canonical(self.manifold) else k * (k - 1) / 4 * math.log(2)
        return (powers * log_sinc_abs(self._angles(v))).sum(-1) + metric

    def reached(self, v: Tensor, x: Tensor) -> Tensor:
        return (self._angles(v) < math.pi).all(-1)


@has_geodesics.register(geoopt.Stiefel)
def _(manifold: geoopt.Stiefel) -> bool:
    return False  # no logarithm


@chart.register(geoopt.Stiefel)
def _(manifold: geoopt.Stiefel, center: Tensor) -> NormalChart:
    return ColumnChart(manifold, center)


@distance.register(geoopt.Stiefel)
def _(manifold: geoopt.Stiefel, x: Tensor, y: Tensor) -> Tensor:
    difference = x - y
    square = difference.square().sum((-2, -1))
    if is_canonical(manifold):  # |A|^2 / 2 + |B|^2 = |U|^2 - |X^T U|^2 / 2
        skew = x.mT @ difference
        square = square - (skew - skew.mT).square().sum((-2, -1)) / 8
    return square.sqrt()


@special_points.register(geoopt.Stiefel)
def _(manifold: geoopt.Stiefel, center: Tensor) -> Tensor:
    return torch.stack([center, -center, center.flip(-1)])


@random_isometry.register(geoopt.Stiefel)
def _(manifold: geoopt.Stiefel, point_shape: Shape, generator: torch.Generator) -> Transform:
    left, right = (random_rotation(size, generator) for size in point_shape)
    return lambda x: left @ x @ right
