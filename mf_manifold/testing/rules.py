"""Quadrature and importance-sampling rules for the Riemannian volume."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import NamedTuple

import geoopt
import numpy as np
import torch
from torch import Tensor

from .density import Density, Pilot, chart, exp_coords, generator_for, has_volume, pilot
from .report import Broken

IMPORTANCE = 2**15
DEGREES_OF_FREEDOM = 8.0
SINH_NODES = {1: 401, 2: 161, 3: 57}


class Rule(NamedTuple):
    """Nodes (N,*E) with log weights (N,); ``random`` says that sums over it carry a standard error."""

    points: Tensor
    log_weights: Tensor
    random: bool = False

    def integrate(self, log_density: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Integrals of ``values`` (N,k) against a density, and their standard errors; -> (k), (k)."""
        weight = torch.exp(log_density + self.log_weights).unsqueeze(-1)
        terms = torch.where(weight > 0, weight * values, torch.zeros_like(values))
        error = terms.std(0) * math.sqrt(len(terms)) if self.random else torch.zeros_like(terms[0])
        return terms.sum(0), error


def graded_nodes(end: float, panels: int, count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, end] with panels that halve towards 0: good for any width of a peak there."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(count))
    edges = torch.tensor([0.0] + [end * 2.0**-k for k in range(panels - 1, -1, -1)], dtype=torch.float64)
    half, middle = edges.diff() / 2, (edges[1:] + edges[:-1]) / 2
    return (middle[:, None] + half[:, None] * nodes).flatten(), (half[:, None] * weights).flatten()


def tangent_rule(density: Density, where: Pilot) -> Rule:
    """Trapezoidal rule in ``t`` with normal coordinates ``mean + factor sinh(t)``, for spaces without a cut locus, d <= 3.

    The double exponential decay makes it accurate to rounding for analytic densities with exponential tails.
    """
    count, dim = SINH_NODES[density.dim], density.dim
    t = torch.linspace(-4, 4, count, dtype=torch.float64)
    log_cosh = (t.cosh() * (8 / (count - 1))).log()
    grid = torch.cartesian_prod(*[t] * dim).reshape(-1, dim)
    log_steps = torch.cartesian_prod(*[log_cosh] * dim).reshape(-1, dim).sum(-1)
    log_det = where.factor.diagonal().log().sum()
    x, log_volume = push(density, where.mean + grid.sinh() @ where.factor.T)
    return Rule(x, log_steps + log_det + log_volume)


def importance_rule(density: Density, where: Pilot, seed: int, count: int = IMPORTANCE) -> Rule:
    """Student-t proposals in the tangent space, cut off where geodesics stop being shortest: any manifold, any dimension."""
    # a stream of its own: with the pilot's draws the proposals would depend on the points that they weigh
    dim, df, generator = density.dim, DEGREES_OF_FREEDOM, generator_for(seed + 100)
    z = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    chi2 = torch.randn(count, int(df), dtype=torch.float64, generator=generator).square().sum(-1, keepdim=True)
    z = z * torch.sqrt(df / chi2)
    log_norm = math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - dim / 2 * math.log(df * math.pi)
    log_det = where.factor.diagonal().log().sum()
    log_t = log_norm - (df + dim) / 2 * torch.log1p(z.square().sum(-1) / df) - log_det
    x, log_volume = push(density, where.mean + z @ where.factor.T)
    return Rule(x, log_volume - log_t - math.log(count), random=True)


def sample_rule(density: Density, seed: int, count: int) -> Rule:
    """The density's own samples: right for means by a sampler that other checks trust, and blind to the total mass."""
    x = density.sample(count, generator_for(seed + 100))
    return Rule(x, -density.log_prob_of(x) - math.log(count), random=True)


def push(density: Density, v: Tensor) -> tuple[Tensor, Tensor]:
    """Points ``exp_center(v)`` and the log volume density of the map, -inf (at the centre) where ``v`` is no shortest way."""
    coordinates = chart(density.manifold, density.center)
    x, log_volume = coordinates.point(v), coordinates.log_volume(v)
    reached = coordinates.reached(v, x) & torch.isfinite(log_volume)
    inside = reached.reshape(-1, *(1,) * len(density.point_shape))
    return torch.where(inside, x, density.center), log_volume.masked_fill(~reached, -math.inf)


def is_zonal(density: Density, seed: int) -> bool:
    """Whether a density on the sphere depends on the angle to the centre alone, by trying random directions."""
    where = pilot(density, seed)
    v = torch.randn(8, density.dim, dtype=torch.float64, generator=generator_for(seed))
    v = v / v.norm(dim=-1, keepdim=True)
    radii = where.spread * math.sqrt(density.dim) * torch.linspace(0.3, 1.2, 7, dtype=torch.float64)
    x = exp_coords(density.manifold, density.center, (radii[:, None, None] * v).flatten(0, 1))
    values = density.log_prob_of(x).reshape(len(radii), len(v))
    return bool((values.amax(1) - values.amin(1)).amax() < 1e-8)


@singledispatch
def exact_rule(manifold: geoopt.Manifold, density: Density, seed: int, mass_only: bool) -> Rule | None:
    """A quadrature rule on ``manifold`` that is exact to rounding for the density, or None where there is none.

    ``manifold`` is that of the density or, for a scaled one, its base. Register one for a manifold of your own.
    """
    return None


def rule_for(density: Density, seed: int, mass_only: bool = False) -> Rule:
    """The most exact rule that the manifold allows, importance sampling where there is none.

    ``mass_only`` promises that nothing but the density is integrated, which polar coordinates do on any sphere if it is zonal.
    """
    rule = exact_rule(density.manifold, density, seed, mass_only)
    if rule is None and not has_volume(density.manifold, density.center):
        raise Broken(f"no quadrature is known on {density.manifold.name} in {density.dim} dimensions; register an exact_rule")
    return importance_rule(density, pilot(density, seed), seed) if rule is None else rule
