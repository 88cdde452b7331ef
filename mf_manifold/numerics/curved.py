"""Functions of spaces of constant curvature that are analytic across curvature 0: circular above it, hyperbolic below.

Their arguments are curvature times a squared length, of either sign; square roots of that have infinite gradients at 0, these
functions have none. Meant for float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEAR = 0.1  # series below, closed forms beyond: no digit is lost on either side
_TERMS = range(1, 14)
_ARC = tuple(2 / (n * n * math.comb(2 * n, n)) for n in _TERMS)
_SINE = tuple(2 / (n * math.comb(2 * n, n)) for n in _TERMS)
_COS = tuple((-1) ** n / math.factorial(2 * n) for n in range(8))
_SINC = tuple((-1) ** n / math.factorial(2 * n + 1) for n in range(8))


def _horner(t: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = torch.full_like(t, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * t + c
    return total


def _branches(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masks of the series and of positive arguments, the series' argument, and the root of |t| where it is far from 0."""
    near, positive = t.abs() < NEAR, t > 0
    return near, positive, torch.where(near, t, torch.zeros_like(t)), torch.where(near, torch.ones_like(t), t.abs()).sqrt()


def _arc(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The masks, the series' argument, the arc of curvature +-1 over a chord of square |t| > NEAR, and its sine."""
    near, positive, small, chord = _branches(t)
    half = torch.where(positive, chord / 2, torch.zeros_like(chord)).clamp_max(1.0)
    cosine = (1 - half.square()).clamp_min(torch.finfo(t.dtype).tiny).sqrt()
    long = torch.where(positive, torch.ones_like(chord), chord)
    arc = torch.where(positive, 2 * torch.atan2(half, cosine), 2 * torch.asinh(long / 2))
    sine = torch.where(positive, 2 * half * cosine, long * torch.sqrt(1 + long.square() / 4))
    return near, small, arc, torch.where(near, torch.ones_like(sine), sine)


def arc_ratio(t: Tensor) -> Tensor:
    """Squared arc over squared chord, ``theta^2 / t`` with ``t = 4 sin^2(theta/2)``, for ``t <= 4``.

    Negative t stand for hyperbolic space, ``-t = 4 sinh^2(rho/2)``. Times the squared chord: the squared distance.

    >>> t = torch.tensor([2.0, 0.0, -1e6], dtype=torch.float64)
    >>> [round(float(v), 6) for v in (arc_ratio(t) * t.abs()).sqrt()]       # pi/2, 0, 2 asinh(500)
    [1.570796, 0.0, 13.815513]
    """
    near, small, arc, _ = _arc(t)
    size = torch.where(near, torch.ones_like(t), t.abs())
    return torch.where(near, _horner(small, _ARC), arc.square() / size)


def sine_ratio(t: Tensor) -> Tensor:
    """``theta / sin(theta)`` of the arc over a squared chord t, and ``rho / sinh(rho)`` for negative t."""
    near, small, arc, sine = _arc(t)
    return torch.where(near, _horner(small, _SINE), arc / sine)


def cos_sqrt(t: Tensor) -> Tensor:
    """``cos(sqrt t)``, which is ``cosh(sqrt -t)`` for negative t."""
    near, positive, small, root = _branches(t)
    bounded = torch.where(positive, torch.ones_like(root), root)
    return torch.where(near, _horner(small, _COS), torch.where(positive, root.cos(), bounded.cosh()))


def sinc_sqrt(t: Tensor) -> Tensor:
    """``sin(sqrt t) / sqrt t``, which is ``sinh(sqrt -t) / sqrt -t`` for negative t."""
    near, positive, small, root = _branches(t)
    bounded = torch.where(positive, torch.ones_like(root), root)
    return torch.where(near, _horner(small, _SINC), torch.where(positive, root.sin(), bounded.sinh()) / root)


def log_sinc_sqrt(t: Tensor) -> Tensor:
    """``log |sin(sqrt t) / sqrt t|``, without overflow for negative t."""
    near, positive, small, root = _branches(t)
    circular = torch.where(positive, root, torch.ones_like(root)).sin().abs().log()
    long = torch.where(positive, torch.ones_like(root), root)
    hyperbolic = long + torch.log1p(-torch.exp(-2 * long)) - math.log(2)
    return torch.where(near, _horner(small, _SINC).log(), torch.where(positive, circular, hyperbolic) - root.log())
