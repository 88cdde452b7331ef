"""Checks of derivatives: of the log density, at degenerate points, and along sample paths."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernel import Kernel, Params
from .density import Density, exp_coords, generator_for, has_volume, kernel_density, log_coords, pilot, to_dtype
from .integrals import critical_z
from .perturb import derivatives, perturbed, special_points, zero_deltas
from .report import demand, named_check
from .rules import importance_rule, sample_rule
from .steps import distance

STEP = 1e-3
PATHS = 2**12


def _moved_log_prob(kernel: Kernel, w: Params, x: Tensor, unit: float, deltas: Params) -> Tensor:
    moved = exp_coords(kernel.manifold, x, unit * deltas["x"])
    return kernel.log_prob(moved, perturbed(kernel, w, {k: d for k, d in deltas.items() if k != "x"}, unit))


def _difference(kernel: Kernel, w: Params, x: Tensor, unit: float, deltas: Params, name: str, step: Tensor) -> Tensor:
    """Fourth-order central difference in the direction of one input."""
    at = [_moved_log_prob(kernel, w, x, unit, {**deltas, name: k * STEP * step}) for k in (-2, -1, 1, 2)]
    return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * STEP)


@named_check("gradients")
def check_gradients(kernel: Kernel, params: Params, *, tolerance: float = 1e-6, vanishes: bool = False, seed: int = 0) -> None:
    """Derivatives by the point and by every parameter equal finite differences, and stay finite at degenerate points.

    ``vanishes`` allows a density that is 0 at some of these, such as opposite its centre.
    """
    w, density, generator = to_dtype(params, torch.float64), kernel_density(kernel, params), generator_for(seed)
    unit = pilot(density, seed).spread
    # drawn towards the centre, because differences fail next to the singularities that some densities have at the cut locus
    inner = 0.8 * log_coords(density.manifold, density.center, density.sample(8, generator))
    x = exp_coords(density.manifold, density.center, inner)
    deltas = zero_deltas(kernel, w, len(x))
    deltas["x"] = torch.zeros(len(x), kernel.dim, dtype=torch.float64, requires_grad=True)
    log_q = _moved_log_prob(kernel, w, x, unit, deltas)
    for name, slope in derivatives(log_q.sum(), deltas).items():
        step = torch.randn(slope.shape, dtype=torch.float64, generator=generator)
        exact = (slope * step).sum(-1)
        with torch.no_grad():
            approximate = _difference(kernel, w, x, unit, deltas, name, step)
        error = (exact - approximate).abs() / (1 + approximate.abs())
        worst = int(error.nan_to_num(torch.inf).argmax())
        demand(
            bool(error[worst] <= tolerance),
            f"derivative by {name}: {float(exact[worst]):.8g} by autograd, {float(approximate[worst]):.8g} by differences",
        )
    _demand_finite(kernel, w, density.center, unit, vanishes)


def _demand_finite(kernel: Kernel, w: Params, center: Tensor, unit: float, vanishes: bool) -> None:
    x = special_points(kernel.manifold, center).clone().requires_grad_()
    deltas = zero_deltas(kernel, w, len(x))
    log_q = kernel.log_prob(x, perturbed(kernel, w, deltas, unit))
    sound = torch.isfinite(log_q) | (vanishes & (log_q == -torch.inf))
    demand(bool(sound.all()), f"log_prob is {log_q.tolist()} at the centre and its degenerate points")
    for name, slope in derivatives(log_q.sum(), {"x": x, **deltas}).items():
        rows = (~torch.isfinite(slope.flatten(1)).all(1)).nonzero().flatten().tolist()
        demand(not rows, f"derivative by {name} is not finite at degenerate points {rows} (0 is the centre)")


@named_check("pathwise")
def check_pathwise(kernel: Kernel, params: Params, *, seed: int = 0) -> None:
    """Pathwise derivatives of ``E f(X)`` by every parameter agree with those through the density.

    ``f`` are bumps around two fixed samples. A kernel without pathwise samples passes.
    """
    if not kernel.has_rsample:
        return
    w, density = to_dtype(params, torch.float64), kernel_density(kernel, params)
    where = pilot(density, seed)
    targets = density.sample(2, generator_for(seed + 1))
    deltas = zero_deltas(kernel, w, PATHS)
    x = kernel.rsample(perturbed(kernel, w, deltas, where.spread), (), generator_for(seed + 2))
    paths = _slopes(_bumps(density, x, targets, where.spread), deltas)
    known = has_volume(density.manifold, density.center)
    rule = importance_rule(density, where, seed, PATHS) if known else sample_rule(density, seed, PATHS)
    log_q = kernel.log_prob(rule.points, perturbed(kernel, w, deltas, where.spread))
    weight = torch.exp(log_q + rule.log_weights).unsqueeze(-1) * len(log_q)
    scores = _slopes(weight * _bumps(density, rule.points, targets, where.spread), deltas)
    for name in deltas:
        a, b = paths[name], scores[name]
        z = (a.mean(0) - b.mean(0)).abs() / torch.sqrt((a.var(0) + b.var(0)) / PATHS).clamp_min(1e-9)
        limit, worst = critical_z(z.numel()), float(z.amax())
        demand(
            worst <= limit,
            f"derivative by {name} of the mean of two bumps: {a.mean(0).flatten().tolist()} along sample paths, "
            f"{b.mean(0).flatten().tolist()} by the density, z = {worst:.1f} > {limit:.1f}",
        )


def _bumps(density: Density, x: Tensor, targets: Tensor, unit: float) -> Tensor:
    """``exp(-distance^2 / (2 d unit^2))`` (N,2): bounded and flat far away, so that no heavy tail spoils its mean."""
    distances = distance(density.manifold, x.unsqueeze(1), targets.unsqueeze(0))
    return torch.exp(-distances.square() / (2 * density.dim * unit**2))


def _slopes(values: Tensor, deltas: Params) -> dict[str, Tensor]:
    """Derivative of every value (N,K) by every row of the deltas; name -> (N,K,coordinates)."""
    rows = [derivatives(column.sum(), deltas) for column in values.unbind(-1)]
    return {name: torch.stack([row[name] for row in rows], dim=1) for name in deltas}
