"""Steps that commands share: rows that are dropped or suspicious, and the summary of log densities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .output import note

if TYPE_CHECKING:
    from torch import Tensor

    from ..coordinates import Coordinates
    from ..tables import Table


def without_missing(table: Table, drop: bool) -> Table:
    """The table without rows that have missing entries if ``drop``, saying how many; otherwise the table itself.

    Raises:
        ValueError: no row is complete.
    """
    missing = table.missing()
    if not drop or not missing.any():
        return table
    if missing.all():
        raise ValueError(f"Expected at least one complete row in {table.path}, but all have missing entries.")
    note(f"dropped {table.describe(missing)} with empty, NaN or infinite entries")
    return table.where(~missing)


def without_copies(table: Table, remove: bool) -> Table:
    """The table without rows that repeat an earlier one if ``remove``; otherwise the table itself, with a warning."""
    copies = table.copies()
    if not copies.any():
        return table
    if remove:
        note(f"removed {table.describe(copies)} that repeat an earlier row")
        return table.where(~copies)
    note(
        f"warning: {table.describe(copies)} repeat an earlier row: copies make the likelihood unbounded; "
        "--distinct removes them"
    )
    return table


def points_of(coordinates: Coordinates, table: Table) -> Tensor:
    """Checked points of the rows, with a warning where the units look wrong."""
    points = coordinates.to_points(table)
    for message in coordinates.notes(table.values):
        note(f"warning: {message}")
    return points


def summarize(log_prob: Tensor, measure: str, prefix: str = "") -> dict[str, Any]:
    """Mean of log densities (N,) in nats per datum and its standard error, which one row does not have."""
    n = len(log_prob)
    error = float(log_prob.double().std()) / math.sqrt(n) if n > 1 else math.nan
    return {
        f"{prefix}mean_log_prob": float(log_prob.double().mean()),
        "standard_error": error,
        "measure": measure,
        f"{prefix}rows": n,
    }
