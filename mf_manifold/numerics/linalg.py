"""Functions of symmetric matrices with gradients that stay finite and correct at repeated eigenvalues.

A matrix function f(X) = U f(lambda) U^T is differentiated through divided differences of f (Daleckii and
Krein 1965; Higham, Functions of Matrices, 2008, Theorem 3.11), each in a form without cancellation, instead
of through the eigenvectors, whose derivative does not exist where eigenvalues meet. First and second
derivatives are supported.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .divided_differences import EXP, INV_SQRT, LOG, SQRT, Spectral
from .special import log_sinhc


def sym(x: Tensor) -> Tensor:
    """Symmetric part (x + x^T) / 2 of the matrices x. Shapes: (..., p, p) to (..., p, p).

    >>> sym(torch.tensor([[1.0, 4.0], [2.0, 3.0]])).tolist()
    [[1.0, 3.0], [3.0, 3.0]]
    """
    return 0.5 * (x + x.mT)


def svec(x: Tensor) -> Tensor:
    """Orthonormal coordinates of the symmetric part of x: diagonal, then sqrt(2) times the lower entries.

    The lower entries come in row order: (1,0), (2,0), (2,1), (3,0), ...; the Euclidean norm of the result
    is the Frobenius norm of the matrix. Shapes: (..., p, p) to (..., p (p + 1) / 2).

    >>> x = torch.tensor([[1.0, 3.0], [3.0, 2.0]], dtype=torch.float64)
    >>> [round(v, 6) for v in svec(x).tolist()]
    [1.0, 2.0, 4.242641]
    """
    p = x.shape[-1]
    row, column = torch.tril_indices(p, p, -1, device=x.device)
    lower = (x[..., row, column] + x[..., column, row]) * math.sqrt(0.5)
    return torch.cat([x.diagonal(dim1=-2, dim2=-1), lower], dim=-1)


def unsvec(v: Tensor) -> Tensor:
    """Symmetric matrix with the orthonormal coordinates v, the inverse of `svec`.

    Shapes: (..., p (p + 1) / 2) to (..., p, p).

    **Raises** ValueError if the last size is not p (p + 1) / 2 for a whole p.

    >>> v = torch.arange(6.0)
    >>> bool(torch.allclose(svec(unsvec(v)), v))
    True
    """
    m = v.shape[-1]
    p = (math.isqrt(8 * m + 1) - 1) // 2
    if p * (p + 1) // 2 != m:
        raise ValueError(f"unsvec: the last size must be p (p + 1) / 2 (1, 3, 6, 10, ...), got {m}")
    index = torch.arange(p, device=v.device)
    row, column = torch.maximum(index[:, None], index), torch.minimum(index[:, None], index)
    position = torch.where(row == column, row, p + row * (row - 1) // 2 + column)
    weight = torch.full((p, p), math.sqrt(0.5), dtype=v.dtype, device=v.device).fill_diagonal_(1.0)
    return v[..., position] * weight


def _first_differences(spectral: Spectral, values: Tensor) -> Tensor:
    return spectral.first(values.unsqueeze(-1), values.unsqueeze(-2))


def _rotate(vectors: Tensor, x: Tensor) -> Tensor:
    return vectors @ x @ vectors.mT


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    return function.apply(*inputs)  # type: ignore[no-untyped-call]


class _MatrixDerivative(torch.autograd.Function):
    """The derivative of a matrix function at x in the symmetric direction h, itself differentiable once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, h: Tensor, values: Tensor, vectors: Tensor, spectral: Spectral) -> Tensor:
        return _rotate(vectors, _first_differences(spectral, values) * _rotate(vectors.mT, h))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:4])
        ctx.spectral = inputs[4]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        h, values, vectors = ctx.saved_tensors
        inner_h, inner_g = _rotate(vectors.mT, h), _rotate(vectors.mT, sym(grads[0]))
        by_h = _rotate(vectors, _first_differences(ctx.spectral, values) * inner_g)
        a, b, c = values[..., :, None, None], values[..., None, :, None], values[..., None, None, :]
        second = ctx.spectral.second(a, b, c)
        half = torch.einsum("...ikj,...ik,...kj->...ij", second, inner_h, inner_g)
        return _rotate(vectors, half + half.mT), by_h, None, None, None


class _MatrixFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, spectral: Spectral) -> tuple[Tensor, Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(x)
        return (vectors * spectral.value(values).unsqueeze(-2)) @ vectors.mT, values, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output[1:])
        ctx.spectral = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, values, vectors = ctx.saved_tensors
        result: Tensor = _apply(_MatrixDerivative, x, sym(grads[0]), values, vectors, ctx.spectral)
        return result, None


def _apply_spectral(x: Tensor, spectral: Spectral) -> Tensor:
    result: Tensor = _apply(_MatrixFunction, sym(x), spectral)[0]
    return result


def sym_logm(x: Tensor) -> Tensor:
    """Matrix logarithm of the symmetric positive definite part of x. Shapes: (..., p, p) to (..., p, p).

    A matrix that is not positive definite gives NaN. Gradients are exact at repeated eigenvalues, twice.

    >>> sym_logm(torch.eye(2)).abs().max().item()
    0.0
    """
    return _apply_spectral(x, LOG)


def sym_expm(x: Tensor) -> Tensor:
    """Matrix exponential of the symmetric part of x. Shapes: (..., p, p) to (..., p, p).

    Gradients are exact at repeated eigenvalues, twice.

    >>> sym_expm(torch.zeros(2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _apply_spectral(x, EXP)


def sym_sqrtm(x: Tensor) -> Tensor:
    """Symmetric square root of the symmetric positive definite part of x. Shapes: (..., p, p) to (..., p, p).

    A matrix with a negative eigenvalue gives NaN. Gradients are exact at repeated eigenvalues, twice.

    >>> sym_sqrtm(4.0 * torch.eye(2)).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    return _apply_spectral(x, SQRT)


def sym_inv_sqrtm(x: Tensor) -> Tensor:
    """Inverse square root of the symmetric positive definite part of x. Shapes: (..., p, p) to (..., p, p).

    A matrix with a negative eigenvalue gives NaN. Gradients are exact at repeated eigenvalues, twice.

    >>> sym_inv_sqrtm(4.0 * torch.eye(2)).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    return _apply_spectral(x, INV_SQRT)


class _EigenvalueGradient(torch.autograd.Function):
    """U diag(g) U^T as a function of x and g."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, g: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
        return (vectors * g.unsqueeze(-2)) @ vectors.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        g, values, vectors = ctx.saved_tensors
        inner = _rotate(vectors.mT, sym(grads[0]))
        quotient = (g.unsqueeze(-1) - g.unsqueeze(-2)) / (values.unsqueeze(-1) - values.unsqueeze(-2))
        diagonal = torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
        by_x = _rotate(vectors, torch.where(diagonal, 0.0, quotient) * inner)
        return by_x, inner.diagonal(dim1=-2, dim2=-1), None, None


class _Eigenvalues(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(x)
        return values, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, values, vectors = ctx.saved_tensors
        result: Tensor = _apply(_EigenvalueGradient, x, grads[0], values.detach(), vectors)
        return result


def sym_eigvals(x: Tensor) -> Tensor:
    """Ascending eigenvalues of the symmetric part of x, for use inside symmetric functions of them.

    The gradient U diag(g) U^T has no division, so a symmetric function has its exact gradient also at
    repeated eigenvalues. Its second derivative divides by the gaps: it loses digits as eps / gap and is NaN
    at an exact tie (`sym_logm` and its like have no such restriction). Shapes: (..., p, p) to (..., p).

    >>> x = torch.eye(2, requires_grad=True)
    >>> sym_eigvals(x).square().sum().backward()
    >>> x.grad.tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    x = sym(x)
    if not (torch.is_grad_enabled() and x.requires_grad):
        values: Tensor = torch.linalg.eigvalsh(x)
        return values
    result: Tensor = _apply(_Eigenvalues, x)[0]
    return result


def congruence(a: Tensor, x: Tensor) -> Tensor:
    """The congruence a x a^T. Shapes: (..., q, p) and (..., p, p), broadcast, to (..., q, q).

    >>> congruence(torch.tensor([[1.0, 2.0]]), torch.eye(2)).tolist()
    [[5.0]]
    """
    return a @ x @ a.mT


def log_det_spd(x: Tensor) -> Tensor:
    """Log-determinant of symmetric positive definite matrices by Cholesky. Shapes: (..., p, p) to (...).

    **Raises** torch.linalg.LinAlgError if a matrix is not positive definite.

    >>> round(log_det_spd(2.0 * torch.eye(3, dtype=torch.float64)).item(), 6)
    2.079442
    """
    factor: Tensor = torch.linalg.cholesky(x)
    return 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def sum_log_sinhc_gaps(values: Tensor) -> Tensor:
    """sum_{i<j} log sinhc((l_i - l_j) / 2) of eigenvalues l. Shapes: (..., p) to (...); 0 for p = 1.

    The log-density of the affine-invariant volume relative to the log-Euclidean one at a matrix with
    log-eigenvalues l; symmetric in l and smooth where they meet.

    >>> round(sum_log_sinhc_gaps(torch.tensor([0.0, 2.0], dtype=torch.float64)).item(), 6)
    0.161439
    """
    p = values.shape[-1]
    row, column = torch.triu_indices(p, p, 1, device=values.device)
    return log_sinhc(0.5 * (values[..., column] - values[..., row])).sum(-1)


def log_det_dexpm(s: Tensor) -> Tensor:
    """Log-determinant of the derivative of the matrix exponential at symmetric s, in Frobenius coordinates.

    sum_{i<=j} log exp[l_i, l_j] = ((p + 1) / 2) tr s + sum_{i<j} log sinhc((l_i - l_j) / 2), l the
    eigenvalues of s: dX = |det| dS for X = exp(S), also for the Lebesgue measures of the free entries.
    Shapes: (..., p, p) to (...).

    Reference: Higham, Functions of Matrices (2008), Theorem 3.9.

    >>> log_det_dexpm(torch.eye(2)).item()
    3.0
    """
    trace = s.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 0.5 * (s.shape[-1] + 1) * trace + sum_log_sinhc_gaps(sym_eigvals(s))


def _derivative(x: Tensor, h: Tensor, spectral: Spectral) -> Tensor:
    x, h = torch.broadcast_tensors(sym(x), sym(h))  # type: ignore[no-untyped-call]
    values, vectors = torch.linalg.eigh(x.detach())
    result: Tensor = _apply(_MatrixDerivative, x, h, values, vectors, spectral)
    return result


def sym_dlogm(x: Tensor, h: Tensor) -> Tensor:
    """Derivative of the matrix logarithm at positive definite x in the direction h. Shapes: (..., p, p).

    >>> sym_dlogm(2.0 * torch.eye(2), torch.eye(2)).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    return _derivative(x, h, LOG)


def sym_dexpm(x: Tensor, h: Tensor) -> Tensor:
    """Derivative of the matrix exponential at symmetric x in the symmetric direction h. Shapes: (..., p, p).

    >>> sym_dexpm(torch.zeros(2, 2), torch.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _derivative(x, h, EXP)
