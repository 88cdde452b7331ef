"""Spheres whose geometry is wrong on purpose, each with the check that must catch it."""

from __future__ import annotations

import math

import geoopt
import torch
from table.common import SPHERE
from torch import Tensor

from mf_manifold import geometry
from mf_manifold.geometry import Shape
from mf_manifold.numerics.special import log_sinc_abs


class ChordSphere(geoopt.Sphere):
    """A sphere whose distance is the straight line's."""


class AmbientSphere(geoopt.Sphere):
    """A sphere whose volume density has the ambient dimension in its exponent."""


class HalfSphere(geoopt.Sphere):
    """A sphere with half its area."""


class ClampedSphere(geoopt.Sphere):
    """A sphere with geoopt's own distance."""


class StretchedSphere(geoopt.Sphere):
    """A sphere whose tangent coordinates are not isometric."""


class ScatteringSphere(geoopt.Sphere):
    """A sphere whose projection moves its points."""


@geometry.dist.register(ChordSphere)
def _(manifold: ChordSphere, x: Tensor, y: Tensor) -> Tensor:
    return (x - y).norm(dim=-1)


@geometry.logdet_expmap.register(AmbientSphere)
def _(manifold: AmbientSphere, x: Tensor, u: Tensor) -> Tensor:
    return x.shape[-1] * log_sinc_abs(u.norm(dim=-1))


@geometry.log_volume.register(HalfSphere)
def _(manifold: HalfSphere, point_shape: Shape) -> float:
    return geometry.log_volume(SPHERE, point_shape) - math.log(2)


@geometry.dist.register(ClampedSphere)
def _(manifold: ClampedSphere, x: Tensor, y: Tensor) -> Tensor:
    return geoopt.Sphere.dist(manifold, x, y)


@geometry.from_coords.register(StretchedSphere)
def _(manifold: StretchedSphere, x: Tensor, v: Tensor) -> Tensor:
    return 1.1 * geometry.from_coords(SPHERE, x, v)


@geometry.project.register(ScatteringSphere)
def _(manifold: ScatteringSphere, x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x + 0.01, dim=-1)


MANIFOLD_MUTANTS = {
    ChordSphere: "maps",
    StretchedSphere: "maps",
    AmbientSphere: "volume",
    HalfSphere: "volume",
    ClampedSphere: "degenerate points",
    ScatteringSphere: "points",
}
