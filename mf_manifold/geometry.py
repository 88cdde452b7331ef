"""Riemannian geometry of geoopt manifolds: functions dispatched on the manifold's class.

geoopt owns the classes, the parameters and the optimisers; the numbers that a density needs come from here, because
geoopt's own maps clamp short distances and have NaN gradients at coinciding points and repeated eigenvalues. Each
manifold's implementation is one file of :mod:`mf_manifold.manifolds`; a subclass inherits it through the MRO.

Shapes: ``*B`` batch, ``*E`` point shape, ``d`` intrinsic dimension.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import geoopt
import torch
from torch import Tensor

Shape = tuple[int, ...]
NEARBY = 0.05  # projecting what is farther off would hide a mistake


def _late(name: str, manifold: geoopt.Manifold, *args: Any, **options: Any) -> Any:
    """Load the manifolds, whose implementations register themselves, and dispatch again."""
    from . import manifolds  # noqa: F401

    function = globals()[name]
    implementation = function.dispatch(type(manifold))
    if implementation is function.dispatch(object):
        known = ", ".join(sorted(cls.__name__ for cls in function.registry if cls is not object))
        raise NotImplementedError(
            f"Expected a manifold with an implementation of {name} ({known}), got {type(manifold).__name__}. "
            f"Register one with mf_manifold.geometry.{name}.register({type(manifold).__name__})."
        )
    return implementation(manifold, *args, **options)


@singledispatch
def intrinsic_dim(manifold: geoopt.Manifold, point_shape: Shape) -> int:
    """Dimension ``d`` of the manifold whose points have shape ``point_shape``.

    >>> import geoopt, mf_manifold as mf
    >>> mf.geometry.intrinsic_dim(geoopt.Sphere(), (3,))
    2
    """
    return _late("intrinsic_dim", manifold, point_shape)


@singledispatch
def expmap(manifold: geoopt.Manifold, x: Tensor, u: Tensor) -> Tensor:
    """Riemannian exponential: the end point of the geodesic from ``x`` with velocity ``u``; (*B,*E) -> (*B,*E)."""
    return _late("expmap", manifold, x, u)


@singledispatch
def logmap(manifold: geoopt.Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Riemannian logarithm: the shortest initial velocity at ``x`` that reaches ``y``; (*B,*E) -> (*B,*E)."""
    return _late("logmap", manifold, x, y)


@singledispatch
def dist(manifold: geoopt.Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Geodesic distance between ``x`` and ``y``, accurate for close points and at antipodes; (*B,*E) -> (*B)."""
    return _late("dist", manifold, x, y)


@singledispatch
def logdet_expmap(manifold: geoopt.Manifold, x: Tensor, u: Tensor) -> Tensor:
    """Log volume density ``log |det d exp_x(u)|`` in orthonormal bases; (*B,*E) -> (*B)."""
    return _late("logdet_expmap", manifold, x, u)


@singledispatch
def from_coords(manifold: geoopt.Manifold, x: Tensor, v: Tensor) -> Tensor:
    """Tangent vector at ``x`` with orthonormal coordinates ``v``; (*B,*E), (*B,d) -> (*B,*E).

    The coordinates are isometric for the manifold's metric. On the sphere no continuous choice of bases exists.
    """
    return _late("from_coords", manifold, x, v)


@singledispatch
def to_coords(manifold: geoopt.Manifold, x: Tensor, u: Tensor) -> Tensor:
    """Orthonormal coordinates of the tangent vector ``u`` at ``x``, the inverse of :func:`from_coords`; (*B,*E) -> (*B,d).

    A manifold without an implementation of its own has the vector expressed in its frame.

    >>> import geoopt, torch, mf_manifold as mf
    >>> x = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    >>> v = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    >>> mf.geometry.to_coords(geoopt.Sphere(), x, mf.geometry.from_coords(geoopt.Sphere(), x, v))
    tensor([[1., 2.]], dtype=torch.float64)
    """
    ndim, batch = point_ndim(manifold), batch_shape(manifold, x)
    dim = intrinsic_dim(manifold, tuple(x.shape[x.ndim - ndim :]))
    axes = torch.eye(dim, dtype=x.dtype, device=x.device)
    columns = [from_coords(manifold, x, axis.expand(*batch, dim)).flatten(len(batch)) for axis in axes]
    q, r = torch.linalg.qr(torch.stack(columns, dim=-1))
    against = q.mT @ u.flatten(u.ndim - ndim).unsqueeze(-1)
    return torch.linalg.solve_triangular(r, against, upper=True).squeeze(-1)


@singledispatch
def log_volume(manifold: geoopt.Manifold, point_shape: Shape) -> float:
    """Log of the total Riemannian volume; ``inf`` where the manifold is not compact.

    >>> import math, geoopt, mf_manifold as mf
    >>> abs(mf.geometry.log_volume(geoopt.Sphere(), (3,)) - math.log(4 * math.pi)) < 1e-12
    True
    """
    return _late("log_volume", manifold, point_shape)


@singledispatch
def sample_uniform(
    manifold: geoopt.Manifold,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Independent points of the uniform distribution of a compact manifold; -> (*sample_shape,*E)."""
    return _late("sample_uniform", manifold, point_shape, sample_shape, generator=generator, dtype=dtype, device=device)


@singledispatch
def project(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """Nearest point of the manifold to an ambient ``x`` that is off by rounding; (*B,*E) -> (*B,*E)."""
    return _late("project", manifold, x)


@singledispatch
def raw_dim(manifold: geoopt.Manifold, point_shape: Shape) -> int:
    """Number of unconstrained reals that :func:`from_raw` turns into a point."""
    return _late("raw_dim", manifold, point_shape)


@singledispatch
def from_raw(manifold: geoopt.Manifold, raw: Tensor, point_shape: Shape) -> Tensor:
    """Smooth map from unconstrained reals onto the manifold, for networks; (*B,raw_dim) -> (*B,*E)."""
    return _late("from_raw", manifold, raw, point_shape)


@singledispatch
def to_raw(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """A right inverse of :func:`from_raw`; (*B,*E) -> (*B,raw_dim)."""
    return _late("to_raw", manifold, x)


@singledispatch
def violations(manifold: geoopt.Manifold, x: Tensor) -> list[tuple[str, Tensor]]:
    """What keeps each finite row of ``x`` off the manifold: (name of the constraint, amount (*B)) pairs."""
    return _late("violations", manifold, x)


@singledispatch
def check_manifold(manifold: geoopt.Manifold, point_shape: Shape) -> None:
    """Raise ``ValueError`` if points of ``point_shape`` or this variant of the manifold are not supported."""
    return _late("check_manifold", manifold, point_shape)


@singledispatch
def to_config(manifold: geoopt.Manifold) -> dict[str, Any]:
    """JSON description of the manifold, read back by :func:`mf_manifold.manifolds.from_config`."""
    return _late("to_config", manifold)


def point_ndim(manifold: geoopt.Manifold) -> int:
    """Number of trailing dimensions of a point; geoopt's 0-dimensional ``Euclidean()`` is read as vectors."""
    return max(1, int(manifold.ndim))


def batch_shape(manifold: geoopt.Manifold, x: Tensor) -> torch.Size:
    """Shape of ``x`` without the trailing point dimensions."""
    return x.shape[: x.ndim - point_ndim(manifold)]


def same_manifold(a: geoopt.Manifold, b: geoopt.Manifold) -> bool:
    """Whether two manifold objects describe the same geometry."""
    related = isinstance(a, type(b)) or isinstance(b, type(a))  # others need no description, which some have not
    return a is b or (related and to_config(a) == to_config(b))


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-4 if torch.finfo(dtype).bits <= 32 else 1e-5


def _rows(bad: Tensor, label: str, amount: Tensor | None) -> str:
    rows = bad.reshape(-1)
    first = int(rows.nonzero()[0])
    text = f"{int(rows.sum())} of {rows.numel()} rows {label}, first row {first}"
    if amount is not None:
        text += f", worst {float(amount.reshape(-1)[rows].max()):.1e}"
    return text


def check_points(manifold: geoopt.Manifold, x: Tensor, point_shape: Shape, name: str = "points") -> None:
    """Check the shape of ``x``, that it is finite, and that its rows lie on the manifold.

    Raises:
        ValueError: says which rows are off, by how much, and what to do.
    """
    kind = type(manifold).__name__
    expected = f"Expected {name} of shape (..., {', '.join(map(str, point_shape))}) on {kind}"
    if not isinstance(x, Tensor):
        raise ValueError(f"{expected}, got a {type(x).__name__}. Convert with torch.as_tensor(...).")
    if not x.is_floating_point():
        raise ValueError(f"{expected} with a floating dtype, got {x.dtype}. Convert with .float() or .double().")
    if tuple(x.shape[x.ndim - len(point_shape) :]) != tuple(point_shape) or x.ndim < len(point_shape):
        raise ValueError(f"{expected}, got shape {tuple(x.shape)}.")
    if x.is_meta or x.numel() == 0:
        return
    broken = ~torch.isfinite(x.flatten(x.ndim - len(point_shape))).all(-1)
    if broken.any():
        raise ValueError(f"{expected}: {_rows(broken, 'have NaN or infinite entries', None)}. Remove or repair them.")
    for label, amount in violations(manifold, x.detach()):
        bad = amount > _tolerance(x.dtype)
        if bad.any():
            near = float(amount[bad].max()) < NEARBY
            advice = "Project them with mf_manifold.geometry.project(manifold, x)." if near else "Repair or remove them."
            raise ValueError(f"{expected}: {_rows(bad, label, amount)}. {advice}")
