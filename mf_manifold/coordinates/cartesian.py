"""Columns that are Cartesian coordinates."""

from __future__ import annotations

import geoopt

from ..tables import Floats
from .base import Coordinates


class Vectors(Coordinates):
    """One Cartesian coordinate a column: unit vectors on a sphere of any dimension, or points of Euclidean space."""

    repair = "Normalise the vectors, or pass angles with --units degrees or --units radians."

    @property
    def manifold(self) -> geoopt.Manifold:
        return geoopt.Sphere() if self.name == "sphere" else geoopt.Euclidean(ndim=1)

    def _encode(self, values: Floats) -> Floats:
        return values

    def _decode(self, points: Floats) -> Floats:
        return points
