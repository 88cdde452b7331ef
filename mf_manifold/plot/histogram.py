"""A picture for any manifold: which log densities data and samples have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..distributions import ManifoldDistribution
from .common import Clouds, clouds_of, log_density, measure_label, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_histogram(axes: Axes, mixture: ManifoldDistribution, clouds: Clouds) -> None:
    """Shares of the points of every cloud by their log density, in common bins."""
    values = [log_density(mixture, cloud) for cloud, _, _ in clouds]
    everything = np.concatenate(values)
    finite = everything[np.isfinite(everything)]
    bins = np.linspace(np.quantile(finite, 0.002), finite.max(), 51).tolist()
    for value, (_, color, name) in zip(values, clouds, strict=True):
        clipped = np.clip(value, bins[0], None)
        axes.hist(clipped, bins, weights=np.full(len(value), 1 / len(value)), color=color, alpha=0.45, label=name)
    axes.set(xlabel=measure_label(mixture), ylabel="share of the points", title="log density of the points")
    axes.legend(loc="upper left")


def plot_log_density(
    mixture: ManifoldDistribution,
    points: Tensor | None = None,
    samples: Tensor | None = None,
    *,
    title: str | None = None,
    held_out: float | None = None,
) -> Figure:
    """Histogram of the log density at data and at samples of the model, on any manifold.

    Where the model fits, both have the same shape. The lowest bin holds all that lies lower.

    Args:
        points: data (N,*E).
        samples: points of the model; 2000 are drawn if None.
        held_out: mean held-out log-likelihood in nats, for the title.

    Raises:
        ImportError: matplotlib is not installed.

    >>> import geoopt, torch, mf_manifold as mf
    >>> kernel = mf.kernel_for(geoopt.Euclidean(ndim=1), (4,))
    >>> mix = mf.Mixture(kernel, {"loc": torch.zeros(1, 4), "scale": torch.ones(1, 4)})
    >>> len(plot_log_density(mix).axes)
    1
    """
    if samples is None:
        samples = mixture.sample((2000,), torch.Generator().manual_seed(0))
    with new_figure(7.5, 4.8) as figure:
        draw_histogram(figure.subplots(), mixture, clouds_of(points, samples))
        set_title(figure, title, held_out)
        return figure
