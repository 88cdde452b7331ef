"""Checks of what kernels promise about the manifold: isometries, and the meaning of ``centered``."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import geoopt
import torch
from torch import Tensor

from ..geometry import Shape
from ..kernel import Kernel, Params
from ..kernels.model import ModelKernel
from .density import generator_for, kernel_density, to_dtype
from .report import demand, named_check
from .steps import distance
from .structure import demand_close

Transform = Callable[[Tensor], Tensor]


def random_rotation(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


@singledispatch
def random_isometry(manifold: geoopt.Manifold, point_shape: Shape, generator: torch.Generator) -> Transform:
    """A random isometry that fixes no point in particular; register one for a manifold of your own."""
    raise NotImplementedError(f"random_isometry has no implementation for {type(manifold).__name__}; register one.")


@named_check("invariance")
def check_invariance(
    kernel: Kernel,
    params: Params,
    *,
    transform: tuple[Transform, Callable[[Params], Params]] | None = None,
    tolerance: float = 1e-8,
    seed: int = 0,
) -> None:
    """``q(g x | g w) = q(x | w)``: for bumps of ``centered`` under isometries g, and for a given action on (x, w)."""
    density, generator = kernel_density(kernel, params), generator_for(seed)
    x = density.sample(32, generator)
    if transform is not None:
        w, (move, act) = to_dtype(params, torch.float64), transform
        demand_close(kernel.log_prob(move(x), act(w)), kernel.log_prob(x, w), "log_prob after the given transform", tolerance)
    if not kernel.has_location:
        return
    move = random_isometry(kernel.manifold, kernel.point_shape, generator)
    scale = torch.tensor(min(0.7, kernel.max_scale), dtype=torch.float64)
    before = kernel.log_prob(x, kernel.centered(density.center, scale))
    after = kernel.log_prob(move(x), kernel.centered(move(density.center.unsqueeze(0)).squeeze(0), scale))
    demand_close(after, before, "log_prob of a centered bump after a random isometry", tolerance)


def _opposite(kernel: Kernel, center: Tensor) -> Tensor | None:
    """The other point around which a law with q(x) = q(-x) on a sphere has a bump, in the coordinates of the kernel."""
    if kernel.antipodal:
        return -center
    if not isinstance(kernel, ModelKernel):
        return None
    model = kernel.model
    there = _opposite(kernel.base, model.to_model(center))
    return None if there is None else model.from_model(there)


@named_check("centered")
def check_centered(
    kernel: Kernel,
    params: Params,
    *,
    metric: geoopt.Manifold | None = None,
    median: bool = False,
    scale: float = 0.02,
    seed: int = 0,
) -> None:
    """``centered(point, scale)`` is a bump whose mean squared distance to the point is ``d scale^2``, within 10 %.

    ``metric`` is the manifold whose distance is meant, by default the kernel's; a log-Euclidean normal on an affine-invariant
    manifold, for one, has its scale in the log-Euclidean metric. ``median`` compares the median distance with that of a normal
    law instead, for laws with heavy tails.
    """
    if not kernel.has_location:
        return
    center, count = kernel_density(kernel, params).center, 4096
    w = kernel.centered(center, torch.tensor(scale, dtype=torch.float64))
    draws = kernel_density(kernel, w).sample(count, generator_for(seed))
    demand(bool(torch.isfinite(kernel.log_prob(center, w))), "log_prob at the centre is not finite")
    where, d = metric or kernel.manifold, kernel.dim
    distance2 = distance(where, draws, center).square()
    opposite = _opposite(kernel, center)
    if opposite is not None:
        distance2 = torch.minimum(distance2, distance(where, draws, opposite).square())
    if median:  # of a chi-square law, within 3 % (Wilson and Hilferty)
        ratio, what = float(distance2.median()) / (d * (1 - 2 / (9 * d)) ** 3 * scale**2), "median squared distance is"
    else:
        ratio, what = float(distance2.mean()) / (d * scale**2), "mean squared distance is"
    demand(abs(ratio - 1) < 0.1, f"{what} {ratio:.3f} times that of a normal law of this scale")
