"""What kernels made of a normal law of the ambient space R^D share: its parameters, whitening, lines through it, draws."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..geometry import Shape
from ..kernel import Kernel, Params
from .covariance import cholesky_logdet, covariance_from_raw, covariance_option, num_covariance_raw, pushed


class Line(NamedTuple):
    """A normal density on a line ``x + t e``: ``log_top - (t - center)^2 / (2 width^2)``, each (*B)."""

    log_top: Tensor
    center: Tensor
    width: Tensor


class AmbientNormal(Kernel):
    """Kernels whose parameters are those of a normal law of R^D: ``loc`` (D), any point of the space, and a spread.

    Log densities are formed in float64 whatever the inputs are: surfaces are thin for a narrow law.
    """

    parameter_names = ("loc", "scale | covariance_matrix")

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "isotropic") -> None:
        super().__init__(manifold, point_shape)
        self.covariance = covariance_option(covariance, ("isotropic", "full"))

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        return {"covariance": "full" if "covariance_matrix" in names else "isotropic"}

    @property
    def options(self) -> dict[str, Any]:
        return {"covariance": self.covariance}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        shape = self.point_shape
        spread: dict[str, Shape] = {"scale": ()} if self.covariance == "isotropic" else {"covariance_matrix": 2 * shape}
        return {"loc": shape, **spread}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        spread: dict[str, constraints.Constraint] = {"scale": constraints.positive}
        if self.covariance == "full":
            spread = {"covariance_matrix": constraints.positive_definite}
        return {"loc": constraints.real_vector, **spread}

    def whitener(self, w: Params) -> tuple[Tensor, Tensor]:
        """Inverse Cholesky factor (*B,D,D), or one number (*B,1,1) for all, and its log determinant (*B), in float64."""
        if self.covariance == "isotropic":
            scale = w["scale"].double()
            return 1 / scale[..., None, None], -self.point_shape[0] * scale.log()
        factor = torch.linalg.cholesky(w["covariance_matrix"].double())
        eye = torch.eye(self.point_shape[0], dtype=factor.dtype, device=factor.device)
        return torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False), -cholesky_logdet(factor)

    def whiten(self, inverse: Tensor, v: Tensor) -> Tensor:
        """``inverse @ v`` for vectors (*B,D)."""
        if self.covariance == "isotropic":
            return inverse.squeeze(-1) * v
        return (inverse @ v.unsqueeze(-1)).squeeze(-1)

    def along(self, x: Tensor, direction: Tensor, w: Params) -> Line:
        """The ambient density on lines through ``x`` with unit directions, both (*B,D)."""
        inverse, log_det = self.whitener(w)
        apart, step = self.whiten(inverse, x - w["loc"].double()), self.whiten(inverse, direction)
        steep2 = step.square().sum(-1)
        center = -(apart * step).sum(-1) / steep2
        across = apart + center.unsqueeze(-1) * step
        log_top = log_det - across.square().sum(-1) / 2 - self.point_shape[0] / 2 * math.log(2 * math.pi)
        return Line(log_top, center, steep2.rsqrt())

    def ambient_draws(self, w: Params, sample_shape: Shape, generator: torch.Generator | None) -> Tensor:
        """Points of R^D (*sample_shape,*B,D) of the normal law, pathwise differentiable."""
        loc = w["loc"]
        noise = torch.randn((*sample_shape, *loc.shape), generator=generator, dtype=loc.dtype, device=loc.device)
        if self.covariance == "isotropic":
            return loc + w["scale"].unsqueeze(-1) * noise
        return loc + (torch.linalg.cholesky(w["covariance_matrix"]) @ noise.unsqueeze(-1)).squeeze(-1)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        if self.covariance == "isotropic":
            return {"loc": points, "scale": scale}
        eye = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
        return {"loc": points, "covariance_matrix": scale.square()[..., None, None] * eye}

    def around(self, points: Tensor, covariance: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().around(points, covariance)
        frame = self.manifold.frame(points)
        across = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device) - frame @ frame.mT
        variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
        return {"loc": points, "covariance_matrix": pushed(covariance, frame) + variance[..., None, None] * across}

    @property
    def num_raw_shape(self) -> int:
        return 1 if self.covariance == "isotropic" else num_covariance_raw(self.point_shape[0])

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().shaped(points, shape)
        return {"loc": points, "covariance_matrix": covariance_from_raw(self, shape, self.point_shape[0])}


def result_type(x: Tensor, w: Params) -> torch.dtype:
    """The dtype that arithmetic with the point and the parameters would have."""
    return functools.reduce(torch.promote_types, (v.dtype for v in w.values()), x.dtype)
