"""Maximum likelihood for single distributions."""

from __future__ import annotations

from typing import Any

import geoopt
import torch
from torch import Tensor

from . import geometry
from .distributions import KernelDistribution
from .kernel import Kernel, kernel_for
from .measure import Measure


def fit(
    manifold: geoopt.Manifold,
    name: str | None,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    measure: Measure | str | None = None,
    **options: Any,
) -> KernelDistribution:
    r"""The distribution of a family with the largest likelihood for points on a manifold.

    .. math:: \hat w = \arg\max_w \sum_n a_n \log q(x_n \mid w)

    The docstring of each kernel says how it solves this; those without a fit raise ``NotImplementedError``.

    **Measure**: the estimate does not depend on it; ``measure`` becomes that of the result.

    Args:
        manifold: a geoopt manifold.
        name: registry name of the family; None takes the manifold's default kernel.
        x: points (N,*E).
        weights: non-negative weights a (N), not all zero; None weighs all points alike.
        options: constructor options of the kernel, such as ``covariance="full"``.

    Raises:
        ValueError: points off the manifold, weights of another shape or negative, data that determine no maximum.
        NotImplementedError: the family has no fit.

    >>> import geoopt, torch, mf_manifold as mf
    >>> north = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> law = mf.distribution(geoopt.Sphere(), "von_mises_fisher", loc=north, concentration=40.0)
    >>> x = law.sample((10000,), generator=torch.Generator().manual_seed(0))
    >>> bool(abs(mf.fit(geoopt.Sphere(), "von_mises_fisher", x).concentration - 40) < 2)
    True
    """
    ndim = geometry.point_ndim(manifold)
    if not isinstance(x, Tensor) or x.ndim != ndim + 1:
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(f"Expected a tensor of N points on {type(manifold).__name__}, {ndim + 1} dimensions, got {got}.")
    return fit_kernel(kernel_for(manifold, tuple(x.shape[1:]), name, **options), x, weights, measure)


def fit_kernel(kernel: Kernel, x: Tensor, weights: Tensor | None, measure: Measure | str | None) -> KernelDistribution:
    """The distribution of ``kernel`` with the largest likelihood, after the checks of its input."""
    if x.ndim != len(kernel.point_shape) + 1 or len(x) == 0:
        raise ValueError(f"Expected points of shape (N, *{kernel.point_shape}) with N > 0, got {tuple(x.shape)}.")
    geometry.check_points(kernel.manifold, x, kernel.point_shape)
    if weights is not None:
        weights = _checked_weights(weights, x)
    with torch.no_grad():
        params = kernel.fit(x, weights)
    return KernelDistribution(kernel, params, measure)


def _checked_weights(weights: Tensor, x: Tensor) -> Tensor:
    weights = torch.as_tensor(weights, device=x.device).double()
    if tuple(weights.shape) != (len(x),):
        raise ValueError(f"Expected one weight for each of {len(x)} points, got shape {tuple(weights.shape)}.")
    if not bool(torch.isfinite(weights).all() & (weights >= 0).all() & (weights.sum() > 0)):
        raise ValueError("Expected finite weights that are not negative and not all zero.")
    return weights / weights.sum()
