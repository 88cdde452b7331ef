"""Modified Bessel functions of the first kind, in the forms that directional densities need.

Everything follows from F(nu, k) = log 0F1(; nu + 1; k^2 / 4) = log I_nu(k) - nu log(k / 2) + log Gamma(nu +
1), found by Debye's uniform expansion at an order n = nu + N >= 32 and the downward recurrence of the
ratios I_m / I_(m-1). Computed in float64 and returned in the dtype of the argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor

from .special import closed_form

_START_ORDER = 32
_DEBYE_TERMS = 10


def _debye_polynomials(count: int) -> list[list[Fraction]]:
    """Coefficients of u_1 .. u_count: u' = t^2 (1 - t^2) u' / 2 + int_0^t (1 - 5 s^2) u(s) ds / 8."""
    polynomials = [[Fraction(1)]]
    for _ in range(count):
        following = [Fraction(0)] * (len(polynomials[-1]) + 3)
        for power, c in enumerate(polynomials[-1]):
            following[power + 1] += c * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            following[power + 3] -= c * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        polynomials.append(following)
    return polynomials[1:]


_DEBYE = [[float(c) for c in polynomial] for polynomial in _debye_polynomials(_DEBYE_TERMS)]
_DEBYE_SLOPE = [[i * c for i, c in enumerate(polynomial)][1:] for polynomial in _DEBYE]


def _polynomial_sum(polynomials: list[list[float]], t: Tensor, n: float) -> Tensor:
    """sum_j polynomial_j(t) / n^j, j = 1, 2, ..."""
    degree = max(len(polynomial) for polynomial in polynomials)
    total = torch.zeros_like(t)
    for power in reversed(range(degree)):
        column = sum(p[power] / n**j for j, p in enumerate(polynomials, start=1) if power < len(p))
        total = total * t + column
    return total


def _orders(nu: float) -> Iterator[float]:
    """The orders n, n - 1, ..., nu + 1 of the downward recurrence."""
    steps = max(0, math.ceil(_START_ORDER - nu))
    return (nu + step for step in range(steps, 0, -1))


def _top_order(nu: float) -> float:
    return nu + max(0, math.ceil(_START_ORDER - nu))


def _debye_correction(n: float, k: Tensor, s: Tensor) -> Tensor:
    """The part of I_(n+1) / I_n beyond k / (s + n), negated and divided by k."""
    t = n / s
    slope = _polynomial_sum(_DEBYE_SLOPE, t, n) / (1.0 + _polynomial_sum(_DEBYE, t, n))
    return 0.5 / s.square() + n * slope / s**3


def _ratio(nu: float, kappa: Tensor) -> Tensor:
    """I_(nu+1) / I_nu by positive terms only: full relative accuracy, also as kappa -> 0."""
    n = _top_order(nu)
    s = torch.sqrt(n * n + kappa.square())
    ratio = kappa / (s + n) - kappa * _debye_correction(n, kappa, s)
    for m in _orders(nu):
        ratio = kappa / (2.0 * m + kappa * ratio)
    return ratio


def _one_minus_ratio(nu: float, kappa: Tensor) -> Tensor:
    """1 - I_(nu+1) / I_nu without the cancellation of the difference at large kappa."""
    n = _top_order(nu)
    s = torch.sqrt(n * n + kappa.square())
    gap = n * (n + s + kappa) / ((s + kappa) * (s + n)) + kappa * _debye_correction(n, kappa, s)
    for m in _orders(nu):
        gap = (2.0 * m - kappa * gap) / (2.0 * m + kappa * (1.0 - gap))
    return gap


def _deficit_value(nu: float, kappa: Tensor) -> Tensor:
    """kappa - F(nu, kappa): grows like (nu + 1/2) log kappa only, although kappa and F grow linearly."""
    n = _top_order(nu)
    s = torch.sqrt(n * n + kappa.square())
    w = kappa.square() / (s + n)
    start = torch.log1p(_polynomial_sum(_DEBYE, torch.ones_like(s), n))
    series = torch.log1p(_polynomial_sum(_DEBYE, n / s, n)) - start
    logs = n * torch.log1p(w / (2.0 * n)) + 0.5 * torch.log1p(w / n)
    deficit = n * (s + kappa - n) / (s + kappa) + logs - series
    ratio = kappa / (s + n) - kappa * _debye_correction(n, kappa, s)
    for m in _orders(nu):
        deficit = deficit - torch.log1p(kappa * ratio / (2.0 * m))
        ratio = kappa / (2.0 * m + kappa * ratio)
    return deficit


def _deficit(nu: float, kappa: Tensor) -> Tensor:
    return closed_form(kappa, lambda k: _deficit_value(nu, k), lambda k: _one_minus_ratio(nu, k))


def _check_dim(dim: int, caller: str) -> None:
    if dim < 2:
        raise ValueError(f"{caller}: dim must be an ambient dimension >= 2, got {dim}; the circle has dim 2")


def log_iv(nu: float, kappa: Tensor) -> Tensor:
    """Logarithm of the modified Bessel function I_nu(kappa), for a fixed order nu >= -1/2 and kappa >= 0.

    log I_nu(kappa) = nu log(kappa / 2) - log Gamma(nu + 1) + F(nu, kappa). Shapes: kappa any, returned
    unchanged. Differentiable (twice) in kappa; at kappa = 0 and nu > 0 the value is -inf.

    **Raises** ValueError if nu < -1/2.

    Reference: Abramowitz and Stegun (1964), eqs. 9.7.7 (uniform expansion) and 9.6.26 (recurrence).

    >>> round(log_iv(0.0, torch.tensor(1.0, dtype=torch.float64)).item(), 9)
    0.235914359
    """
    if nu < -0.5:
        raise ValueError(f"log_iv: nu must be at least -1/2, got {nu}; use I_(-n) = I_n for a whole order")
    k = kappa.to(torch.float64)
    power = nu * torch.log(0.5 * k) if nu else torch.zeros_like(k)
    return (power - math.lgamma(nu + 1.0) + (k - _deficit(nu, k))).to(kappa.dtype)


def log_vmf_normalizer(dim: int, kappa: Tensor) -> Tensor:
    """Log normaliser of exp(kappa (c - 1)) on the unit sphere of R^dim: log C_dim(kappa) + kappa.

    C = kappa^nu / ((2 pi)^(nu + 1) I_nu(kappa)), nu = dim / 2 - 1; the value grows like log kappa only and
    its gradient is 1 - A(kappa), A = `bessel_ratio`. At kappa = 0 it is minus the log-area of the sphere.

    **Measure**: surface measure of S^(dim-1). Shapes: kappa >= 0 any, returned unchanged; differentiable
    twice.

    **Raises** ValueError if dim < 2.

    Reference: Mardia and Jupp, Directional Statistics (2000), section 9.3.2.

    >>> k = torch.tensor([0.0, 1e8], dtype=torch.float64)
    >>> [round(v, 6) for v in log_vmf_normalizer(3, k).tolist()]
    [-2.531024, 16.582804]
    """
    _check_dim(dim, "log_vmf_normalizer")
    log_area = math.log(2.0) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)
    return (_deficit(0.5 * dim - 1.0, kappa.to(torch.float64)) - log_area).to(kappa.dtype)


def bessel_ratio(dim: int, kappa: Tensor) -> Tensor:
    """Mean resultant length of the von Mises-Fisher law on the unit sphere of R^dim.

    A(kappa) = I_(dim/2)(kappa) / I_(dim/2 - 1)(kappa). Shapes: kappa >= 0 any, returned unchanged. Full
    relative accuracy for any kappa, also near 0 (A ~ kappa / dim).

    **Raises** ValueError if dim < 2.

    Reference: Mardia and Jupp, Directional Statistics (2000), section 9.3.2.

    >>> round(bessel_ratio(3, torch.tensor(2.0, dtype=torch.float64)).item(), 9)
    0.537314721
    """
    _check_dim(dim, "bessel_ratio")
    return _ratio(0.5 * dim - 1.0, kappa.to(torch.float64)).to(kappa.dtype)


def one_minus_bessel_ratio(dim: int, kappa: Tensor) -> Tensor:
    """The complement 1 - A(kappa) of `bessel_ratio`, fully accurate at large kappa, where A rounds to 1.

    1 - A ~ (dim - 1) / (2 kappa).
    Shapes: kappa >= 0 any, returned unchanged.

    **Raises** ValueError if dim < 2.

    >>> one_minus_bessel_ratio(3, torch.tensor(1e8)).item() == torch.tensor(1e-8).item()
    True
    """
    _check_dim(dim, "one_minus_bessel_ratio")
    return _one_minus_ratio(0.5 * dim - 1.0, kappa.to(torch.float64)).to(kappa.dtype)
