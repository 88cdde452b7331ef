"""Pictures: they show what they say, touch no global state, and arrive whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import geoopt
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.image import imread

import mf_manifold as mf
from mf_manifold.plot import common, plot, plot_spd, plot_sphere, plot_torus, save_figure

SPD = geoopt.SymmetricPositiveDefinite()
SPACES: dict[str, tuple[geoopt.Manifold, tuple[int, ...], str]] = {
    "circle": (geoopt.Sphere(), (2,), "angle (degrees)"),
    "sphere": (geoopt.Sphere(), (3,), "longitude (degrees)"),
    "sphere3": (geoopt.Sphere(), (4,), "log density (nats, riemannian measure)"),
    "torus1": (mf.manifolds.Torus(), (1,), "angle 1 (degrees)"),
    "torus2": (mf.manifolds.Torus(), (2,), "angle 1 (degrees)"),
    "torus3": (mf.manifolds.Torus(), (3,), "log density (nats, riemannian measure)"),
    "spd2": (SPD, (2, 2), r"$(\log X)_{11} - (\log X)_{22}$"),
    "spd4": (SPD, (4, 4), "log smallest eigenvalue"),
    "euclidean": (geoopt.Euclidean(ndim=1), (3,), "log density (nats, riemannian measure)"),
}


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "PAIRS", 3e4)


def _mixture(name: str, scale: float = 0.3, count: int = 5) -> mf.Mixture:
    manifold, shape, _ = SPACES[name]
    kernel, generator = mf.kernel_for(manifold, shape), torch.Generator().manual_seed(0)
    raw = torch.randn(count, mf.geometry.raw_dim(manifold, shape), generator=generator, dtype=torch.float64)
    points = mf.geometry.from_raw(manifold, raw, shape)
    return mf.Mixture(kernel, kernel.centered(points, torch.full((count,), scale, dtype=torch.float64)))


def _draws(mixture: mf.Mixture, count: int = 150) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return mixture.sample((count,), generator), mixture.sample((count,), generator)


def _mesh(axes: Any) -> QuadMesh:
    return next(artist for artist in axes.get_children() if isinstance(artist, QuadMesh))


def _bar_labels(figure: Any) -> list[str]:
    return [text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("clouds", ["none", "data", "both"])
def test_every_manifold_has_a_picture(name: str, clouds: str, tmp_path: Path) -> None:
    mixture = _mixture(name)
    data, samples = _draws(mixture)
    given = {"none": (None, None), "data": (data, None), "both": (data, samples)}[clouds]
    figure = plot(mixture, *given, title="a title", held_out=-1.25)
    assert figure.get_suptitle() == "a title · held-out log-likelihood -1.250 nats per datum"
    assert SPACES[name][2] in _bar_labels(figure)
    pixels = imread(save_figure(figure, tmp_path / "picture.png"))
    assert min(pixels.shape[:2]) > 400
    assert float(pixels[..., :3].std()) > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.parametrize(("name", "draw"), [("sphere", plot_sphere), ("torus2", plot_torus)])
def test_colour_bars_name_the_measure(name: str, draw: Any) -> None:
    assert "log density (nats, riemannian measure)" in _bar_labels(draw(_mixture(name)))


def test_world_map_puts_a_place_where_it_belongs() -> None:
    lat, lon = np.deg2rad([40.0, -100.0])
    place = torch.tensor([[np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]])
    kernel = mf.kernel_for(geoopt.Sphere(), (3,))
    mixture = mf.Mixture(kernel, kernel.centered(place, torch.tensor([0.2], dtype=torch.float64)))
    mesh = _mesh(plot_sphere(mixture).axes[0])
    row, column = np.unravel_index(np.argmax(mesh.get_array()), mesh.get_array().shape)
    corner = mesh.get_coordinates()[row : row + 2, column : column + 2]
    low, high = np.rad2deg(corner.min((0, 1))), np.rad2deg(corner.max((0, 1)))
    assert low[0] - 1e-9 <= -100 <= high[0] + 1e-9
    assert low[1] - 1e-9 <= 40 <= high[1] + 1e-9


def test_torus_map_integrates_to_one() -> None:
    axes = plot_torus(_mixture("torus2")).axes[0]
    values = np.asarray(_mesh(axes).get_array())
    cell = (2 * np.pi / (len(values) - 1)) ** 2
    assert np.exp(values[:-1, :-1]).sum() * cell == pytest.approx(1, abs=1e-6)


def test_shapes_and_sizes_of_matrices_are_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "PAIRS", 1e6)
    mixture = _mixture("spd2", 0.5)
    figure = plot_spd(mixture, samples=mixture.sample((4000,), torch.Generator().manual_seed(0)))
    mesh = _mesh(figure.axes[0])
    side = np.asarray(mesh.get_coordinates())[0, :, 0]
    assert np.exp(mesh.get_array()).sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=0.01)
    x, y = next(axes for axes in figure.axes if axes.get_title() == "sizes").lines[0].get_data()
    assert np.trapezoid(y, x) == pytest.approx(1, abs=0.01)


def test_mass_contours_hold_their_mass() -> None:
    side = np.linspace(-6, 6, 241)
    radius2 = side[:, None] ** 2 + side**2
    levels = common.mass_levels(-radius2 / 2)
    assert levels == pytest.approx([np.log(1 - mass) for mass in common.MASSES], abs=0.03)  # 1 - exp(-r^2 / 2) within r


def test_names_of_angles_are_on_the_axes() -> None:
    assert {"phi (degrees)", "psi (degrees)"} <= set(_bar_labels(plot(_mixture("torus2"), names=("phi", "psi"))))


def test_pyplot_and_settings_stay_untouched() -> None:
    before = dict(matplotlib.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    plot(_mixture("sphere"))
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_slow_kernels_get_coarser_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "PAIRS", 1e6)
    assert common.affordable(_mixture("sphere"), 100, 100 * 100) == 100
    assert common.affordable(_mixture("sphere", count=1000), 100, 100 * 100) < 100
    assert common.affordable(_mixture("torus2", count=100), 100, 100 * 100) < 100


def test_maps_of_high_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected a density on S\^1 or S\^2, got one on S\^3"):
        plot_sphere(_mixture("sphere3"))
    with pytest.raises(ValueError, match=r"Expected a density on T\^1 or T\^2, got one on T\^3"):
        plot_torus(_mixture("torus3"))


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="suffix is one of"):
        save_figure(plot(_mixture("circle")), tmp_path / "picture.xyz")
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'mf-manifold\[plot\]'"):
        plot(_mixture("circle"))
