"""Spheres: power spherical, spherical Cauchy, stereographic and truncated normal, Kent."""

from __future__ import annotations

from .common import SPHERE, Case, case, covariance, real, unit_vector
from .sphere import rotate_covariance

VANISHES = {"vanishes": True}  # opposite the centre


def _zonal(name: str, parameter: str, values: dict[int, tuple[float, ...]], **options: dict[str, bool]) -> list[Case]:
    return [
        case(f"sphere{size - 1}-{name}_{v:g}", SPHERE, name, {"loc": unit_vector(size), parameter: real(v)}, **options)
        for size, several in values.items()
        for v in several
    ]


def _full(name: str, values: dict[int, tuple[float, ...]], **options: dict[str, bool]) -> list[Case]:
    return [
        case(
            f"sphere{size - 1}-{name}_full_{s:g}",
            SPHERE,
            name,
            {"loc": unit_vector(size), "covariance_matrix": covariance(size, s)},
            invariance={"transform": rotate_covariance(size)},
            **options,
        )
        for size, several in values.items()
        for s in several
    ]


def rows() -> list[Case]:
    """Narrow, typical and wide laws from the circle up."""
    return [
        *_zonal(
            "power_spherical",
            "concentration",
            {2: (3.0,), 3: (0.0, 20.0, 1e6), 4: (2.0,), 16: (100.0,)},
            gradients=VANISHES,
        ),
        *_zonal(
            "spherical_cauchy", "scale", {2: (0.3,), 3: (1e-3, 0.2, 0.9), 4: (0.3,), 10: (0.5,)}, centered={"median": True}
        ),
        *_zonal("stereographic_normal", "scale", {2: (1.5,), 3: (1e-3, 0.3, 1.2), 16: (0.2,)}, gradients=VANISHES),
        *_full("stereographic_normal", {3: (0.5,), 4: (0.4,)}, gradients=VANISHES),
        *_zonal("truncated_normal", "scale", {2: (3.0,), 3: (1e-3, 0.5, 2.0), 10: (0.5,)}),
        *_full("truncated_normal", {3: (1.5,), 4: (0.6,)}),
        *_full("kent", {3: (0.01, 0.3, 1.5)}),
    ]
