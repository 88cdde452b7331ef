"""Integrals of a polynomial times a Gaussian over an interval, in logarithms, with all digits in both tails."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .product_rules import gauss_rule

FEW, MANY = 40, 56  # nodes for polynomials of low and of high degree
LARGEST = 690.0  # float64 holds the exponential of little more
TAIL = 42.0  # nats that the integrand has fallen by where the effective interval ends


def _ends(center: Tensor, upper: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """The part of [0, upper] outside of which the integrand, in units of the width, is below rounding."""
    root = (center.square() + 4 * degree).sqrt()
    mode = torch.where(center > 0, (center + root) / 2, 2 * degree / (root - center.clamp_max(0)))  # of t^degree exp(..)
    share = TAIL / degree
    reach = torch.minimum((share + math.sqrt(2 * share)) * mode, torch.full_like(mode, math.sqrt(2 * TAIL)))
    beyond = (center - upper).clamp_min(0)
    fall = 2 * TAIL / (beyond + (beyond.square() + 2 * TAIL).sqrt())
    low = (torch.minimum(center, upper) - fall).clamp_min(0)
    return low, torch.minimum(mode + reach, upper)


def _in_widths(upper: Tensor, width: Tensor) -> Tensor:
    """``upper / width`` without the NaN that the derivative of an infinite one would be."""
    finite = torch.isfinite(upper)
    return torch.where(finite, torch.where(finite, upper, torch.ones_like(upper)) / width, math.inf)


def log_truncated_moment(coefficients: Tensor, center: Tensor, width: Tensor, upper: Tensor | None = None) -> Tensor:
    r"""``log int_0^upper P(t) exp(-(t - center)^2 / (2 width^2)) dt`` for a polynomial P that is positive inside.

    One Gauss-Legendre rule on the part of the interval where the integrand is not negligible: no sum cancels, whichever side of
    the interval the centre is on. Errors stay below 1e-11 nats for degrees up to 63.

    Shapes: coefficients (*B,K+1) from the constant upwards, K >= 1; center, width, upper (*B), which broadcast. ``upper=None``
    is infinity.

    >>> one = torch.ones((), dtype=torch.float64)
    >>> P = torch.tensor([0.0, 1.0], dtype=torch.float64)
    >>> round(float(log_truncated_moment(P, 0 * one, one).exp()), 12)     # int_0^inf t exp(-t^2 / 2) dt
    1.0
    """
    degree = coefficients.shape[-1] - 1
    mean = center / width
    end = torch.full_like(mean, math.inf) if upper is None else _in_widths(upper, width)
    low, high = _ends(mean, end, degree)
    span = high - low
    # t in units of its largest value: neither a high power nor its coefficient leaves the range of numbers
    unit = (high * width).detach()
    lower = torch.arange(-degree, 1, dtype=unit.dtype, device=unit.device) * unit.log().unsqueeze(-1)
    powers = (coefficients * lower.clamp(-LARGEST, LARGEST).exp()).unbind(-1)
    top = -(torch.minimum(torch.maximum(mean, low), high) - mean).detach().square() / 2
    total = torch.zeros_like(mean)
    # node by node: a dimension of nodes would not fit the cache
    for node, weight in zip(*(part.tolist() for part in gauss_rule(FEW if degree < 8 else MANY)), strict=True):
        t = low + span * ((node + 1) / 2)
        value, scaled = powers[-1], t * width / unit
        for power in reversed(powers[:-1]):
            value = value * scaled + power
        total = total + weight * value * torch.exp(-(t - mean).square() / 2 - top)
    return total.log() + top + degree * unit.log() + (span * width / 2).log()
