"""Nearest neighbours on a manifold: candidates from a tree in flat coordinates, ranked by geodesic distance."""

from __future__ import annotations

from typing import NamedTuple

import geoopt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from . import geometry

CANDIDATES = 4  # times as many as wanted: the flat coordinates may rank them otherwise
ROWS = 4096  # points whose candidates are ranked at once


class Neighbors(NamedTuple):
    """The nearest other points of every point, the nearest first; each (n,k)."""

    distances: Tensor
    indices: Tensor


def nearest(manifold: geoopt.Manifold, x: Tensor, count: int) -> Neighbors:
    """The ``count`` other points nearest to each of the points (n,*E).

    A k-d tree in the coordinates of :func:`mf_manifold.geometry.to_raw` gives four times as many candidates, which are ranked
    by :func:`mf_manifold.geometry.dist`. Where the coordinates are isometric or monotone in the distance (flat spaces, spheres)
    the result is exact; elsewhere a neighbour is missed if four times as many points are closer in coordinates, as may happen
    on hyperbolic spaces radii of curvature from the origin. Manifolds without a distance in closed form keep that of the
    coordinates.

    >>> import torch, mf_manifold as mf
    >>> angles = torch.tensor([[3.1], [-3.1], [0.0]], dtype=torch.float64)
    >>> nearest(mf.manifolds.Torus(), angles, 1).indices.tolist()
    [[1], [0], [1]]
    """
    flat = geometry.to_raw(manifold, x).double().cpu().numpy()
    wanted = min(CANDIDATES * count + 1, len(x))
    found = torch.as_tensor(cKDTree(flat).query(flat, k=[*range(1, wanted + 1)])[1]).to(x.device)
    parts = [distance(manifold, x[rows].unsqueeze(1), x[found[rows]]) for rows in torch.arange(len(x)).split(ROWS)]
    itself = found == torch.arange(len(x), device=x.device).unsqueeze(-1)
    ranked, order = torch.cat(parts).masked_fill(itself, torch.inf).sort(dim=1, stable=True)
    return Neighbors(ranked[:, :count], found.gather(1, order)[:, :count])


def distance(manifold: geoopt.Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Geodesic distance, or that of the coordinates of ``to_raw`` where it has no closed form; (*B,*E) -> (*B)."""
    try:
        return geometry.dist(manifold, x, y)
    except NotImplementedError:
        return (geometry.to_raw(manifold, x) - geometry.to_raw(manifold, y)).norm(dim=-1)


def length_unit(manifold: geoopt.Manifold) -> float:
    """What a kernel's scale of 1 is in the metric: scaled manifolds keep the scales of their base."""
    return float(manifold.scale.detach()) if isinstance(manifold, geoopt.Scaled) else 1.0
