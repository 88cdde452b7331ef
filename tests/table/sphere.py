"""Spheres: wrapped normal and von Mises-Fisher."""

from __future__ import annotations

from collections.abc import Callable

import geoopt
from torch import Tensor

from mf_manifold.kernel import Params
from mf_manifold.numerics.linalg import congruence
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.symmetry import random_rotation

from .common import SPHERE, Case, Manifolds, case, covariance, real, unit_vector


def rotate_covariance(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    """A rotation of the sphere, and of parameters with a covariance matrix."""
    rotation = random_rotation(size, generator_for(99))

    def act(w: Params) -> Params:
        return {"loc": w["loc"] @ rotation.mT, "covariance_matrix": congruence(rotation, w["covariance_matrix"])}

    return lambda x: x @ rotation.mT, act


def rows() -> list[Case]:
    """Wrapped normal, isotropic and full, and von Mises-Fisher."""
    scales = {2: (0.01, 0.5, 3.0), 3: (0.001, 0.3, 1.5), 4: (0.05, 0.3, 1.2), 10: (0.05, 0.3, 0.7)}
    concentrations = {2: (0.0, 2.0, 1e4), 3: (0.0, 5.0, 1e6), 4: (10.0, 1e4), 16: (0.0, 50.0, 1e6)}
    rows = []
    for size, values in scales.items():
        for s in values:
            name, loc = f"sphere{size - 1}-wrapped_normal", unit_vector(size)
            rows.append(case(f"{name}_{s:g}", SPHERE, "wrapped_normal", {"loc": loc, "scale": real(s)}))
            full = {"loc": loc, "covariance_matrix": covariance(size, s)}
            turn = {"transform": rotate_covariance(size)}
            rows.append(case(f"{name}_full_{s:g}", SPHERE, "wrapped_normal", full, invariance=turn))
    for size, values in concentrations.items():
        for k in values:
            params = {"loc": unit_vector(size), "concentration": real(k)}
            rows.append(case(f"sphere{size - 1}-von_mises_fisher_{k:g}", SPHERE, "von_mises_fisher", params))
    return rows


def manifolds() -> Manifolds:
    """Spheres from the circle up."""
    return {**{f"sphere{n - 1}": (SPHERE, (n,)) for n in (2, 3, 4, 10, 16)}, "sphere_exact2": (geoopt.SphereExact(), (3,))}
