"""Rotation matrices of any size: skew coordinates, nearest rotations, logarithms, in forms without division by gaps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backends.derivative import Gradients, first_derivative

ONCE = "Expected at most one derivative of singular values, nearest rotations and their logarithms, got a second one."

# arctan(sqrt t) / sqrt t on [0, 1] by Chebyshev polynomials; the singularity at t = -1 lets them gain 0.77 digits a degree
_ARCTANC = tuple(
    np.polynomial.chebyshev.chebinterpolate(lambda c: np.arctan(np.sqrt((c + 1) / 2)) / np.sqrt((c + 1) / 2), 22).tolist()
)


def _clenshaw(c: Tensor, coefficients: tuple[float, ...], product: Any, one: Any) -> Tensor:
    """``sum_k a_k T_k(c)`` with the given product and unit, for numbers and for matrices."""
    first, second = torch.zeros_like(c), torch.zeros_like(c)
    for a in reversed(coefficients[1:]):
        first, second = 2 * product(c, first) - second + a * one, first
    result: Tensor = product(c, first) - second + coefficients[0] * one
    return result


def arctanc_sqrt(t: Tensor) -> Tensor:
    """``arctan(sqrt t) / sqrt t`` for t in [0, 1] as the analytic function it is. Shapes: any, returned unchanged.

    >>> [round(v, 9) for v in arctanc_sqrt(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()]
    [1.0, 0.785398163]
    """
    return _clenshaw(2 * t - 1, _ARCTANC, torch.mul, 1.0)


def num_skew(n: int) -> int:
    """Dimension of the skew matrices of size n."""
    return n * (n - 1) // 2


def hat(v: Tensor, n: int) -> Tensor:
    """Skew matrix whose entries below the diagonal are the coordinates, by rows; for n = 3 that of ``v x``.

    Shapes: (..., n (n-1) / 2) to (..., n, n). Half the squared Frobenius norm of the matrix is that of the coordinates.

    >>> hat(torch.tensor([1.0, 2.0, 3.0]), 3).tolist()
    [[0.0, -3.0, 2.0], [3.0, 0.0, -1.0], [-2.0, 1.0, 0.0]]
    """
    if n == 3:
        v = v.flip(-1) * torch.tensor([1.0, -1.0, 1.0], dtype=v.dtype, device=v.device)
    rows, columns = torch.tril_indices(n, n, -1, device=v.device)
    lower = torch.zeros(*v.shape[:-1], n, n, dtype=v.dtype, device=v.device)
    lower[..., rows, columns] = v
    return lower - lower.mT


def vee(a: Tensor) -> Tensor:
    """Coordinates of the skew part of a matrix, the inverse of :func:`hat`. Shapes: (..., n, n) to (..., n (n-1) / 2)."""
    n = a.shape[-1]
    rows, columns = torch.tril_indices(n, n, -1, device=a.device)
    v = (a[..., rows, columns] - a[..., columns, rows]) / 2
    return v.flip(-1) * torch.tensor([1.0, -1.0, 1.0], dtype=v.dtype, device=v.device) if n == 3 else v


def proper_svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``x = u diag(s) v^T`` with rotations u, v and ``s_1 >= ... >= |s_n|``; the last one has the sign of det x."""
    u, s, vh = torch.linalg.svd(x)
    signs_u, signs_v = torch.linalg.det(u).sign(), torch.linalg.det(vh).sign()
    u = torch.cat([u[..., :-1], u[..., -1:] * signs_u[..., None, None]], dim=-1)
    vh = torch.cat([vh[..., :-1, :], vh[..., -1:, :] * signs_v[..., None, None]], dim=-2)
    return u, torch.cat([s[..., :-1], s[..., -1:] * (signs_u * signs_v).unsqueeze(-1)], dim=-1), vh.mT


class _NearestRotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        u, s, v = proper_svd(x)
        ctx.save_for_backward(x, u, s, v)
        return u @ v.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        def compute(grad: Tensor, x: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Gradients:
            inner = u.mT @ grad @ v
            sums = s.unsqueeze(-1) + s.unsqueeze(-2)
            floor = torch.finfo(s.dtype).eps * s[..., :1, None].abs().clamp_min(torch.finfo(s.dtype).tiny)
            return (u @ ((inner - inner.mT) / sums.clamp_min(floor)) @ v.mT,)

        return first_derivative(compute, *grads, *ctx.saved_tensors, message=ONCE)


def nearest_rotation(x: Tensor) -> Tensor:
    """The rotation with the largest ``tr(x^T R)``, ``u v^T`` of the proper singular value decomposition.

    It is unique and differentiable (once) where the two smallest proper singular values do not add to 0; elsewhere one of the
    nearest is returned. The gradient divides by sums of singular values only. Shapes: (..., n, n), returned unchanged.

    >>> nearest_rotation(torch.diag(torch.tensor([2.0, 3.0, -0.1]))).round().tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    result: Tensor = _NearestRotation.apply(x)  # type: ignore[no-untyped-call]
    return result


class _ProperSingularValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        u, s, v = proper_svd(x)
        ctx.save_for_backward(x, u, v)
        return s

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        def compute(grad: Tensor, x: Tensor, u: Tensor, v: Tensor) -> Gradients:
            return ((u * grad.unsqueeze(-2)) @ v.mT,)

        return first_derivative(compute, *grads, *ctx.saved_tensors, message=ONCE)


def proper_singular_values(x: Tensor) -> Tensor:
    """Singular values in descending order, the last with the sign of the determinant, for use in symmetric functions.

    The gradient ``u diag(g) v^T`` has no division, so that it is exact at repeated values. Shapes: (..., n, n) to (..., n).

    >>> proper_singular_values(torch.diag(torch.tensor([2.0, -3.0, 1.0]))).tolist()
    [3.0, 2.0, -1.0]
    """
    result: Tensor = _ProperSingularValues.apply(x)  # type: ignore[no-untyped-call]
    return result


class _SquareRoot(torch.autograd.Function):
    """The square root with angles up to pi / 2: the rotation nearest to x + 1, and a quarter turn where x turns by pi."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n = x.shape[-1]
        u, s, vh = torch.linalg.svd(x + torch.eye(n, dtype=x.dtype, device=x.device))
        # the null space of x + 1 has even dimension; its last vectors are turned in pairs
        pairs = torch.arange(n - 2, -1, -2, device=x.device)
        null = torch.zeros_like(s)
        null[..., pairs] = null[..., pairs + 1] = (s[..., pairs] < 512 * torch.finfo(x.dtype).eps).to(x)
        null = null.unsqueeze(-1)
        quarter = torch.zeros_like(x)
        quarter[..., pairs + 1, pairs], quarter[..., pairs, pairs + 1] = 1.0, -1.0
        root = u @ ((1 - null) * vh) + vh.mT @ (null * (quarter @ (null * vh)))
        # next to pi the rounding of x + 1 turns the root too far, and root^T x as much too little: their mean is right,
        # but a little short
        mean = (root + root.mT @ x) / 2
        root = mean @ (3 * torch.eye(n, dtype=x.dtype, device=x.device) - mean.mT @ mean) / 2
        ctx.save_for_backward(x, root, s, vh)
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        def compute(grad: Tensor, x: Tensor, root: Tensor, s: Tensor, vh: Tensor) -> Gradients:
            left = root @ vh.mT
            inner = left.mT @ grad @ vh.mT
            sums = s.unsqueeze(-1) + s.unsqueeze(-2)
            turned = sums < 512 * torch.finfo(s.dtype).eps
            return (left @ ((inner - inner.mT) / torch.where(turned, math.inf, sums)) @ vh,)

        return first_derivative(compute, *grads, *ctx.saved_tensors, message=ONCE)


def log_rotation(x: Tensor) -> Tensor:
    """The skew logarithm of rotation matrices, with angles up to pi; at pi, where there are several, one of them.

    ``log x = 4 arctan((r + 1)^-1 (r - 1))`` with the square root r, which is the rotation nearest to ``x + 1``: no
    eigenvectors, so that gradients are exact at repeated angles. Next to pi they grow as 1 / (pi - angle); at pi that part
    is left out.
    Shapes: (..., n, n), returned unchanged.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    >>> round(log_rotation(turn)[1, 0].item(), 9)
    1.570796327
    """
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    root: Tensor = _SquareRoot.apply(x)  # type: ignore[no-untyped-call]
    tangent = torch.linalg.solve(root + eye, root - eye)
    tangent = (tangent - tangent.mT) / 2
    return 4 * tangent @ _clenshaw(2 * tangent.mT @ tangent - eye, _ARCTANC, torch.matmul, eye)


def angles_between(x: Tensor, y: Tensor) -> Tensor:
    """Angles of the rotation from x to y, each of a plane twice, one 0 if n is odd; from chords, accurate at 0 and at pi.

    For use in symmetric functions. Shapes: (..., n, n) to (..., n).
    """
    near, far = (torch.linalg.svdvals(t) for t in torch.broadcast_tensors(x - y, x + y))
    return 2 * torch.atan2(near, far.flip(-1))


def skew_phases(a: Tensor) -> Tensor:
    """Ascending imaginary parts of eigenvalues of skew matrices, for use in symmetric functions. (..., n, n) to (..., n)."""
    values: Tensor = torch.linalg.eigvalsh(torch.complex(torch.zeros_like(a), -a))
    return values


def log_volume(n: int) -> float:
    """Log volume of SO(n) by the metric ``tr(dR^T dR) / 2``: the product of the areas of S^1 to S^(n-1).

    >>> round(math.exp(log_volume(3)) / math.pi**2, 9)
    8.0
    """
    return sum(math.log(2) + k / 2 * math.log(math.pi) - math.lgamma(k / 2) for k in range(2, n + 1))
