"""The sampler that laws with densities exp(x^T A x) on the sphere share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..geometry import Shape

_NEWTON_STEPS = 30


def _tilt(gaps: Tensor) -> Tensor:
    """The b in [1, D] with sum 1 / (b + 2 gap_i) = 1 (*B,1), by Newton's method from the left; any b gives a valid envelope."""
    b = torch.ones_like(gaps[..., :1])
    for _ in range(_NEWTON_STEPS):
        inverse = 1 / (b + 2 * gaps)
        b = b + (inverse.sum(-1, keepdim=True) - 1) / inverse.square().sum(-1, keepdim=True)
    return b


def sample_axes(gaps: Tensor, sample_shape: Shape, generator: torch.Generator | None) -> Tensor:
    """Unit vectors with density proportional to exp(-sum_i gap_i x_i^2), gaps >= 0 of which one is 0, by exact rejection.

    Proposals are angular central Gaussian; at least 0.85 / sqrt(D) of them are accepted, least for one narrow pair of poles.
    Shapes: gaps (*B,D) -> (*sample_shape,*B,D).

    Reference: Kent, Ganeiban, Mardia (2018), A new unified approach for the simulation of a wide class of directional
    distributions.
    """
    dim, shape = gaps.shape[-1], (*sample_shape, *gaps.shape)
    gaps = gaps.reshape(-1, dim)
    b = _tilt(gaps.double()).to(gaps.dtype)
    scales, bound = (1 + 2 * gaps / b).rsqrt(), (dim - b) / 2 - dim / 2 * torch.log(dim / b)
    count = math.prod(shape[:-1])
    result = torch.empty(count, dim, dtype=gaps.dtype, device=gaps.device)
    todo = torch.arange(count, device=gaps.device)
    while len(todo):
        own = slice(None) if len(gaps) == 1 else todo % len(gaps)
        noise = torch.randn(len(todo), dim, generator=generator, dtype=gaps.dtype, device=gaps.device)
        x = noise * scales[own]
        x = x / x.norm(dim=-1, keepdim=True)
        form = (x.square() * gaps[own]).sum(-1, keepdim=True)
        level = bound[own] - form + dim / 2 * torch.log1p(2 * form / b[own])
        u = torch.rand(level.shape, generator=generator, dtype=gaps.dtype, device=gaps.device)
        accept = (u.log() <= level).squeeze(-1)
        result[todo[accept]] = x[accept]
        todo = todo[~accept]
    return result.reshape(shape)
