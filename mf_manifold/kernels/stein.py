"""Stein's loss ``tr(M^-1 X) - log|M^-1 X| - p`` between SPD matrices, and what laws built on Wishart matrices share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..numerics.linalg import sym
from .covariance import cholesky_logdet

NEAR = 0.5  # relative distance up to which differences are taken before factors


class Relative(NamedTuple):
    """``M^-1 X`` in whitened coordinates: where X is near M as ``I + excess``, and everywhere as ``factor factor^T``.

    Near M differences keep the digits that condition numbers would cost; far from it a factor of X keeps small eigenvalues.
    """

    near: Tensor
    excess: Tensor
    factor: Tensor

    def choose(self, near: Tensor, far: Tensor) -> Tensor:
        """Values (*B) of the formula that holds."""
        return torch.where(self.near, near, far)


def exact_difference(b: Tensor, x: Tensor, a: Tensor, m: Tensor) -> Tensor:
    """``b X - a M`` of float64 matrices and numbers, of which no digit cancels: the products keep their rounding errors.

    A condition number multiplies those errors, and degrees of freedom multiply them again.
    """
    (high, low), (taken, rest) = _product(b[..., None, None], x), _product(a[..., None, None], m)
    return (high - taken) + (low - rest)


def _product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a b`` and its rounding error, by splitting the factors in halves (Dekker 1971)."""
    product = a * b
    (a1, a2), (b1, b2) = _halves(a.detach()), _halves(b.detach())
    return product, ((a1 * b1 - product.detach()) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(a: Tensor) -> tuple[Tensor, Tensor]:
    high = a * (2.0**27 + 1)
    high = high - (high - a)
    return high, a - high


def relative(x: Tensor, mean: Tensor, difference: Tensor) -> Relative:
    """Float64 matrices ``x`` relative to ``mean``, whose exact ``difference`` is given; (*B,p,p) each."""
    factor = torch.linalg.cholesky(mean)
    ratio = torch.linalg.solve_triangular(factor, torch.linalg.cholesky(x), upper=False)
    half = torch.linalg.solve_triangular(factor, difference, upper=False)
    excess = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    near = excess.detach().square().sum((-2, -1)) < NEAR**2
    return Relative(near, torch.where(near[..., None, None], excess, 0.0), ratio)


def inverse_spd(x: Tensor) -> Tensor:
    """Inverse by Cholesky."""
    result: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(x))
    return result


def whitened(x: Tensor, modes: Tensor) -> tuple[Tensor, Tensor]:
    """Points (N,p,p) and modes (M,p,p) in coordinates where the average mode is the identity, where features keep digits."""
    if len(modes) == 0:
        return x, modes
    root = torch.linalg.cholesky(modes.detach().mean(0))

    def whiten(y: Tensor) -> Tensor:
        half = torch.linalg.solve_triangular(root, y, upper=False)
        return sym(torch.linalg.solve_triangular(root, half.mT, upper=False))

    return whiten(x), whiten(modes)


def excess_loss(excess: Tensor) -> Tensor:
    """``tr E - log|I + E|`` for a small symmetric E as a sum of positive terms."""
    eye = torch.eye(excess.shape[-1], dtype=excess.dtype, device=excess.device)
    below = torch.linalg.cholesky(excess + eye).tril(-1).square().sum(-1)
    pivots = excess.diagonal(dim1=-2, dim2=-1) - below
    return (below + pivots - torch.log1p(pivots)).sum(-1)


def stein_loss(x: Tensor, mean: Tensor, difference: Tensor) -> Tensor:
    """``tr(M^-1 X) - log|M^-1 X| - p`` in float64, relatively accurate also where X is close to M; (*B,p,p) -> (*B)."""
    pair = relative(x, mean, difference)
    far = pair.factor.square().sum((-2, -1)) - 2 * cholesky_logdet(pair.factor) - x.shape[-1]
    return pair.choose(excess_loss(pair.excess), far)


def bartlett(df: Tensor, p: int, generator: torch.Generator | None) -> Tensor:
    """Lower triangular A such that ``A A^T`` is a standard Wishart matrix; df (*B) -> (*B,p,p), float64, pathwise."""
    wide = df.double().unsqueeze(-1)
    half = (wide - torch.arange(p, dtype=wide.dtype, device=wide.device)) / 2
    chi = (2 * torch._standard_gamma(half, generator=generator)).clamp_min(torch.finfo(wide.dtype).tiny).sqrt()
    below = torch.randn((*half.shape[:-1], p, p), generator=generator, dtype=wide.dtype, device=wide.device).tril(-1)
    return below + torch.diag_embed(chi)


def rounded_up(x: Tensor, like: Tensor) -> Tensor:
    """SPD matrices in the dtype of ``like``, with their diagonals rounded up so that they stay positive definite.

    Rounding moves the least eigenvalue of the correlations by at most half of what the diagonal grows by.
    """
    x = x.to(like.dtype)
    size = 2 * x.shape[-1] * torch.finfo(x.dtype).eps
    return x + size * torch.diag_embed(x.diagonal(dim1=-2, dim2=-1))


def narrowed(x: Tensor, like: Tensor) -> Tensor:
    """SPD matrices in the dtype of ``like``, where a narrower one needs it rounded up."""
    return x if x.dtype == like.dtype else rounded_up(x, like)


def mean_volume_ratio(mean_log_det: Tensor, p: int, kind: str) -> Tensor | None:
    """``E log d kind / d affine_invariant (X)`` from ``E log|X|``, for the measures where that is enough."""
    shift = {"lebesgue": -p * (p - 1) / 4 * math.log(2), "frobenius": 0.0}
    if kind == "affine_invariant":
        return torch.zeros_like(mean_log_det)
    return (p + 1) / 2 * mean_log_det + shift[kind] if kind in shift else None
