"""Affine-invariant position of an SPD matrix relative to another: radius, volume factor, tangent vector, Fréchet mean.

Everything is computed in float64 from the difference ``x - loc``, so that points next to ``loc`` keep their digits however
ill-conditioned both are. A small eigenvalue of ``Y = loc^-1 x`` is lost to rounding beside a large one, but it is a large one
of ``Y^-1``: logarithms are taken as ``log Y = log(1 + Y) - log(1 + Y^-1)``, where neither term sees its small eigenvalues.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .eigenvalues3 import Entries, eigenvalues_3x3
from .linalg import congruence, sum_log_sinhc_gaps, sym, sym_eigvals, sym_expm, sym_inv_sqrtm, sym_logm, sym_sqrtm
from .special import log_sinhc

_ASINH_SERIES = tuple((-1) ** k * math.comb(2 * k, k) / (4**k * (2 * k + 1)) for k in range(13))
KARCHER_STEPS = 200


def square_distance(x: Tensor, loc: Tensor) -> Tensor:
    """Squared distance ``sum_i l_i^2``, as in :func:`radial`. Shapes: (*B,p,p), (*B,p,p) -> (*B).

    >>> float(square_distance(4 * torch.eye(1), torch.eye(1))) == math.log(4) ** 2
    True
    """
    x, loc = sym(x.double()), sym(loc.double())
    p = x.shape[-1]
    if p <= 2:
        return radial(x, loc)[0]
    if p == 3:
        l1, l2, l3 = _log_eigenvalues_3x3(x, loc)
        return l1.square() + l2.square() + l3.square()
    return _log_eigenvalues(x, loc).square().sum(-1)


def radial(x: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance ``sum_i l_i^2`` and log volume factor ``sum_{i<j} log sinhc((l_i - l_j) / 2)``, float64.

    ``l`` are the log-eigenvalues of ``loc^-1 x``. Up to 3 x 3 matrices by closed forms in the entries, which need no batched
    decomposition. Shapes: (*B,p,p), (*B,p,p) -> (*B), (*B).

    >>> x = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64).exp())
    >>> [round(float(v), 6) for v in radial(x, torch.eye(2, dtype=torch.float64))]
    [5.0, 0.041325]
    """
    x, loc = sym(x.double()), sym(loc.double())
    p = x.shape[-1]
    if p == 1:
        log_ratio = (x / loc)[..., 0, 0].log()
        return log_ratio.square(), torch.zeros_like(log_ratio)
    if p == 2:
        return _radial_2x2(x, loc)
    if p == 3:
        l1, l2, l3 = _log_eigenvalues_3x3(x, loc)
        gaps = log_sinhc((l1 - l2) / 2) + log_sinhc((l2 - l3) / 2) + log_sinhc((l1 - l3) / 2)
        return l1.square() + l2.square() + l3.square(), gaps
    values = _log_eigenvalues(x, loc)
    return values.square().sum(-1), sum_log_sinhc_gaps(values)


def _inverse_factor(x: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of the Cholesky factor, and the log determinant of ``x``."""
    factor = torch.linalg.cholesky(x)
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False), log_det


def _log_eigenvalues(x: Tensor, loc: Tensor) -> Tensor:
    difference = x - loc
    excess = sym_eigvals(congruence(_inverse_factor(loc)[0], difference))  # of loc^-1 x - 1
    back = sym_eigvals(congruence(_inverse_factor(x)[0], -difference))  # of x^-1 loc - 1
    return torch.log(2 + excess) - torch.log(2 + back.flip(-1))


def _entries(x: Tensor) -> Entries:
    """Lower triangle by rows, as separate tensors: on a grid of pairs these are cheaper than a grid of matrices."""
    return [x[..., i, j] for i in range(x.shape[-1]) for j in range(i + 1)]


def _whitened_entries(inverse: Tensor, difference: Entries) -> Entries:
    """Lower triangle of ``G D G^T`` for a lower triangular G."""
    p = inverse.shape[-1]
    g = [[inverse[..., i, j] for j in range(i + 1)] for i in range(p)]
    d = [[difference[max(i, j) * (max(i, j) + 1) // 2 + min(i, j)] for j in range(p)] for i in range(p)]
    half = [[_dot(g[i], [d[k][j] for k in range(i + 1)]) for j in range(p)] for i in range(p)]
    return [_dot(half[i][: j + 1], g[j]) for i in range(p) for j in range(i + 1)]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def _log_eigenvalues_3x3(x: Tensor, loc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    difference = [a - b for a, b in zip(_entries(x), _entries(loc), strict=True)]
    excess = eigenvalues_3x3(_whitened_entries(_inverse_factor(loc)[0], difference))
    back = eigenvalues_3x3([-e for e in _whitened_entries(_inverse_factor(x)[0], difference)])
    l1, l2, l3 = (torch.log(2 + e) - torch.log(2 + b) for e, b in zip(excess, reversed(back), strict=True))
    return l1, l2, l3


def _asinh_ratio(u: Tensor) -> Tensor:
    """asinh(sqrt u) / sqrt u for u >= 0, analytic at 0."""
    near = u < 0.05
    small, large = torch.where(near, u, 0.0), torch.where(near, 1.0, u).sqrt()
    series = torch.full_like(u, _ASINH_SERIES[-1])
    for coefficient in reversed(_ASINH_SERIES[:-1]):
        series = series * small + coefficient
    return torch.where(near, series, torch.asinh(large) / large)


def _gap_2x2(excess: Entries, x: Tensor, log_det_loc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``log det Y`` of ``Y = 1 + excess``, ``u = sinh(h/2)^2`` and ``(h/2) / sinh(h/2)``, h the gap of its log-eigenvalues.

    ``u = ((Y11 - Y22)^2 / 4 + Y21^2) / det Y``.
    """
    e11, e21, e22 = excess
    near = e11.abs() + e22.abs() < 0.5
    change = torch.where(near, e11 + e22 + e11 * e22 - e21.square(), 0.0)
    log_det = torch.where(near, torch.log1p(change), _inverse_factor(x)[1] - log_det_loc)
    u = ((e11 - e22).square() / 4 + e21.square()) * torch.exp(-log_det)
    return log_det, u, _asinh_ratio(u)


def _radial_2x2(x: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
    inverse, log_det_loc = _inverse_factor(loc)
    difference = [a - b for a, b in zip(_entries(x), _entries(loc), strict=True)]
    log_det, u, ratio = _gap_2x2(_whitened_entries(inverse, difference), x, log_det_loc)
    return log_det.square() / 2 + 2 * u * ratio.square(), -ratio.log()


def tangent(x: Tensor, loc: Tensor) -> Tensor:
    """``T = log(loc^-1/2 x loc^-1/2)`` with symmetric roots, float64: the geodesic to ``x`` in the frame of ``loc``.

    Shapes: (*B,p,p), (*B,p,p) -> (*B,p,p).
    """
    x, loc = sym(x.double()), sym(loc.double())
    inverse_root, difference = sym_inv_sqrtm(loc), x - loc
    excess = sym(congruence(inverse_root, difference))  # Y - 1
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    if len(eye) == 2:  # the traceless parts of Y and of its logarithm are multiples of each other
        log_det, _, ratio = _gap_2x2(_entries(excess), x, _inverse_factor(loc)[1])
        traceless = excess - excess.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * eye
        return log_det[..., None, None] / 2 * eye + (ratio * torch.exp(-log_det / 2))[..., None, None] * traceless
    correction = _inverse_factor(x)[0] @ difference @ inverse_root
    back = correction.mT @ correction - excess  # Y^-1 - 1
    return sym_logm(2 * eye + excess) - sym_logm(2 * eye + back)


def frechet_mean(x: Tensor, share: Tensor) -> Tensor:
    """Affine-invariant mean of matrices (N,p,p) with weights ``share`` that sum to one, by damped fixed-point steps; float64.

    Raises:
        ValueError: no convergence, which ill-conditioned matrices can cause.
    """
    x = sym(x.double())
    loc, step = sym_expm(torch.einsum("n,nij->ij", share, sym_logm(x))), 1.0
    move = torch.einsum("n,nij->ij", share, tangent(x, loc))
    for _ in range(KARCHER_STEPS):
        if float(move.norm()) <= 1e-13 * loc.shape[-1]:
            return loc
        trial = sym(congruence(sym_sqrtm(loc), sym_expm(step * move)))
        next_move = torch.einsum("n,nij->ij", share, tangent(x, trial))
        if float(next_move.norm()) < float(move.norm()):
            loc, move = trial, next_move
        elif step < 1e-3:
            break
        else:
            step /= 2
    if float(move.norm()) <= 1e-8:  # as small as rounding lets it be
        return loc
    raise ValueError(
        f"Expected matrices whose Fréchet mean converges, but its gradient stays at {float(move.norm()):.1e}; "
        "drop matrices that are singular to rounding."
    )
