"""The suites: every check of a kernel, of a manifold, of a distribution."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import geoopt
import torch

from .. import geometry
from ..distributions import KernelDistribution
from ..geometry import Shape
from ..kernel import Kernel, Params
from ..measure import measure_kinds
from ..mixture import Mixture
from .density import distribution_density, generator_for
from .gradients import check_gradients, check_pathwise
from .integrals import SAMPLES, check_neighbours, check_normalisation, check_sampler, matching_moments, unit_integral
from .manifold import check_degenerate, check_maps, check_point_maps, check_volume
from .measures import check_measures
from .mixtures import check_backends
from .report import demand, named_check
from .rules import rule_for
from .statistics import check_statistics
from .structure import check_device, check_dtypes, check_life_cycle, check_shapes
from .symmetry import check_centered, check_invariance

KERNEL_CHECKS: dict[str, Callable[..., None]] = {
    "shapes": check_shapes,
    "life cycle": check_life_cycle,
    "device": check_device,
    "dtypes": check_dtypes,
    "gradients": check_gradients,
    "normalisation": check_normalisation,
    "measures": check_measures,
    "sampler": check_sampler,
    "neighbours": check_neighbours,
    "pathwise": check_pathwise,
    "statistics": check_statistics,
    "centered": check_centered,
    "invariance": check_invariance,
    "backends": check_backends,
}
MANIFOLD_CHECKS: dict[str, Callable[..., None]] = {
    "points": check_point_maps,
    "maps": check_maps,
    "degenerate points": check_degenerate,
    "volume": check_volume,
}


def _chosen(checks: Mapping[str, Callable[..., None]], only: Iterable[str] | None, options: Mapping[str, Any]) -> list[str]:
    names = list(checks) if only is None else list(only)
    unknown = sorted({*names, *options} - set(checks))
    if unknown:
        raise ValueError(f"Expected names of checks out of {', '.join(checks)}; got {', '.join(unknown)}.")
    return names


def check_kernel(
    kernel: Kernel,
    params: Params,
    *,
    only: Iterable[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Run the conformance checks of a kernel at one component's parameters; they are the keys of ``KERNEL_CHECKS``.

    Statistical checks have fixed seeds and fail by chance with probability 2e-5 each.

    Args:
        params: parameters without batch dimensions.
        only: names of the checks to run; None runs all.
        options: keyword arguments for single checks, such as ``{"dtypes": {"tolerance": 1e-3}}``.

    Raises:
        ConformanceError: names the check, the kernel and the numbers.
        ValueError: no check has that name.

    >>> import geoopt, torch, mf_manifold as mf
    >>> kernel = mf.kernel_for(geoopt.Sphere(), (3,), "von_mises_fisher")
    >>> w = {"loc": torch.tensor([0., 0., 1.]), "concentration": torch.tensor(5.)}
    >>> mf.testing.check_kernel(kernel, w, only=["shapes", "normalisation"])
    """
    for name in _chosen(KERNEL_CHECKS, only, options or {}):
        KERNEL_CHECKS[name](kernel, params, **(options or {}).get(name, {}))


def check_manifold(
    manifold: geoopt.Manifold,
    point_shape: Shape,
    *,
    only: Iterable[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Run the conformance checks of a manifold's geometry; they are the keys of ``MANIFOLD_CHECKS``.

    Raises:
        ConformanceError: names the check, the manifold and the numbers.
        ValueError: no check has that name.

    >>> import geoopt, mf_manifold as mf
    >>> mf.testing.check_manifold(geoopt.Sphere(), (3,))
    """
    for name in _chosen(MANIFOLD_CHECKS, only, options or {}):
        MANIFOLD_CHECKS[name](manifold, tuple(point_shape), **(options or {}).get(name, {}))


@named_check("distribution")
def check_distribution(dist: KernelDistribution | Mixture, *, tolerance: float = 1e-6, seed: int = 0) -> None:
    """Check a distribution without batch dimensions: normalisation, sampler, support, measures, validation, copies.

    Raises:
        ConformanceError: names what is broken, with the numbers.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> mf.testing.check_distribution(mf.distribution(geoopt.Sphere(), "wrapped_normal", loc=loc, scale=0.5))
    """
    demand(tuple(dist.batch_shape) == (), f"expected a distribution without batch dimensions, got {tuple(dist.batch_shape)}")
    density = distribution_density(dist, seed)
    x = density.sample(100, generator_for(seed))
    demand(tuple(x.shape) == (100, *dist.event_shape), f"sample((100,)) has shape {tuple(x.shape)}")
    demand(bool(dist.support.check(x).all()), "samples lie outside the support")
    log_q = dist.log_prob(x)
    demand(bool(torch.isfinite(log_q).all()), "log_prob of samples is not finite")
    demand(bool(torch.equal(copy.deepcopy(dist).log_prob(x), log_q)), "a deepcopy has another log_prob")
    for kind in measure_kinds(dist.manifold):
        demand(bool(torch.isfinite(dist.log_prob(x, measure=kind)).all()), f"log_prob by the measure {kind} is not finite")
    _demand_validation(dist, x)
    unit_integral(density, rule_for(density, seed, mass_only=True), tolerance)
    matching_moments(density, seed, SAMPLES)


def _demand_validation(dist: KernelDistribution | Mixture, x: torch.Tensor) -> None:
    broken = x.clone()
    broken[3] = torch.nan
    try:
        dist.log_prob(broken)
    except ValueError as error:
        demand("first row 3" in str(error), f"the message on a NaN in row 3 does not name the row: {error}")
    else:
        demand(False, "log_prob accepted a NaN")
    geometry.check_points(dist.manifold, x, tuple(dist.event_shape), "samples")
