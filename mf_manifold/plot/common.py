"""What all pictures share: figures without pyplot's global state, density grids, colours, limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..distributions import ManifoldDistribution
from ..mixture import Mixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Clouds = list[tuple[Tensor, str, str]]  # points, colour, name

COLORMAP = "viridis"
DATA, SAMPLES = "#d1495b", "#1d6fa5"
SHOWN = 2000  # points drawn at most: more of them hide the density and each other
DEPTH = 12.0  # nats below the maximum where the colour scale ends
PAIRS = 5e8  # kernel evaluations of one picture, a few seconds
MASSES = (0.99, 0.9, 0.5)
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "figure.titlesize": 14,
    "legend.frameon": True,
    "legend.fontsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure to be filled in the library's style.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError("Pictures need matplotlib: pip install 'mf-manifold[plot]'") from error
    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), dpi=150, layout="constrained")


def set_title(figure: Figure, title: str | None, held_out: float | None) -> None:
    """Put the title and the held-out log-likelihood per datum above all panels."""
    score = None if held_out is None else f"held-out log-likelihood {held_out:.3f} nats per datum"
    text = " · ".join(part for part in (title, score) if part)
    if text:
        figure.suptitle(text)


def measure_label(mixture: ManifoldDistribution) -> str:
    """Label of a colour bar."""
    return f"log density (nats, {mixture.measure.kind} measure)"


def log_density(mixture: ManifoldDistribution, points: Tensor) -> Array:
    """Log density of ``points`` under the mixture, in its own measure, as an array of their batch shape."""
    with torch.no_grad():
        return to_array(mixture.log_prob(mixture.like(points)))


def to_array(x: Tensor) -> Array:
    """A float64 array of a tensor."""
    return np.asarray(x.detach().cpu().double().numpy())


def clouds_of(points: Tensor | None, samples: Tensor | None) -> Clouds:
    """The given ones of data and samples, with their colours and names."""
    both = ((points, DATA, "data"), (samples, SAMPLES, "samples"))
    return [(cloud, color, name) for cloud, color, name in both if cloud is not None]


def thinned(points: Tensor, count: int = SHOWN) -> Tensor:
    """At most ``count`` rows, evenly spaced."""
    if len(points) <= count:
        return points
    return points[torch.linspace(0, len(points) - 1, count).round().long()]


def affordable(mixture: ManifoldDistribution, finest: int, count: int) -> int:
    """Points per side of a square grid: ``finest``, or fewer where ``count`` points would take long.

    A kernel that is no matrix product (see ``Kernel.bilinear``) costs 1 to 2 orders of magnitude more per pair.
    """
    if not isinstance(mixture, Mixture):
        return finest
    like = mixture.sample((1,))
    slow = mixture.kernel.bilinear(like, {k: v[:1] for k, v in mixture.params.items()}) is None
    pairs = float(count) * mixture.n_components * (4 if slow else 0.3)
    return int(finest * min(1.0, (PAIRS / pairs) ** 0.5))


def color_limits(values: Array) -> tuple[float, float]:
    """Range of the colour scale: the values down to ``DEPTH`` nats below the largest."""
    top = float(values.max())
    return max(float(values.min()), top - DEPTH), top


def mass_levels(log_values: Array, cell: float | Array = 1.0) -> list[float]:
    """Log density at the edge of the smallest regions that hold the shares ``MASSES``, increasing."""
    density = np.exp(log_values - log_values.max())
    mass = (density * cell).ravel()
    order = np.argsort(log_values.ravel())[::-1]
    share = np.cumsum(mass[order]) / mass.sum()
    return [float(log_values.ravel()[order[np.searchsorted(share, m)]]) for m in MASSES]


def draw_mass_contours(axes: Axes, x: Array, y: Array, log_values: Array) -> None:
    """White contours around the smallest regions of 50, 90 and 99 % of the mass, on a grid of equal cells."""
    levels = mass_levels(log_values)
    if len(set(levels)) == len(levels):
        lines = axes.contour(x, y, log_values, levels=levels, colors="white", linewidths=(0.6, 0.9, 1.2), linestyles="solid")
        labels = {level: f"{mass:.0%}" for level, mass in zip(levels, MASSES, strict=True)}
        axes.clabel(lines, fmt=labels, fontsize=8)


def add_colorbar(figure: Figure, image: Any, axes: Any, label: str, **options: Any) -> None:
    """A colour bar whose lower end is open, because the scale ends at ``DEPTH``."""
    figure.colorbar(image, ax=axes, label=label, extend="min", **options)


def mosaic(figure: Figure, clouds: Clouds, extra: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    """A panel "map" on the left, one panel for each cloud in a column beside it, and tall panels ``extra`` on the right."""
    rows: list[Any] = [["map", name, *extra] for _, _, name in clouds] or [["map", *extra]]
    widths = [2.0, *([1.0] if clouds else []), *([1.4] * len(extra))]
    return dict(figure.subplot_mosaic(rows, width_ratios=widths, **options))


def draw_dots(axes: Any, places: Array, color: str, name: str) -> None:
    """Small translucent dots at ``places`` (2,N) under the title "name (count)"."""
    axes.scatter(*places, s=3, c=color, alpha=0.5, lw=0, rasterized=True)
    axes.set_title(f"{name} ({places.shape[1]})", fontsize=11)
