"""Helpers that kernels with a covariance matrix share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry

if TYPE_CHECKING:
    from ..kernel import Kernel


class SemidefiniteToRounding(type(constraints.positive_semidefinite)):  # type: ignore[misc]
    """Symmetric matrices without negative eigenvalues but those that rounding makes of zeros, as in projections P S P."""

    def check(self, value: Tensor) -> Tensor:
        symmetric = constraints.symmetric.check(value)
        values = torch.linalg.eigvalsh(value)
        slack = 8 * value.shape[-1] * torch.finfo(value.dtype).eps
        result: Tensor = symmetric & (values[..., 0] >= -slack * values[..., -1].abs())
        return result

    def __repr__(self) -> str:  # torch drops the first letter, which is an underscore in its own names
        return "PositiveSemidefinite()"


def covariance_option(value: str, allowed: tuple[str, ...]) -> str:
    """Check the ``covariance`` option of a kernel."""
    if value not in allowed:
        raise ValueError(f"Expected covariance to be one of {', '.join(allowed)}, got {value!r}.")
    return value


def num_covariance_raw(n: int) -> int:
    """Number of unconstrained reals that describe an n x n covariance: n log scales and the strict lower triangle."""
    return n + n * (n - 1) // 2


def covariance_from_raw(kernel: Kernel, raw: Tensor, n: int) -> Tensor:
    """Covariance ``L L^T``, L = diag(scales) times a unit lower triangular matrix; (*B,num_covariance_raw) -> (*B,n,n).

    The unit factor's entries are bounded by ``tanh`` so that the scales stay within the kernel's range up to a factor n.
    """
    factor = kernel.scale_from_raw(raw[..., :n]).unsqueeze(-1) * unit_lower(raw[..., n:], n)
    return factor @ factor.mT


def unit_lower(raw: Tensor, n: int) -> Tensor:
    """Lower triangular matrices with a diagonal of ones and other entries between -1 and 1; (*B,n(n-1)/2) -> (*B,n,n)."""
    rows, cols = torch.tril_indices(n, n, offset=-1, device=raw.device)
    unit = torch.eye(n, dtype=raw.dtype, device=raw.device).expand(*raw.shape[:-1], n, n).clone()
    unit[..., rows, cols] = torch.tanh(raw)
    return unit


def coordinate_change(
    manifold: geoopt.Manifold, points: Tensor, steps: Tensor, coordinates: Callable[[Tensor], Tensor]
) -> Tensor:
    """Derivative of other coordinates by orthonormal ones at ``points``, from central differences along geodesics.

    Shapes: points (*B,*E), steps (*B) -> (*B,d,d).
    """
    dim = geometry.intrinsic_dim(manifold, tuple(points.shape[steps.ndim :]))
    columns = []
    for axis in torch.eye(dim, dtype=points.dtype, device=points.device):
        v = geometry.from_coords(manifold, points, steps.unsqueeze(-1) * axis)
        ends = [coordinates(geometry.expmap(manifold, points, u)) for u in (v, -v)]
        columns.append((ends[0] - ends[1]) / (2 * steps.unsqueeze(-1)))
    return torch.stack(columns, dim=-1)


def pushed(covariance: Tensor, change: Tensor) -> Tensor:
    """The covariance of a linear image; (*B,d,d), (*B,m,d) -> (*B,m,m), symmetric to the last digit."""
    image = change @ covariance @ change.mT
    return (image + image.mT) / 2


def cholesky_logdet(factor: Tensor) -> Tensor:
    """Half the log determinant of ``L L^T``."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def whitening(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse Cholesky factor of a covariance and half its log determinant, in float64; (*B,n,n) -> (*B,n,n), (*B)."""
    factor = torch.linalg.cholesky(covariance.double())
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, eye, upper=False), cholesky_logdet(factor)


def colour(noise: Tensor, covariance: Tensor) -> Tensor:
    """Standard normal vectors (*S,*B,n) turned into ones with a covariance (*B,n,n), whose factor is taken in float64."""
    factor = torch.linalg.cholesky(covariance.double()).to(noise.dtype)
    return (factor @ noise.unsqueeze(-1)).squeeze(-1)
