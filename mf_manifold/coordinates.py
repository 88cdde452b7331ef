"""Between the columns and units of a table and points on a manifold."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import geoopt
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import geometry
from .geometry import Shape
from .manifolds import Torus
from .tables import Floats, Table, matrix_columns

# files carry rounded digits: what is this close to the manifold is projected onto it, anything farther is an error
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Coordinates(ABC):
    """What the columns of a table mean: a manifold, units, and the names of the columns in order.

    Made by :func:`coordinates_for`; ``manifold`` is the geoopt object, ``point_shape`` the shape of one point.
    """

    name: str
    units: str
    columns: tuple[str, ...]

    repair: ClassVar[str] = "Repair or remove these rows."

    @property
    @abstractmethod
    def manifold(self) -> geoopt.Manifold:
        """The manifold of the points."""

    @property
    def point_shape(self) -> Shape:
        """Shape of one point."""
        return (len(self.columns),)

    def to_points(self, table: Table) -> Tensor:
        """Points of the rows of a table in float64; (N, columns) -> (N,*E).

        Raises:
            ValueError: entries that are missing, values in other units, or rows off the manifold, with their row numbers.
        """
        missing = table.missing()
        if missing.any():
            where = table.describe(missing)
            raise ValueError(f"Expected finite numbers, but {where} have empty, NaN or infinite entries: repair them, or --drop-missing.")
        self._check_values(table)
        points = torch.from_numpy(self._encode(table.values))
        for label, amount in geometry.violations(self.manifold, points):
            bad = (amount > TOLERANCE).numpy()
            if bad.any():
                found = f"{table.describe(bad)} {label}, worst {float(amount.max()):.1e}"
                raise ValueError(f"Expected points on {type(self.manifold).__name__}, but {found}. {self.repair}")
        return geometry.project(self.manifold, points)

    def from_points(self, points: Tensor) -> Floats:
        """Rows of a table for points; the inverse of :meth:`to_points`; (N,*E) -> (N, columns)."""
        return self._decode(points.detach().cpu().double().numpy())

    def to_array(self, points: Tensor) -> Floats:
        """The array of an NPY file for points, which :func:`mf_manifold.tables.read_table` reads back."""
        return self.from_points(points)

    def notes(self, values: Floats) -> list[str]:
        """What looks wrong with finite values though it need not be."""
        return []

    def to_config(self) -> dict[str, Any]:
        """JSON description; the keyword arguments of :func:`coordinates_for`."""
        return {"manifold": self.name, "units": self.units, "columns": list(self.columns)}

    def _check_values(self, table: Table) -> None:
        return None

    @abstractmethod
    def _encode(self, values: Floats) -> Floats: ...

    @abstractmethod
    def _decode(self, points: Floats) -> Floats: ...


class _Angular(Coordinates):
    """Angles in degrees or radians, which people mix up."""

    def _check_values(self, table: Table) -> None:
        beyond = (np.abs(table.values) > 2 * math.pi + TOLERANCE).any(axis=1)
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


class Matrices(Coordinates):
    """Entries of symmetric positive definite matrices: all of them, or one triangle.

    Column names that end in ``_i_j`` (0-based) say where an entry belongs, in any order. Without such names p*p columns are the
    matrix row by row, and p(p+1)/2 columns its lower triangle row by row.
    """

    manifold = geoopt.SymmetricPositiveDefinite()
    repair = "A covariance estimated from fewer samples than dimensions is singular: add a ridge, or remove these rows."

    def __post_init__(self) -> None:
        self._source()

    @property
    def point_shape(self) -> Shape:
        return self._source().shape

    def to_array(self, points: Tensor) -> Floats:
        values = self.from_points(points)
        return values.reshape(-1, *self.point_shape) if self.columns == matrix_columns(self.point_shape[0]) else values

    def _entries(self) -> list[tuple[int, int]]:
        """Row and column of the matrix that each column of the table holds."""
        matches = [re.search(r"_(\d+)_(\d+)$", name) for name in self.columns]
        if all(matches):
            return [(int(m[1]), int(m[2])) for m in matches if m]
        count = len(self.columns)
        full, lower = math.isqrt(count), (math.isqrt(8 * count + 1) - 1) // 2
        is_full, is_lower = full * full == count, lower * (lower + 1) == 2 * count
        if is_full and is_lower and count > 1:
            raise ValueError(
                f"Expected names that end in _row_column, because {count} columns may be {full}x{full} matrices or the "
                f"triangles of {lower}x{lower} ones; got {self.columns[0]}, ...."
            )
        if not is_full and not is_lower:
            raise ValueError(
                f"Expected p*p or p(p+1)/2 columns of SPD matrices, got {count}. Name those of the matrix with --columns."
            )
        return [(i, j) for i in range(full) for j in range(full)] if is_full else _lower_triangle(lower)

    def _source(self) -> NDArray[np.int64]:
        """Which column of the table each entry of the matrix is read from; (p, p)."""
        entries = {entry: k for k, entry in enumerate(self._entries())}
        p = 1 + max(max(entry) for entry in entries)
        source = [[entries.get((i, j), entries.get((j, i), -1)) for j in range(p)] for i in range(p)]
        absent = [(i, j) for i, j in _lower_triangle(p) if source[i][j] < 0]
        if absent or len(entries) < len(self.columns):
            problem = f"the entry {absent[0]} is missing" if absent else "an entry comes twice"
            raise ValueError(f"Expected each entry of a {p}x{p} matrix or of a triangle, but in {', '.join(self.columns)} {problem}.")
        return np.array(source)

    def _encode(self, values: Floats) -> Floats:
        return values[:, self._source()]

    def _decode(self, points: Floats) -> Floats:
        rows, columns = zip(*self._entries(), strict=True)
        return points[:, rows, columns]


def _lower_triangle(p: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(p) for j in range(i + 1)]


_KINDS: dict[str, dict[str, type[Coordinates]]] = {
    "sphere": {"degrees": LatitudeLongitude, "radians": LatitudeLongitude, "cartesian": Vectors},
    "torus": {"degrees": Angles, "radians": Angles},
    "spd": {"matrix": Matrices},
    "euclidean": {"cartesian": Vectors},
}


def coordinates_for(manifold: str, columns: Sequence[str], units: str | None = None) -> Coordinates:
    """The meaning of columns on a manifold; units that the data cannot tell apart have no default.

    Raises:
        ValueError: missing units, units of another manifold, or columns that do not fit.

    >>> import torch
    >>> places = coordinates_for("sphere", ("latitude", "longitude"), "degrees")
    >>> places.from_points(torch.tensor([[0.0, 1.0, 0.0]]))
    array([[ 0., 90.]])
    """
    kinds = _KINDS.get(manifold)
    if kinds is None:
        raise ValueError(f"Expected a manifold out of {', '.join(_KINDS)}; got {manifold!r}.")
    if units is None:
        units = _default_units(manifold, len(columns))
    if units not in kinds:
        raise ValueError(f"Expected --units {' or '.join(kinds)} for {manifold}, got {units!r}.")
    return kinds[units](manifold, units, tuple(columns))


def _default_units(manifold: str, n_columns: int) -> str:
    kinds = _KINDS[manifold]
    if manifold == "sphere" and n_columns > 2:
        return "cartesian"
    if len(kinds) > 1:
        raise ValueError(
            f"Expected --units {' or '.join(kinds)} for {n_columns} column(s) on {manifold}: angles have no default units, "
            "because a wrong guess would go unnoticed."
        )
    return next(iter(kinds))
