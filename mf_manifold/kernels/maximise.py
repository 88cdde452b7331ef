"""Searches that fits of several families share."""

from __future__ import annotations

import math
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..kernel import Params
from .shares import shares
from .zonal import unit

SECANTS = 24


def weighted(x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Unit vectors in float64 and weights (N) that sum to one."""
    return unit(x), shares(x, weights)


def mean_direction(x: Tensor, a: Tensor) -> Tensor:
    """The projected weighted mean of points (N,D), weights (*B,N); the first axis where it vanishes; -> (*B,D)."""
    mean = a @ x
    length = mean.norm(dim=-1, keepdim=True)
    axis = torch.zeros_like(mean)
    axis[..., 0] = 1.0
    return torch.where(length > 1e-15, mean / length.clamp_min(1e-300), axis)


def root(increasing: Callable[[Tensor], Tensor], low: float, high: float, like: Tensor) -> Tensor:
    """Where increasing functions of positive numbers change their signs, within [low, high].

    Secants in the logarithm, which few steps take to rounding for functions that look like a logarithm; if they do not get
    there, bisection.

    Shapes: as many functions as ``like`` (*B) has entries -> (*B).
    """
    below, above = (torch.full(like.shape, math.log(v), dtype=torch.float64, device=like.device) for v in (low, high))
    here, before, value_before = (below + above) / 2, below, torch.full_like(below, -torch.inf)
    for _ in range(SECANTS):
        value = increasing(here.exp())
        below, above = torch.where(value > 0, below, here), torch.where(value > 0, here, above)
        slope = (value - value_before) / (here - before)
        there = here - value / torch.where(torch.isfinite(slope) & (slope > 0), slope, 1.0)
        there = torch.where((there > below) & (there < above), there, (below + above) / 2)
        before, value_before, here = here, value, torch.where(value == 0, here, there)
        if bool(((here - before).abs() <= 1e-13 * here.abs().clamp_min(1.0)).all()):
            return here.exp()
    for _ in range(64):
        middle = (below + above) / 2
        beyond = increasing(middle.exp()) > 0
        below, above = torch.where(beyond, below, middle), torch.where(beyond, middle, above)
    return ((below + above) / 2).exp()


def climb(value: Callable[[Params], Tensor], move: Callable[[Params, Tensor], Params], start: Params, dim: int) -> Params:
    """A local maximum by Newton's method in ``dim`` coordinates around the current state, with the step halved until it gains.

    Negative curvature counts by its size, so that every step leads uphill.
    """
    state, zero = start, torch.zeros(dim, dtype=torch.float64, device=start["loc"].device)
    for _ in range(40):
        here = zero.clone().requires_grad_()
        with torch.enable_grad():
            top = value(move(state, here))
            (slope,) = torch.autograd.grad(top, here, create_graph=True)
            rows = [torch.autograd.grad(s, here, retain_graph=True)[0] for s in slope]
        curvature, axes = torch.linalg.eigh(-torch.stack(rows))
        size = curvature.abs().clamp_min(1e-12 * float(curvature.abs().amax()) + 1e-300)
        step = axes @ ((axes.mT @ slope.detach()) / size)
        gain = float(slope.detach() @ step)
        step = step / max(1.0, float(step.norm()))
        if gain < 1e-10:  # one step of quadratic convergence from the end
            return move(state, step) if float(value(move(state, step))) >= float(top) else state
        better = _uphill(value, move, state, step, float(top))
        if better is None:
            return state
        state = better
    return state


def _uphill(
    value: Callable[[Params], Tensor], move: Callable[[Params, Tensor], Params], state: Params, step: Tensor, top: float
) -> Params | None:
    for halvings in range(30):
        better = move(state, step * 0.5**halvings)
        if float(value(better)) > top:
            return better
    return None


def best_location(manifold: geoopt.Manifold, value: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The point of the sphere at which a function has a local maximum next to ``start``."""

    def move(state: Params, delta: Tensor) -> Params:
        loc = state["loc"]
        return {"loc": geometry.expmap(manifold, loc, geometry.from_coords(manifold, loc, delta))}

    return climb(lambda state: value(state["loc"]), move, {"loc": start}, len(start) - 1)["loc"]
