"""The radius of a Riemannian normal law on hyperbolic space, of density ``sinh(r)^(d-1) exp(-r^2 / (2 s^2)) / I(s)``.

The law is log-concave: Gauss-Legendre nodes around its mode integrate it to rounding for every scale, in logarithms, and a
normal law around the mode dominates it. Computed in float64; curvature -1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

NODES, PATH_NODES = 80, 48
REACH = 9.5  # standard deviations beyond which exp(-z^2 / 2) is below rounding
BLOCK = 2**15


def log_sinh(r: Tensor) -> Tensor:
    """``log sinh r`` for r > 0, without overflow and without cancellation."""
    return r + torch.log(-torch.expm1(-2 * r)) - math.log(2)


def _mode(s: Tensor, dim: int) -> Tensor:
    """Where ``r tanh r = (d-1) s^2``; s itself on the line, where the mode is at 0. Nothing needs it to the last digit."""
    if dim == 1:
        return s
    target = (dim - 1) * s.square()
    r = torch.maximum(target, target.sqrt())
    for _ in range(6):
        tanh = torch.tanh(r)
        r = r - (r * tanh - target) / (tanh + r * (1 - tanh.square()))
    return r


def _left_width(r: Tensor, s: Tensor, dim: int) -> Tensor:
    """Standard deviation that no part of the law left of r exceeds: ``(-f'')^(-1/2)`` at r, f'' increasing."""
    return (s.pow(-2) + (dim - 1) * torch.exp(-2 * log_sinh(r))).rsqrt()


def legendre(low: Tensor, high: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on intervals (*B); -> (*B,count) twice."""
    x, weights = (torch.from_numpy(a).to(low) for a in np.polynomial.legendre.leggauss(count))
    half = ((high - low) / 2).unsqueeze(-1)
    return low.unsqueeze(-1) + half * (1 + x), half * weights


def _nodes(s: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Nodes (*B,K) and the logarithms of weight times unnormalised density, which carry the gradient by s (*B)."""
    fixed = s.detach()
    mode = _mode(fixed, dim)
    low = (mode - REACH * _left_width(mode, fixed, dim)).clamp_min(0.0)
    r, weights = legendre(low, mode + REACH * fixed, NODES)
    return r, weights.log() + (dim - 1) * log_sinh(r) - r.square() / (2 * s.square().unsqueeze(-1))


def log_integral(s: Tensor, dim: int) -> Tensor:
    """``log I(s)`` for scales (*B) in float64; differentiable.

    >>> s = torch.tensor(0.5, dtype=torch.float64)       # dimension 2: sqrt(pi/2) s exp(s^2/2) erf(s / sqrt 2)
    >>> exact = math.sqrt(math.pi / 2) * 0.5 * math.exp(0.125) * math.erf(0.5 / math.sqrt(2))
    >>> abs(float(log_integral(s, 2)) - math.log(exact)) < 1e-14
    True
    """
    return _nodes(s, dim)[1].logsumexp(-1)


def mean_square(s: Tensor, dim: int) -> Tensor:
    """``E r^2`` for scales (*B) in float64; differentiable, increasing in s."""
    r, log_weights = _nodes(s, dim)
    return (log_weights.softmax(-1) * r.square()).sum(-1)


def scale_for(square: float, dim: int) -> float:
    """The scale s at which ``E r^2`` has a given value, by bisection in its logarithm.

    >>> round(scale_for(float(mean_square(torch.tensor(0.7, dtype=torch.float64), 5)), 5), 10)
    0.7
    """
    # E r^2 is between its values on flat space, d s^2, and with the mode far out, ((d-1) s^2)^2 + d s^2
    high = math.log(square / dim) / 2
    low = high - math.log1p(square) - 1
    for _ in range(60):
        middle = (low + high) / 2
        value = float(mean_square(torch.tensor(math.exp(middle), dtype=torch.float64), dim))
        low, high = (middle, high) if value < square else (low, middle)
    return math.exp((low + high) / 2)


def sample(s: Tensor, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent radii, one for each scale (*B) in float64, pathwise differentiable by the scale.

    By rejection: the tangent of log sinh at the mode turns the density into a normal one that is nowhere smaller. At least 65
    of 100 proposals are accepted, whatever s and d > 1.
    """
    fixed = s.detach().reshape(-1)
    mode = _mode(fixed, dim)
    slope = 1 / torch.tanh(mode)
    result = torch.empty_like(fixed)
    todo = torch.arange(len(fixed), device=s.device)
    while len(todo):
        at, tilt, deviation = mode[todo], slope[todo], fixed[todo]
        noise, u = (draw(at.shape, generator=generator, dtype=s.dtype, device=s.device) for draw in (torch.randn, torch.rand))
        r = (dim - 1) * deviation.square() * tilt + deviation * noise
        positive = r > 0
        safe = torch.where(positive, r, at)
        level = (dim - 1) * (log_sinh(safe) - log_sinh(at) - tilt * (safe - at))
        accept = ~((r <= 0) | (u.log() > level))  # so that NaN, which no proposal would end, comes back as NaN
        result[todo[accept]] = r[accept]
        todo = todo[~accept]
    result = result.reshape(s.shape)
    return _Path.apply(s, result, dim) if s.requires_grad else result  # type: ignore[no-untyped-call]


class _Path(torch.autograd.Function):
    """Radii as functions of the scale at a fixed level of the distribution function: ``dr/ds = -F_s(r; s) / F_r(r; s)``."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, r: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(s, r)
        ctx.dim = dim
        return r.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        s, r = ctx.saved_tensors
        return grads[0] * path_slope(r, s, ctx.dim), None, None


def path_slope(r: Tensor, s: Tensor, dim: int) -> Tensor:
    """``dr/ds`` at radii (*B) and scales (*B), from the integral of ``(t^2 - E r^2) p(t)`` on the side of the mode's tail."""
    square = mean_square(s, dim)
    flat = [t.expand(r.shape).reshape(-1).split(BLOCK) for t in (r, s, square, _mode(s, dim))]
    return torch.cat([_path_slope(dim, *block) for block in zip(*flat, strict=True)]).reshape(r.shape)


def _path_slope(dim: int, r: Tensor, s: Tensor, square: Tensor, mode: Tensor) -> Tensor:
    left = r < mode
    inner = torch.where(left, (r - REACH * _left_width(r, s, dim)).clamp_min(0.0), r + REACH * s)
    t, weights = legendre(torch.minimum(r, inner), torch.maximum(r, inner), PATH_NODES)
    far, near = t, r.unsqueeze(-1)
    log_ratio = (dim - 1) * (log_sinh(far) - log_sinh(near)) - (far - near) * (far + near) / (2 * s.square().unsqueeze(-1))
    tail = (weights * (t.square() - square.unsqueeze(-1)) * log_ratio.exp()).sum(-1)
    return torch.where(left, -tail, tail) / s.pow(3)
