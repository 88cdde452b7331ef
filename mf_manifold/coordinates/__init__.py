"""Between the columns and units of a table and points on a manifold."""

from __future__ import annotations

from collections.abc import Sequence

from .angles import Angles, LatitudeLongitude
from .base import TOLERANCE, Coordinates
from .cartesian import Vectors
from .matrices import Matrices

__all__ = ["TOLERANCE", "Angles", "Coordinates", "LatitudeLongitude", "Matrices", "Vectors", "coordinates_for"]

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
