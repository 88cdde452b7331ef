"""Quadrature and importance-sampling rules for the Riemannian volume."""

from __future__ import annotations

import math
from typing import NamedTuple

import geoopt
import numpy as np
import torch
from torch import Tensor

from .. import geometry
from ..manifolds import Torus
from .density import Density, Pilot, exp_coords, generator_for, pilot

IMPORTANCE = 2**15
AZIMUTHS = 64
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


def _directions(center: Tensor) -> tuple[Tensor, float]:
    """Unit tangent vectors (K,D) over which a function is averaged, and the log area that each stands for."""
    manifold, dim = geoopt.Sphere(), len(center) - 1
    if dim == 1:
        coords, area = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), 1.0
    elif dim == 2:
        phi = 2 * math.pi * torch.arange(AZIMUTHS, dtype=torch.float64) / AZIMUTHS
        coords, area = torch.stack([phi.cos(), phi.sin()], dim=-1), 2 * math.pi / AZIMUTHS
    else:  # one direction stands for all of a zonal function
        coords, area = torch.eye(dim, dtype=torch.float64)[:1], math.exp(geometry.log_volume(manifold, (dim,)))
    return geometry.from_coords(manifold, center.expand(len(coords), -1), coords), math.log(area)


def polar_rule(center: Tensor) -> Rule:
    """Sphere S^d in polar coordinates: exact for d <= 2, and for zonal functions beyond.

    The factor ``sin^(d-1)`` cancels the integrable singularities that wrapped normals have at ``center`` and opposite.
    """
    tau, weights = graded_nodes(math.pi / 2, 26, 20)
    cosine, sine = torch.cat([tau.cos(), -tau.cos()]), torch.cat([tau.sin(), tau.sin()])
    directions, log_area = _directions(center)
    points = cosine[:, None, None] * center + sine[:, None, None] * directions
    log_radial = weights.repeat(2).log() + (len(center) - 2) * sine.log() + log_area
    return Rule(points.flatten(0, 1), log_radial.repeat_interleave(len(directions)))


def torus_rule(center: Tensor) -> Rule:
    """Tensor rule on T^1 and T^2, graded towards the centre."""
    half, half_weights = graded_nodes(math.pi, *((24, 20) if len(center) == 1 else (12, 10)))
    nodes, log_weights = torch.cat([-half.flip(0), half]), torch.cat([half_weights.flip(0), half_weights]).log()
    grid = torch.cartesian_prod(*[nodes] * len(center)).reshape(-1, len(center))
    return Rule(center + grid, torch.cartesian_prod(*[log_weights] * len(center)).reshape(len(grid), -1).sum(-1))


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


def push(density: Density, v: Tensor) -> tuple[Tensor, Tensor]:
    """Points ``exp_center(v)`` and the log volume density of the map, -inf (at the centre) where ``v`` is no shortest way."""
    center = density.center.unsqueeze(0)
    u = geometry.from_coords(density.manifold, center, v)
    x, log_volume = geometry.expmap(density.manifold, center, u), geometry.logdet_expmap(density.manifold, center, u)
    length = v.norm(dim=-1)
    # false beyond the cut locus, and where a matrix is so ill-conditioned that float64 does not hold its small eigenvalues
    reached = (geometry.dist(density.manifold, center, x) - length).abs() < 1e-8 * length + 1e-12
    reached = reached & torch.isfinite(log_volume)
    inside = reached.reshape(-1, *(1,) * len(density.point_shape))
    return torch.where(inside, x, center), log_volume.masked_fill(~reached, -math.inf)


def is_zonal(density: Density, seed: int) -> bool:
    """Whether a density on the sphere depends on the angle to the centre alone, by trying random directions."""
    where = pilot(density, seed)
    v = torch.randn(8, density.dim, dtype=torch.float64, generator=generator_for(seed))
    v = v / v.norm(dim=-1, keepdim=True)
    radii = where.spread * math.sqrt(density.dim) * torch.linspace(0.3, 1.2, 7, dtype=torch.float64)
    x = exp_coords(density.manifold, density.center, (radii[:, None, None] * v).flatten(0, 1))
    values = density.log_prob_of(x).reshape(len(radii), len(v))
    return bool((values.amax(1) - values.amin(1)).amax() < 1e-8)


def rule_for(density: Density, seed: int, mass_only: bool = False) -> Rule:
    """The most exact rule that the manifold allows.

    ``mass_only`` promises that nothing but the density is integrated, which polar coordinates do on any sphere if it is zonal.
    """
    base, log_scale = density.manifold, 0.0
    while isinstance(base, geoopt.Scaled):
        base, log_scale = base.base, log_scale + float(base.log_scale)
    rule = None
    if isinstance(base, geoopt.Sphere) and (density.dim <= 2 or (mass_only and is_zonal(density, seed))):
        rule = polar_rule(density.center)
    elif isinstance(base, Torus) and density.dim <= 2:
        rule = torus_rule(density.center)
    if rule is not None:
        return rule._replace(log_weights=rule.log_weights + density.dim * log_scale)
    where = pilot(density, seed)
    if isinstance(base, geoopt.Euclidean | geoopt.SymmetricPositiveDefinite) and density.dim <= 3:
        return tangent_rule(density, where)
    return importance_rule(density, where, seed)
