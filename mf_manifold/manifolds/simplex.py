"""The open probability simplex with Aitchison's geometry, in which log-ratios are flat coordinates."""

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


def helmert(size: int, like: Tensor) -> Tensor:
    """Orthonormal rows (size - 1, size) that are orthogonal to (1, ..., 1)."""
    j = torch.arange(1, size, dtype=like.dtype, device=like.device).unsqueeze(-1)
    column = torch.arange(size, dtype=like.dtype, device=like.device)
    rows = (column < j).to(like.dtype) - j * (column == j).to(like.dtype)
    return rows / torch.sqrt(j * (j + 1))


def log_ratio_coordinates(x: Tensor) -> Tensor:
    """Isometric log-ratio coordinates; (*B,K) -> (*B,K-1)."""
    return torch.log(x) @ helmert(x.shape[-1], x).mT


def from_log_ratio_coordinates(v: Tensor) -> Tensor:
    """The inverse of :func:`log_ratio_coordinates`; (*B,K-1) -> (*B,K)."""
    return closure(v @ helmert(v.shape[-1] + 1, v))


def closure(logs: Tensor) -> Tensor:
    """The point with these logarithms up to a constant; what would underflow is kept at the smallest normal number."""
    return torch.softmax(logs, dim=-1).clamp_min(torch.finfo(logs.dtype).tiny)


def _log_quotient(x: Tensor, y: Tensor) -> Tensor:
    """Centred ``log(y / x)``; of the quotient, because the difference of logarithms loses digits of close points."""
    logs = torch.log(y / x)
    return logs - logs.mean(-1, keepdim=True)


class Simplex(geoopt.Manifold):  # type: ignore[misc]
    """The open simplex: vectors of K >= 2 positive parts that sum to one, with the metric of Aitchison geometry.

    The metric is ``sum_i (dx_i / x_i - mean_j dx_j / x_j)^2``, the Euclidean one of the isometric log-ratio coordinates: it is
    flat, distances do not depend on the unit of the parts, and every map is in closed form.

    Shapes: points (*B, K).

    References:
        Pawlowsky-Glahn, Egozcue (2001), Geometric approach to statistical analysis on the simplex; Egozcue et al. (2003),
        Isometric logratio transformations for compositional data analysis.

    >>> import torch, mf_manifold as mf
    >>> simplex = mf.manifolds.Simplex()
    >>> x, y = torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.5])
    >>> round(float(mf.geometry.dist(simplex, x, y)), 4)        # log 4 / sqrt 2
    0.9803
    """

    name = "Simplex"
    ndim = 1
    reversible = True

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        ok = bool((x > 0).all()) and bool(((x.sum(-1) - 1).abs() <= atol + rtol).all())
        return ok, None if ok else "parts are not positive or do not sum to one"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = bool((u.sum(-1).abs() <= atol + rtol * u.abs().sum(-1)).all())
        return ok, None if ok else "the entries of a tangent vector do not sum to zero"

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return closure(torch.log(x) + u / x)

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._tangent(x, _log_quotient(x, y))

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return torch.linalg.vector_norm(_log_quotient(x, y), dim=-1, keepdim=keepdim)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._tangent(y, v / x)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        a, b = (t / x - (t / x).mean(-1, keepdim=True) for t in (u, u if v is None else v))
        return (a * b).sum(-1, keepdim=keepdim)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u - u.mean(-1, keepdim=True)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._tangent(x, x * (u - (x * u).sum(-1, keepdim=True)))

    def projx(self, x: Tensor) -> Tensor:
        x = x.clamp_min(torch.finfo(x.dtype).tiny)
        return x / x.sum(-1, keepdim=True)

    def random(
        self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None, **kwargs: Any
    ) -> geoopt.ManifoldTensor:
        """Independent points of shape ``size``, uniform with respect to Lebesgue measure."""
        gamma = torch.empty(geoopt.utils.size2shape(*size), dtype=dtype, device=device).exponential_(**kwargs)
        return geoopt.ManifoldTensor(self.projx(gamma), manifold=self)

    def origin(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        seed: int | None = 42,
    ) -> geoopt.ManifoldTensor:
        """The point with equal parts, repeated to shape ``size``."""
        shape = geoopt.utils.size2shape(*size)
        return geoopt.ManifoldTensor(torch.full(shape, 1 / shape[-1], dtype=dtype, device=device), manifold=self)

    @staticmethod
    def _tangent(x: Tensor, logs: Tensor) -> Tensor:
        """The tangent vector at ``x`` along which the logarithms change by ``logs`` up to a constant."""
        return x * (logs - (x * logs).sum(-1, keepdim=True) / x.sum(-1, keepdim=True))


register_config("Simplex", lambda config: Simplex())


@geometry.check_manifold.register(Simplex)
def _(manifold: Simplex, point_shape: Shape) -> None:
    if len(point_shape) != 1 or point_shape[0] < 2:
        raise ValueError(f"Expected a point shape (K,) with K >= 2 on the simplex, got {tuple(point_shape)}.")


@geometry.to_config.register(Simplex)
def _(manifold: Simplex) -> dict[str, Any]:
    return {"type": "Simplex"}


@geometry.intrinsic_dim.register(Simplex)
def _(manifold: Simplex, point_shape: Shape) -> int:
    return point_shape[-1] - 1


@geometry.expmap.register(Simplex)
def _(manifold: Simplex, x: Tensor, u: Tensor) -> Tensor:
    return manifold.expmap(x, u)


@geometry.logmap.register(Simplex)
def _(manifold: Simplex, x: Tensor, y: Tensor) -> Tensor:
    return manifold.logmap(x, y)


@geometry.dist.register(Simplex)
def _(manifold: Simplex, x: Tensor, y: Tensor) -> Tensor:
    return manifold.dist(x, y)


@geometry.logdet_expmap.register(Simplex)
def _(manifold: Simplex, x: Tensor, u: Tensor) -> Tensor:
    return zeros_like_batch(manifold, u)


@geometry.from_coords.register(Simplex)
def _(manifold: Simplex, x: Tensor, v: Tensor) -> Tensor:
    return manifold._tangent(x, v @ helmert(x.shape[-1], x))


@geometry.log_volume.register(Simplex)
def _(manifold: Simplex, point_shape: Shape) -> float:
    return math.inf


@geometry.project.register(Simplex)
def _(manifold: Simplex, x: Tensor) -> Tensor:
    return manifold.projx(x)


@geometry.raw_dim.register(Simplex)
def _(manifold: Simplex, point_shape: Shape) -> int:
    return point_shape[-1] - 1


@geometry.from_raw.register(Simplex)
def _(manifold: Simplex, raw: Tensor, point_shape: Shape) -> Tensor:
    return from_log_ratio_coordinates(raw)


@geometry.to_raw.register(Simplex)
def _(manifold: Simplex, x: Tensor) -> Tensor:
    return log_ratio_coordinates(x)


@geometry.violations.register(Simplex)
def _(manifold: Simplex, x: Tensor) -> list[tuple[str, Tensor]]:
    smallest = x.amin(-1)
    # a part of zero is infinitely far from every point: it counts as off by more than any tolerance
    amount = torch.where(smallest > 0, 0 * smallest, 1 - smallest)
    return [
        ("have a part that is zero or negative (give zeros a small share first; 1 - smallest part)", amount),
        ("do not sum to one, off by", (x.sum(-1) - 1).abs()),
    ]


# Densities with respect to the volume; with x_1 .. x_(K-1) free, d log-ratios = dx / (sqrt K prod_i x_i).


@register_measure(Simplex, "aitchison")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x)


@register_measure(Simplex, "lebesgue")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return torch.log(x).sum(-1) + 0.5 * math.log(x.shape[-1])


@register_measure(Simplex, "hausdorff")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return torch.log(x).sum(-1) + math.log(x.shape[-1])
