"""The flat torus T^d = (R / 2 pi Z)^d in angles."""

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


def wrap(angle: Tensor) -> Tensor:
    """The representative of an angle in [-pi, pi), with gradient 1."""
    return angle - 2 * math.pi * torch.floor((angle.detach() + math.pi) / (2 * math.pi))


class Torus(geoopt.Manifold):  # type: ignore[misc]
    """The flat torus whose points are vectors of angles in radians, a point being the same modulo 2 pi.

    The metric is ``sum_i d theta_i^2``; its volume is Lebesgue measure in radians, in total ``(2 pi)^d``. It is no subclass of
    ``geoopt.Euclidean``, so that dispatch never takes it for a flat space without wrapping.

    Shapes: points (*B, d).

    >>> import math, torch, mf_manifold as mf
    >>> torus = mf.manifolds.Torus()
    >>> d = mf.geometry.dist(torus, torch.tensor([math.pi - 0.1]), torch.tensor([0.1 - math.pi]))
    >>> round(float(d), 4)
    0.2
    """

    name = "Torus"
    ndim = 1
    reversible = True

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        ok = bool(torch.isfinite(x).all())
        return ok, None if ok else "an angle is not finite"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        return True, None

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return wrap(x + u)

    expmap = retr

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return wrap(y - x)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.logmap(x, y).norm(dim=-1, keepdim=keepdim)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        return (u * (u if v is None else v)).sum(-1, keepdim=keepdim)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def projx(self, x: Tensor) -> Tensor:
        return wrap(x)

    def random(
        self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None, **kwargs: Any
    ) -> geoopt.ManifoldTensor:
        """Independent uniform points of shape ``size``."""
        angles = 2 * math.pi * torch.rand(geoopt.utils.size2shape(*size), dtype=dtype, device=device, **kwargs)
        return geoopt.ManifoldTensor(angles - math.pi, manifold=self)

    def origin(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        seed: int | None = 42,
    ) -> geoopt.ManifoldTensor:
        """The point with all angles zero, repeated to shape ``size``."""
        zeros = torch.zeros(geoopt.utils.size2shape(*size), dtype=dtype, device=device)
        return geoopt.ManifoldTensor(zeros, manifold=self)


register_config("Torus", lambda config: Torus())


@geometry.check_manifold.register(Torus)
def _(manifold: Torus, point_shape: Shape) -> None:
    if len(point_shape) != 1 or point_shape[0] < 1:
        raise ValueError(f"Expected a point shape (d,) with d >= 1 on the torus, got {tuple(point_shape)}.")


@geometry.to_config.register(Torus)
def _(manifold: Torus) -> dict[str, Any]:
    return {"type": "Torus"}


@geometry.intrinsic_dim.register(Torus)
def _(manifold: Torus, point_shape: Shape) -> int:
    return point_shape[-1]


@geometry.expmap.register(Torus)
def _(manifold: Torus, x: Tensor, u: Tensor) -> Tensor:
    return wrap(x + u)


@geometry.logmap.register(Torus)
def _(manifold: Torus, x: Tensor, y: Tensor) -> Tensor:
    return wrap(y - x)


@geometry.dist.register(Torus)
def _(manifold: Torus, x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.vector_norm(wrap(y - x), dim=-1)


@geometry.logdet_expmap.register(Torus)
def _(manifold: Torus, x: Tensor, u: Tensor) -> Tensor:
    return zeros_like_batch(manifold, u)


@geometry.from_coords.register(Torus)
def _(manifold: Torus, x: Tensor, v: Tensor) -> Tensor:
    return v


@geometry.to_coords.register(Torus)
def _(manifold: Torus, x: Tensor, u: Tensor) -> Tensor:
    return u


@geometry.log_volume.register(Torus)
def _(manifold: Torus, point_shape: Shape) -> float:
    return point_shape[-1] * math.log(2 * math.pi)


@geometry.sample_uniform.register(Torus)
def _(
    manifold: Torus,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    u = torch.rand((*sample_shape, *point_shape), generator=generator, dtype=dtype, device=device)
    return (2 * u - 1) * math.pi


@geometry.project.register(Torus)
def _(manifold: Torus, x: Tensor) -> Tensor:
    return wrap(x)


@geometry.raw_dim.register(Torus)
def _(manifold: Torus, point_shape: Shape) -> int:
    return 2 * point_shape[-1]


@geometry.from_raw.register(Torus)
def _(manifold: Torus, raw: Tensor, point_shape: Shape) -> Tensor:
    cosine, sine = raw.chunk(2, dim=-1)
    return torch.atan2(sine, cosine)


@geometry.to_raw.register(Torus)
def _(manifold: Torus, x: Tensor) -> Tensor:
    return torch.cat([torch.cos(x), torch.sin(x)], dim=-1)


@geometry.violations.register(Torus)
def _(manifold: Torus, x: Tensor) -> list[tuple[str, Tensor]]:
    # any real angle is a point; far outside one turn it is nearly always a degree, and that mistake must not pass
    excess = torch.relu(x.abs().amax(-1) - 2 * math.pi)
    return [("exceed 2 pi radians (degrees passed as radians? convert with torch.deg2rad)", excess)]


@register_measure(Torus, "normalized")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) - geometry.log_volume(manifold, (x.shape[-1],))
