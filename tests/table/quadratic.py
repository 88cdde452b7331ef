"""Spheres: projected normal, angular central Gaussian, Bingham and Watson laws."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mf_manifold.kernel import Params
from mf_manifold.linalg import congruence
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.symmetry import random_rotation

from .common import SPHERE, Case, case, covariance, real, unit_vector


def _rotate(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    rotation = random_rotation(size, generator_for(99))

    def act(w: Params) -> Params:
        return {k: congruence(rotation, v) if k.endswith("matrix") else v @ rotation.mT for k, v in w.items()}

    return lambda x: x @ rotation.mT, act


def rows() -> list[Case]:
    """From nearly uniform to narrow."""
    rows = []
    for size, lengths in {2: (0.0, 3.0), 3: (0.0, 1.0, 1e3), 4: (5.0,), 16: (8.0,)}.items():
        for length in lengths:
            params, turn = {"mean_vector": length * unit_vector(size)}, {"transform": _rotate(size)}
            rows.append(case(f"sphere{size - 1}-projected_normal_{length:g}", SPHERE, "projected_normal", params, invariance=turn))
    for size, scale in ((2, 1.0), (3, 0.3), (3, 0.01), (5, 0.5)):
        params, turn = {"mean_vector": unit_vector(size), "covariance_matrix": covariance(size, scale)}, {"transform": _rotate(size)}
        rows.append(case(f"sphere{size - 1}-projected_normal_full_{scale:g}", SPHERE, "projected_normal", params, invariance=turn))
    return rows
