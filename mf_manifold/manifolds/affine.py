"""Affine subspaces of R^D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import zeros_like_batch
from . import register_config
from .embedded import EmbeddedManifold

Rows = Sequence[Sequence[float]]


class AffineSubspace(EmbeddedManifold):
    """The points ``offset + basis v`` of R^D: a flat space in ambient coordinates.

    Args:
        basis: D rows of d numbers, columns linearly independent; made orthonormal here.
        offset: a point of the subspace, by default the origin.

    >>> import torch, mf_manifold as mf
    >>> plane = mf.manifolds.AffineSubspace([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], offset=[0.0, 0.0, 5.0])
    >>> mf.geometry.project(plane, torch.tensor([1.0, 2.0, 7.0]))
    tensor([1., 2., 5.])
    """

    name = "AffineSubspace"

    def __init__(self, basis: Rows | Tensor, offset: Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        columns = torch.as_tensor(basis).double()
        if columns.ndim != 2 or not 0 < columns.shape[1] <= columns.shape[0]:
            raise ValueError(f"Expected a basis of D rows of d <= D numbers, got shape {tuple(columns.shape)}.")
        if int(torch.linalg.matrix_rank(columns)) < columns.shape[1]:
            raise ValueError("Expected linearly independent columns of the basis, got dependent ones. Leave out the others.")
        self.ambient_dim, self.dim = columns.shape
        point = torch.zeros(self.ambient_dim) if offset is None else torch.as_tensor(offset)
        if point.shape != (self.ambient_dim,):
            raise ValueError(f"Expected an offset of {self.ambient_dim} numbers, got shape {tuple(point.shape)}.")
        q, r = torch.linalg.qr(columns)
        self.given = columns.tolist()
        self._basis = (q * r.diagonal().sign()).tolist()
        self._point = point.double().tolist()

    def basis(self, x: Tensor) -> Tensor:
        """The orthonormal basis (D,d) as a tensor like ``x``."""
        return torch.tensor(self._basis, dtype=x.dtype, device=x.device)

    def origin_point(self, x: Tensor) -> Tensor:
        """The offset (D) as a tensor like ``x``."""
        return torch.tensor(self._point, dtype=x.dtype, device=x.device)

    def coordinates(self, x: Tensor) -> Tensor:
        """Orthonormal coordinates of the nearest point; (*B,D) -> (*B,d)."""
        return (x - self.origin_point(x)) @ self.basis(x)

    def from_coordinates(self, v: Tensor) -> Tensor:
        """The point with coordinates ``v``; (*B,d) -> (*B,D)."""
        return self.origin_point(v) + v @ self.basis(v).mT

    def closest(self, x: Tensor) -> Tensor:
        return self.from_coordinates(self.coordinates(x))

    def offset(self, x: Tensor) -> Tensor:
        return (x - self.closest(x)).norm(dim=-1)

    def frame(self, x: Tensor) -> Tensor:
        return self.basis(x).expand(*x.shape[:-1], self.ambient_dim, self.dim)


register_config("AffineSubspace", lambda config: AffineSubspace(config["basis"], config["offset"]))


@geometry.to_config.register(AffineSubspace)
def _(manifold: AffineSubspace) -> dict[str, Any]:
    return {"type": "AffineSubspace", "basis": manifold.given, "offset": manifold._point}


@geometry.expmap.register(AffineSubspace)
def _(manifold: AffineSubspace, x: Tensor, u: Tensor) -> Tensor:
    return x + u


@geometry.logmap.register(AffineSubspace)
def _(manifold: AffineSubspace, x: Tensor, y: Tensor) -> Tensor:
    return y - x


@geometry.dist.register(AffineSubspace)
def _(manifold: AffineSubspace, x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.vector_norm(y - x, dim=-1)


@geometry.logdet_expmap.register(AffineSubspace)
def _(manifold: AffineSubspace, x: Tensor, u: Tensor) -> Tensor:
    return zeros_like_batch(manifold, u)


@geometry.raw_dim.register(AffineSubspace)
def _(manifold: AffineSubspace, point_shape: Shape) -> int:
    return manifold.dim


@geometry.from_raw.register(AffineSubspace)
def _(manifold: AffineSubspace, raw: Tensor, point_shape: Shape) -> Tensor:
    return manifold.from_coordinates(raw)


@geometry.to_raw.register(AffineSubspace)
def _(manifold: AffineSubspace, x: Tensor) -> Tensor:
    return manifold.coordinates(x)
