"""The wrapped normal on the circle: a series of images where it is narrow, of waves where it is wide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

_LOG_TWO_PI = math.log(2.0 * math.pi)
# Two-part 2 pi: the first part has 8 significant bits, so whole turns are removed without rounding.
_TWO_PI_HIGH = 6.28125
_TWO_PI_LOW = 0.0019353071795864769
# exp of this is lost beside 1 in any dtype, yet not subnormal: subnormal numbers are many times slower.
_NEGLIGIBLE = -80.0
_SELF_DUAL_SCALE = math.sqrt(2.0 * math.pi)


def _total(terms: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, terms)


def _image_terms(distance: Tensor, scale: Tensor, count: int) -> list[tuple[int, Tensor]]:
    """Images k = -1, 1, -2, 2, ... of a point at 0 <= distance <= pi, each relative to the image k = 0."""
    rate = 2.0 * math.pi / scale.square()
    behind = torch.exp((rate * (distance - 0.5 * _TWO_PI_HIGH - 0.5 * _TWO_PI_LOW)).clamp(min=_NEGLIGIBLE))
    ahead = torch.exp((-rate * (distance + math.pi)).clamp(min=_NEGLIGIBLE)) if count > 1 else behind
    terms = [(-1, behind)]
    for n in range(2, count + 1):
        k = (n + 1) // 2
        power = (behind if n % 2 else ahead) ** k
        terms.append((k if n % 2 == 0 else -k, power * torch.exp(-math.pi * k * (k - 1) * rate)))
    return terms


def _direct_value(delta: Tensor, scale: Tensor, count: int) -> tuple[Tensor, ...]:
    others = _total(term for _, term in _image_terms(delta.abs(), scale, count))
    return (torch.log1p(others) - 0.5 * (delta / scale).square() - (torch.log(scale) + 0.5 * _LOG_TWO_PI),)


def _direct_gradient(delta: Tensor, scale: Tensor, count: int) -> tuple[Tensor, ...]:
    side = 1.0 - 2.0 * (delta < 0).to(delta.dtype)
    terms = _image_terms(side * delta, scale, count)
    mass = 1.0 + _total(term for _, term in terms)
    shift = 2.0 * math.pi * side * _total(k * term for k, term in terms) / mass
    spread = 4.0 * math.pi**2 * _total(k * k * term for k, term in terms) / mass
    second_moment = delta.square() + 2.0 * delta * shift + spread
    return -(delta + shift) / scale.square(), (second_moment / scale.square() - 1.0) / scale


def _fourier_waves(delta: Tensor, scale: Tensor, count: int) -> list[tuple[int, Tensor, Tensor]]:
    return [(m, 2.0 * torch.exp(-0.5 * (m * scale).square()), m * delta) for m in range(1, count + 1)]


def _fourier_value(delta: Tensor, scale: Tensor, count: int) -> tuple[Tensor, ...]:
    waves = _fourier_waves(delta, scale, count)
    return (torch.log1p(_total(weight * torch.cos(phase) for _, weight, phase in waves)) - _LOG_TWO_PI,)


def _fourier_gradient(delta: Tensor, scale: Tensor, count: int) -> tuple[Tensor, ...]:
    waves = _fourier_waves(delta, scale, count)
    mass = 1.0 + _total(weight * torch.cos(phase) for _, weight, phase in waves)
    slope = _total(m * weight * torch.sin(phase) for m, weight, phase in waves)
    curvature = _total(m * m * weight * torch.cos(phase) for m, weight, phase in waves)
    return -slope / mass, -scale * curvature / mass


_Formula = Callable[[Tensor, Tensor, int], tuple[Tensor, ...]]


def _by_regime(
    direct: _Formula, fourier: _Formula, delta: Tensor, scale: Tensor, counts: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Evaluate only the regimes present; where both are, feed each a harmless scale in the other's place."""
    images, waves = counts
    if not waves:
        return direct(delta, scale, images)
    if not images:
        return fourier(delta, scale, waves)
    narrow = scale < _SELF_DUAL_SCALE
    near = direct(delta, torch.where(narrow, scale, 1.0), images)
    far = fourier(delta, torch.where(narrow, _SELF_DUAL_SCALE, scale), waves)
    return tuple(torch.where(narrow, a, b) for a, b in zip(near, far, strict=True))


def _wrap(delta: Tensor) -> Tensor:
    turns = torch.round(delta / (2.0 * math.pi))
    return (delta - turns * _TWO_PI_HIGH) - turns * _TWO_PI_LOW


class _WrappedNormal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(delta: Tensor, scale: Tensor, counts: tuple[int, int]) -> Tensor:
        return _by_regime(_direct_value, _fourier_value, _wrap(delta), scale, counts)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.counts = inputs[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        delta, scale = ctx.saved_tensors
        slopes = _by_regime(_direct_gradient, _fourier_gradient, _wrap(delta), scale, ctx.counts)
        by_delta, by_scale = (grads[0] * slope for slope in slopes)
        return by_delta.sum_to_size(delta.shape), by_scale.sum_to_size(scale.shape), None


def _term_counts(low: float, high: float, eps: float) -> tuple[int, int]:
    """Images and waves that count: image n is at most exp(-2 pi^2 floor(n^2 / 4) / s^2) of the density.

    Wave m is exp(-(m^2 - 1) s^2 / 2) of the first wave, hence also negligible in the gradient.
    """
    if not 0.0 < low <= high:
        raise ValueError(f"log_wrapped_normal_1d: scale must be positive, got values in [{low}, {high}]")
    digits = -math.log(eps)
    widest, narrowest = min(high, _SELF_DUAL_SCALE), max(low, _SELF_DUAL_SCALE)
    images = waves = 1
    while 2.0 * math.pi**2 * ((images + 1) ** 2 // 4) < digits * widest**2:
        images += 1
    while 0.5 * ((waves + 1) ** 2 - 1) * narrowest**2 < digits:
        waves += 1
    return (images if low < _SELF_DUAL_SCALE else 0), (waves if high >= _SELF_DUAL_SCALE else 0)


def _extremes(scale: Tensor) -> tuple[float, float]:
    if scale.is_meta or scale.numel() == 0:
        return 1.0, 1.0  # nothing to read: any number of terms gives the right shape
    low, high = torch.stack(torch.aminmax(scale.detach())).tolist()
    return low, high


def log_wrapped_normal_1d(delta: Tensor, scale: Tensor | float, scale_range: tuple[float, float] | None = None) -> Tensor:
    """Log-density of the wrapped normal on the circle at the angular difference `delta` (radians, any real).

    log sum_k N(delta + 2 pi k; 0, scale^2), summed over images where scale^2 < 2 pi and otherwise through
    the dual (1 + 2 sum_m exp(-m^2 scale^2 / 2) cos(m delta)) / (2 pi). Each omitted term is below the
    dtype's eps relative to the density, and at most 6 images beyond the nearest or 3 waves are ever summed;
    a narrow scale (below 0.74 in float64, 1.1 in float32) needs the two nearest images only.

    **Measure**: Lebesgue measure d(delta) on [-pi, pi), total 2 pi.
    Shapes: `delta` and `scale` broadcast. `scale_range` is (min, max) of `scale`, for callers that know it;
    without it a tensor `scale` is read once, which synchronises with an accelerator. Differentiable twice in
    both arguments.

    **Raises** ValueError if a scale is not positive.

    Reference: Mardia and Jupp, Directional Statistics (2000), section 3.5.7.

    >>> delta = torch.tensor([0.0, 3.0], dtype=torch.float64)
    >>> [round(v, 6) for v in log_wrapped_normal_1d(delta, 0.5).tolist()]
    [-0.225791, -18.197711]
    """
    if isinstance(scale, Tensor):
        low, high = scale_range or _extremes(scale)
    else:
        low, high = scale, scale
        scale = torch.full((), scale, dtype=delta.dtype, device=delta.device)
    counts = _term_counts(low, high, torch.finfo(delta.dtype).eps)
    result: Tensor = _WrappedNormal.apply(delta, scale, counts)  # type: ignore[no-untyped-call]
    return result


# Below this scale the images overlap by less than rounding, above it few terms of the series count.
_OVERLAP_SCALE = 0.4
_ENTROPY_TERMS = torch.arange(1.0, 256.0, dtype=torch.float64, device="cpu")


def wrapped_normal_entropy(scale: Tensor) -> Tensor:
    """Differential entropy of the wrapped normal on the circle, with respect to d(angle).

    With q = exp(-scale^2): log 2 pi - sum_n log(1 - q^n) + 2 sum_n (-1)^n q^(n (n + 1) / 2) / (n (1 - q^n)), from Jacobi's
    triple product; the entropy of the normal law where the scale is below 0.4. Shapes: any, returned unchanged; differentiable.

    Reference: Mardia and Jupp, Directional Statistics (2000), section 3.5.7 (the density as a theta function).

    >>> scale = torch.tensor([0.1, 10.0], dtype=torch.float64)
    >>> [round(v, 6) for v in wrapped_normal_entropy(scale).tolist()]
    [-0.883647, 1.837877]
    """
    wide, n = scale.to(torch.float64), _ENTROPY_TERMS.to(scale.device)
    narrow = wide < _OVERLAP_SCALE
    rate = torch.where(narrow, 1.0, wide).square().unsqueeze(-1)
    log_gap = torch.log(-torch.expm1(-n * rate))
    signs = 1.0 - 2.0 * torch.remainder(n, 2)
    waves = signs / n * torch.exp((-0.5 * n * (n + 1) * rate).clamp(min=-700.0) - log_gap)
    series = _LOG_TWO_PI - log_gap.sum(-1) + 2.0 * waves.sum(-1)
    normal = 0.5 * (1.0 + _LOG_TWO_PI) + torch.log(wide)
    return torch.where(narrow, normal, series).to(scale.dtype)
