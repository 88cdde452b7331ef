"""Divided differences of scalar functions in forms that do not cancel where their arguments meet."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_SERIES_TERMS = 18
_SERIES_SPREAD = 0.2


class Spectral(NamedTuple):
    """A scalar function with its first and second divided differences."""

    value: Callable[[Tensor], Tensor]
    first: Callable[[Tensor, Tensor], Tensor]
    second: Callable[[Tensor, Tensor, Tensor], Tensor]


def _per_unit(numerator: Tensor, x: Tensor) -> Tensor:
    """numerator / x with the limit 1 at x = 0."""
    zero = x == 0
    return torch.where(zero, 1.0, numerator / torch.where(zero, 1.0, x))


def _log_first(a: Tensor, b: Tensor) -> Tensor:
    low = torch.minimum(a, b)
    excess = (a - b).abs() / low
    return _per_unit(torch.log1p(excess), excess) / low


def _exp_first(a: Tensor, b: Tensor) -> Tensor:
    gap = (a - b).abs()
    return torch.exp(torch.maximum(a, b)) * _per_unit(-torch.expm1(-gap), gap)


def _sqrt_first(a: Tensor, b: Tensor) -> Tensor:
    return 1.0 / (torch.sqrt(a) + torch.sqrt(b))


def _sqrt_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    a, b, c = torch.sqrt(a), torch.sqrt(b), torch.sqrt(c)
    return -1.0 / ((a + b) * (b + c) * (c + a))


def _inv_sqrt_first(a: Tensor, b: Tensor) -> Tensor:
    a, b = torch.sqrt(a), torch.sqrt(b)
    return -1.0 / (a * b * (a + b))


def _inv_sqrt_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    a, b, c = torch.sqrt(a), torch.sqrt(b), torch.sqrt(c)
    return (a + b + c) / (a * b * c * (a + b) * (b + c) * (c + a))


def _taylor_second(x: Tensor, y: Tensor, z: Tensor, coefficients: list[float]) -> Tensor:
    """sum_k coefficients[k] h_k, h_k the complete symmetric polynomials of three numbers that sum to zero."""
    e2, e3 = x * y + y * z + z * x, x * y * z
    h = [torch.ones_like(x), torch.zeros_like(x), -e2]
    for _ in coefficients[3:]:
        h.append(e3 * h[-3] - e2 * h[-2])
    return torch.stack([c * term for c, term in zip(coefficients, h, strict=True)]).sum(0)


def _sorted_three(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)


def _log_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    low, middle, high = _sorted_three(a, b, c)
    mean = (a + b + c) / 3.0
    near = high - low < _SERIES_SPREAD * mean
    x, y, z = (torch.where(near, v / mean - 1.0, 0.0) for v in (a, b, c))
    series = _taylor_second(x, y, z, [(-1.0) ** (k + 1) / (k + 2) for k in range(_SERIES_TERMS)])
    quotient = (_log_first(high, middle) - _log_first(middle, low)) / torch.where(near, 1.0, high - low)
    return torch.where(near, series / mean.square(), quotient)


def _exp_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    low, middle, high = _sorted_three(a, b, c)
    mean = (a + b + c) / 3.0
    near = high - low < _SERIES_SPREAD
    x, y, z = (torch.where(near, v - mean, 0.0) for v in (a, b, c))
    series = _taylor_second(x, y, z, [1.0 / math.factorial(k + 2) for k in range(_SERIES_TERMS)])
    quotient = (_exp_first(high, middle) - _exp_first(middle, low)) / torch.where(near, 1.0, high - low)
    return torch.where(near, series * torch.exp(mean), quotient)


LOG = Spectral(torch.log, _log_first, _log_second)
EXP = Spectral(torch.exp, _exp_first, _exp_second)
SQRT = Spectral(torch.sqrt, _sqrt_first, _sqrt_second)
INV_SQRT = Spectral(torch.rsqrt, _inv_sqrt_first, _inv_sqrt_second)
