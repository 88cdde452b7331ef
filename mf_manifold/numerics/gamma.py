"""Gamma and beta functions, and logarithms of gamma variates, where the textbook forms cancel or underflow.

With ``log Gamma(z) = (z - 1/2) log z - z + log(2 pi) / 2 + r(z)`` the large parts of a normaliser cancel on paper, and the
small Stirling remainder r is all that is computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .special import _STIRLING_SERIES, _STIRLING_SHIFT, _stirling_remainder, closed_form


def stirling_slope(z: Tensor) -> Tensor:
    """Derivative ``r'(z) = digamma(z) - log z + 1 / (2 z)`` of Stirling's remainder, for z > 0 in float64.

    >>> z = torch.tensor(1e8, dtype=torch.float64)
    >>> abs(float(stirling_slope(z) * 12 * z**2) + 1) < 1e-6     # r = 1 / (12 z) - ...
    True
    """
    shifted = z.unsqueeze(-1) + torch.arange(_STIRLING_SHIFT, dtype=z.dtype, device=z.device)
    steps = torch.log1p(1 / shifted) - (shifted + 0.5) / (shifted * (shifted + 1))
    inverse, tail = 1 / (z + _STIRLING_SHIFT), torch.zeros_like(z)
    for k in reversed(range(len(_STIRLING_SERIES))):
        tail = tail * inverse.square() + (2 * k + 1) * _STIRLING_SERIES[k]
    return steps.sum(-1) - inverse.square() * tail


def stirling_remainder(z: Tensor) -> Tensor:
    """Stirling's remainder ``r(z) = log Gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2``, for z > 0 in float64.

    >>> round(float(stirling_remainder(torch.tensor(1.0, dtype=torch.float64))), 9)      # 1 - log(2 pi) / 2
    0.081061467
    """
    return closed_form(z, _stirling_remainder, stirling_slope)


def log_beta_half(b: Tensor) -> Tensor:
    """``log B(1/2, b)``, for b > 0 in float64; full accuracy also where b is large and the log-gammas cancel.

    >>> round(float(log_beta_half(torch.tensor(1.0, dtype=torch.float64))), 9)           # log 2
    0.693147181
    """
    step = b * torch.log1p(0.5 / b) - 0.5 + stirling_remainder(b + 0.5) - stirling_remainder(b)
    return 0.5 * math.log(math.pi) - 0.5 * torch.log(b) - step


def digamma_half_step(b: Tensor) -> Tensor:
    """``digamma(b + 1/2) - digamma(b)``, minus the derivative of :func:`log_beta_half`; full relative accuracy.

    >>> round(float(digamma_half_step(torch.tensor(0.5, dtype=torch.float64))), 9)       # 2 log 2
    1.386294361
    """
    return torch.log1p(0.5 / b) + 0.5 / b - 0.5 / (b + 0.5) + stirling_slope(b + 0.5) - stirling_slope(b)


def sample_log_gamma(shape: Tensor, generator: torch.Generator | None) -> Tensor:
    """Logarithms of gamma variates, pathwise differentiable; they do not underflow however small ``shape`` is.

    ``Gamma(a)`` is ``Gamma(a + 1) U^(1/a)`` with U uniform.
    """
    exponential = torch.empty_like(shape, requires_grad=False).exponential_(generator=generator)
    return torch._standard_gamma(shape + 1, generator=generator).log() - exponential / shape
