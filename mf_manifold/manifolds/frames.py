"""Linear algebra of orthonormal frames (n,k), which Stiefel and Grassmann manifolds share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..numerics.linalg import sym_inv_sqrtm


def inverse_root(gram: Tensor) -> Tensor:
    """Inverse square root of symmetric positive definite matrices; in closed form up to 2 x 2."""
    k = gram.shape[-1]
    if k == 1:
        return gram.rsqrt()
    if k > 2:
        return sym_inv_sqrtm(gram)
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    root_det = (gram[..., 0, 0] * gram[..., 1, 1] - gram[..., 0, 1] * gram[..., 1, 0]).sqrt()[..., None, None]
    eye = torch.eye(2, dtype=gram.dtype, device=gram.device)
    return ((trace + root_det) * eye - gram) / (root_det * torch.sqrt(trace + 2 * root_det))


def small_inverse(x: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse and ``log |det|``; in closed form up to 2 x 2, where calls of a library cost more than the arithmetic."""
    if x.shape[-1] > 2:
        return torch.linalg.inv(x), torch.linalg.slogdet(x).logabsdet
    det = small_det(x)
    if x.shape[-1] == 1:
        return x.reciprocal(), det.abs().log()
    rows = [torch.stack([x[..., 1, 1], -x[..., 0, 1]], dim=-1), torch.stack([-x[..., 1, 0], x[..., 0, 0]], dim=-1)]
    return torch.stack(rows, dim=-2) / det[..., None, None], det.abs().log()


def log_abs_det(x: Tensor) -> Tensor:
    """``log |det|`` without a gradient, for choosing a branch; -inf for singular matrices."""
    with torch.no_grad():
        if x.shape[-1] > 2:
            return torch.linalg.slogdet(x).logabsdet
        return small_det(x).abs().log()


def small_det(x: Tensor) -> Tensor:
    """Determinant of 1 x 1 and 2 x 2 matrices."""
    if x.shape[-1] == 1:
        return x[..., 0, 0]
    return x[..., 0, 0] * x[..., 1, 1] - x[..., 0, 1] * x[..., 1, 0]


def polar(z: Tensor) -> Tensor:
    """The nearest frame, ``z (z^T z)^(-1/2)``; in float64, with a second pass that removes the rounding of the first."""
    x = z.double()
    for _ in range(2):
        x = x @ inverse_root(x.mT @ x)
    return x.to(z.dtype)


def complement(x: Tensor) -> Tensor:
    """Orthonormal basis of the orthogonal complement by Householder reflections; (*B,n,k) -> (*B,n,n-k)."""
    n, k = x.shape[-2:]
    reflections, rest = [], x
    for j in range(k):
        column = rest[..., j:, j : j + 1]
        first = column[..., :1, :]
        sign = torch.where(first >= 0, torch.ones_like(first), -torch.ones_like(first))
        normal = torch.nn.functional.pad(torch.cat([first + sign, column[..., 1:, :]], dim=-2), (0, 0, j, 0))
        normal = normal * torch.rsqrt(1 + first.abs())
        reflections.append(normal)
        rest = rest - normal @ (normal.mT @ rest)
    basis = torch.eye(n, dtype=x.dtype, device=x.device)[:, k:].expand(*x.shape[:-1], n - k)
    for normal in reversed(reflections):
        basis = basis - normal @ (normal.mT @ basis)
    return basis


def rotated(x: Tensor, u: Tensor) -> Tensor:
    """``expm(u x^T - x u^T) x`` for u orthogonal to the columns of x."""
    turn = u @ x.mT
    return torch.linalg.matrix_exp(turn - turn.mT) @ x


def off_orthonormal(x: Tensor) -> Tensor:
    """Largest entry of ``|x^T x - 1|``; (*B,n,k) -> (*B)."""
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return (x.mT @ x - eye).abs().amax((-2, -1))


def log_det_gram(y: Tensor) -> Tensor:
    """``log |y^T y|`` by modified Gram-Schmidt, which loses digits with the condition of y, not its square."""
    columns, total = list(y.unbind(-1)), torch.zeros_like(y[..., 0, 0])
    for j, pivot in enumerate(columns):
        square = pivot.square().sum(-1)
        total = total + torch.log(square)
        for i in range(j + 1, len(columns)):
            columns[i] = columns[i] - ((columns[i] * pivot).sum(-1) / square).unsqueeze(-1) * pivot
    return total


def log_multigamma(k: int, a: float) -> float:
    """``log Gamma_k(a)``, the multivariate gamma function."""
    return k * (k - 1) / 4 * math.log(math.pi) + sum(math.lgamma(a - j / 2) for j in range(k))
