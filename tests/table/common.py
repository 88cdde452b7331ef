"""What the rows of the table are made of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.factory import Name
from mf_manifold.kernel import Kernel, Params
from mf_manifold.numerics.linalg import congruence
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.symmetry import random_rotation

F64 = torch.float64
SPHERE, TORUS, SPD = geoopt.Sphere(), mf.manifolds.Torus(), geoopt.SymmetricPositiveDefinite()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # geoopt: only its dist follows the metric; ours follow it throughout
    SPD_LEM = geoopt.SymmetricPositiveDefinite(default_metric="LEM")
PLANE = geoopt.Euclidean(ndim=1)


Manifolds = dict[str, tuple[geoopt.Manifold, tuple[int, ...]]]


@dataclass(frozen=True)
class Case:
    """A kernel at one component's parameters, with the stated bounds of single checks."""

    id: str
    kernel: Kernel
    params: Params
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checks: tuple[str, ...] | None = None  # None: all of them


def real(value: float | list[float]) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(value, dtype=F64)


def unit_vector(size: int) -> Tensor:
    """A point of the sphere in general position."""
    return torch.nn.functional.normalize(torch.randn(size, dtype=F64, generator=generator_for(size)), dim=0)


def covariance(size: int, scale: float) -> Tensor:
    """A covariance matrix with correlations, standard deviations from 0.6 to 1.4 times ``scale``."""
    rotation = random_rotation(size, generator_for(size))
    return congruence(rotation, torch.diag((scale * torch.linspace(0.6, 1.4, size, dtype=F64)).square()))


def spd_matrix(size: int) -> Tensor:
    """An SPD matrix with eigenvalues from 0.5 to 3 (1.5 alone)."""
    values = torch.linspace(0.5, 3.0, size, dtype=F64) if size > 1 else real([1.5])
    return congruence(random_rotation(size, generator_for(7 * size)), torch.diag(values))


def case(id: str, manifold: geoopt.Manifold, kernel: Name, params: Params, **options: Mapping[str, Any]) -> Case:
    """A row; names of checks in ``options`` have underscores for spaces."""
    dist = mf.distribution(manifold, kernel, **params)
    return Case(id, dist.kernel, dist.params, options)
