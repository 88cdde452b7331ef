"""Moments of normal laws on the half line, as radial integrals of projected normal laws need them.

With ``p = sqrt(k) exp(a)``, ``a = asinh(t / (2 sqrt k))``, the mode of s^k exp(-(s - t)^2 / 2), and ``w = 2 sqrt(k) cosh(a)``,
Laplace's method is off by a bounded factor only:

    log int_0^inf s^k exp(-(s - t)^2 / 2) ds = (k + 1/2) log p - (k / p)^2 / 2 - (1/2) log w + (1/2) log 2 pi + c_k(t / w),

exp(c_k(u)) = sqrt((k + b) / 2 pi) int_-1^inf exp(k (log(1 + x) - x) - b x^2 / 2) dx, b = p^2 = k (1 + u) / (1 - u).

The correction c_k is smooth on [-1, 1], both tails included, and is kept as a Chebyshev series.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .special import closed_form

_NODES, _QUADRATURE, _END = 96, 600, 9.0
_LOG_TWO_PI = math.log(2.0 * math.pi)


def _corrections(k: int, u: Tensor) -> Tensor:
    """c_k(u) for u (N) in (-1, 1) by the trapezoidal rule in y, log(1 + x) = sinh(y) / sqrt(k + b)."""
    b = (k * (1.0 + u) / (1.0 - u)).unsqueeze(-1)
    y = torch.linspace(-_END, _END, _QUADRATURE, dtype=torch.float64, device=u.device)
    v = ((k + b).rsqrt() * y.sinh()).clamp(max=20.0)
    x = torch.expm1(v)
    terms = torch.exp(k * (v - x) - b * x.square() / 2.0 + v) * y.cosh()
    return torch.log(terms.sum(-1) * (2.0 * _END / (_QUADRATURE - 1) / math.sqrt(2.0 * math.pi)))


@functools.cache
def _coefficients(k: int) -> tuple[float, ...]:
    """Chebyshev coefficients of c_k."""
    with torch.device("cpu"):
        angle = (torch.arange(_NODES, dtype=torch.float64) + 0.5) * (math.pi / _NODES)
        waves = torch.cos(torch.arange(_NODES, dtype=torch.float64).unsqueeze(-1) * angle)
        c = (2.0 / _NODES) * waves @ _corrections(k, torch.cos(angle))
    return (float(c[0]) / 2.0, *c[1:].tolist())


@functools.cache
def _series(k: int, dtype: torch.dtype) -> tuple[float, ...]:
    """The coefficients up to the last one that counts in this dtype."""
    c, least = _coefficients(k), 1e-14 if dtype == torch.float64 else 1e-8
    return c[: max(i for i, value in enumerate(c) if abs(value) > least) + 1]


def _derivative(c: tuple[float, ...]) -> tuple[float, ...]:
    """Chebyshev coefficients of the derivative."""
    d = [0.0] * (len(c) + 1)
    for n in range(len(c) - 1, 0, -1):
        d[n - 1] = d[n + 1] + 2.0 * n * c[n]
    return (d[0] / 2.0, *d[1 : len(c) - 1])


def _clenshaw(u: Tensor, c: tuple[float, ...]) -> Tensor:
    twice, last, before = 2.0 * u, torch.zeros_like(u), torch.zeros_like(u)
    for value in reversed(c[1:]):
        last, before = before.neg_().add_(value).addcmul_(twice, last), last
    return before.neg_().add_(c[0]).addcmul_(u, last)


def _chebyshev(u: Tensor, c: tuple[float, ...]) -> Tensor:
    """A Chebyshev series, differentiable any number of times."""
    return closed_form(u, lambda v: _clenshaw(v, c), lambda v: _chebyshev(v, _derivative(c)))


def _log_half_normal(t: Tensor) -> Tensor:
    """The case k = 0."""
    left = t < 0
    negative, positive = torch.where(left, t, 0.0), torch.where(left, 0.0, t)
    tail = torch.log(torch.special.erfcx(-negative * math.sqrt(0.5))) - negative.square() / 2.0
    return torch.where(left, tail, torch.log1p(torch.special.erf(positive * math.sqrt(0.5)))) + 0.5 * math.log(math.pi / 2.0)


def _log_laplace(k: int, t: Tensor) -> Tensor:
    a, w = torch.asinh(t * (0.5 / math.sqrt(k))), torch.sqrt(t.square() + 4.0 * k)
    exponent = -((w - t) / 2.0).square() / 2.0  # for t >> 0 the difference is off by eps t, its square by eps k only
    base = (k + 0.5) * a + exponent - 0.5 * w.log()
    return base + (0.5 * (k + 0.5) * math.log(k) + 0.5 * _LOG_TWO_PI) + _chebyshev(t / w, _series(k, t.dtype))


def log_moment(k: int, t: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """log int_0^inf s^k exp(-(s - t)^2 / 2) ds for a whole k >= 0 and any real t, computed in ``dtype``.

    Errors in float64 are about 1e-14, relative to max(1, |value|); in float32 1e-6. Differentiable any number of times:
    the derivative by t is ``E[s] - t`` under the normalised integrand, the second one ``Var[s] - 1``, between -1 and 0.
    Shapes: any, returned unchanged, in the dtype of t.

    **Raises** ValueError if k is not a whole number >= 0.

    >>> log_moment(1, torch.tensor(0.0, dtype=torch.float64)).abs().item() < 1e-14
    True
    """
    if k < 0 or k != int(k):
        raise ValueError(f"log_moment: k must be a whole number of at least 0, got {k}")
    wide = t.to(dtype)
    return (_log_laplace(int(k), wide) if k else _log_half_normal(wide)).to(t.dtype)
