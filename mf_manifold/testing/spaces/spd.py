"""SPD matrices: quadrature in the tangent space, repeated eigenvalues, congruences, coordinates of the measures."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor

from ...geometry import Shape
from ...numerics.linalg import congruence, svec, sym_inv_sqrtm, sym_logm
from ..density import Density, pilot
from ..measures import Coordinates, measure_coordinates
from ..perturb import special_points
from ..rules import Rule, exact_rule, tangent_rule
from ..symmetry import Transform, random_isometry, random_rotation


@exact_rule.register(geoopt.SymmetricPositiveDefinite)
def _(manifold: geoopt.SymmetricPositiveDefinite, density: Density, seed: int, mass_only: bool) -> Rule | None:
    return tangent_rule(density, pilot(density, seed)) if density.dim <= 3 else None


@special_points.register(geoopt.SymmetricPositiveDefinite)
def _(manifold: geoopt.SymmetricPositiveDefinite, center: Tensor) -> Tensor:
    eye = torch.eye(center.shape[-1], dtype=center.dtype, device=center.device)
    two = eye.clone()
    two[0, 0] = 3.0
    return torch.stack([center, 2 * center, eye, two])


@random_isometry.register(geoopt.SymmetricPositiveDefinite)
def _(manifold: geoopt.SymmetricPositiveDefinite, point_shape: Shape, generator: torch.Generator) -> Transform:
    rotation = random_rotation(point_shape[0], generator)
    return lambda x: congruence(rotation, x)


def _free_entries(x: Tensor, y: Tensor) -> Tensor:
    rows, columns = torch.tril_indices(y.shape[-1], y.shape[-1], device=y.device)
    return y[..., rows, columns]


def _whitened(x: Tensor, y: Tensor) -> Tensor:
    return svec(sym_logm(congruence(sym_inv_sqrtm(x), y)))


def _log_cholesky(x: Tensor, y: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(y)
    rows, columns = torch.tril_indices(y.shape[-1], y.shape[-1], -1, device=y.device)
    return torch.cat([factor.diagonal(dim1=-2, dim2=-1).log(), factor[..., rows, columns]], dim=-1)


def _transport(x: Tensor, y: Tensor) -> Tensor:
    """Entries in the eigenbasis of x, in units of the Bures-Wasserstein metric ``|U|^2 = sum_ij U_ij^2 / (2 (l_i + l_j))``."""
    values, vectors = torch.linalg.eigh(x)
    units = torch.sqrt(2 * (values.unsqueeze(-1) + values.unsqueeze(-2)))
    return svec(congruence(vectors.mT, y) / units)


@measure_coordinates.register(geoopt.SymmetricPositiveDefinite)
def _(manifold: geoopt.SymmetricPositiveDefinite) -> Mapping[str, Coordinates]:
    return {
        "lebesgue": _free_entries,
        "frobenius": lambda x, y: svec(y),
        "log_euclidean": lambda x, y: svec(sym_logm(y)),
        "affine_invariant": _whitened,
        "log_cholesky": _log_cholesky,
        "bures_wasserstein": _transport,
    }
