"""Checks that integrate or sample: normalisation, moments, nearest neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kernel import Kernel, Params
from .density import Density, Pilot, chart, generator_for, has_volume, kernel_density, log_coords, pilot
from .report import demand, named_check
from .rules import Rule, push, rule_for
from .steps import distance

FAILURE_RATE = 2e-5
MAX_Z, MAX_ERROR = 5.0, 0.01
# enough to see a scale that is 2 % off in the mean squared radius
LINE_SAMPLES, SAMPLES = 2**16, 2**15


def critical_z(tests: int = 1) -> float:
    """Two-sided normal quantile at which `tests` comparisons together fail by chance with probability 2e-5."""
    p = torch.tensor(FAILURE_RATE / (2 * tests), dtype=torch.float64)
    return -float(torch.special.ndtri(p))


def unit_integral(density: Density, rule: Rule, tolerance: float) -> None:
    """Demand an integral of one: to `tolerance` by quadrature, to 5 standard errors of at most 1 % by sampling."""
    log_q = density.log_prob_of(rule.points)
    demand(not bool(log_q.isnan().any()), f"log_prob is NaN at {int(log_q.isnan().sum())} of {len(log_q)} nodes")
    value, error = (float(t) for t in rule.integrate(log_q, torch.ones_like(log_q).unsqueeze(-1)))
    off, nodes = value - 1, f"({len(log_q)} nodes)"
    if not rule.random:
        return demand(abs(off) <= tolerance, f"integral {value:.9f}, off by {off:+.2e} > {tolerance:.0e} {nodes}")
    demand(error <= MAX_ERROR, f"integral {value:.4f} has a standard error of {error:.4f} > {MAX_ERROR} {nodes}")
    z = abs(off) / max(error, 1e-9)
    return demand(z <= MAX_Z, f"integral {value:.5f} +- {error:.5f}, z = {z:.1f} > {MAX_Z} {nodes}")


@named_check("normalisation")
def check_normalisation(kernel: Kernel, params: Params, *, tolerance: float = 1e-6, seed: int = 0) -> None:
    """The density integrates to one over the Riemannian volume."""
    density = kernel_density(kernel, params)
    unit_integral(density, rule_for(density, seed, mass_only=True), tolerance)


def _whitened(density: Density, where: Pilot, x: Tensor) -> Tensor:
    """Normal coordinates of points with the pilot's mean and covariance taken out; -> (N,d)."""
    v = log_coords(density.manifold, density.center, x) - where.mean
    return torch.linalg.solve_triangular(where.factor, v.mT, upper=False).mT


def _statistics(density: Density, where: Pilot, x: Tensor, log_q: Tensor) -> Tensor:
    """Functions (N,k) of order one whose means a sampler must reproduce."""
    z = _whitened(density, where, x)
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


def matching_overlap(density: Density, seed: int, count: int) -> None:
    """Demand ``E_q[rho / (rho + q)] = E_rho[q / (rho + q)]`` for a normal law rho: sampler against density, no quadrature."""
    where = pilot(density, seed)
    z = torch.randn(count, density.dim, dtype=torch.float64, generator=generator_for(seed + 2))
    y, log_volume = push(density, where.mean + z @ where.factor.T)
    at_y = torch.sigmoid(density.log_prob_of(y) - _log_normal(where, z, log_volume))
    x = density.sample(count, generator_for(seed + 1))
    coordinates = chart(density.manifold, density.center)
    log_volume = coordinates.log_volume(coordinates.coords(x))
    log_rho = _log_normal(where, _whitened(density, where, x), log_volume)
    at_x = torch.sigmoid(log_rho - density.log_prob_of(x))
    error = torch.sqrt((at_x.var() + at_y.var()) / count)
    _demand_equal_means(["overlap with a normal law"], *(t.unsqueeze(0) for t in (at_x.mean(), at_y.mean(), error)))


def _log_normal(where: Pilot, z: Tensor, log_volume: Tensor) -> Tensor:
    """Log density of ``exp(mean + factor z)``, z normal, by the Riemannian volume; shortest geodesics only."""
    dim = z.shape[-1]
    log_norm = where.factor.diagonal().log().sum() + dim / 2 * math.log(2 * math.pi)
    return -z.square().sum(-1) / 2 - log_norm - log_volume


@named_check("sampler")
def check_sampler(kernel: Kernel, params: Params, *, seed: int = 0) -> None:
    """Samples follow the density: their moments agree with its integrals, and so does their overlap with a normal law."""
    density = kernel_density(kernel, params)
    samples = LINE_SAMPLES if density.dim <= 2 else SAMPLES
    matching_moments(density, seed, samples)
    if has_volume(density.manifold, density.center):
        matching_overlap(density, seed, samples)


def uniform_neighbours(density: Density, seed: int, points: int = 2000, queries: int = 200) -> None:
    """Demand that the mass of the nearest-neighbour ball, ``q(y) c_d r^d``, is distributed as theory says.

    With n reference points and the intrinsic dimension d, ``(1 - mass)^n`` is uniform on [0, 1] (Bickel, Breiman 1983).
    """
    x = density.sample(points, generator_for(seed + 3))
    y = density.sample(queries, generator_for(seed + 4))
    radius = torch.stack([distance(density.manifold, x, one.expand_as(x)).amin() for one in y])
    log_ball = density.dim / 2 * math.log(math.pi) - math.lgamma(density.dim / 2 + 1)
    mass = torch.exp(density.log_prob_of(y) + log_ball + density.dim * radius.log())
    u = torch.exp(-points * mass).sort().values
    steps = torch.arange(queries + 1, dtype=torch.float64) / queries
    gap = float(torch.maximum((u - steps[:-1]).abs(), (steps[1:] - u).abs()).amax())
    limit = math.sqrt(-math.log(FAILURE_RATE / 2) / (2 * queries))
    demand(gap <= limit, f"Kolmogorov distance {gap:.3f} > {limit:.3f} over {queries} nearest neighbours")


@named_check("neighbours")
def check_neighbours(kernel: Kernel, params: Params, *, seed: int = 0) -> None:
    """Samples fill the space as the density says, locally, by nearest neighbours; only for dimensions up to 3."""
    density = kernel_density(kernel, params)
    if density.dim <= 3:
        uniform_neighbours(density, seed)
