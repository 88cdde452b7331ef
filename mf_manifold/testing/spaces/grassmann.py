"""Subspaces: the centre, subspaces that meet it at right angles, rotations and other bases."""

from __future__ import annotations

import torch
from torch import Tensor

from ...geometry import Shape
from ...manifolds.frames import complement
from ...manifolds.grassmann import Grassmann
from ..perturb import special_points
from ..symmetry import Transform, random_isometry, random_rotation


@special_points.register(Grassmann)
def _(manifold: Grassmann, center: Tensor) -> Tensor:
    across = torch.cat([complement(center)[:, :1], center[:, 1:]], dim=-1)
    return torch.stack([center, center.flip(-1), across])


@random_isometry.register(Grassmann)
def _(manifold: Grassmann, point_shape: Shape, generator: torch.Generator) -> Transform:
    left, right = (random_rotation(size, generator) for size in point_shape)
    return lambda x: left @ x @ right
