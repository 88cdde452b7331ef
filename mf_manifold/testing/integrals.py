"""Checks that integrate or sample: normalisation, moments, nearest neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import geometry
from ..kernel import Kernel, Params
from .density import Density, Pilot, generator_for, kernel_density, log_coords, pilot, to_coords
from .report import demand, named_check
from .rules import Rule, is_zonal, push, rule_for

FAILURE_RATE = 2e-5
MAX_Z, MAX_ERROR = 5.0, 0.01
# enough to see a scale that is 2 % off in the mean squared radius
LINE_SAMPLES, SAMPLES = 2**16, 2**15


def critical_z(tests: int = 1) -> float:
    """Two-sided normal quantile at which `tests` comparisons together fail by chance with probability 2e-5."""
    p = torch.tensor(FAILURE_RATE / (2 * tests), dtype=torch.float64)
    return -float(torch.special.ndtri(p))


def demand_unit_integral(value: float, error: float, rule: Rule, tolerance: float) -> None:
    """Demand an integral of one: to `tolerance` by quadrature, to 5 standard errors of at most 1 % by sampling."""
    off, nodes = value - 1, len(rule.log_weights)
    if not rule.random:
        return demand(abs(off) <= tolerance, f"integral {value:.9f}, off by {off:+.2e} > {tolerance:.0e} ({nodes} nodes)")
    demand(error <= MAX_ERROR, f"integral {value:.4f} has a standard error of {error:.4f} > {MAX_ERROR} ({nodes} proposals)")
    z = abs(off) / error if error > 0 else math.inf * (off != 0)
    return demand(z <= MAX_Z, f"integral {value:.5f} +- {error:.5f}, z = {z:.1f} > {MAX_Z}")


def unit_integral(density: Density, rule: Rule, tolerance: float) -> None:
    """Demand that a density integrates to one."""
    log_q = density.log_prob_of(rule.points)
    demand(not bool(log_q.isnan().any()), f"log_prob is NaN at {int(log_q.isnan().sum())} of {len(log_q)} nodes")
    value, error = rule.integrate(log_q, torch.ones_like(log_q).unsqueeze(-1))
    demand_unit_integral(float(value), float(error), rule, tolerance)


@named_check("normalisation")
def check_normalisation(kernel: Kernel, params: Params, *, tolerance: float = 1e-6, seed: int = 0) -> None:
    """The density integrates to one over the Riemannian volume."""
    density = kernel_density(kernel, params)
    unit_integral(density, rule_for(density, seed, is_zonal(density, seed)), tolerance)


def _statistics(density: Density, where: Pilot, x: Tensor, log_q: Tensor) -> Tensor:
    """Functions (N,k) of order one whose means a sampler must reproduce."""
    v = log_coords(density.manifold, density.center, x) - where.mean
    z = torch.linalg.solve_triangular(where.factor, v.mT, upper=False).mT
    radius2 = z.square().mean(-1, keepdim=True)
    bumps = torch.exp(-radius2 * torch.tensor([0.3, 1.0, 3.0], dtype=z.dtype))
    return torch.cat([z, z.square(), radius2, bumps, log_q.unsqueeze(-1)], dim=-1)


def _demand_equal_means(names: list[str], a: Tensor, b: Tensor, error: Tensor) -> None:
    z = (a - b).abs() / error.clamp_min(1e-9)
    worst, limit = int(z.argmax()), critical_z(len(z))
    demand(
        bool(z[worst] <= limit),
        f"mean of {names[worst]}: {float(a[worst]):.6f} over samples, {float(b[worst]):.6f} by the density, "
        f"z = {float(z[worst]):.1f} > {limit:.1f}",
    )


def matching_moments(density: Density, seed: int, count: int) -> None:
    """Demand that sample means of coordinates, squares, bumps and log q agree with integrals of the density."""
    where, rule = pilot(density, seed), rule_for(density, seed)
    x = density.sample(count, generator_for(seed + 1))
    log_q_rule, log_q = density.log_prob_of(rule.points), density.log_prob_of(x)
    drawn = _statistics(density, where, x, log_q)
    expected, error = rule.integrate(log_q_rule, _statistics(density, where, rule.points, log_q_rule))
    names = [f"coordinate {i}" for i in range(density.dim)] + [f"squared coordinate {i}" for i in range(density.dim)]
    sample_error2 = drawn.var(0) / count
    total = torch.sqrt(sample_error2 + error.square())
    _demand_equal_means([*names, "squared radius", "bump 0.3", "bump 1", "bump 3", "log q"], drawn.mean(0), expected, total)


def matching_reciprocals(density: Density, seed: int, count: int) -> None:
    """Demand ``E_q[rho / q] = 1`` for a narrower law rho: sampler against density, without any quadrature."""
    where = pilot(density, seed)
    narrow = where._replace(factor=where.factor / math.sqrt(2))
    x = density.sample(count, generator_for(seed + 1))
    ratio = torch.exp(_log_normal_at(density, narrow, x) - density.log_prob_of(x))
    z = torch.randn(count, density.dim, dtype=torch.float64, generator=generator_for(seed + 2))
    mass = (push(density, narrow.mean + z @ narrow.factor.T)[1] > -math.inf).double()
    error = torch.sqrt((ratio.var() + mass.var()) / count)
    _demand_equal_means(["rho / q"], *(t.unsqueeze(0) for t in (ratio.mean(), mass.mean(), error)))


def _log_normal_at(density: Density, where: Pilot, x: Tensor) -> Tensor:
    """Log density of a normal law in normal coordinates, by the Riemannian volume, without its windings."""
    center = density.center.unsqueeze(0)
    u = geometry.logmap(density.manifold, center, x)
    v = to_coords(density.manifold, density.center, u)
    z = torch.linalg.solve_triangular(where.factor, (v - where.mean).mT, upper=False)
    log_norm = where.factor.diagonal().log().sum() + density.dim / 2 * math.log(2 * math.pi)
    return -z.square().sum(0) / 2 - log_norm - geometry.logdet_expmap(density.manifold, center, u)


@named_check("sampler")
def check_sampler(kernel: Kernel, params: Params, *, seed: int = 0) -> None:
    """Samples follow the density: their moments agree with its integrals, and E_q[rho / q] is the mass of rho."""
    density = kernel_density(kernel, params)
    samples = LINE_SAMPLES if density.dim <= 2 else SAMPLES
    matching_moments(density, seed, samples)
    matching_reciprocals(density, seed, samples)


def uniform_neighbours(density: Density, seed: int, points: int = 2000, queries: int = 200) -> None:
    """Demand that the mass of the nearest-neighbour ball, ``q(y) c_d r^d``, is distributed as theory says.

    With n reference points and the intrinsic dimension d, ``(1 - mass)^n`` is uniform on [0, 1] (Bickel, Breiman 1983).
    """
    x = density.sample(points, generator_for(seed + 3))
    y = density.sample(queries, generator_for(seed + 4))
    radius = torch.stack([geometry.dist(density.manifold, x, one.expand_as(x)).amin() for one in y])
    log_ball = density.dim / 2 * math.log(math.pi) - math.lgamma(density.dim / 2 + 1)
    mass = torch.exp(density.log_prob_of(y) + log_ball + density.dim * radius.log())
    u = torch.exp(-points * mass).sort().values
    steps = torch.arange(queries + 1, dtype=torch.float64) / queries
    distance = float(torch.maximum((u - steps[:-1]).abs(), (steps[1:] - u).abs()).amax())
    limit = math.sqrt(-math.log(FAILURE_RATE / 2) / (2 * queries))
    demand(distance <= limit, f"Kolmogorov distance {distance:.3f} > {limit:.3f} over {queries} nearest neighbours")


@named_check("neighbours")
def check_neighbours(kernel: Kernel, params: Params, *, seed: int = 0) -> None:
    """Samples fill the space as the density says, locally, by nearest neighbours; only for dimensions up to 3."""
    density = kernel_density(kernel, params)
    if density.dim <= 3:
        uniform_neighbours(density, seed)
