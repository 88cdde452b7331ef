"""Manifolds: one file each, with its implementations of :mod:`mf_manifold.geometry` and its reference measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import geoopt

_BUILDERS: dict[str, Callable[[dict[str, Any]], geoopt.Manifold]] = {}


def register_config(name: str, build: Callable[[dict[str, Any]], geoopt.Manifold]) -> None:
    """Let checkpoints name a manifold; ``build`` makes it from the dictionary of ``geometry.to_config``."""
    _BUILDERS[name] = build


def from_config(config: dict[str, Any]) -> geoopt.Manifold:
    """The manifold that ``geometry.to_config`` described.

    Raises:
        ValueError: the description names no known manifold.

    >>> import geoopt, mf_manifold as mf
    >>> mf.manifolds.from_config(mf.geometry.to_config(geoopt.Sphere()))
    Sphere manifold
    """
    if config.get("type") not in _BUILDERS:
        raise ValueError(f"Expected a manifold out of {', '.join(sorted(_BUILDERS))}; got {config.get('type')!r}.")
    return _BUILDERS[config["type"]](config)


from . import charts, euclidean, lorentz, product, scaled, spd, sphere, stereographic, stiefel  # noqa: E402, F401
from .affine import AffineSubspace  # noqa: E402
from .chart import ChartManifold  # noqa: E402
from .correlation import Correlation  # noqa: E402
from .ellipsoid import Ellipsoid  # noqa: E402
from .grassmann import Grassmann  # noqa: E402
from .named import register_surface, surface  # noqa: E402
from .simplex import Simplex  # noqa: E402
from .special_orthogonal import SpecialOrthogonal  # noqa: E402
from .star_shaped import StarShaped  # noqa: E402
from .torus import Torus  # noqa: E402
from .torus_of_revolution import TorusOfRevolution  # noqa: E402
from .unit_quaternions import UnitQuaternions  # noqa: E402

__all__ = [
    "AffineSubspace",
    "ChartManifold",
    "Correlation",
    "Ellipsoid",
    "Grassmann",
    "Simplex",
    "SpecialOrthogonal",
    "StarShaped",
    "Torus",
    "TorusOfRevolution",
    "UnitQuaternions",
    "from_config",
    "register_config",
    "register_surface",
    "surface",
]
