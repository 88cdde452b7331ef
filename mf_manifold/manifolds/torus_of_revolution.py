"""The torus of revolution in R^3."""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from . import register_config
from .embedded import EmbeddedManifold, Fibre, Parametrisation, hypersurface_frame, reject


class TorusOfRevolution(EmbeddedManifold):
    """The points of R^3 at the distance ``minor`` from a circle of radius ``major`` around the third axis.

    Not the flat torus ``mf.manifolds.Torus``: points are in space, the area is ``4 pi^2 major minor``. On the circle inside the
    tube and on the axis the closest point is not unique; :func:`mf_manifold.geometry.project` takes one of them.

    >>> import math, mf_manifold as mf
    >>> ring = mf.manifolds.TorusOfRevolution(major=2.0, minor=0.5)
    >>> round(math.exp(mf.geometry.log_volume(ring, (3,))) / math.pi**2, 9)
    4.0
    """

    name, dim, ambient_dim = "TorusOfRevolution", 2, 3
    continuous_projection = True  # almost surely along a path: the medial axis consists of curves

    def __init__(self, major: float, minor: float) -> None:
        super().__init__()
        if not 0 < minor < major < math.inf:
            raise ValueError(f"Expected radii major > minor > 0, got major={major}, minor={minor}: others cross the axis.")
        self.major, self.minor = float(major), float(minor)

    def _polar(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Direction (*B,2) around the axis, and the meridian coordinates relative to the circle, (*B) each."""
        around = _direction(x[..., :2])
        return around, (x[..., :2] * around).sum(-1) - self.major, x[..., 2]

    def _point(self, around: Tensor, tube: Tensor) -> Tensor:
        """The point at a unit vector around the axis and one around the tube, (*B,2) each."""
        return torch.cat([(self.major + self.minor * tube[..., :1]) * around, self.minor * tube[..., 1:]], dim=-1)

    def _tube(self, x: Tensor) -> tuple[Tensor, Tensor]:
        around, outward, upward = self._polar(x)
        return around, _direction(torch.stack([outward, upward], dim=-1))

    def closest(self, x: Tensor) -> Tensor:
        return self._point(*self._tube(x))

    def offset(self, x: Tensor) -> Tensor:
        _, outward, upward = self._polar(x)
        return (torch.hypot(outward, upward) - self.minor).abs()

    def normal(self, x: Tensor) -> Tensor:
        """Outward unit normal; (*B,3) -> (*B,3)."""
        around, tube = self._tube(x)
        return torch.cat([tube[..., :1] * around, tube[..., 1:]], dim=-1)

    def frame(self, x: Tensor) -> Tensor:
        return hypersurface_frame(self.normal(x))

    def fibre(self, x: Tensor) -> Fibre:
        """The normal line from the circle inside the tube outwards, to the axis where it meets that."""
        cosine = self._tube(x)[1][..., 0]
        inward = cosine < 0
        length = torch.where(inward, -self.major / torch.where(inward, cosine, -torch.ones_like(cosine)), math.inf)
        area = self.minor * (self.major + self.minor * cosine)
        coefficients = torch.stack([torch.zeros_like(cosine), self.major / area, cosine / area], dim=-1)
        return Fibre(self.normal(x), torch.full_like(cosine, -self.minor), length, coefficients)

    def parametrisation(self) -> Parametrisation:
        def embed(p: Tensor) -> Tensor:
            around, tube = (torch.stack([p[..., i].cos(), p[..., i].sin()], dim=-1) for i in (0, 1))
            return self._point(around, tube)

        def log_area(p: Tensor) -> Tensor:
            return torch.log(self.minor * (self.major + self.minor * p[..., 1].cos()))

        return Parametrisation([0.0, 0.0], [2 * math.pi] * 2, [True, True], embed, log_area)


def _direction(v: Tensor) -> Tensor:
    """Unit vectors of planar ones; of those too short to have a direction, the first axis."""
    short = (v.abs().amax(-1, keepdim=True) < torch.finfo(v.dtype).tiny ** 0.5).expand_as(v)
    first = torch.cat([torch.ones_like(v[..., :1]), torch.zeros_like(v[..., 1:])], dim=-1)
    return torch.nn.functional.normalize(torch.where(short, first, v), dim=-1, eps=0.0)


register_config("TorusOfRevolution", lambda config: TorusOfRevolution(config["major"], config["minor"]))


@geometry.to_config.register(TorusOfRevolution)
def _(manifold: TorusOfRevolution) -> dict[str, Any]:
    return {"type": "TorusOfRevolution", "major": manifold.major, "minor": manifold.minor}


@geometry.log_volume.register(TorusOfRevolution)
def _(manifold: TorusOfRevolution, point_shape: Shape) -> float:
    return math.log(4 * math.pi**2 * manifold.major * manifold.minor)


@geometry.sample_uniform.register(TorusOfRevolution)
def _(
    manifold: TorusOfRevolution,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    chart = manifold.parametrisation()

    def propose(count: int) -> tuple[Tensor, Tensor]:
        u = torch.rand(count, 3, generator=generator, dtype=dtype, device=device)
        angles = 2 * math.pi * u[:, :2]
        rate = (manifold.major + manifold.minor * angles[:, 1].cos()) / (manifold.major + manifold.minor)
        return chart.embed(angles), u[:, 2] < rate

    return reject(propose, sample_shape)


@geometry.raw_dim.register(TorusOfRevolution)
def _(manifold: TorusOfRevolution, point_shape: Shape) -> int:
    return 4


@geometry.from_raw.register(TorusOfRevolution)
def _(manifold: TorusOfRevolution, raw: Tensor, point_shape: Shape) -> Tensor:
    around, tube = (_direction(part) for part in raw.split(2, dim=-1))
    return manifold._point(around, tube)


@geometry.to_raw.register(TorusOfRevolution)
def _(manifold: TorusOfRevolution, x: Tensor) -> Tensor:
    # in lengths, so that distances of raw reals are those of points: the circle around the tube keeps its size
    around, tube = manifold._tube(x)
    return torch.cat([manifold.major * around, manifold.minor * tube], dim=-1)


@register_measure(TorusOfRevolution, "normalized")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) - geometry.log_volume(manifold, (x.shape[-1],))
