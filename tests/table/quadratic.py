"""Spheres: projected normal, angular central Gaussian, Bingham and Watson laws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mf_manifold.kernel import Params
from mf_manifold.numerics.linalg import congruence
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.symmetry import random_rotation

from .common import SPHERE, Case, case, covariance, real, unit_vector


def _rotate(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    rotation = random_rotation(size, generator_for(99))

    def act(w: Params) -> Params:
        return {k: congruence(rotation, v) if k.endswith("matrix") else v @ rotation.mT if v.ndim else v for k, v in w.items()}

    return lambda x: x @ rotation.mT, act


def _row(name: str, params: Params, label: str, size: int) -> Case:
    return case(f"sphere{size - 1}-{name}_{label}", SPHERE, name, params, invariance={"transform": _rotate(size)})


def rows() -> list[Case]:
    """From nearly uniform to narrow."""
    rows = []
    for size, lengths in {2: (0.0, 3.0), 3: (0.0, 1.0, 1e3), 4: (5.0,), 16: (8.0,)}.items():
        for length in lengths:
            rows.append(_row("projected_normal", {"mean_vector": length * unit_vector(size)}, f"{length:g}", size))
    for size, scale in ((2, 1.0), (3, 0.3), (3, 0.01), (5, 0.5)):
        params = {"mean_vector": unit_vector(size), "covariance_matrix": covariance(size, scale)}
        rows.append(_row("projected_normal", params, f"full_{scale:g}", size))
    for size, scale in ((2, 0.1), (3, 1.0), (3, 30.0), (6, 1.0)):
        stretched = covariance(size, scale) @ covariance(size, scale)
        rows.append(_row("angular_central_gaussian", {"covariance_matrix": stretched}, f"{scale:g}", size))
    for size, spread in ((2, 3.0), (3, 0.0), (3, 20.0), (3, 1e5), (4, 50.0), (10, 8.0)):
        values = spread * torch.linspace(-1.0, 0.3, size, dtype=torch.float64)
        matrix = congruence(random_rotation(size, generator_for(size)), torch.diag(values))
        rows.append(_row("bingham", {"concentration_matrix": matrix}, f"{spread:g}", size))
    for size, kappas in {2: (4.0,), 3: (-1e4, -2.0, 0.0, 10.0, 1e6), 4: (-5.0,), 16: (60.0,)}.items():
        for kappa in kappas:
            rows.append(_row("watson", {"loc": unit_vector(size), "concentration": real(kappa)}, f"{kappa:g}", size))
    return rows
