"""What the columns of a table mean: the interface of all coordinates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import geoopt
import numpy as np
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..tables import Floats, Table

# files carry rounded digits: what is this close to the manifold is projected onto it, anything farther is an error
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Coordinates(ABC):
    """What the columns of a table mean: a manifold, units, and the names of the columns in order.

    Made by :func:`mf_manifold.coordinates.coordinates_for`, whose arguments ``name`` (of the manifold), ``units`` and
    ``columns`` are.
    """

    name: str
    units: str
    columns: tuple[str, ...]

    repair: ClassVar[str] = "Repair or remove these rows."

    def __post_init__(self) -> None:
        geometry.check_manifold(self.manifold, self.point_shape)

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
            raise ValueError(
                f"Expected finite numbers, but {where} have empty, NaN or infinite entries: repair them, or --drop-missing."
            )
        self._check_values(table)
        points = torch.from_numpy(self._encode(table.values))
        for label, amount in geometry.violations(self.manifold, points):
            bad = np.asarray(amount > TOLERANCE)
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
        """JSON description; the keyword arguments of :func:`mf_manifold.coordinates.coordinates_for`."""
        return {"manifold": self.name, "units": self.units, "columns": list(self.columns)}

    def _check_values(self, table: Table) -> None:
        return None

    @abstractmethod
    def _encode(self, values: Floats) -> Floats: ...

    @abstractmethod
    def _decode(self, points: Floats) -> Floats: ...
