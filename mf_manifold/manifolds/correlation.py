"""Correlation matrices of full rank, flat in Fisher's z of their canonical partial correlations.

Row i of the Cholesky factor L is a unit vector. With its tails ``t_ij = sqrt(sum_{k >= j} L_ik^2)`` the canonical partial
correlation of variables i and j given 0 .. j-1 is ``c_ij = L_ij / t_ij``, and its Fisher z is ``asinh(L_ij / t_{i,j+1})``: no
difference of nearly equal numbers anywhere. The z are any reals, so the space is R^(p(p-1)/2) with its Euclidean metric.
"""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from ..numerics.linalg import sym
from . import register_config


def below(p: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of the entries below the diagonal, row by row."""
    rows, columns = torch.tril_indices(p, p, -1, device=device)
    return rows, columns


def factor_or_identity(x: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor in float64 and whether there is one; the identity stands in where there is none."""
    wide = x.double()
    full_rank = torch.linalg.cholesky_ex(wide.detach()).info == 0
    eye = torch.eye(x.shape[-1], dtype=wide.dtype, device=x.device)
    return torch.linalg.cholesky_ex(torch.where(full_rank[..., None, None], wide, eye)).L, full_rank


def _tails(factor: Tensor) -> Tensor:
    """``t_{i,j+1}`` for the entries below the diagonal: lengths of what follows an entry in its row; (*B,p,p) -> (*B,m)."""
    squares = factor.square()
    after = squares.flip(-1).cumsum(-1).flip(-1)
    rows, columns = below(factor.shape[-1], factor.device)
    return after[..., rows, columns + 1].sqrt()


def sinh_z(factor: Tensor) -> Tensor:
    """Hyperbolic sines of the coordinates from a Cholesky factor; (*B,p,p) -> (*B,m)."""
    rows, columns = below(factor.shape[-1], factor.device)
    return factor[..., rows, columns] / _tails(factor)


def partial_coordinates(x: Tensor) -> Tensor:
    """Fisher's z of the canonical partial correlations, in float64; (*B,p,p) -> (*B,p(p-1)/2)."""
    return torch.asinh(sinh_z(factor_or_identity(x)[0]))


def log_cosh(z: Tensor) -> Tensor:
    """``log cosh z`` without overflow."""
    size = z.abs()
    return size + torch.log1p(torch.exp(-2 * size)) - math.log(2)


def _lower(v: Tensor) -> Tensor:
    """Strictly lower triangular matrices from their entries; (*B,m) -> (*B,p,p)."""
    p = (math.isqrt(8 * v.shape[-1] + 1) + 1) // 2
    rows, columns = below(p, v.device)
    out = torch.zeros((*v.shape[:-1], p, p), dtype=v.dtype, device=v.device)
    out[..., rows, columns] = v
    return out


def _factor(z: Tensor) -> Tensor:
    """Cholesky factor with these coordinates; (*B,m) -> (*B,p,p)."""
    full = _lower(z)
    log_tail = -log_cosh(full).cumsum(-1)
    log_tail = torch.cat([torch.zeros_like(log_tail[..., :1]), log_tail[..., :-1]], dim=-1)
    return torch.tanh(full).tril(-1) * log_tail.exp() + torch.diag_embed(log_tail.diagonal(dim1=-2, dim2=-1).exp())


def from_partial_coordinates(z: Tensor) -> Tensor:
    """The inverse of :func:`partial_coordinates`; (*B,m) -> (*B,p,p)."""
    factor = _factor(z)
    return _unit_diagonal(factor @ factor.mT)


def full_rank(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Correlation matrices in ``dtype``; what would be singular to rounding is moved a few roundings towards the identity."""
    rounded = x.to(dtype)
    singular = ~factor_or_identity(rounded)[1]
    shrunk = _unit_diagonal((1 - 4 * x.shape[-1] * torch.finfo(dtype).eps) * rounded)
    return torch.where(singular[..., None, None], shrunk, rounded)


def _unit_diagonal(x: Tensor) -> Tensor:
    return sym(x).tril(-1) + sym(x).triu(1) + torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _velocity_to_coordinates(x: Tensor, u: Tensor) -> Tensor:
    """Derivative of :func:`partial_coordinates` at ``x`` in the direction ``u``."""
    factor = factor_or_identity(x)[0]
    half = torch.linalg.solve_triangular(factor, u.double(), upper=False)
    inner = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    d_factor = factor @ (inner.tril(-1) + torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1) / 2))
    rows, columns = below(x.shape[-1], x.device)
    tails, entries = _tails(factor), factor[..., rows, columns]
    products = (factor * d_factor).flip(-1).cumsum(-1).flip(-1)[..., rows, columns + 1]
    slope = d_factor[..., rows, columns] / tails - entries * products / tails**3
    return slope / torch.sqrt(1 + (entries / tails).square())


def _velocity_from_coordinates(x: Tensor, v: Tensor) -> Tensor:
    """Derivative of :func:`from_partial_coordinates` at the coordinates of ``x``; (*B,m) -> (*B,p,p)."""
    factor, v = factor_or_identity(x)[0], v.double()
    sinh = _lower(sinh_z(factor))
    rate = (torch.tanh(torch.asinh(sinh)) * _lower(v)).cumsum(-1)
    before = torch.cat([torch.zeros_like(rate[..., :1]), rate[..., :-1]], dim=-1)
    # entry = tail tanh z, d entry = tail dz / cosh^2 z - entry sum_{k < j} tanh z_k dz_k; tail / cosh z is the next tail
    steps = _lower(_tails(factor) * v / torch.sqrt(1 + sinh_z(factor).square()))
    d_factor = steps - factor * before
    product = d_factor @ factor.mT
    return _zero_diagonal(product + product.mT)


def _zero_diagonal(u: Tensor) -> Tensor:
    return sym(u).tril(-1) + sym(u).triu(1)


class Correlation(geoopt.Manifold):  # type: ignore[misc]
    """Correlation matrices of full rank, p >= 2, with the flat metric of Fisher's z of the canonical partial correlations.

    For p = 2 the metric is ``d atanh(r)^2``, the one that stabilises the variance of a correlation. In general the coordinates
    ``z_ij = atanh c_ij`` map the space onto R^(p(p-1)/2), so that geodesics, distances, means and volume are in closed form and
    singular matrices are infinitely far. The metric depends on the order of the variables, as every metric from a Cholesky
    factor does; the ``lebesgue`` measure and the LKJ law do not.

    Shapes: points (*B, p, p), symmetric positive definite with ones on the diagonal.

    References:
        Joe (2006), Generating random correlation matrices based on partial correlations.

    >>> import torch, mf_manifold as mf
    >>> x = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
    >>> round(float(mf.geometry.dist(mf.manifolds.Correlation(), x, torch.eye(2))), 4)       # atanh 0.6
    0.6931
    """

    name = "Correlation"
    ndim = 2
    reversible = True

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        for label, amount in geometry.violations(self, x):
            if not bool((amount <= atol + rtol).all()):
                return False, f"matrices {label}"
        return True, None

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = torch.allclose(u, _zero_diagonal(u), atol=atol, rtol=rtol)
        return ok, None if ok else "a tangent matrix is not symmetric with zeros on the diagonal"

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return full_rank(from_partial_coordinates(partial_coordinates(x) + _velocity_to_coordinates(x, u)), x.dtype)

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return _velocity_from_coordinates(x, partial_coordinates(y) - partial_coordinates(x)).to(x.dtype)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        length = torch.linalg.vector_norm(partial_coordinates(y) - partial_coordinates(x), dim=-1).to(x.dtype)
        return length[..., None, None] if keepdim else length

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return _velocity_from_coordinates(y, _velocity_to_coordinates(x, v)).to(v.dtype)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        a = _velocity_to_coordinates(x, u)
        value = (a * (a if v is None else _velocity_to_coordinates(x, v))).sum(-1).to(u.dtype)
        return value[..., None, None] if keepdim else value

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return _zero_diagonal(u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        # the gradient in flat coordinates, J^T u, is the velocity in them
        z = partial_coordinates(x.detach()).requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad((from_partial_coordinates(z) * u.detach().double()).sum(), z)
        return _velocity_from_coordinates(x, slope).to(u.dtype)

    def projx(self, x: Tensor) -> Tensor:
        return _unit_diagonal(x)

    def random(
        self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None, **kwargs: Any
    ) -> geoopt.ManifoldTensor:
        """Independent matrices of shape ``size`` with standard normal coordinates."""
        shape = geoopt.utils.size2shape(*size)
        z = torch.randn((*shape[:-2], shape[-1] * (shape[-1] - 1) // 2), dtype=dtype, device=device, **kwargs)
        return geoopt.ManifoldTensor(from_partial_coordinates(z), manifold=self)

    def origin(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        seed: int | None = 42,
    ) -> geoopt.ManifoldTensor:
        """The identity matrix, repeated to shape ``size``."""
        shape = geoopt.utils.size2shape(*size)
        return geoopt.ManifoldTensor(torch.eye(shape[-1], dtype=dtype, device=device).repeat(*shape[:-2], 1, 1), manifold=self)


register_config("Correlation", lambda config: Correlation())


@geometry.check_manifold.register(Correlation)
def _(manifold: Correlation, point_shape: Shape) -> None:
    if len(point_shape) != 2 or point_shape[0] != point_shape[1] or point_shape[0] < 2:
        raise ValueError(f"Expected a point shape (p, p) with p >= 2 on correlation matrices, got {tuple(point_shape)}.")


@geometry.to_config.register(Correlation)
def _(manifold: Correlation) -> dict[str, Any]:
    return {"type": "Correlation"}


@geometry.intrinsic_dim.register(Correlation)
def _(manifold: Correlation, point_shape: Shape) -> int:
    return point_shape[-1] * (point_shape[-1] - 1) // 2


@geometry.expmap.register(Correlation)
def _(manifold: Correlation, x: Tensor, u: Tensor) -> Tensor:
    return manifold.expmap(x, u)


@geometry.logmap.register(Correlation)
def _(manifold: Correlation, x: Tensor, y: Tensor) -> Tensor:
    return manifold.logmap(x, y)


@geometry.dist.register(Correlation)
def _(manifold: Correlation, x: Tensor, y: Tensor) -> Tensor:
    return manifold.dist(x, y)


@geometry.logdet_expmap.register(Correlation)
def _(manifold: Correlation, x: Tensor, u: Tensor) -> Tensor:
    return zeros_like_batch(manifold, u)


@geometry.from_coords.register(Correlation)
def _(manifold: Correlation, x: Tensor, v: Tensor) -> Tensor:
    return _velocity_from_coordinates(x, v).to(v.dtype)


@geometry.log_volume.register(Correlation)
def _(manifold: Correlation, point_shape: Shape) -> float:
    return math.inf


@geometry.project.register(Correlation)
def _(manifold: Correlation, x: Tensor) -> Tensor:
    return manifold.projx(x)


@geometry.raw_dim.register(Correlation)
def _(manifold: Correlation, point_shape: Shape) -> int:
    return geometry.intrinsic_dim(manifold, point_shape)


@geometry.from_raw.register(Correlation)
def _(manifold: Correlation, raw: Tensor, point_shape: Shape) -> Tensor:
    return full_rank(from_partial_coordinates(raw.double()), raw.dtype)


@geometry.to_raw.register(Correlation)
def _(manifold: Correlation, x: Tensor) -> Tensor:
    return partial_coordinates(x).to(x.dtype)


@geometry.violations.register(Correlation)
def _(manifold: Correlation, x: Tensor) -> list[tuple[str, Tensor]]:
    diagonal = (x.diagonal(dim1=-2, dim2=-1) - 1).abs().amax(-1)
    full_rank = factor_or_identity(x)[1]
    smallest = torch.linalg.eigvalsh(sym(x))[..., 0]
    # a matrix that is singular to rounding is infinitely far: it counts as off by more than any tolerance
    return [
        ("are not symmetric by |X - X^T|", (x - x.mT).abs().amax((-2, -1))),
        ("have diagonal entries that are not 1 (divide covariances by standard deviations first), off by", diagonal),
        ("are not positive definite (1 - smallest eigenvalue)", torch.where(full_rank, 0 * smallest, 1 - smallest)),
    ]


@register_measure(Correlation, "lebesgue")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    # dX = prod cosh(z_ij)^(j - p) dz over i > j, counted from 0 (Joe 2006)
    p = x.shape[-1]
    weights = (p - below(p, x.device)[1]).double() / 2
    return -(weights * torch.log1p(sinh_z(factor_or_identity(x)[0]).square())).sum(-1).to(x.dtype)
