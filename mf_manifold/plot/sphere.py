"""Pictures of densities on the circle S^1 and the sphere S^2."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..distributions import ManifoldDistribution
from .common import (
    COLORMAP,
    Array,
    add_colorbar,
    affordable,
    clouds_of,
    color_limits,
    draw_dots,
    log_density,
    measure_label,
    new_figure,
    set_title,
    thinned,
    to_array,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_sphere(
    mixture: ManifoldDistribution,
    points: Tensor | None = None,
    samples: Tensor | None = None,
    *,
    title: str | None = None,
    held_out: float | None = None,
) -> Figure:
    """A map of the log density on S^2 with data and samples, or a polar diagram on S^1.

    The map is Mollweide's, which keeps areas; longitude and latitude are in degrees, the third axis points to the north pole.

    Args:
        points: data (N,3) or (N,2), of which at most 2000 are drawn.
        samples: points of the model, drawn likewise.
        held_out: mean held-out log-likelihood in nats, for the title.

    Raises:
        ValueError: a mixture on a sphere of more dimensions.
        ImportError: matplotlib is not installed.

    >>> import geoopt, torch, mf_manifold as mf
    >>> kernel = mf.kernel_for(geoopt.Sphere(), (3,))
    >>> mix = mf.Mixture(kernel, {"loc": torch.eye(3), "concentration": torch.full((3,), 9.0)})
    >>> figure = plot_sphere(mix, samples=mix.sample((100,)))
    >>> len(figure.axes)                                 # map of the density, map of the points, colour bar
    3
    """
    dimension = mixture.dim
    if dimension > 2:
        raise ValueError(f"Expected a density on S^1 or S^2, got one on S^{dimension}: there is no map of it.")
    draw = _circle if dimension == 1 else _world_map
    return draw(mixture, points, samples, title, held_out)


def _grid(count: int) -> tuple[Array, Array, Tensor]:
    """Edges of longitude and latitude (radians) of cells, and the points in their middle (count/2, count, 3)."""
    lon_edges = np.linspace(-math.pi, math.pi, count + 1)
    lat_edges = np.linspace(-math.pi / 2, math.pi / 2, count // 2 + 1)
    middle = [torch.from_numpy((edges[1:] + edges[:-1]) / 2) for edges in (lat_edges, lon_edges)]
    lat, lon = torch.meshgrid(*middle, indexing="ij")
    return (
        lon_edges,
        lat_edges,
        torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=-1),
    )


def _longitude_latitude(points: Tensor) -> Array:
    x, y, z = to_array(points).T
    return np.stack([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])


def _world_map(
    mixture: ManifoldDistribution, points: Tensor | None, samples: Tensor | None, title: str | None, held_out: float | None
) -> Figure:
    count = affordable(mixture, 360, 360 * 180) // 2 * 2
    lon, lat, grid = _grid(count)
    values = log_density(mixture, grid)
    low, high = color_limits(values)
    clouds = clouds_of(points, samples)
    names = [name for _, _, name in clouds]
    rows: list[Any] = [["map"] * max(1, len(names)), *([names] if names else [])]
    with new_figure(9.5, 8.0 if names else 5.2) as figure:
        panels: dict[str, Any] = figure.subplot_mosaic(
            rows, height_ratios=(1.9, 1)[: len(rows)], subplot_kw={"projection": "mollweide"}
        )
        image = panels["map"].pcolormesh(lon, lat, values, cmap=COLORMAP, vmin=low, vmax=high, rasterized=True)
        add_colorbar(figure, image, panels["map"], measure_label(mixture), shrink=0.75, pad=0.03)
        _degrees(panels["map"], "white", 9)
        panels["map"].set(xlabel="longitude (degrees)", ylabel="latitude (degrees)")
        for cloud, color, name in clouds:
            draw_dots(panels[name], _longitude_latitude(thinned(cloud)), color, name)
            _degrees(panels[name], "0.4", 7)
            panels[name].tick_params(axis="x", labelbottom=False)
        set_title(figure, title, held_out)
        return figure


def _degrees(axes: Any, color: str, size: int) -> None:
    axes.set_longitude_grid(60)
    axes.set_latitude_grid(30)
    axes.grid(color=color, lw=0.4, alpha=0.6)
    axes.tick_params(axis="x", colors=color, labelsize=size)
    axes.tick_params(axis="y", labelsize=size)


def _circle(
    mixture: ManifoldDistribution, points: Tensor | None, samples: Tensor | None, title: str | None, held_out: float | None
) -> Figure:
    angle = torch.linspace(-math.pi, math.pi, 721, dtype=torch.float64)
    density = np.exp(log_density(mixture, torch.stack([angle.cos(), angle.sin()], dim=-1)))
    top = float(density.max())
    with new_figure(6.5, 6.5) as figure:
        axes: Any = figure.add_subplot(projection="polar")
        axes.plot(
            to_array(angle),
            density,
            color="black",
            lw=1.5,
            label=f"density per radian ({mixture.measure.kind} measure)",
        )
        axes.fill_between(to_array(angle), density, color="0.85")
        for radius, (cloud, color, name) in zip((1.06, 1.12), clouds_of(points, samples), strict=False):
            some = to_array(thinned(cloud))
            at = np.arctan2(some[:, 1], some[:, 0])
            axes.scatter(at, np.full(len(some), radius * top), s=6, c=color, alpha=0.4, lw=0, label=name)
        axes.set_ylim(0, 1.18 * top)
        axes.set_xlabel("angle (degrees)")
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, -0.16))
        set_title(figure, title, held_out)
        return figure
