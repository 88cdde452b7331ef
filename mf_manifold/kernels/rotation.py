"""What the kernels on rotation groups share: quaternions in float64, constant ratios of measures, integrals over the angle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params
from ..manifolds import SpecialOrthogonal
from ..numerics import quaternions
from ..numerics.orthogonal import log_volume, num_skew
from .covariance import covariance_from_raw, covariance_option, num_covariance_raw
from .rotation_fit import fit_angle_law

LOG_TWO_PI = math.log(2 * math.pi)
_STEP, _NODES = 0.04, 83  # of the double exponential rule, to either side
REACH = 14.0  # in scales: what a narrow law has beyond is below rounding


class GroupKernel(Kernel):
    """A kernel on SO(n) or on unit quaternions."""

    log_scale_range = (-7.0, 0.0)

    @property
    def size(self) -> int:
        """The n of SO(n)."""
        return self.point_shape[0] if isinstance(self.manifold, SpecialOrthogonal) else 3

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        haar = -log_volume(self.size)
        constants = {"riemannian": 0.0, "normalized": haar, "haar": haar, "frobenius": num_skew(self.size) / 2 * math.log(2)}
        return torch.tensor(constants[kind], dtype=torch.float64) if kind in constants else super().mean_log_ratio(w, kind)

    def quaternion(self, x: Tensor) -> Tensor:
        """Unit quaternions of points of SO(3), in float64; the sign is arbitrary."""
        wide = x.double()
        return quaternions.from_matrix(wide) if isinstance(self.manifold, SpecialOrthogonal) else quaternions.unit(wide)

    def point(self, q: Tensor) -> Tensor:
        """Points of SO(3) from unit quaternions."""
        return quaternions.to_matrix(q) if isinstance(self.manifold, SpecialOrthogonal) else q

    def turned(self, loc: Tensor, q: Tensor) -> Tensor:
        """Points of SO(3): ``loc`` after the rotations q in its own frame."""
        if isinstance(self.manifold, SpecialOrthogonal):
            return loc @ quaternions.to_matrix(q)
        return quaternions.unit(quaternions.multiply(loc, q))

    def require_size(self, *sizes: int) -> None:
        """Raise ``ValueError`` unless n is one of those that the family has."""
        if self.size not in sizes:
            known = " or ".join(map(str, sizes))
            raise ValueError(
                f"Expected n = {known} for {type(self).name} on SO(n), got points of shape {self.point_shape}; "
                "cayley_normal exists for every n."
            )


class SpaceRotationKernel(GroupKernel):
    """A kernel on SO(3) alone, whose parameters do not tell whether points are matrices or quaternions."""

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__(manifold, point_shape)
        self.require_size(3)

    @classmethod
    def infer_point_shape(cls, manifold: geoopt.Manifold, params: Mapping[str, Any]) -> Shape:
        return (3, 3) if isinstance(manifold, SpecialOrthogonal) else (4,)


class LocationKernel(GroupKernel):
    """A kernel with the parameters ``loc`` and ``scale``, and a density by the angle from ``loc`` alone on SO(3)."""

    parameter_names = ("loc", "scale")
    mean_kind = "frechet"

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, "scale": ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"loc": OnManifold(self.manifold, self.point_shape), "scale": constraints.positive}

    def zonal(self, chord2: Tensor, scale: Tensor) -> Tensor:
        """Log density from the squared chord of quaternions, 2 - 2 cos(angle / 2)."""
        raise NotImplementedError

    def by_angle(self, x: Tensor, w: Params) -> Tensor:
        """:meth:`zonal` of points and parameters, in float64 inside."""
        chord2 = quaternions.chords2(self.quaternion(x), self.quaternion(w["loc"]))
        return self.zonal(chord2, w["scale"].double()).to(x.dtype)

    def pairs_by_angle(self, x: Tensor, w: Params, dtype: torch.dtype) -> Tensor:
        """:meth:`by_angle` of all pairs by one product in float64: a narrow component's chord has no digit in float32.

        The log density by the chord is computed in ``dtype``.
        """
        p, q = self.quaternion(x), self.quaternion(w["loc"])
        count = torch.broadcast_shapes(q.shape[:-1], w["scale"].shape)[0]
        q = q.expand(count, 4)

        def block(rows: slice) -> Tensor:
            return self.zonal(quaternions.pair_chords2(p[rows], q).to(dtype), w["scale"].to(dtype)).to(x.dtype)

        return by_blocks(block, len(p), count, x)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "scale": scale}

    def mean(self, w: Params) -> Tensor:
        return w["loc"]

    def fit_by_angle(self, x: Tensor, weights: Tensor | None) -> Params:
        """Location and scale of largest likelihood for points of SO(3)."""
        best = fit_angle_law(self.zonal, self.quaternion(x), weights)
        return {"loc": self.point(best["loc"]).to(x.dtype), "scale": best["scale"].to(x.dtype)}

    def angle_entropy(self, w: Params) -> Tensor:
        """``-E log q`` of a law by the angle alone, by quadrature."""
        return -angle_mean(self.zonal, w["scale"]).to(w["scale"].dtype)


class CovarianceKernel(LocationKernel):
    """A kernel with ``scale``, or with a ``covariance_matrix`` of the coordinates at ``loc``."""

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
        if self.covariance == "isotropic":
            return super().event_shapes
        return {"loc": self.point_shape, "covariance_matrix": (self.dim, self.dim)}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        if self.covariance == "isotropic":
            return super().param_constraints
        return {"loc": OnManifold(self.manifold, self.point_shape), "covariance_matrix": constraints.positive_definite}

    def factor(self, w: Params) -> Tensor:
        """Cholesky factor of the covariance, in float64."""
        return torch.linalg.cholesky(w["covariance_matrix"].double())

    def normal_coordinates(self, w: Params, sample_shape: Shape, generator: torch.Generator | None) -> Tensor:
        """Normal vectors (*sample_shape,*B,d) with the covariance."""
        loc, batch = w["loc"], self.batch_shape(w)
        shape = (*sample_shape, *batch, self.dim)
        noise = torch.randn(shape, generator=generator, dtype=loc.dtype, device=loc.device)
        if self.covariance == "isotropic":
            return w["scale"].unsqueeze(-1) * noise
        return (self.factor(w).to(loc.dtype) @ noise.unsqueeze(-1)).squeeze(-1)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().centered(points, scale)
        eye = torch.eye(self.dim, dtype=points.dtype, device=points.device)
        return {"loc": points, "covariance_matrix": scale.square()[..., None, None] * eye}

    def around(self, points: Tensor, covariance: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().around(points, covariance)
        return {"loc": points, "covariance_matrix": covariance}

    @property
    def num_raw_shape(self) -> int:
        return 1 if self.covariance == "isotropic" else num_covariance_raw(self.dim)

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().shaped(points, shape)
        return {"loc": points, "covariance_matrix": covariance_from_raw(self, shape, self.dim)}


def whiten(factor: Tensor, v: Tensor) -> Tensor:
    """``L^-1 v`` for Cholesky factors; (*B,d,d), (*B,d) -> (*B,d)."""
    white: Tensor = torch.linalg.solve_triangular(factor, v.unsqueeze(-1), upper=False)
    return white.squeeze(-1)


def angle_mean(log_density: Callable[[Tensor, Tensor], Tensor], scale: Tensor) -> Tensor:
    """``E log q`` over SO(3) of a density by the angle, given by squared chord and scale; (*B) -> (*B), float64.

    The double exponential rule of Takahasi and Mori from 0 to 14 scales or pi: it resolves narrow bumps, and the faint pole of
    wrapped laws at 0.
    """
    wide = scale.double().unsqueeze(-1)
    t = _STEP * torch.arange(-_NODES, _NODES + 1, dtype=torch.float64, device=scale.device)
    share = torch.sigmoid(math.pi * t.sinh())
    weights = _STEP * math.pi * t.cosh() * share * torch.sigmoid(-math.pi * t.sinh())
    end = (REACH * wide).clamp_max(math.pi)
    theta = end * share
    log_q = log_density(4 * (theta / 4).sin().square(), wide)
    shell = 16 * math.pi * (theta / 2).sin().square()
    return (weights * end * shell * log_q.exp() * log_q).sum(-1)
