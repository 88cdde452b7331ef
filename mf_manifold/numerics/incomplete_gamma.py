"""Logarithm of the regularised incomplete gamma function for whole and half shapes, which normalise truncated normal laws."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .special import closed_form


def _log_upper(a: float, x: Tensor) -> Tensor:
    """log Q(a, x) by its finite sum of positive terms, x > 0."""
    start = a % 1.0
    orders = torch.arange(start, a, dtype=x.dtype, device=x.device)
    lost = torch.lgamma(orders + 1.0)
    terms = orders * torch.log(x).unsqueeze(-1) - x.unsqueeze(-1) - lost
    if start:
        first = torch.special.log_ndtr(-torch.sqrt(2.0 * x)) + math.log(2.0)
        terms = torch.cat([first.unsqueeze(-1), terms], dim=-1)
    return torch.logsumexp(terms, dim=-1)


def _log_lower_series(a: float, x: Tensor) -> Tensor:
    """log P(a, x) by Kummer's series of positive terms, fast where x < a + 1."""
    total = torch.ones_like(x)
    for n in range(math.ceil(math.sqrt(80.0 * (a + 1.0))) + 20, 0, -1):
        total = 1.0 + total * x / (a + n)
    return a * torch.log(x) - x - math.lgamma(a + 1.0) + torch.log(total)


def _value(a: float, x: Tensor) -> Tensor:
    low = x < a + 1.0
    below = _log_lower_series(a, torch.where(low, x, 1.0))
    above = torch.log1p(-torch.exp(_log_upper(a, torch.where(low, a + 1.0, x))))
    return torch.where(low, below, above)


def log_gammainc_slope(a: float, x: Tensor) -> Tensor:
    """Derivative of `log_gammainc` by log x: x^a e^-x / (Gamma(a) P(a, x)), between 0 and a."""
    return torch.exp(a * torch.log(x) - x - math.lgamma(a) - log_gammainc(a, x))


def log_gammainc(a: float, x: Tensor) -> Tensor:
    """log P(a, x), the regularised lower incomplete gamma function, for a = 1/2, 1, 3/2, ... and x > 0.

    Absolute accuracy of rounding for every x, also where P underflows. Shapes: x any, returned unchanged (computed in
    float64); differentiable any number of times.

    Reference: Abramowitz and Stegun (1964), eqs. 6.5.29 (series) and 6.5.13 (finite sum).

    >>> round(log_gammainc(31.5, torch.tensor(1e-3, dtype=torch.float64)).item(), 6)
    -297.416446
    """
    z = x.to(torch.float64)
    return closed_form(z, lambda v: _value(a, v), lambda v: log_gammainc_slope(a, v) / v).to(x.dtype)
