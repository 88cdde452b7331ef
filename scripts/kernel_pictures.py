"""Draw every kernel on the two-dimensional manifolds, for the page of kernels; called by kernel_catalogue.py --pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import geoopt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernel import Kernel, Params, kernel_families

SIDE, DEPTH = 220, 8.0  # pixels of the density; nats below the maximum where the colours end


class Map(NamedTuple):
    """A two-dimensional manifold with a chart of the picture: (x, y) (N,2) to points, and which (x, y) are in it."""

    manifold: geoopt.Manifold
    shape: tuple[int, ...]
    center: Tensor
    reach: tuple[float, float, float, float]
    points: Callable[[Tensor], Tensor]
    inside: Callable[[Tensor], Tensor]
    caption: str


def _real(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _everywhere(u: Tensor) -> Tensor:
    return torch.ones(len(u), dtype=torch.bool)


def _disc(u: Tensor) -> Tensor:
    return u.square().sum(-1) < 1


def _hemisphere(u: Tensor) -> Tensor:
    return torch.cat([u, (1 - u.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()], dim=-1)


SPHERE = Map(
    geoopt.Sphere(),
    (3,),
    torch.nn.functional.normalize(_real(0.35, 0.3, 0.9), dim=0),
    (-1, 1, -1, 1),
    _hemisphere,
    _disc,
    "the near half of the sphere",
)
TORUS = Map(
    mf.manifolds.Torus(),
    (2,),
    _real(0.8, -0.6),
    (-math.pi, math.pi, -math.pi, math.pi),
    lambda u: u,
    _everywhere,
    "both angles, radians",
)
PLANE = Map(geoopt.Euclidean(ndim=1), (2,), _real(0.3, -0.2), (-2, 2, -2, 2), lambda u: u, _everywhere, "the plane")


def bump(kernel: Kernel, map: Map) -> Params:
    """Parameters of a moderate bump at the centre, those of a network before training for laws without a location."""
    if kernel.has_location:
        return kernel.centered(map.center, torch.tensor(0.35, dtype=torch.float64))
    return kernel.params(torch.zeros(kernel.num_raw, dtype=torch.float64))


def picture(kernel: Kernel, params: Params, map: Map) -> Figure:
    """The density with respect to the Riemannian volume."""
    left, right, bottom, top = map.reach
    x, y = torch.linspace(left, right, SIDE, dtype=torch.float64), torch.linspace(bottom, top, SIDE, dtype=torch.float64)
    u = torch.cartesian_prod(y, x).flip(-1)
    inside = map.inside(u)
    values = np.full(len(u), np.nan)
    with torch.no_grad():
        values[inside.numpy()] = kernel.log_prob(map.points(u[inside]), params).numpy()
    figure = Figure(figsize=(2.4, 2.6), dpi=100, layout="constrained")
    axes: Any = figure.add_subplot()
    shown = np.exp(values - np.nanmax(values[np.isfinite(values)])).reshape(SIDE, SIDE)
    axes.imshow(shown, extent=map.reach, origin="lower", cmap="viridis", vmin=0, vmax=1)
    axes.set_title(map.caption, fontsize=8)
    axes.axis("off")
    return figure


MAPS = {"Sphere": SPHERE, "Torus": TORUS, "Euclidean": PLANE}


def draw_all(folder: Path) -> None:
    """Write one PNG for each kernel on a manifold that has a map."""
    folder.mkdir(parents=True, exist_ok=True)
    for manifold, cls, _ in kernel_families():
        if manifold in MAPS:
            map = MAPS[manifold]
            kernel = cls(map.manifold, map.shape)
            picture(kernel, bump(kernel, map), map).savefig(folder / f"{manifold}-{cls.name}.png")
