"""Scalar special functions whose values and derivatives stay accurate where the textbook formulas cancel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_LOG_TWO_PI = math.log(2.0 * math.pi)
# Two float32 unit vectors can overshoot a squared chord of 0 or 4 by rounding, never by this much.
_CHORD2_SLACK = math.sqrt(torch.finfo(torch.float32).eps)

_SINHC_SERIES = tuple(1.0 / math.factorial(2 * k + 3) for k in range(9))
_SINHC_SLOPE_SERIES = tuple((k + 1) * c for k, c in enumerate(_SINHC_SERIES))
_ANGLE2_SLOPE_SERIES = tuple(2.0 / (n * math.comb(2 * n, n)) for n in range(1, 13))
_STIRLING_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_STIRLING_SHIFT = 10


class _ClosedForm(torch.autograd.Function):
    """An elementwise function given with its derivative, so that no graph of the series is kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Tensor:
        return value(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.slope = inputs[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.slope(x), None, None


def closed_form(x: Tensor, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply the elementwise `value` with derivative `slope`; `slope` must itself be differentiable.

    >>> x = torch.tensor(2.0, requires_grad=True)
    >>> closed_form(x, torch.sin, torch.cos).backward()
    >>> bool(x.grad == torch.cos(x))
    True
    """
    result: Tensor = _ClosedForm.apply(x, value, slope)  # type: ignore[no-untyped-call]
    return result


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _terms(series: tuple[float, ...], x: Tensor) -> tuple[float, ...]:
    """Half of a float64 series is enough for float32."""
    return series if x.dtype == torch.float64 else series[: (len(series) + 1) // 2]


def _near_zero(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mask |x| < 1 with x made harmless for the series and for the direct formula."""
    near = x.abs() < 1.0
    return near, torch.where(near, x, 0.0), torch.where(near, 2.0, x)


def _sinhc_minus_one(square: Tensor) -> Tensor:
    return square * _horner(square, _terms(_SINHC_SERIES, square))


def _log_sinhc_slope_near(x: Tensor, sign: float) -> Tensor:
    square = sign * x * x
    slope = _horner(square, _terms(_SINHC_SLOPE_SERIES, square))
    return 2.0 * sign * x * slope / (1.0 + _sinhc_minus_one(square))


def _log_sinhc_value(x: Tensor) -> Tensor:
    near, small, large = _near_zero(x)
    size = large.abs()
    far = size + torch.log1p(-torch.exp(-2.0 * size)) - torch.log(2.0 * size)
    return torch.where(near, torch.log1p(_sinhc_minus_one(small * small)), far)


def _log_sinhc_slope(x: Tensor) -> Tensor:
    near, small, large = _near_zero(x)
    return torch.where(near, _log_sinhc_slope_near(small, 1.0), 1.0 / torch.tanh(large) - 1.0 / large)


def log_sinhc(x: Tensor) -> Tensor:
    """Logarithm of the even function sinh(x) / x, elementwise; it never overflows.

    Shapes: any, returned unchanged. The gradient is coth(x) - 1/x, exactly 0 at x = 0.

    >>> x = torch.tensor([0.0, 1.0, 1000.0], dtype=torch.float64)
    >>> [round(v, 6) for v in log_sinhc(x).tolist()]
    [0.0, 0.161439, 992.399098]
    """
    return closed_form(x, _log_sinhc_value, _log_sinhc_slope)


def sinhc(x: Tensor) -> Tensor:
    """The even function sinh(x) / x, elementwise, with value 1 at x = 0.

    Shapes: any, returned unchanged. Overflows where sinh does; use `log_sinhc` for large arguments.

    >>> [round(v, 6) for v in sinhc(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()]
    [1.0, 1.175201]
    """
    near, small, large = _near_zero(x)
    return torch.where(near, 1.0 + _sinhc_minus_one(small * small), torch.sinh(large) / large)


def _log_sinc_value(x: Tensor) -> Tensor:
    near, small, large = _near_zero(x)
    far = torch.log((torch.sin(large) / large).abs())
    return torch.where(near, torch.log1p(_sinhc_minus_one(-small * small)), far)


def _log_sinc_slope(x: Tensor) -> Tensor:
    near, small, large = _near_zero(x)
    return torch.where(near, _log_sinhc_slope_near(small, -1.0), 1.0 / torch.tan(large) - 1.0 / large)


def log_sinc_abs(x: Tensor) -> Tensor:
    """Logarithm of |sin(x) / x|, elementwise (x in radians, not in half turns as in `torch.sinc`).

    Shapes: any, returned unchanged. Falls to -inf at the non-zero multiples of pi; the gradient is
    cot(x) - 1/x, exactly 0 at x = 0.

    >>> [round(v, 6) for v in log_sinc_abs(torch.tensor([1.0, 4.0], dtype=torch.float64)).tolist()]
    [-0.172604, -1.664947]
    """
    return closed_form(x, _log_sinc_value, _log_sinc_slope)


def _check_chord2(chord2: Tensor, result: Tensor) -> Tensor:
    possible = (chord2 >= -_CHORD2_SLACK) & (chord2 <= 4.0 + _CHORD2_SLACK)
    return torch.where(possible, result, math.nan)


def _half_angle(chord2: Tensor) -> Tensor:
    return torch.atan2(torch.sqrt(chord2), torch.sqrt(4.0 - chord2))


def _angle2_value(chord2: Tensor) -> Tensor:
    return _check_chord2(chord2, 4.0 * _half_angle(chord2.clamp(0.0, 4.0)).square())


def _angle2_slope(chord2: Tensor) -> Tensor:
    near, inside = chord2 < 0.1, chord2 < 4.0
    small = torch.where(near, chord2, 0.0).clamp(min=0.0)
    series = _horner(small, _terms(_ANGLE2_SLOPE_SERIES, small))
    large = torch.where(near | ~inside, 2.0, chord2)
    quotient = 4.0 * _half_angle(large) / torch.sqrt(large * (4.0 - large))
    return _check_chord2(chord2, torch.where(near, series, torch.where(inside, quotient, 0.0)))


def angle2_from_chord2(chord2: Tensor) -> Tensor:
    """Squared angle theta^2 in [0, pi^2] between two unit vectors from the squared chord c = |x - w|^2.

    theta^2 = 2 sum_n c^n / (n^2 binom(2n, n)) is analytic at c = 0, with gradient theta / sin(theta),
    exactly 1 at c = 0 (and for a slightly negative c). The gradient grows without bound towards c = 4, the
    antipode; at c >= 4 it is 0, the mean of the slopes in opposite directions. Rounding overshoot is
    clamped; an impossible chord gives NaN. Shapes: any, returned unchanged.

    >>> c = torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    >>> angle2_from_chord2(c).sum().backward()
    >>> [round(v, 6) for v in c.grad.tolist()]
    [1.0, 1.570796, 0.0]
    """
    return closed_form(chord2, _angle2_value, _angle2_slope)


def _stirling_remainder(z: Tensor) -> Tensor:
    """log Gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2, by recurrence up to z + 10."""
    shifted = z.unsqueeze(-1) + torch.arange(_STIRLING_SHIFT, dtype=z.dtype, device=z.device)
    steps = (shifted + 0.5) * torch.log1p(1.0 / shifted) - 1.0
    inverse = 1.0 / (z + _STIRLING_SHIFT)
    return steps.sum(-1) + inverse * _horner(inverse.square(), _STIRLING_SERIES)


def digamma_difference(a: Tensor, b: float) -> Tensor:
    """psi(a + b) - psi(a) for a > 0 and b >= 0, with full relative accuracy also where both digammas are large and close.

    Shapes: a any, returned unchanged (computed in float64). Differentiable.

    >>> round(digamma_difference(torch.tensor(1e8, dtype=torch.float64), 2.0).item() * 1e8, 6)
    2.0
    """
    z = a.to(torch.float64)
    steps = z.unsqueeze(-1) + torch.arange(_STIRLING_SHIFT, dtype=z.dtype, device=z.device)
    top = z + _STIRLING_SHIFT
    slopes = [_horner((top + s).pow(-2), [(2 * k + 1) * c for k, c in enumerate(_STIRLING_SERIES)]) for s in (0.0, b)]
    tail = slopes[0] * top.pow(-2) - slopes[1] * (top + b).pow(-2)
    difference = (b / (steps * (steps + b))).sum(-1) + torch.log1p(b / top) + 0.5 * b / (top * (top + b)) + tail
    return difference.to(a.dtype)


def _log_gamma_ratio_value(a: Tensor, b: float) -> Tensor:
    smooth = (a - 0.5) * torch.log1p(b / a) + b * torch.log(a + b) - b
    return smooth + _stirling_remainder(a + b) - _stirling_remainder(a)


def log_gamma_ratio(a: Tensor, b: float) -> Tensor:
    """log Gamma(a + b) - log Gamma(a) for a > 0 and b >= 0, without the cancellation of two large log-gammas.

    Shapes: a any, returned unchanged (computed in float64). The gradient is `digamma_difference`.

    >>> round(log_gamma_ratio(torch.tensor(1e8, dtype=torch.float64), 1.0).item(), 9)      # log a
    18.420680744
    """
    z = a.to(torch.float64)
    return closed_form(z, lambda v: _log_gamma_ratio_value(v, b), lambda v: digamma_difference(v, b)).to(a.dtype)


def wishart_log_constant(df: Tensor, p: int) -> Tensor:
    """Logarithm of the Wishart constant in the mean parametrisation, free of cancellation for any df > p - 1.

    c = (nu p / 2) log(nu / 2) - nu p / 2 - log Gamma_p(nu / 2) - (p (p - 1) / 4) log 2, for nu = df;
    with mean M, log f(X) = c - (nu / 2) (tr(M^-1 X) - log|M^-1 X| - p).

    **Measure**: with this constant the density is relative to the affine-invariant Riemannian volume.
    Shapes: df any, returned unchanged (computed in float64, returned in the dtype of df). df = p - 1 gives
    -inf, a smaller df gives NaN.

    **Raises** ValueError if p is not a positive integer.

    Reference: Muirhead, Aspects of Multivariate Statistical Theory (1982), Theorem 3.2.1.

    >>> round(wishart_log_constant(torch.tensor(3.0, dtype=torch.float64), 1).item(), 6)
    -0.77102
    """
    if p < 1:
        raise ValueError(f"wishart_log_constant: p must be a positive integer, got {p}; pass the matrix size")
    nu = df.to(torch.float64).unsqueeze(-1)
    j = torch.arange(p, dtype=torch.float64, device=df.device)
    z = 0.5 * (nu - j)
    powers = 0.5 * (j + 1.0) * torch.log(0.5 * nu) - (z - 0.5) * torch.log1p(-j / nu)
    terms = powers - 0.5 * j - _stirling_remainder(z)
    constant = 0.5 * p * _LOG_TWO_PI + 0.25 * p * (p - 1) * _LOG_TWO_PI
    return (terms.sum(-1) - constant).to(df.dtype)


def digamma_minus_log(z: Tensor) -> Tensor:
    """psi(z) - log z for z > 0, with full relative accuracy also where both are large and nearly equal.

    Shapes: any, returned unchanged (computed in float64). Differentiable any number of times.

    >>> round(digamma_minus_log(torch.tensor(1e8, dtype=torch.float64)).item() * 1e9, 6)
    -5.0
    """
    wide = z.to(torch.float64)
    shifted = wide.unsqueeze(-1) + torch.arange(_STIRLING_SHIFT, dtype=wide.dtype, device=wide.device)
    steps = torch.log1p(1.0 / shifted) - 1.0 / shifted
    inverse = 1.0 / (wide + _STIRLING_SHIFT)
    tail = inverse.square() * _horner(inverse.square(), [(2 * k + 1) * c for k, c in enumerate(_STIRLING_SERIES)])
    return (steps.sum(-1) - 0.5 * inverse - tail).to(z.dtype)


def multivariate_digamma_minus_log(a: Tensor, p: int) -> Tensor:
    """Sum of psi(a - j / 2) - log a over j = 0, ..., p - 1, for a > (p - 1) / 2: E log |X| of a Wishart matrix of mean 1.

    Shapes: any, returned unchanged (computed in float64). Always negative; differentiable any number of times.

    >>> round(multivariate_digamma_minus_log(torch.tensor(0.5, dtype=torch.float64), 1).item(), 6)
    -1.270363
    """
    wide = a.to(torch.float64).unsqueeze(-1)
    half = 0.5 * torch.arange(p, dtype=wide.dtype, device=a.device)
    return (digamma_minus_log(wide - half) + torch.log1p(-half / wide)).sum(-1).to(a.dtype)
