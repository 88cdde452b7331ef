"""What kernels share whose width is a scale along each of d orthonormal coordinates, or a covariance matrix of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params
from .covariance import covariance_from_raw, covariance_option, num_covariance_raw


class DiagonalOrFull(Kernel):
    """Parameters ``loc`` and ``scale`` (*B,d) or (*B,1), or ``covariance_matrix`` (*B,d,d); see ``covariance``."""

    parameter_names = ("loc", "scale | covariance_matrix")

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "diagonal") -> None:
        super().__init__(manifold, point_shape)
        self.covariance = covariance_option(covariance, ("diagonal", "full"))

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        return {"covariance": "full" if "covariance_matrix" in names else "diagonal"}

    @property
    def options(self) -> dict[str, Any]:
        return {"covariance": self.covariance}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        size = (self.dim,)
        spread: dict[str, Shape] = {"scale": size} if self.covariance == "diagonal" else {"covariance_matrix": 2 * size}
        return {"loc": self.point_shape, **spread}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        loc = OnManifold(self.manifold, self.point_shape)
        if self.covariance == "diagonal":
            return {"loc": loc, "scale": constraints.independent(constraints.positive, 1)}
        return {"loc": loc, "covariance_matrix": constraints.positive_definite}

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        if self.covariance == "diagonal":
            return {"loc": points, "scale": scale.unsqueeze(-1)}
        eye = torch.eye(self.dim, dtype=points.dtype, device=points.device)
        return {"loc": points, "covariance_matrix": scale.square()[..., None, None] * eye}

    def around(self, points: Tensor, covariance: Tensor) -> Params:
        covariance = self.own_covariance(points, covariance)
        if self.covariance == "diagonal":
            return {"loc": points, "scale": covariance.diagonal(dim1=-2, dim2=-1).sqrt()}
        return {"loc": points, "covariance_matrix": covariance}

    def own_covariance(self, points: Tensor, covariance: Tensor) -> Tensor:
        """The covariance of the kernel's coordinates where that of orthonormal ones at ``points`` is given; (*B,d,d)."""
        return covariance

    @property
    def num_raw_shape(self) -> int:
        return self.dim if self.covariance == "diagonal" else num_covariance_raw(self.dim)

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.covariance == "diagonal":
            return {"loc": points, "scale": self.scale_from_raw(shape)}
        return {"loc": points, "covariance_matrix": covariance_from_raw(self, shape, self.dim)}
