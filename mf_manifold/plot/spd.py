"""Pictures of densities on symmetric positive definite matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..distributions import ManifoldDistribution
from ..numerics.linalg import sym_expm, sym_logm
from .common import (
    COLORMAP,
    Array,
    Clouds,
    add_colorbar,
    affordable,
    clouds_of,
    color_limits,
    draw_dots,
    draw_mass_contours,
    mosaic,
    new_figure,
    set_title,
    thinned,
    to_array,
)
from .histogram import draw_histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZES, SHAPES = 96, 64  # grid points along log det and along either coordinate of the shape


def plot_spd(
    mixture: ManifoldDistribution,
    points: Tensor | None = None,
    samples: Tensor | None = None,
    *,
    title: str | None = None,
    held_out: float | None = None,
) -> Figure:
    """Shapes and sizes of symmetric positive definite matrices under a density, with data and samples.

    For 2 x 2 matrices the plane of ``((log X)_11 - (log X)_22, 2 (log X)_12)`` holds all shapes of the ellipse
    ``v^T X^-1 v = 1``: the distance from the middle is ``log(largest / smallest eigenvalue)``, the angle twice that of the long
    axis. It is coloured by the density integrated over the size ``log det X``, whose own density stands beside it. Larger
    matrices are shown by their largest and smallest eigenvalues, ``log det X`` and their log density.

    Args:
        points: data (N,p,p), of which at most 2000 are drawn.
        samples: points of the model, drawn likewise; for p > 2, or where there are no data, 2000 are drawn from it if None.
        held_out: mean held-out log-likelihood in nats, for the title.

    Raises:
        ImportError: matplotlib is not installed.

    >>> import geoopt, torch, mf_manifold as mf
    >>> kernel = mf.kernel_for(geoopt.SymmetricPositiveDefinite(), (2, 2))
    >>> mix = mf.Mixture(kernel, {"loc": torch.eye(2)[None], "scale": torch.tensor([[0.5]])})
    >>> len(plot_spd(mix).axes)                          # map, samples, sizes, colour bar
    4
    """
    if samples is None:
        samples = mixture.sample((2000,), torch.Generator().manual_seed(0))
    draw = _ellipses if mixture.point_shape == (2, 2) else _eigenvalues
    return draw(mixture, points, samples, title, held_out)


def _shape_and_size(x: Tensor) -> Array:
    """(log X)_11 - (log X)_22, 2 (log X)_12 and log det X; (N,2,2) -> (3,N)."""
    log_x = sym_logm(x.double())
    a, b, c = log_x[:, 0, 0], log_x[:, 0, 1], log_x[:, 1, 1]
    return to_array(torch.stack([a - c, 2 * b, a + c]))


def _from_shape_and_size(u: Tensor, v: Tensor, size: Tensor) -> Tensor:
    rows = [torch.stack([size + u, v], dim=-1), torch.stack([v, size - u], dim=-1)]
    return sym_expm(torch.stack(rows, dim=-2) / 2)


def _log_integral(values: Array, step: float, axis: int | tuple[int, ...]) -> Array:
    top = values.max()
    return np.asarray(np.log(np.exp(values - top).sum(axis) * step + np.finfo(np.float64).tiny) + top)


def _ellipses(
    mixture: ManifoldDistribution, points: Tensor | None, samples: Tensor, title: str | None, held_out: float | None
) -> Figure:
    clouds = clouds_of(points, samples)
    all_points = np.concatenate([_shape_and_size(c) for c, _, _ in clouds], axis=1)
    reach = 1.15 * float(np.quantile(np.abs(all_points[:2]), 0.999))
    low, high = np.quantile(all_points[2], [0.001, 0.999])
    count = affordable(mixture, SHAPES, SHAPES**2 * SIZES)
    plane = torch.linspace(-reach, reach, count, dtype=torch.float64)
    sizes = torch.linspace(float(low) - 1.5, float(high) + 1.5, SIZES, dtype=torch.float64)
    u, v, size = torch.meshgrid(plane, plane, sizes, indexing="ij")
    grid = _from_shape_and_size(u, v, size)
    # du dv d(log det) is 2^(3/2) times the log-Euclidean volume
    with torch.no_grad():
        values = to_array(mixture.log_prob(mixture.like(grid), "log_euclidean")) - 1.5 * math.log(2)
    shape = _log_integral(values, float(sizes[1] - sizes[0]), 2)
    log_size = _log_integral(values, float(plane[1] - plane[0]) ** 2, (0, 1))
    with new_figure(13.5, 5.8) as figure:
        panels = mosaic(figure, clouds, ("sizes",))
        bottom, top = color_limits(shape)
        x, label = to_array(plane), "log density of the shape (nats, log-Euclidean measure)"
        image = panels["map"].pcolormesh(
            x, x, shape.T, cmap=COLORMAP, vmin=bottom, vmax=top, shading="gouraud", rasterized=True
        )
        draw_mass_contours(panels["map"], x, x, shape.T)
        add_colorbar(figure, image, panels["map"], label, location="left", shrink=0.85)
        _glyphs(panels["map"], reach)
        panels["map"].set(xlabel="$(\\log X)_{11} - (\\log X)_{22}$", ylabel="$2\\,(\\log X)_{12}$")
        panels["map"].set_title("shapes; regions of 50, 90 and 99 % of the mass")
        for cloud, color, name in clouds:
            draw_dots(panels[name], _shape_and_size(thinned(cloud))[:2], color, name)
        for name in ("map", *(n for _, _, n in clouds)):
            panels[name].set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        _draw_sizes(panels["sizes"], clouds)
        panels["sizes"].plot(to_array(sizes), np.exp(log_size), color="black", label="model")
        panels["sizes"].legend()
        set_title(figure, title, held_out)
        return figure


def _glyphs(axes: Axes, reach: float) -> None:
    """The ellipse of every place of a lattice, all of one area."""
    from matplotlib.patches import Ellipse

    for u in np.linspace(-reach, reach, 9)[1:-1]:
        for v in np.linspace(-reach, reach, 9)[1:-1]:
            ratio, angle = math.hypot(u, v), math.degrees(math.atan2(v, u)) / 2
            size = reach / 11
            width, height = size * math.exp(min(ratio, 3) / 4), size * math.exp(-min(ratio, 3) / 4)
            axes.add_patch(Ellipse((u, v), width, height, angle=angle, fill=False, color="white", lw=0.7, alpha=0.6))


def _draw_sizes(axes: Axes, clouds: Clouds) -> None:
    log_dets = [to_array(torch.linalg.slogdet(cloud.double())[1]) for cloud, _, _ in clouds]
    bins = np.histogram_bin_edges(np.concatenate(log_dets), 40).tolist()
    for values, (_, color, name) in zip(log_dets, clouds, strict=True):
        axes.hist(values, bins, density=True, color=color, alpha=0.45, label=name)
    axes.set(xlabel=r"$\log \det X$", ylabel="density (per nat)", title="sizes")


def _eigenvalues(
    mixture: ManifoldDistribution, points: Tensor | None, samples: Tensor, title: str | None, held_out: float | None
) -> Figure:
    clouds = clouds_of(points, samples)
    with new_figure(13.5, 4.8) as figure:
        axes = figure.subplots(1, 3)
        for cloud, color, name in reversed(clouds):  # data on top: they are usually fewer
            spectrum = to_array(torch.linalg.eigvalsh(thinned(cloud).double()).log())
            axes[0].scatter(
                spectrum[:, 0],
                spectrum[:, -1],
                s=5,
                c=color,
                alpha=0.5,
                lw=0,
                label=f"{name} ({len(spectrum)})",
            )
        axes[0].set(xlabel="log smallest eigenvalue", ylabel="log largest eigenvalue", title="spectra")
        axes[0].legend(loc="lower right", markerscale=2.5)
        _draw_sizes(axes[1], clouds)
        axes[1].legend()
        draw_histogram(axes[2], mixture, clouds)
        set_title(figure, title, held_out)
        return figure
