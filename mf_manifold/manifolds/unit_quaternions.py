"""Rotations of space as unit quaternions: SO(3) in other coordinates, with the same metric."""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from ..numerics import quaternions
from ..numerics.curved import cos_sqrt, sinc_sqrt
from ..numerics.orthogonal import log_volume
from ..numerics.special import log_sinc_abs
from . import register_config
from .special_orthogonal import SpecialOrthogonal


class UnitQuaternions(geoopt.Manifold):  # type: ignore[misc]
    """Rotations of space as unit quaternions (w, x, y, z), scalar first; q and -q are one point.

    The metric is that of ``SpecialOrthogonal`` for n = 3, four times the one of the sphere: distances are angles of rotation
    (at most pi), the volume is 8 pi^2. A tangent vector at q is ``q (0, v/2)`` with the coordinates v, the same as there.
    Quaternions with the scalar last, as SciPy has them by default, are converted by ``q.roll(1, -1)``.

    Shapes: points (*B, 4).

    >>> import torch, mf_manifold as mf
    >>> q = torch.tensor([0.6, 0.8, 0., 0.])
    >>> round(float(mf.geometry.dist(mf.manifolds.UnitQuaternions(), q, -q)), 4)
    0.0
    """

    name = "UnitQuaternions"
    ndim = 1
    reversible = True

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        worst = max((x.norm(dim=-1) - 1).abs().flatten().tolist(), default=0.0)
        return worst <= atol, None if worst <= atol else f"a norm is off 1 by {worst:.1e}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        worst = max((x * u).sum(-1).abs().flatten().tolist(), default=0.0)
        return worst <= atol, None if worst <= atol else f"a vector is off the tangent space by {worst:.1e}"

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return geometry.expmap(self, x, u)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return quaternions.unit(x + u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return geometry.logmap(self, x, y)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        distance = geometry.dist(self, x, y)
        return distance.unsqueeze(-1) if keepdim else distance

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return quaternions.multiply(y, quaternions.multiply(quaternions.conjugate(x), v))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        return 4 * (u * (u if v is None else v)).sum(-1, keepdim=keepdim)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u - (x * u).sum(-1, keepdim=True) * x

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u) / 4

    def projx(self, x: Tensor) -> Tensor:
        return quaternions.unit(x)

    def random(
        self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None, **kwargs: Any
    ) -> geoopt.ManifoldTensor:
        """Independent uniform rotations of shape ``size``."""
        draw = torch.randn(geoopt.utils.size2shape(*size), dtype=dtype, device=device, **kwargs)
        return geoopt.ManifoldTensor(quaternions.upper(quaternions.unit(draw)), manifold=self)

    def origin(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        seed: int | None = 42,
    ) -> geoopt.ManifoldTensor:
        """The identity, repeated to shape ``size``."""
        one = torch.eye(4, dtype=dtype, device=device)[0]
        return geoopt.ManifoldTensor(one.expand(geoopt.utils.size2shape(*size)).clone(), manifold=self)


register_config("UnitQuaternions", lambda config: UnitQuaternions())


@geometry.check_manifold.register(UnitQuaternions)
def _(manifold: UnitQuaternions, point_shape: Shape) -> None:
    if tuple(point_shape) != (4,):
        raise ValueError(f"Expected the point shape (4,) of unit quaternions, got {tuple(point_shape)}.")


@geometry.to_config.register(UnitQuaternions)
def _(manifold: UnitQuaternions) -> dict[str, Any]:
    return {"type": "UnitQuaternions"}


@geometry.intrinsic_dim.register(UnitQuaternions)
def _(manifold: UnitQuaternions, point_shape: Shape) -> int:
    return 3


@geometry.expmap.register(UnitQuaternions)
def _(manifold: UnitQuaternions, x: Tensor, u: Tensor) -> Tensor:
    half2 = u.square().sum(-1, keepdim=True)
    return quaternions.unit(cos_sqrt(half2) * x + sinc_sqrt(half2) * u)


@geometry.logmap.register(UnitQuaternions)
def _(manifold: UnitQuaternions, x: Tensor, y: Tensor) -> Tensor:
    x, y = torch.broadcast_tensors(x, y)
    return geometry.from_coords(manifold, x, quaternions.rotation_vector(quaternions.relative(x, y)))


@geometry.dist.register(UnitQuaternions)
def _(manifold: UnitQuaternions, x: Tensor, y: Tensor) -> Tensor:
    return quaternions.angle_between(x, y)


@geometry.logdet_expmap.register(UnitQuaternions)
def _(manifold: UnitQuaternions, x: Tensor, u: Tensor) -> Tensor:
    return 2 * log_sinc_abs(torch.sqrt(u.square().sum(-1) + torch.finfo(u.dtype).tiny))


@geometry.from_coords.register(UnitQuaternions)
def _(manifold: UnitQuaternions, x: Tensor, v: Tensor) -> Tensor:
    return quaternions.multiply(x, torch.nn.functional.pad(v / 2, (1, 0)))


@geometry.to_coords.register(UnitQuaternions)
def _(manifold: UnitQuaternions, x: Tensor, u: Tensor) -> Tensor:
    return 2 * quaternions.multiply(quaternions.conjugate(x), u)[..., 1:]


@geometry.log_volume.register(UnitQuaternions)
def _(manifold: UnitQuaternions, point_shape: Shape) -> float:
    return log_volume(3)


@geometry.sample_uniform.register(UnitQuaternions)
def _(
    manifold: UnitQuaternions,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    q = torch.randn((*sample_shape, 4), generator=generator, dtype=dtype, device=device)
    return quaternions.upper(quaternions.unit(q))


@geometry.project.register(UnitQuaternions)
def _(manifold: UnitQuaternions, x: Tensor) -> Tensor:
    return quaternions.unit(x)


# Networks and neighbour searches see two columns of the matrix: quaternions would have their opposites far away.


@geometry.raw_dim.register(UnitQuaternions)
def _(manifold: UnitQuaternions, point_shape: Shape) -> int:
    return 6


@geometry.from_raw.register(UnitQuaternions)
def _(manifold: UnitQuaternions, raw: Tensor, point_shape: Shape) -> Tensor:
    return quaternions.upper(quaternions.from_matrix(geometry.from_raw(SpecialOrthogonal(), raw, (3, 3))))


@geometry.to_raw.register(UnitQuaternions)
def _(manifold: UnitQuaternions, x: Tensor) -> Tensor:
    return geometry.to_raw(SpecialOrthogonal(), quaternions.to_matrix(x))


@geometry.violations.register(UnitQuaternions)
def _(manifold: UnitQuaternions, x: Tensor) -> list[tuple[str, Tensor]]:
    return [("are off the unit quaternions by | |q| - 1 |", (x.norm(dim=-1) - 1).abs())]


def _normalized(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) - log_volume(3)


register_measure(UnitQuaternions, "normalized")(_normalized)
register_measure(UnitQuaternions, "haar")(_normalized)


@register_measure(UnitQuaternions, "frobenius")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) + 1.5 * math.log(2)
