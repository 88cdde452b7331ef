"""Columns that are angles: latitude and longitude, and the angles of a torus."""

from __future__ import annotations

import math

import geoopt
import numpy as np

from ..manifolds import Torus
from ..tables import Floats, Table
from .base import TOLERANCE, Coordinates


class _Angular(Coordinates):
    """Angles in degrees or radians, which people mix up."""

    def _check_values(self, table: Table) -> None:
        beyond = np.asarray((np.abs(table.values) > 2 * math.pi + TOLERANCE).any(axis=1))
        if self.units == "radians" and beyond.any():
            raise ValueError(
                f"Expected radians, but {table.describe(beyond)} exceed 2 pi: for degrees pass --units degrees; "
                "take angles of more than one turn modulo 2 pi first."
            )

    def notes(self, values: Floats) -> list[str]:
        if self.units == "degrees" and np.abs(values).max() <= 2 * math.pi:
            return ["All angles are within 2 pi degrees of zero: if they are radians, pass --units radians."]
        return []

    def _radians(self, values: Floats) -> Floats:
        return np.deg2rad(values) if self.units == "degrees" else values

    def _in_units(self, angles: Floats) -> Floats:
        return np.rad2deg(angles) if self.units == "degrees" else angles


class LatitudeLongitude(_Angular):
    """Latitude and longitude: ``x = (cos lat cos lon, cos lat sin lon, sin lat)`` on the unit sphere in R^3."""

    manifold = geoopt.Sphere()
    point_shape = (3,)

    def __post_init__(self) -> None:
        if len(self.columns) != 2:
            raise ValueError(
                f"Expected 2 columns latitude,longitude for a sphere in {self.units}, got {len(self.columns)}: "
                f"{', '.join(self.columns)}. Name the two with --columns, or pass vectors with --units cartesian."
            )
        first, second = (name.strip().lower() for name in self.columns)
        if first.startswith(("lon", "lng")) or second.startswith("lat"):
            raise ValueError(f"Expected latitude before longitude, got {', '.join(self.columns)}: swap them in --columns.")

    def _check_values(self, table: Table) -> None:
        super()._check_values(table)
        turn = 360.0 if self.units == "degrees" else 2 * math.pi
        for column, name, limit in ((0, "latitudes", turn / 4), (1, "longitudes", turn)):
            beyond = np.abs(table.values[:, column]) > limit + TOLERANCE
            if beyond.any():
                raise ValueError(
                    f"Expected {name} within {limit:.6g} {self.units} of zero, but {table.describe(beyond)} lie outside: "
                    "are the columns swapped (latitude comes first), or are the units others?"
                )

    def _encode(self, values: Floats) -> Floats:
        latitude, longitude = self._radians(values).T
        flat = np.cos(latitude)
        return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=1)

    def _decode(self, points: Floats) -> Floats:
        x, y, z = points.T
        return self._in_units(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=1))


class Angles(_Angular):
    """One angle a column: points of the flat torus; they come back in [-180, 180) degrees or [-pi, pi)."""

    manifold = Torus()

    def _encode(self, values: Floats) -> Floats:
        return np.remainder(self._radians(values) + math.pi, 2 * math.pi) - math.pi

    def _decode(self, points: Floats) -> Floats:
        return self._in_units(points)
