"""What the kernels on the hyperboloid share: densities of all pairs by one product, and the Fréchet mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from geoopt import Lorentz
from torch import Tensor

from ..backends.pairs import by_blocks
from ..manifolds.lorentz import pair, radius2, shoot, time
from ..manifolds.pairs import Pair
from ..numerics.curved import sine_ratio
from ..numerics.special import closed_form

MAX_SCALE = 10.0  # in radii of curvature: wider laws live where no coordinate has digits left


def largest(value: Tensor) -> float:
    """Largest entry, read once a call; 0 where there is none to read."""
    return 0.0 if value.is_meta or value.numel() == 0 else float(value.detach().amax())


def check_scale(scale: Tensor, manifold: Lorentz) -> None:
    """Raise ``ValueError`` for scales beyond ``MAX_SCALE`` radii of curvature."""
    limit = MAX_SCALE * math.sqrt(float(manifold.k.detach()))
    if largest(scale) > limit * (1 + 1e-6):
        raise ValueError(f"Expected scales up to {limit:g}, ten radii of curvature, got {largest(scale):.3g}.")


def network_scales(manifold: Lorentz, usual: tuple[float, float]) -> tuple[float, float]:
    """The logarithms of a network's scales, in radii of curvature where those are below 1: none beyond ``MAX_SCALE``."""
    shift = min(0.0, math.log(float(manifold.k.detach())) / 2)
    return usual[0] + shift, usual[1] + shift


def check_finite(x: Tensor) -> Tensor:
    """The samples, if their coordinates, which grow like ``exp(r / R)``, have not overflowed; else ``ValueError``."""
    if not x.is_meta and not bool(torch.isfinite(x.detach()).all()):
        raise ValueError(
            f"Expected samples whose coordinates fit into {x.dtype}, got an overflow: radii beyond 350 (float64) or 85 "
            "(float32) radii of curvature have none. Use a smaller scale, or float64."
        )
    return x


def log_stretch(both: Pair) -> Tensor:
    """``log(sinh(r/R) / (r/R))`` of a pair at distance r, by which each transverse direction of exp is stretched; (*B)."""
    return -sine_ratio(both.curvature * both.chord2).log()


def all_pairs(
    manifold: Lorentz,
    x: Tensor,
    loc: Tensor,
    log_q: Callable[[Tensor, Tensor], Tensor],
    smallest: float,
    whitening: Tensor | None = None,
    stretched: bool = True,
) -> Tensor | None:
    """Matrix (N,M) of ``log_q(square, log stretch)`` from one product of Minkowski features in float64.

    ``square`` is the squared distance or, with ``whitening`` (M,d,d), the squared length of these matrices times the logarithms
    in the frames; without ``stretched`` the second argument means nothing. The product
    cancels like ``time(x) time(loc)``; None where that would be seen at the ``smallest`` scale.
    """
    if x.is_meta:
        return None
    a, b, k = x[:, 1:].double(), loc[:, 1:].double(), radius2(manifold, x)
    radius, time_a, time_b = k.sqrt(), time(a, k), time(b, k)
    rounding = 4 * torch.finfo(torch.float64).eps * largest(time_a) * largest(time_b)
    seen = rounding / (2 * smallest**2) if whitening is None else 10 * rounding / (smallest * math.sqrt(float(k.detach())))
    if seen > (1e-10 if x.dtype == torch.float64 else 1e-5):
        return None
    left = torch.cat([time_a, a], dim=-1)
    right = (torch.cat([time_b, -b], dim=-1) / k).mT
    boosts = None if whitening is None else (whitening @ _boosts(b, time_b, radius)).flatten(0, 1).mT

    def block(rows: slice) -> Tensor:
        # 1e-30 instead of 0 has the same values, and finite logarithms
        chord2 = (2 * (left[rows] @ right) - 2).clamp_min(1e-30).to(x.dtype)
        if boosts is None:
            square = closed_form(chord2, _square, _square_slope) * k.to(x.dtype)
            return log_q(square, closed_form(chord2, _stretch, _stretch_slope) if stretched else chord2)
        stretch = closed_form(chord2, _stretch, _stretch_slope)
        white = (left[rows] @ boosts).to(x.dtype).unflatten(-1, (len(loc), -1))
        return log_q(white.square().sum(-1) * torch.exp(-2 * stretch), stretch)

    return by_blocks(block, len(x), len(loc), x)


def _boosts(space: Tensor, first: Tensor, radius: Tensor) -> Tensor:
    """Matrices (M,d,D) of the boosts that bring points to the origin, without their first row.

    They take a point at distance r to ``R sinh(r/R)`` times the direction of its logarithm in the frame.
    """
    outer = space.unsqueeze(-1) * space.unsqueeze(-2) / (radius * (first + radius)).unsqueeze(-1)
    eye = torch.eye(space.shape[-1], dtype=space.dtype, device=space.device)
    return torch.cat([-(space / radius).unsqueeze(-1), eye + outer], dim=-1)


def _sine_and_arc(chord2: Tensor) -> tuple[Tensor, Tensor]:
    """``sinh rho`` and ``rho`` for chords ``chord2 = 4 sinh^2(rho/2)``."""
    sine = torch.sqrt(chord2 * (1 + chord2 / 4))
    return sine, torch.log1p(chord2 / 2 + sine)  # several times faster than asinh


def _square(chord2: Tensor) -> Tensor:
    return _sine_and_arc(chord2)[1].square()


def _square_slope(chord2: Tensor) -> Tensor:
    sine, arc = _sine_and_arc(chord2)
    return arc / sine


def _stretch(chord2: Tensor) -> Tensor:
    sine, arc = _sine_and_arc(chord2)
    return torch.log(sine / arc)


def _stretch_slope(chord2: Tensor) -> Tensor:
    near = chord2 < torch.finfo(chord2.dtype).eps ** 0.25
    far = torch.where(near, torch.ones_like(chord2), chord2)
    sine, arc = _sine_and_arc(far)
    slope = ((1 + far / 2) / sine - 1 / arc) / (2 * sine)
    return torch.where(near, 1 / 6 - chord2 * (7 / 180 - chord2 * (71 / 7560)), slope)


def frechet_mean(manifold: Lorentz, x: Tensor, weights: Tensor) -> Tensor:
    """The point (D) of least weighted mean squared distance to points (N,D), by Newton's method; float64.

    The mean is convex along geodesics; the Hessian of ``r^2 / 2`` is 1 along the geodesic and ``r coth r`` across.
    """
    x, k = x.double(), radius2(manifold, x)
    loc = _extrinsic_mean(x, weights, k)
    eye = torch.eye(x.shape[-1] - 1, dtype=x.dtype, device=x.device)
    for _ in range(100):
        v = pair(manifold, loc, x).log
        r2 = v.square().sum(-1)
        rho = (r2 / k).sqrt().clamp_min(1e-8)
        across = rho / torch.tanh(rho)
        along = (1 - across) / r2.clamp_min(1e-300)
        hessian = (weights * across).sum() * eye + (v.mT * (weights * along)) @ v
        step = torch.linalg.solve(hessian, weights @ v)
        while _cost(manifold, shoot(manifold, loc, step), x, weights) > (weights @ r2) * (1 + 1e-12):
            step = step / 2
        loc = shoot(manifold, loc, step)
        if float(step.norm()) <= 1e-15 * float((weights @ r2).sqrt()):
            break
    return loc


def _cost(manifold: Lorentz, loc: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    return weights @ pair(manifold, loc, x).dist2


def _extrinsic_mean(x: Tensor, weights: Tensor, k: Tensor) -> Tensor:
    mean = weights @ x
    length2 = mean[:1].square() - mean[1:].square().sum()
    space = mean[1:] * torch.sqrt(k / torch.maximum(length2, k))
    return torch.cat([time(space, k), space], dim=-1)


def same_points(a: Tensor, b: Tensor) -> bool:
    """Whether all locations of two batches agree to the last bit."""
    return bool((a == b).all())
