"""Pictures of densities on the circle T^1 and the torus T^2, in degrees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..distributions import ManifoldDistribution
from ..manifolds.torus import wrap
from .common import (
    COLORMAP,
    add_colorbar,
    affordable,
    clouds_of,
    color_limits,
    draw_dots,
    draw_mass_contours,
    log_density,
    measure_label,
    mosaic,
    new_figure,
    set_title,
    thinned,
    to_array,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _ticks(step: int) -> list[int]:
    return [angle for angle in range(-180, 181) if angle % step == 0]


def plot_torus(
    mixture: ManifoldDistribution,
    points: Tensor | None = None,
    samples: Tensor | None = None,
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    held_out: float | None = None,
) -> Figure:
    """A Ramachandran-style map of the log density on T^2 with data and samples, or the density curve on T^1.

    Axes are in degrees, densities per radian. The white lines bound the smallest regions that hold 50, 90 and 99 % of the mass.

    Args:
        points: data (N,d) in radians, of which at most 2000 are drawn.
        samples: points of the model, drawn likewise.
        names: names of the angles.
        held_out: mean held-out log-likelihood in nats, for the title.

    Raises:
        ValueError: a mixture on a torus of more dimensions.
        ImportError: matplotlib is not installed.

    >>> import torch, mf_manifold as mf
    >>> kernel = mf.kernel_for(mf.manifolds.Torus(), (2,))
    >>> mix = mf.Mixture(kernel, {"loc": torch.tensor([[0.0, 3.0]]), "scale": torch.tensor([[0.5]])})
    >>> len(plot_torus(mix, names=("phi", "psi")).axes)   # the map and its colour bar
    2
    """
    dimension = mixture.dim
    if dimension > 2:
        raise ValueError(f"Expected a density on T^1 or T^2, got one on T^{dimension}: there is no map of it.")
    labels = [f"{name} (degrees)" for name in names or [f"angle {i + 1}" for i in range(dimension)]]
    draw = _curve if dimension == 1 else _map
    return draw(mixture, points, samples, labels, title, held_out)


def _map(
    mixture: ManifoldDistribution,
    points: Tensor | None,
    samples: Tensor | None,
    labels: list[str],
    title: str | None,
    held_out: float | None,
) -> Figure:
    side = torch.linspace(-math.pi, math.pi, affordable(mixture, 240, 240**2) + 1, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    values, degrees = log_density(mixture, grid), np.rad2deg(to_array(side))
    low, high = color_limits(values)
    clouds = clouds_of(points, samples)
    with new_figure(9.8 if clouds else 6.8, 5.8) as figure:
        panels = mosaic(figure, clouds)
        image = panels["map"].pcolormesh(
            degrees, degrees, values, cmap=COLORMAP, vmin=low, vmax=high, shading="gouraud", rasterized=True
        )
        draw_mass_contours(panels["map"], degrees, degrees, values)
        add_colorbar(figure, image, panels["map"], measure_label(mixture), location="left", shrink=0.85)
        panels["map"].set_title("regions of 50, 90 and 99 % of the mass")
        for cloud, color, name in clouds:
            draw_dots(panels[name], np.rad2deg(to_array(wrap(thinned(cloud)))).T, color, name)
            panels[name].tick_params(labelsize=8)
        for name, axes in panels.items():
            _degree_axes(axes, labels if name == "map" else ["", ""], 60 if name == "map" else 120)
        set_title(figure, title, held_out)
        return figure


def _degree_axes(axes: Axes, labels: list[str], step: int) -> None:
    ticks = _ticks(step)
    axes.set(xlim=(-180, 180), ylim=(-180, 180), aspect="equal", xticks=ticks, yticks=ticks)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])


def _curve(
    mixture: ManifoldDistribution,
    points: Tensor | None,
    samples: Tensor | None,
    labels: list[str],
    title: str | None,
    held_out: float | None,
) -> Figure:
    angle = torch.linspace(-math.pi, math.pi, 1001, dtype=torch.float64)
    with new_figure(8, 4.5) as figure:
        axes = figure.subplots()
        bins = np.linspace(-180, 180, 91).tolist()
        for cloud, color, name in clouds_of(points, samples):
            shown = np.rad2deg(to_array(wrap(cloud[:, 0])))
            weights = np.full(len(shown), 90 / (2 * math.pi * len(shown)))
            axes.hist(shown, bins, weights=weights, color=color, alpha=0.45, label=name)
        axes.plot(
            np.rad2deg(to_array(angle)),
            np.exp(log_density(mixture, angle[:, None])),
            color="black",
            label="model",
        )
        axes.set(
            xlim=(-180, 180),
            xticks=_ticks(60),
            xlabel=labels[0],
            ylabel=f"density (per radian, {mixture.measure.kind} measure)",
        )
        axes.legend()
        set_title(figure, title, held_out)
        return figure
