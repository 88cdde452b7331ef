"""Maximum likelihood for laws on SO(3) that depend on the angle from a location alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import quaternions
from ..manifolds.sphere import cos_sqrt, sinc_sqrt

STEPS, LEAST_SCALE, LARGEST_SCALE = 50, 1e-4, 10.0


def fit_angle_law(log_density: Callable[[Tensor, Tensor], Tensor], q: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Quaternion (4) and scale () of largest likelihood for quaternions (N,4), by Newton's method with halved steps.

    The start is the mean axis with the scale of the mean squared angle from it. The scale stays within [1e-4, 10].

    Raises:
        ValueError: all points are equal.
    """
    share = torch.full_like(q[:, 0], 1 / len(q)) if weights is None else weights.to(q) / weights.sum()
    loc = torch.linalg.eigh(q.mT @ (share.unsqueeze(-1) * q))[1][:, -1]
    spread = float(((share * quaternions.angle_between(loc, q).square()).sum() / 3).sqrt())
    if spread < LEAST_SCALE / 10:
        raise ValueError(f"Expected rotations that differ, got a root mean squared angle of {spread:.1e} around their mean.")
    log_scale = torch.tensor(math.log(max(spread, LEAST_SCALE)), dtype=q.dtype, device=q.device)

    def value(state: tuple[Tensor, Tensor]) -> Tensor:
        return (share * log_density(quaternions.chords2(q, state[0]), state[1].exp())).sum()

    def moved(delta: Tensor) -> tuple[Tensor, Tensor]:
        v = delta[:3] / 2
        half2 = v.square().sum()
        turn = torch.cat([cos_sqrt(half2).unsqueeze(0), sinc_sqrt(half2) * v])
        return quaternions.multiply(loc, turn), (log_scale + delta[3]).clamp(math.log(LEAST_SCALE), math.log(LARGEST_SCALE))

    for _ in range(STEPS):
        step, here = _newton(lambda delta: value(moved(delta)), q)
        size = 1.0
        while float(value(moved(size * step))) < here and size > 1e-9:
            size /= 2
        if size <= 1e-9:
            break
        loc, log_scale = moved(size * step)
        if float((step / torch.stack([*[log_scale.exp()] * 3, torch.ones_like(log_scale)])).abs().max()) < 1e-10:
            break
    return quaternions.unit(loc), log_scale.exp()


def _newton(value: Callable[[Tensor], Tensor], like: Tensor) -> tuple[Tensor, float]:
    """The ascent step at 0, curvatures of the wrong sign counted by their size, and the value there."""
    delta = torch.zeros(4, dtype=like.dtype, device=like.device, requires_grad=True)
    with torch.enable_grad():
        top = value(delta)
        (slope,) = torch.autograd.grad(top, delta, create_graph=True)
        rows = [torch.autograd.grad(entry, delta, retain_graph=True)[0] for entry in slope]
    curvature, axes = torch.linalg.eigh(torch.stack(rows))
    size = curvature.abs().clamp_min(1e-12 * curvature.abs().max() + torch.finfo(like.dtype).tiny)
    return axes @ ((axes.mT @ slope.detach()) / size), float(top.detach())
