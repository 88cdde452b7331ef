"""Probabilities and means of the length of a normal vector, from the variances along its principal axes.

Both are inverse Laplace transforms of products of square roots, taken on the parabola s = v (1 + i t)^2 around the negative
axis, where all singularities lie; the trapezoidal rule in t converges exponentially.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NODES, _RANGE = 64, 9.6


def _parabola(like: Tensor) -> tuple[Tensor, Tensor]:
    """The points 1 + i t and their weights, one half at t = 0 because the others count twice; per unit of 1/sqrt(vertex)."""
    t = torch.linspace(0.0, _RANGE, _NODES + 1, dtype=torch.float64, device=like.device)
    weight = torch.full_like(t, 2.0 * _RANGE / _NODES / math.pi)
    weight[0] /= 2.0
    return t, weight


def tilting(variances: Tensor, radius2: float, pole: float) -> Tensor:
    """The s > 0 at which ``radius2 s - pole log s - sum log(1 + 2 s v) / 2`` is least; 0 where it grows from s = 0.

    Shapes: variances (*B,d) -> (*B), not differentiable.
    """
    v = variances.detach().double().clamp_min(0.0)
    low = torch.full_like(v[..., 0], -80.0)
    high = torch.full_like(low, math.log((pole + v.shape[-1] / 2 + 1.0) / radius2))
    for _ in range(60):
        middle = (low + high) / 2
        s = middle.exp()
        slope = radius2 * s - pole - (v * s.unsqueeze(-1) / (1 + 2 * s.unsqueeze(-1) * v)).sum(-1)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return torch.where(low > -79.0, low.exp(), torch.zeros_like(low))


def log_ball_probability(variances: Tensor, radius2: float) -> Tensor:
    """log P(|V|^2 < radius2) for V normal with these variances; zero variances are allowed.

    The parabola starts at the saddle point, which keeps the relative accuracy of small probabilities: absolute errors of
    the logarithm are about 1e-12. Shapes: variances (*B,d) -> (*B), float64; differentiable.

    >>> v = torch.tensor([1.0, 1.0], dtype=torch.float64)
    >>> round(log_ball_probability(v, 2.0).exp().item(), 9)               # 1 - exp(-1)
    0.632120559
    """
    vertex = tilting(variances, radius2, 1.0)
    t, weight = _parabola(variances)
    root = torch.sqrt(radius2 * vertex).unsqueeze(-1)
    point = torch.complex(torch.ones_like(root).expand(*root.shape[:-1], len(t)), t / root)
    s = vertex.unsqueeze(-1) * point.square()
    logs = torch.log(1 + 2 * s.unsqueeze(-1) * variances.double().unsqueeze(-2)).sum(-1)
    at_vertex = radius2 * vertex - torch.log1p(2 * vertex.unsqueeze(-1) * variances.double()).sum(-1) / 2
    terms = torch.exp(radius2 * s - logs / 2 - at_vertex.unsqueeze(-1)) / point
    return at_vertex + torch.log((terms.real * weight).sum(-1) / root.squeeze(-1))


def mean_cosine(variances: Tensor) -> Tensor:
    """E cos|V| for V normal with these variances, to about 1e-12; (*B,d) -> (*B), float64; differentiable.

    >>> v = torch.full((3,), 0.25, dtype=torch.float64)
    >>> round(mean_cosine(v).item(), 9), round(0.75 * math.exp(-0.125), 9)   # (1 - s^2) exp(-s^2 / 2) on three axes
    (0.661872677, 0.661872677)
    """
    # cos(sqrt q) is the inverse Laplace transform of sqrt(pi / s) exp(-q / (4 s)) at 1
    t, weight = _parabola(variances)
    vertex = 4.0
    point = torch.complex(torch.ones_like(t), t / math.sqrt(vertex))
    s = vertex * point.square()
    logs = torch.log(1 + variances.double().unsqueeze(-2) / (2 * s.unsqueeze(-1))).sum(-1)
    terms = torch.exp(s - logs / 2)
    return (terms.real * weight).sum(-1) * math.sqrt(math.pi)


def stereographic_means(variances: Tensor) -> tuple[Tensor, Tensor]:
    """E 1 / (1 + |V|^2 / 4) and E log(1 + |V|^2 / 4) for V normal with these variances; (*B,d) -> (*B), (*B), float64.

    Both are integrals of the Laplace transform of |V|^2 / 4, exact to rounding by the trapezoidal rule in the logarithm of
    its argument. Differentiable.

    >>> reciprocal, logarithm = stereographic_means(torch.full((2,), 2.0, dtype=torch.float64))
    >>> round(reciprocal.item(), 9), round(logarithm.item(), 9)       # e E1(1), both: |V|^2 / 4 is exponential
    (0.596347362, 0.596347362)
    """
    step = 0.2
    y = step * torch.arange(-220, 21, dtype=torch.float64, device=variances.device)
    u = y.exp()
    log_transform = -torch.log1p(u.unsqueeze(-1) / 2 * variances.double().unsqueeze(-2)).sum(-1) / 2
    reciprocal = step * (torch.exp(y - u + log_transform)).sum(-1)
    logarithm = -step * (torch.exp(-u) * torch.expm1(log_transform)).sum(-1)
    return reciprocal, logarithm
