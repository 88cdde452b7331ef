"""Symmetric positive definite matrices: ``geoopt.SymmetricPositiveDefinite`` with its AIM and LEM metrics.

The affine-invariant metric (AIM, geoopt's default) is ``tr (X^-1 dX)^2``, the log-Euclidean one (LEM) ``|d log X|_F^2``. geoopt
switches only ``dist`` between them; here expmap, logmap and the volume follow the metric too.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import geoopt
import torch
from geoopt import SymmetricPositiveDefinite as SPD
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from ..numerics.linalg import (
    congruence,
    log_det_dexpm,
    log_det_spd,
    sum_log_sinhc_gaps,
    svec,
    sym,
    sym_dexpm,
    sym_dlogm,
    sym_eigvals,
    sym_expm,
    sym_inv_sqrtm,
    sym_logm,
    sym_sqrtm,
    unsvec,
)
from . import register_config


def _from_config(config: dict[str, Any]) -> SPD:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # geoopt warns of its own LEM, of which nothing is used here
        return SPD(default_metric=config["metric"])


register_config("SymmetricPositiveDefinite", _from_config)


def is_log_euclidean(manifold: geoopt.Manifold) -> bool:
    """Whether the metric is LEM rather than AIM."""
    return bool(manifold.default_metric.value == "LEM")


@geometry.check_manifold.register(SPD)
def _(manifold: SPD, point_shape: Shape) -> None:
    if len(point_shape) != 2 or point_shape[0] != point_shape[1]:
        raise ValueError(f"Expected a point shape (p, p) on SPD matrices, got {tuple(point_shape)}.")
    if manifold.default_metric.value not in ("AIM", "LEM"):
        raise ValueError(
            f"Expected the metric AIM or LEM, got {manifold.default_metric.value}: the Stein divergence is no Riemannian "
            "metric and has no volume."
        )


@geometry.to_config.register(SPD)
def _(manifold: SPD) -> dict[str, Any]:
    return {"type": "SymmetricPositiveDefinite", "metric": manifold.default_metric.value}


@geometry.intrinsic_dim.register(SPD)
def _(manifold: SPD, point_shape: Shape) -> int:
    return point_shape[-1] * (point_shape[-1] + 1) // 2


@geometry.expmap.register(SPD)
def _(manifold: SPD, x: Tensor, u: Tensor) -> Tensor:
    if is_log_euclidean(manifold):
        return sym_expm(sym_logm(x) + sym_dlogm(x, u))
    root, inverse = sym_sqrtm(x), sym_inv_sqrtm(x)
    return sym(congruence(root, sym_expm(congruence(inverse, u))))


@geometry.logmap.register(SPD)
def _(manifold: SPD, x: Tensor, y: Tensor) -> Tensor:
    if is_log_euclidean(manifold):
        log_x = sym_logm(x)
        return sym_dexpm(log_x, sym_logm(y) - log_x)
    root, inverse = sym_sqrtm(x), sym_inv_sqrtm(x)
    return sym(congruence(root, sym_logm(congruence(inverse, y))))


@geometry.dist.register(SPD)
def _(manifold: SPD, x: Tensor, y: Tensor) -> Tensor:
    if is_log_euclidean(manifold):
        return torch.linalg.matrix_norm(sym_logm(y) - sym_logm(x))
    return torch.linalg.matrix_norm(sym_logm(congruence(sym_inv_sqrtm(x), y)))


@geometry.logdet_expmap.register(SPD)
def _(manifold: SPD, x: Tensor, u: Tensor) -> Tensor:
    if is_log_euclidean(manifold):
        return zeros_like_batch(manifold, u)
    return sum_log_sinhc_gaps(sym_eigvals(congruence(sym_inv_sqrtm(x), u)))


@geometry.from_coords.register(SPD)
def _(manifold: SPD, x: Tensor, v: Tensor) -> Tensor:
    if is_log_euclidean(manifold):
        return sym_dexpm(sym_logm(x), unsvec(v))
    return congruence(sym_sqrtm(x), unsvec(v))


@geometry.to_coords.register(SPD)
def _(manifold: SPD, x: Tensor, u: Tensor) -> Tensor:
    if is_log_euclidean(manifold):
        return svec(sym_dlogm(x, u))
    return svec(congruence(sym_inv_sqrtm(x), u))


@geometry.log_volume.register(SPD)
def _(manifold: SPD, point_shape: Shape) -> float:
    return math.inf


@geometry.project.register(SPD)
def _(manifold: SPD, x: Tensor) -> Tensor:
    return sym(x)


@geometry.raw_dim.register(SPD)
def _(manifold: SPD, point_shape: Shape) -> int:
    return geometry.intrinsic_dim(manifold, point_shape)


@geometry.from_raw.register(SPD)
def _(manifold: SPD, raw: Tensor, point_shape: Shape) -> Tensor:
    return sym_expm(unsvec(raw))


@geometry.to_raw.register(SPD)
def _(manifold: SPD, x: Tensor) -> Tensor:
    return svec(sym_logm(x))


@geometry.violations.register(SPD)
def _(manifold: SPD, x: Tensor) -> list[tuple[str, Tensor]]:
    size = x.abs().amax((-2, -1)).clamp_min(torch.finfo(x.dtype).tiny)
    asymmetry = (x - x.mT).abs().amax((-2, -1)) / size
    # scaled to a unit diagonal, and in float64: what is positive definite as stored must pass, however bad its units
    finite = torch.isfinite(x).all(-1).all(-1)[..., None, None]
    wide, large = sym(torch.where(finite, x, 0.0).double()), size.double().unsqueeze(-1)
    diagonal = wide.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, large).clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    smallest = torch.linalg.eigvalsh(scale.unsqueeze(-1) * wide * scale.unsqueeze(-2))[..., 0].to(x.dtype)
    # a matrix that is singular to rounding has no logarithm: it counts as off by more than any tolerance
    negative = torch.where(smallest > 0, torch.zeros_like(smallest), 1 - smallest)
    return [
        ("are not symmetric by |X - X^T| / max |X|", asymmetry),
        ("are not positive definite (1 - smallest eigenvalue, scaled to a unit diagonal)", negative),
    ]


# The densities of measures are found in float64: float32 loses as many digits as the matrix has in its condition number.


def _log_affine_over_lebesgue(x: Tensor) -> Tensor:
    p = x.shape[-1]
    # by Cholesky, which unlike eigenvalues does not mind rows in units of different size
    return (p * (p - 1) / 4 * math.log(2) - (p + 1) / 2 * log_det_spd(x.double())).to(x.dtype)


def _log_euclidean_over_lebesgue(x: Tensor) -> Tensor:
    p = x.shape[-1]
    return (p * (p - 1) / 4 * math.log(2) - log_det_dexpm(sym_logm(x.double()))).to(x.dtype)


def _log_affine_over_euclidean(x: Tensor) -> Tensor:
    return sum_log_sinhc_gaps(sym_eigvals(x.double()).log()).to(x.dtype)


def _log_cholesky_over_lebesgue(x: Tensor) -> Tensor:
    p = x.shape[-1]
    powers = torch.arange(p + 1, 1, -1, dtype=torch.float64, device=x.device)
    logs = torch.linalg.cholesky(x.double()).diagonal(dim1=-2, dim2=-1).log()
    return (-p * math.log(2) - logs @ powers).to(x.dtype)


def _log_bures_wasserstein_over_lebesgue(x: Tensor) -> Tensor:
    p = x.shape[-1]
    values = sym_eigvals(x.double())
    row, column = torch.triu_indices(p, p, 1, device=x.device)
    sums = (values[..., row] + values[..., column]).log().sum(-1)
    return (-p * math.log(2) - (values.log().sum(-1) + sums) / 2).to(x.dtype)


def _log_riemannian_over_lebesgue(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return _log_euclidean_over_lebesgue(x) if is_log_euclidean(manifold) else _log_affine_over_lebesgue(x)


@register_measure(SPD, "lebesgue")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return -_log_riemannian_over_lebesgue(manifold, x)


@register_measure(SPD, "frobenius")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    p = x.shape[-1]
    return p * (p - 1) / 4 * math.log(2) - _log_riemannian_over_lebesgue(manifold, x)


@register_measure(SPD, "affine_invariant")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    if not is_log_euclidean(manifold):
        return zeros_like_batch(manifold, x)
    return _log_affine_over_euclidean(x)


@register_measure(SPD, "log_euclidean")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    if is_log_euclidean(manifold):
        return zeros_like_batch(manifold, x)
    return -_log_affine_over_euclidean(x)


@register_measure(SPD, "log_cholesky")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """Volume of ``sum_(i>j) dL_ij^2 + sum_i (d log L_ii)^2``, L the Cholesky factor (Lin 2019)."""
    return _log_cholesky_over_lebesgue(x) - _log_riemannian_over_lebesgue(manifold, x)


@register_measure(SPD, "bures_wasserstein")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """Volume of ``tr(S dX) / 2`` with ``S X + X S = dX``, the metric of optimal transport between centred normal laws."""
    return _log_bures_wasserstein_over_lebesgue(x) - _log_riemannian_over_lebesgue(manifold, x)
