"""How near a learned curve or surface is to a known one."""

from __future__ import annotations

from typing import NamedTuple

import geoopt
import torch
from torch import Tensor

from . import geometry

BLOCK = 2**18  # pairs of points at a time


class Chamfer(NamedTuple):
    """Mean geodesic distances between two sets of points, to the nearest of the other set, each way.

    ``to_reference`` is large where points are off the reference, ``from_reference`` where they leave a part of it out.
    """

    to_reference: float
    from_reference: float

    @property
    def mean(self) -> float:
        """Half their sum, the Chamfer distance."""
        return (self.to_reference + self.from_reference) / 2


def chamfer(manifold: geoopt.Manifold, points: Tensor, reference: Tensor) -> Chamfer:
    r"""Chamfer distance between ``points`` (N,*E) and ``reference`` (M,*E), by the manifold's geodesic distance.

    .. math:: \frac{1}{N} \sum_n \min_m d(x_n, y_m), \quad \frac{1}{M} \sum_m \min_n d(x_n, y_m)

    For a curve that a marginal flow of latent dimension 1 has learned, the points are ``flow.decode(z)``. Dense points on the
    reference keep the gaps between them out of the result.

    Raises:
        ValueError: no points, or points off the manifold.

    Reference: Barrow, Tenenbaum, Bolles, Wolf (1977), Parametric correspondence and chamfer matching.

    >>> import geoopt, torch
    >>> line = torch.linspace(0, 1, 101).unsqueeze(-1) * torch.tensor([1.0, 0.0])
    >>> half = line[:51] + torch.tensor([0.0, 0.01])
    >>> away, missed = chamfer(geoopt.Euclidean(ndim=1), half, line)
    >>> round(away, 3), round(missed, 2)
    (0.01, 0.13)
    """
    shape = points.shape[points.ndim - geometry.point_ndim(manifold) :]
    for name, value in (("points", points), ("reference", reference)):
        geometry.check_points(manifold, value, shape, name)
        if value.ndim != 1 + len(shape) or not len(value):
            raise ValueError(f"Expected {name} (n, {', '.join(map(str, shape))}), got shape {tuple(value.shape)}.")
    return Chamfer(_mean_nearest(manifold, points, reference), _mean_nearest(manifold, reference, points))


def _mean_nearest(manifold: geoopt.Manifold, a: Tensor, b: Tensor) -> float:
    rows = a.split(max(1, BLOCK // len(b)))
    nearest = [geometry.dist(manifold, part.unsqueeze(1), b.unsqueeze(0)).amin(1) for part in rows]
    return float(torch.cat(nearest).double().mean())
