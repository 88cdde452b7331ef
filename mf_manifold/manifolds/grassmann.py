"""Subspaces of dimension k of R^n, given by orthonormal bases."""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from ..numerics.linalg import sym, sym_sqrtm
from ..numerics.special import log_sinc_abs
from . import register_config
from .frames import complement, log_multigamma, off_orthonormal, polar, rotated

_HALVINGS, _ARCTAN_TERMS, _POLAR_STEPS = 3, 12, 10
_NEAREST = 1e-8  # of the cosine of an angle to 0, where the shortest geodesic is not unique


def _angles(x: Tensor, y: Tensor) -> Tensor:
    """Principal angles from sines and cosines: either alone loses half its digits next to one of the ends."""
    x, y = torch.broadcast_tensors(x, y)
    inner = x.mT @ y
    cosines = torch.linalg.svdvals(inner)
    sines = torch.linalg.svdvals(y - x @ inner).flip(-1)
    return torch.atan2(sines, cosines)


def _arctan(t: Tensor) -> Tensor:
    """``t arctan(r) / r`` with r = (t^T t)^(1/2): halved angles, then the power series, so that no eigenvalue is divided by."""
    eye = torch.eye(t.shape[-1], dtype=t.dtype, device=t.device)
    for _ in range(_HALVINGS):
        t = torch.linalg.solve(eye + sym_sqrtm(eye + t.mT @ t), t, left=False)
    square, total = t.mT @ t, torch.zeros_like(eye)
    for j in reversed(range(_ARCTAN_TERMS)):
        total = (-1) ** j / (2 * j + 1) * eye + square @ total
    return 2**_HALVINGS * t @ total


def _off_the_cut(inner: Tensor) -> Tensor:
    """Cosines of right angles, of which the polar factor would not be unique, raised to that of a nearby angle."""
    left, values, right = torch.linalg.svd(inner.detach())
    return inner + (left * (values.clamp_min(_NEAREST) - values).unsqueeze(-2)) @ right


def _rotation(x: Tensor) -> Tensor:
    """Polar factor of square matrices by Newton's iteration, whose derivatives exist at repeated singular values."""
    for _ in range(_POLAR_STEPS):
        inverse = torch.linalg.inv(x).mT
        scale = (inverse.detach().norm(dim=(-2, -1), keepdim=True) / x.detach().norm(dim=(-2, -1), keepdim=True)).sqrt()
        x = (scale * x + inverse / scale) / 2
    return x


class Grassmann(geoopt.Manifold):  # type: ignore[misc]
    """The subspaces of dimension k of R^n, 1 <= k < n; a point is an orthonormal basis (n,k), the same as others of its span.

    Bases are cheaper than projectors (n,n) and what optimisers of geoopt can move; densities do not change when X becomes X Q
    with Q orthogonal. Tangent vectors at X are the horizontal ones, ``X^T U = 0``, with the metric ``tr U^T U``: the squared
    distance is the sum of the squared principal angles. For k = 1 it is the sphere with x and -x identified.

    Shapes: points (*B, n, k).

    References:
        Edelman, Arias, Smith (1998), The geometry of algorithms with orthogonality constraints, section 2.5; Bendokat,
        Zimmermann, Absil (2024), A Grassmann manifold handbook.

    >>> import math, torch, mf_manifold as mf
    >>> x, y = torch.tensor([[1.0], [0.0]]), torch.tensor([[-math.cos(0.3)], [math.sin(0.3)]])
    >>> round(float(mf.geometry.dist(mf.manifolds.Grassmann(), x, y)), 4)
    0.3
    """

    name = "Grassmann"
    ndim = 2
    reversible = False

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        ok = bool((off_orthonormal(x) <= atol + rtol).all())
        return ok, None if ok else "`X^T X != I`"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = bool(((x.mT @ u).abs() <= atol + rtol * u.abs().amax()).all())
        return ok, None if ok else "`X^T U != 0`"

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return polar(rotated(x, u))

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return polar(x + u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        wide, other = x.double(), y.double()
        inner = wide.mT @ other
        turn = _rotation(_off_the_cut(inner)).mT
        cosines, sines = sym(inner @ turn), (other - wide @ inner) @ turn  # of the basis of y that is nearest to x
        eye = torch.eye(x.shape[-1], dtype=wide.dtype, device=x.device)
        return (2 * _arctan(torch.linalg.solve(eye + cosines, sines, left=False))).to(x.dtype)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        length = torch.linalg.vector_norm(_angles(x, y), dim=-1)
        return length[..., None, None] if keepdim else length

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.proju(y, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        return (u * (u if v is None else v)).sum((-2, -1), keepdim=keepdim)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u - x @ (x.mT @ u)

    egrad2rgrad = proju

    def projx(self, x: Tensor) -> Tensor:
        return polar(x)

    def random(
        self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None, **kwargs: Any
    ) -> geoopt.ManifoldTensor:
        """Independent uniform subspaces of shape ``size``."""
        noise = torch.randn(geoopt.utils.size2shape(*size), dtype=dtype, device=device, **kwargs)
        return geoopt.ManifoldTensor(polar(noise), manifold=self)

    def origin(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        seed: int | None = 42,
    ) -> geoopt.ManifoldTensor:
        """The span of the first k axes, repeated to shape ``size``."""
        shape = geoopt.utils.size2shape(*size)
        frame = torch.eye(shape[-2], shape[-1], dtype=dtype, device=device)
        return geoopt.ManifoldTensor(frame.repeat(*shape[:-2], 1, 1), manifold=self)


register_config("Grassmann", lambda config: Grassmann())


@geometry.check_manifold.register(Grassmann)
def _(manifold: Grassmann, point_shape: Shape) -> None:
    if len(point_shape) != 2 or not 1 <= point_shape[1] < point_shape[0]:
        raise ValueError(f"Expected a point shape (n, k) with 1 <= k < n on the Grassmannian, got {tuple(point_shape)}.")


@geometry.to_config.register(Grassmann)
def _(manifold: Grassmann) -> dict[str, Any]:
    return {"type": "Grassmann"}


@geometry.intrinsic_dim.register(Grassmann)
def _(manifold: Grassmann, point_shape: Shape) -> int:
    n, k = point_shape[-2:]
    return k * (n - k)


@geometry.expmap.register(Grassmann)
def _(manifold: Grassmann, x: Tensor, u: Tensor) -> Tensor:
    return manifold.expmap(x, u)


@geometry.logmap.register(Grassmann)
def _(manifold: Grassmann, x: Tensor, y: Tensor) -> Tensor:
    return manifold.logmap(x, y)


@geometry.dist.register(Grassmann)
def _(manifold: Grassmann, x: Tensor, y: Tensor) -> Tensor:
    return manifold.dist(x, y)


@geometry.logdet_expmap.register(Grassmann)
def _(manifold: Grassmann, x: Tensor, u: Tensor) -> Tensor:
    n, k = x.shape[-2:]
    rank = min(k, n - k)
    angles = torch.linalg.svdvals(u)[..., :rank]
    rows, columns = torch.tril_indices(rank, rank, -1, device=u.device)
    a, b = angles[..., rows], angles[..., columns]
    pairs = (log_sinc_abs(a - b) + log_sinc_abs(a + b)).sum(-1)
    return pairs + abs(n - 2 * k) * log_sinc_abs(angles).sum(-1)


@geometry.from_coords.register(Grassmann)
def _(manifold: Grassmann, x: Tensor, v: Tensor) -> Tensor:
    n, k = x.shape[-2:]
    return complement(x) @ v.unflatten(-1, (n - k, k))


@geometry.log_volume.register(Grassmann)
def _(manifold: Grassmann, point_shape: Shape) -> float:
    n, k = point_shape[-2:]
    return k * (n - k) / 2 * math.log(math.pi) + log_multigamma(k, k / 2) - log_multigamma(k, n / 2)


@geometry.sample_uniform.register(Grassmann)
def _(
    manifold: Grassmann,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    return polar(torch.randn((*sample_shape, *point_shape), generator=generator, dtype=dtype, device=device))


@geometry.project.register(Grassmann)
def _(manifold: Grassmann, x: Tensor) -> Tensor:
    return polar(x)


@geometry.raw_dim.register(Grassmann)
def _(manifold: Grassmann, point_shape: Shape) -> int:
    return math.prod(point_shape[-2:])


@geometry.from_raw.register(Grassmann)
def _(manifold: Grassmann, raw: Tensor, point_shape: Shape) -> Tensor:
    return polar(raw.unflatten(-1, tuple(point_shape[-2:])))


@geometry.to_raw.register(Grassmann)
def _(manifold: Grassmann, x: Tensor) -> Tensor:
    return x.flatten(-2)


@geometry.violations.register(Grassmann)
def _(manifold: Grassmann, x: Tensor) -> list[tuple[str, Tensor]]:
    return [("have columns that are not orthonormal, off by |X^T X - 1|", off_orthonormal(x))]


@register_measure(Grassmann, "normalized")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) - geometry.log_volume(manifold, tuple(x.shape[-2:]))
