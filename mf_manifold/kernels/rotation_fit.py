"""Maximum likelihood for laws on SO(3) that depend on the angle from a location alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..kernel import Params
from ..numerics import quaternions
from ..numerics.curved import cos_sqrt, sinc_sqrt
from .maximise import climb
from .shares import shares

LEAST_SCALE, LARGEST_SCALE = 1e-4, 10.0


def fit_angle_law(log_density: Callable[[Tensor, Tensor], Tensor], q: Tensor, weights: Tensor | None) -> Params:
    """Quaternion ``loc`` (4) and ``scale`` () of largest likelihood for quaternions (N,4), by Newton's method.

    The start is the mean axis with the scale of the mean squared angle from it. The scale stays within [1e-4, 10].

    Raises:
        ValueError: all points are equal.
    """
    share = shares(q, weights)
    loc = torch.linalg.eigh(q.mT @ (share.unsqueeze(-1) * q))[1][:, -1]
    spread = ((share * quaternions.angle_between(loc, q).square()).sum() / 3).sqrt()
    if float(spread) < LEAST_SCALE / 10:
        raise ValueError(f"Expected rotations that differ, got a root mean squared angle of {spread:.1e} around their mean.")

    def value(state: Params) -> Tensor:
        return (share * log_density(quaternions.chords2(q, state["loc"]), state["scale"])).sum()

    def move(state: Params, delta: Tensor) -> Params:
        half = state["scale"] * delta[:3] / 2
        size2 = half.square().sum()
        turn = torch.cat([cos_sqrt(size2).unsqueeze(0), sinc_sqrt(size2) * half])
        scale = (state["scale"].log() + delta[3]).clamp(math.log(LEAST_SCALE), math.log(LARGEST_SCALE)).exp()
        return {"loc": quaternions.multiply(state["loc"], turn), "scale": scale}

    best = climb(value, move, {"loc": loc, "scale": spread.clamp_min(LEAST_SCALE)}, 4)
    return {**best, "loc": quaternions.unit(best["loc"])}
