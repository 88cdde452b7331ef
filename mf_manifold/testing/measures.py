"""Checks of reference measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import singledispatch

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..distributions import KernelDistribution
from ..kernel import Kernel, Params
from ..manifolds.product import split
from ..measure import Measure, log_ratio, measure_kinds
from .density import exp_coords, generator_for, kernel_density, to_dtype
from .report import Broken, demand, named_check
from .structure import demand_close

Coordinates = Callable[[Tensor, Tensor], Tensor]


def jacobian(function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """Jacobians of a function that maps rows (N,d) to rows (N,k) independently; -> (N,k,d)."""
    v = v.detach().clone().requires_grad_()
    rows = [torch.autograd.grad(column.sum(), v, retain_graph=True)[0] for column in function(v).unbind(-1)]
    return torch.stack(rows, dim=1)


def log_density_of_coordinates(manifold: geoopt.Manifold, x: Tensor, coordinates: Coordinates) -> Tensor:
    """Log density, by the Riemannian volume, of Lebesgue measure in coordinates (N,d); -> (N).

    ``coordinates(x, y)`` are those of ``y`` in a chart that may depend on ``x``. The Jacobian is that of
    ``v -> coordinates(exp_x(v))`` at 0, v orthonormal; any step that is right to first order will do for exp.
    """
    dim = geometry.intrinsic_dim(manifold, tuple(x.shape[1:]))
    zero = torch.zeros(len(x), dim, dtype=x.dtype)
    moved = lambda v: coordinates(x, exp_coords(manifold, x, v))  # noqa: E731
    return torch.linalg.slogdet(jacobian(moved, zero)).logabsdet


@singledispatch
def measure_coordinates(manifold: geoopt.Manifold) -> Mapping[str, Coordinates]:
    """Coordinates by kind of measure in which it is Lebesgue's; register them with the measures of your own manifold.

    ``coordinates(x, y)`` (N,*E), (N,*E) -> (N,d) are those of ``y`` in a chart that may depend on ``x``.
    """
    return {}


@named_check("measure")
def check_measure(
    manifold: geoopt.Manifold, kind: str, x: Tensor, coordinates: Coordinates, *, tolerance: float = 1e-8
) -> None:
    """A measure that is Lebesgue's in some coordinates has the density of their Jacobian at points ``x`` (N,*E) in float64."""
    ratio = log_ratio(Measure(manifold, kind), Measure(manifold), x)
    demand_close(ratio, log_density_of_coordinates(manifold, x, coordinates), f"log d {kind} / d riemannian", tolerance)


@named_check("measures")
def check_measures(
    kernel: Kernel, params: Params, *, coordinates: Mapping[str, Coordinates] | None = None, seed: int = 0
) -> None:
    """``log_prob`` by every measure of the manifold, times the density of that measure, is ``log_prob`` by the volume.

    That density comes from the Jacobian of coordinates in which the measure is Lebesgue's, not from ``log_ratio``. Give
    ``coordinates`` by kind for measures that you registered yourself.
    """
    density, manifold = kernel_density(kernel, params), kernel.manifold
    x = density.sample(64, generator_for(seed))
    dist = KernelDistribution(kernel, to_dtype(params, torch.float64))
    for kind in measure_kinds(manifold):
        converted = KernelDistribution(kernel, dist.params, measure=kind).log_prob(x)
        demand_close(dist.log_prob(x, measure=kind), converted, f"log_prob(measure={kind!r}) against a distribution with it", 0)
        own = _log_density(manifold, kind, x, coordinates or {})
        demand_close(converted + own, dist.log_prob(x), f"log_prob by {kind} + log d {kind} / d riemannian", 1e-8)
    demand(_refuses(dist, x), "an unknown measure was accepted")


def _refuses(dist: KernelDistribution, x: Tensor) -> bool:
    try:
        dist.log_prob(x, measure="no such measure")
    except ValueError:
        return True
    return False


def _log_density(manifold: geoopt.Manifold, kind: str, x: Tensor, coordinates: Mapping[str, Coordinates]) -> Tensor:
    """Log density of a measure by the Riemannian volume, found without ``log_ratio``; (N,*E) -> (N)."""
    shape = tuple(x.shape[1:])
    if kind in coordinates:
        return log_density_of_coordinates(manifold, x, coordinates[kind])
    if kind in ("riemannian", "normalized"):
        constant = 0.0 if kind == "riemannian" else -geometry.log_volume(manifold, shape)
        return torch.full((len(x),), constant, dtype=x.dtype)
    if isinstance(manifold, geoopt.Scaled):
        scale = geometry.intrinsic_dim(manifold, shape) * math.log(float(manifold.scale))
        return _log_density(manifold.base, kind, x, coordinates) - scale
    if isinstance(manifold, geoopt.ProductManifold):
        parts = zip(manifold.manifolds, split(manifold, x), strict=True)
        return torch.stack([_log_density(part, kind, value, coordinates) for part, value in parts]).sum(0)
    known = measure_coordinates(manifold)
    if kind in known:
        return log_density_of_coordinates(manifold, x, known[kind])
    raise Broken(f"no coordinates are known in which {kind} is Lebesgue measure; pass coordinates={{{kind!r}: ...}}")
