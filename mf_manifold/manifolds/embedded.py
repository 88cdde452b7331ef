"""Submanifolds of R^D with the metric that R^D induces, whose geodesics have no closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, NoReturn

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape

REJECTION_BLOCK = 1.2  # proposals drawn per point still missing, over the expected number


class EmbeddedManifold(geoopt.Manifold):  # type: ignore[misc]
    """A submanifold of R^D; its volume is the Hausdorff measure of its dimension.

    A subclass gives ``dim``, ``ambient_dim``, :meth:`closest`, :meth:`frame` and :meth:`offset`. There is no geodesic distance,
    exponential or logarithm: densities here need none.

    Shapes: points (*B,D).
    """

    ndim = 1
    reversible = False
    dim: int
    ambient_dim: int
    name: ClassVar[str]
    origin: tuple[str, dict[str, Any]] | None = None  # name and options by which it can be made again

    def closest(self, x: Tensor) -> Tensor:
        """Nearest point of the manifold; (*B,D) -> (*B,D)."""
        raise NotImplementedError

    def frame(self, x: Tensor) -> Tensor:
        """Orthonormal basis of the tangent space, in columns; (*B,D) -> (*B,D,d)."""
        raise NotImplementedError

    def offset(self, x: Tensor) -> Tensor:
        """How far ``x`` is off the manifold, to first order; (*B,D) -> (*B)."""
        raise NotImplementedError

    def parametrisation(self) -> Parametrisation:
        """Coordinates in a box that cover the manifold, where it is compact and such are known."""
        raise NotImplementedError(f"{self.name} has no coordinates in a bounded box here: nothing integrates over it.")

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        ok = bool((self.offset(x) <= atol).all())
        return ok, None if ok else f"a point is off the manifold by more than {atol}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = torch.allclose(self.proju(x, u), u, atol=atol, rtol=rtol)
        return ok, None if ok else "a vector is not tangent"

    def projx(self, x: Tensor) -> Tensor:
        return self.closest(x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        frame = self.frame(x)
        return (frame @ (frame.mT @ u.unsqueeze(-1))).squeeze(-1)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        return (u * (u if v is None else v)).sum(-1, keepdim=keepdim)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self.closest(x + u)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.proju(y, v)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return geometry.expmap(self, x, u)


class Fibre(NamedTuple):
    """The line through a point of a hypersurface, along which closest-point projection collapses the space onto it.

    With ``t`` in (0, length) the ambient points are ``x + (start + t) normal``; the volume of the ambient space there is
    ``P(t) dt dS(x)``, P given by its coefficients from the constant upwards. ``length`` None is infinity.
    """

    normal: Tensor  # (*B,D)
    start: Tensor  # (*B)
    length: Tensor | None  # (*B)
    coefficients: Tensor  # (*B,K+1)


class Parametrisation(NamedTuple):
    """Coordinates that cover a manifold once, up to a set without volume: a box, with some sides glued together."""

    lower: list[float]
    upper: list[float]
    periodic: list[bool]
    embed: Callable[[Tensor], Tensor]  # (*B,d) -> (*B,D)
    log_area: Callable[[Tensor], Tensor]  # log volume per unit of coordinates; (*B,d) -> (*B)


def _no_geodesics(manifold: EmbeddedManifold, what: str) -> NoReturn:
    raise NotImplementedError(
        f"The geodesics of {type(manifold).__name__} have no closed form, so it has no {what}. Densities, samplers and "
        "mixtures on it need none; for steps use manifold.retr(x, u), for lengths chords in the ambient space."
    )


@geometry.expmap.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor, u: Tensor) -> Tensor:
    _no_geodesics(manifold, "expmap")


@geometry.logmap.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor, y: Tensor) -> Tensor:
    _no_geodesics(manifold, "logmap")


@geometry.dist.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor, y: Tensor) -> Tensor:
    _no_geodesics(manifold, "dist")


@geometry.logdet_expmap.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor, u: Tensor) -> Tensor:
    _no_geodesics(manifold, "logdet_expmap")


@geometry.check_manifold.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, point_shape: Shape) -> None:
    if tuple(point_shape) != (manifold.ambient_dim,):
        raise ValueError(
            f"Expected the point shape ({manifold.ambient_dim},) of ambient coordinates on {manifold.name}, "
            f"got {tuple(point_shape)}."
        )


@geometry.intrinsic_dim.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, point_shape: Shape) -> int:
    return manifold.dim


@geometry.from_coords.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor, v: Tensor) -> Tensor:
    return (manifold.frame(x) @ v.unsqueeze(-1)).squeeze(-1)


@geometry.project.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor) -> Tensor:
    return manifold.closest(x)


@geometry.violations.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, x: Tensor) -> list[tuple[str, Tensor]]:
    # where a chart has no coordinates their distance is NaN, which would pass as small
    return [("are off it by their distance", manifold.offset(x).nan_to_num(nan=math.inf, posinf=math.inf))]


@geometry.log_volume.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold, point_shape: Shape) -> float:
    return math.inf


def hypersurface_frame(normal: Tensor) -> Tensor:
    """Orthonormal basis of the complement of unit vectors, by a reflection that maps them to an axis; -> (*B,D,D-1)."""
    sphere, size = geoopt.Sphere(), normal.shape[-1]
    eye = torch.eye(size - 1, dtype=normal.dtype, device=normal.device)
    return geometry.from_coords(sphere, normal.unsqueeze(-2), eye.expand(*normal.shape[:-1], size - 1, size - 1)).mT


def reject(propose: Callable[[int], tuple[Tensor, Tensor]], sample_shape: Shape) -> Tensor:
    """Points accepted out of ``propose(n) -> (points (n,*E), accepted (n))``, as many as ``sample_shape`` asks for."""
    wanted, found, rate = math.prod(sample_shape), [], 1.0
    missing = wanted
    while True:
        points, accepted = propose(max(16, int(REJECTION_BLOCK * missing / rate)))
        if points.is_meta:
            return points[:1].expand(wanted, *points.shape[1:]).reshape(*sample_shape, *points.shape[1:])
        found.append(points[accepted])
        rate = max(float(accepted.double().mean()), 0.01)
        missing = wanted - sum(len(part) for part in found)
        if missing <= 0:
            return torch.cat(found)[:wanted].reshape(*sample_shape, *points.shape[1:])
