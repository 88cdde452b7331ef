"""Columns that are entries of symmetric positive definite matrices."""

from __future__ import annotations

import math
import re

import geoopt
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..geometry import Shape
from ..tables import Floats, matrix_columns
from .base import Coordinates


class Matrices(Coordinates):
    """Entries of symmetric positive definite matrices: all of them, or one triangle.

    Column names that end in ``_i_j`` (0-based) say where an entry belongs, in any order. Without such names p*p columns are the
    matrix row by row, and p(p+1)/2 columns its lower triangle row by row.
    """

    manifold = geoopt.SymmetricPositiveDefinite()
    repair = "A covariance estimated from fewer samples than dimensions is singular: add a ridge, or remove these rows."

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
            raise ValueError(
                f"Expected each entry of a {p}x{p} matrix or of a triangle, but {problem} in {', '.join(self.columns)}."
            )
        return np.array(source)

    def _encode(self, values: Floats) -> Floats:
        return values[:, self._source()]

    def _decode(self, points: Floats) -> Floats:
        rows, columns = zip(*self._entries(), strict=True)
        return points[:, rows, columns]


def _lower_triangle(p: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(p) for j in range(i + 1)]
