"""Where a fit without data begins: points that cover the manifold, thinned to where the target has its mass."""

from __future__ import annotations

import math
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

from . import geometry
from .background import covering_kernel
from .distributions import KernelDistribution
from .geometry import Shape
from .kernel import Kernel
from .neighbors import distance, length_unit

POOL, POOL_NUMBERS = 2**15, 2**24  # candidates, and numbers that they may take
EFFECTIVE = 0.02  # share of the candidates that has to count


def covering_law(manifold: geoopt.Manifold, point_shape: Shape, spread: float) -> KernelDistribution:
    """The uniform law on compact manifolds; elsewhere a bump of standard deviation ``spread`` around ``from_raw(0)``, float64.

    >>> import geoopt
    >>> covering_law(geoopt.Euclidean(ndim=1), (2,), 3.0)
    normal(loc: (2,), scale: (1,); riemannian measure on Euclidean)
    """
    kernel = covering_kernel(manifold, tuple(point_shape))
    origin = geometry.from_raw(manifold, torch.zeros(geometry.raw_dim(manifold, point_shape)).double(), tuple(point_shape))
    scale = torch.tensor(min(spread, kernel.max_scale), dtype=torch.float64)
    return KernelDistribution(kernel, kernel.centered(origin, scale), validate_args=False)


def bump_around(kernel: Kernel, x: Tensor) -> Tensor:
    """Unconstrained parameters of a bump at the mean of points (n,*E) that is as wide as they are; (num_raw).

    >>> import geoopt, mf_manifold as mf
    >>> kernel = mf.kernel_for(geoopt.Euclidean(ndim=1), (1,), "normal")
    >>> w = kernel.params(bump_around(kernel, torch.tensor([[1.0], [3.0]])))
    >>> [round(float(value), 3) for value in w.values()]
    [2.0, 1.0]
    """
    where = geometry.to_raw(kernel.manifold, x).mean(0)
    center = geometry.from_raw(kernel.manifold, where, kernel.point_shape)
    far = distance(kernel.manifold, center.expand_as(x), x) / length_unit(kernel.manifold)
    scale = float((far.square().mean() / kernel.dim).sqrt())
    return torch.cat([where, where.new_full((kernel.num_raw_shape,), kernel.raw_from_scale(min(scale, kernel.max_scale)))])


def spread_points(
    law: KernelDistribution, log_density: Callable[[Tensor], Tensor], n: int, generator: torch.Generator
) -> Tensor:
    r"""About ``n`` points for the start of a fit to an unnormalised density: candidates of a law, resampled by their weights.

    .. math:: w_i \propto \bigl(p(x_i) / r(x_i)\bigr)^\beta, \quad x_i \sim r, \quad \beta \le 1

    the largest power at which 2 % of the candidates count (Kish's effective number): all modes keep their points where
    candidates reach them, and in high dimensions, where few candidates carry all weight, the points stay spread.

    Shapes: ``log_density`` (m,*E) -> (m), by the Riemannian volume, ``-inf`` allowed; -> (n,*E).

    Raises:
        ValueError: the density is NaN, or zero at all candidates.

    Reference: Rubin (1988), Using the SIR algorithm to simulate posterior distributions.
    """
    m = max(n, min(POOL, POOL_NUMBERS // math.prod(law.event_shape)))
    x = law.sample((m,), generator)
    log_w = (log_density(x) - law.log_prob(x)).double()
    if log_w.isnan().any() or float(log_w.max()) == -math.inf:
        raise ValueError(
            f"Expected a target with mass around the start, got NaN or zero at {m} points of {law}. Pass spread= or start=."
        )
    w = torch.softmax(_power(log_w) * log_w, 0)
    places = (torch.arange(n, dtype=w.dtype) + torch.rand((), generator=generator, dtype=w.dtype)) / n
    return x[torch.searchsorted(w.cumsum(0), places.to(w)).clamp_max(m - 1)]


def _power(log_w: Tensor) -> float:
    """The largest power up to 1 of the weights that leaves enough of them effective, by bisection."""
    finite = log_w[log_w > -math.inf]

    def enough(power: float) -> bool:
        scaled = power * finite
        return float(torch.exp(2 * scaled.logsumexp(0) - (2 * scaled).logsumexp(0))) >= EFFECTIVE * len(finite)

    low, high = 0.0, 1.0
    if enough(high):
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low
