"""Draw every kernel on the two-dimensional manifolds, for the page of kernels; called by kernel_catalogue.py --pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geoopt
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernel import Kernel, Params, kernel_families
from mf_manifold.numerics.linalg import sym_expm

SIDE = 180  # density values along a side


def _real(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _everywhere(u: Tensor) -> Tensor:
    return torch.ones(len(u), dtype=torch.bool)


def _disc(u: Tensor) -> Tensor:
    return u.square().sum(-1) < 0.999


def _triangle(u: Tensor) -> Tensor:
    return (_shares(u) > 1e-3).all(-1)


@dataclass(frozen=True)
class Map:
    """A manifold with a chart of the picture: (x, y) (N,2) to points, and which (x, y) are in it; or a surface in space."""

    manifold: geoopt.Manifold
    shape: tuple[int, ...]
    center: Tensor
    reach: tuple[float, float, float, float]
    points: Callable[[Tensor], Tensor]
    caption: str
    inside: Callable[[Tensor], Tensor] = _everywhere
    is_surface: bool = False
    width: float = 0.35


def _hemisphere(u: Tensor) -> Tensor:
    return torch.cat([u, (1 - u.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()], dim=-1)


def _shares(u: Tensor) -> Tensor:
    """Parts of a composition from the place in an equilateral triangle."""
    top = u[:, 1] / math.sqrt(3)
    left = (1 - u[:, 0]) / 2 - top / 2
    return torch.stack([left, 1 - left - top, top], dim=-1)


def _unit_determinant(u: Tensor) -> Tensor:
    a, b = u.unbind(-1)
    return sym_expm(torch.stack([torch.stack([a, b], -1), torch.stack([b, -a], -1)], -2))


def _latitude(u: Tensor) -> Tensor:
    ring = u[..., 1].cos()
    return torch.stack([ring * u[..., 0].cos(), ring * u[..., 0].sin(), u[..., 1].sin()], dim=-1)


def _pear_radius(u: Tensor) -> Tensor:
    return 1 + 0.35 * u[..., 2]


def _lorentz(y: Tensor) -> Tensor:
    """A point of the hyperboloid from its place in the Poincaré disc."""
    square = y.square().sum(-1, keepdim=True)
    return torch.cat([1 + square, 2 * y], dim=-1) / (1 - square)


TURN = (-math.pi, math.pi)
GLOBE = (*TURN, -1.5707, 1.5707)
NORTH = torch.nn.functional.normalize(_real(0.35, 0.3, 0.9), dim=0)
ELLIPSOID, RING = mf.manifolds.Ellipsoid([1.5, 1.0, 1.0]), mf.manifolds.TorusOfRevolution(2.0, 0.8)
BOWL = mf.manifolds.surface("paraboloid", curvature=0.5)
PEAR = mf.manifolds.StarShaped(_pear_radius, ambient_dim=3)
DISC = (-1.0, 1.0, -1.0, 1.0)

MAPS: dict[str, Map] = {
    "Sphere": Map(geoopt.Sphere(), (3,), NORTH, DISC, _hemisphere, "near half of the sphere", _disc),
    "Torus": Map(mf.manifolds.Torus(), (2,), _real(0.8, -0.6), (*TURN, *TURN), lambda u: u, "both angles"),
    "Euclidean": Map(geoopt.Euclidean(ndim=1), (2,), _real(0.3, -0.2), (-2, 2, -2, 2), lambda u: u, "the plane"),
    "SymmetricPositiveDefinite": Map(
        geoopt.SymmetricPositiveDefinite(),
        (2, 2),
        _unit_determinant(_real(0.3, 0.2).unsqueeze(0))[0],
        (-1.5, 1.5, -1.5, 1.5),
        _unit_determinant,
        "unit determinant, logarithm",
    ),
    "Simplex": Map(
        mf.manifolds.Simplex(), (3,), _real(0.3, 0.25, 0.45), (-1, 1, 0, math.sqrt(3)), _shares, "three parts", _triangle
    ),
    "Grassmann": Map(
        mf.manifolds.Grassmann(),
        (3, 1),
        NORTH.unsqueeze(-1),
        DISC,
        lambda u: _hemisphere(u).unsqueeze(-1),
        "lines through a half sphere",
        _disc,
    ),
    "Stiefel": Map(
        geoopt.EuclideanStiefel(),
        (3, 1),
        NORTH.unsqueeze(-1),
        DISC,
        lambda u: _hemisphere(u).unsqueeze(-1),
        "frames of one vector",
        _disc,
    ),
    "Ellipsoid": Map(
        ELLIPSOID,
        (3,),
        mf.geometry.project(ELLIPSOID, _real(0.7, -0.7, 0.6)),
        GLOBE,
        lambda u: _latitude(u) * _real(1.5, 1.0, 1.0),
        "ellipsoid",
        is_surface=True,
    ),
    "StarShaped": Map(
        PEAR,
        (3,),
        mf.geometry.project(PEAR, _real(0.5, -0.7, 0.6)),
        GLOBE,
        lambda u: _latitude(u) * _pear_radius(_latitude(u)).unsqueeze(-1),
        "star-shaped surface",
        is_surface=True,
    ),
    "TorusOfRevolution": Map(
        RING,
        (3,),
        mf.geometry.project(RING, _real(1.2, -2.0, 0.7)),
        (*TURN, *TURN),
        lambda u: RING.parametrisation().embed(u),
        "ring",
        is_surface=True,
        width=0.6,
    ),
    "ChartManifold": Map(
        BOWL,
        (3,),
        BOWL.embedding(_real(0.4, -0.5)),
        (-1.3, 1.3, -1.3, 1.3),
        BOWL.embedding,
        "graph over the plane",
        is_surface=True,
    ),
    "Lorentz": Map(geoopt.Lorentz(), (3,), _lorentz(_real(0.3, 0.2)), DISC, _lorentz, "Poincaré's disc", _disc, width=0.7),
    "PoincareBall": Map(geoopt.PoincareBall(), (2,), _real(0.3, 0.2), DISC, lambda u: u, "Poincaré's disc", _disc, width=0.7),
}
BOUNDED = mf.manifolds.ChartManifold(
    BOWL.embedding, 2, coordinates=lambda x: x[..., :2], box=[(-1.3, 1.3), (-1.3, 1.3)]
)
for law in ("restricted_normal", "uniform"):
    MAPS[f"ChartManifold-{law}"] = replace(MAPS["ChartManifold"], manifold=BOUNDED, caption="bounded graph")
# laws that look best, or exist, elsewhere than at a bump of moderate width
TALL = torch.outer(NORTH, NORTH) * 2.0 + 0.15 * torch.eye(3, dtype=torch.float64)
SPECIAL: dict[tuple[str, str], Params] = {
    ("Sphere", "angular_central_gaussian"): {"covariance_matrix": TALL + torch.diag(_real(0.4, 0.0, 0.0))},
    ("Sphere", "kent"): {"loc": NORTH, "covariance_matrix": torch.diag(_real(0.12, 0.02, 0.02))},
    ("Sphere", "bingham"): {"concentration_matrix": 8 * TALL - torch.diag(_real(0.0, 12.0, 0.0))},
    ("Sphere", "watson"): {"loc": NORTH, "concentration": _real(-12.0).squeeze()},
    ("Simplex", "dirichlet"): {"concentration": _real(3.0, 2.0, 5.0)},
    ("Stiefel", "matrix_angular_central_gaussian"): {"covariance_matrix": torch.diag(_real(1.0, 0.3, 3.0))},
    ("Torus", "sine_bivariate_von_mises"): {
        "loc": _real(0.8, -0.6),
        "concentration": _real(3.0, 3.0),
        "correlation": _real(2.0).squeeze(),
    },
}


def picture(kernel: Kernel, params: Params, map: Map) -> Figure:
    """The density with respect to the Riemannian volume, relative to its largest value."""
    left, right, bottom, top = map.reach
    x, y = torch.linspace(left, right, SIDE, dtype=torch.float64), torch.linspace(bottom, top, SIDE, dtype=torch.float64)
    u = torch.cartesian_prod(y, x).flip(-1)
    inside = map.inside(u)
    values = np.full(len(u), np.nan)
    with torch.no_grad():
        values[inside.numpy()] = kernel.log_prob(map.points(u[inside]), params).numpy()
    # a pole would make all else look like nothing
    shown = np.exp(np.minimum(values - np.nanquantile(values[np.isfinite(values)], 0.999), 0)).reshape(SIDE, SIDE)
    figure = Figure(figsize=(2.4, 2.6), dpi=100, layout="constrained")
    axes: Any = figure.add_subplot(projection="3d" if map.is_surface else None)
    if map.is_surface:
        _surface(axes, map.points(u).reshape(SIDE, SIDE, 3).numpy(), shown)
    else:
        axes.imshow(shown, extent=map.reach, origin="lower", cmap="viridis", vmin=0, vmax=1)
    axes.set_title(map.caption, fontsize=8)
    axes.axis("off")
    return figure


def _surface(axes: Any, points: np.ndarray, shown: np.ndarray) -> None:
    colors = matplotlib.colormaps["viridis"](shown)
    axes.plot_surface(*np.moveaxis(points, -1, 0), facecolors=colors, rcount=90, ccount=90, shade=False, antialiased=False)
    axes.set_box_aspect(np.ptp(points, axis=(0, 1)), zoom=1.5)
    axes.view_init(elev=45, azim=-50)


def parameters(manifold: str, kernel: Kernel, map: Map) -> Params:
    """Those that show the law: special ones, a moderate bump, or a network's before training."""
    if (manifold, kernel.name) in SPECIAL:
        return SPECIAL[manifold, kernel.name]
    if kernel.has_location:
        return kernel.centered(map.center, torch.tensor(map.width, dtype=torch.float64))
    return kernel.params(torch.zeros(kernel.num_raw, dtype=torch.float64))


def draw_all(folder: Path) -> None:
    """Write one PNG for each kernel on a manifold that has a map."""
    folder.mkdir(parents=True, exist_ok=True)
    for manifold, cls, _ in kernel_families():
        map = MAPS.get(f"{manifold}-{cls.name}", MAPS.get(manifold))
        if map is not None:
            kernel = mf.kernel_for(map.manifold, map.shape, cls.name)
            picture(kernel, parameters(manifold, kernel, map), map).savefig(folder / f"{manifold}-{cls.name}.png")
