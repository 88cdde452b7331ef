"""Eigenvalues of symmetric 3 x 3 matrices given by their entries: elementwise, for grids of millions of matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Entries = list[Tensor]  # lower triangle by rows: (0,0), (1,0), (1,1), (2,0), (2,1), (2,2)


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient, 0 where the denominator is 0; there its derivative is NaN, as no difference quotient tells it."""
    return torch.where(denominator == 0, 0.0, numerator / denominator)


def _independence(diagonal: tuple[Tensor, ...], off: tuple[Tensor, ...]) -> Tensor:
    """A third of the area that a traceless B and the traceless part of B^2 span, sqrt(discriminant / 27).

    It is 0 at double eigenvalues. The area comes from the squared minors of their coordinates in an orthonormal basis.
    """
    (x, y, z), (d, e, f) = diagonal, off
    first, second, third = x * x + d * d + e * e, y * y + d * d + f * f, z * z + e * e + f * f
    r2, r6 = math.sqrt(2), math.sqrt(6)
    b = [(x - y) / r2, (x + y - 2 * z) / r6, r2 * d, r2 * e, r2 * f]
    c = [(first - second) / r2, (first + second - 2 * third) / r6]
    c += [r2 * (e * f - d * z), r2 * (d * f - e * y), r2 * (d * e - f * x)]
    total = torch.zeros_like(x)
    for i in range(5):
        for j in range(i):
            total = total + (b[i] * c[j] - b[j] * c[i]).square()
    return total.sqrt() / 3


class _Eigenvalues3(torch.autograd.Function):
    """Descending eigenvalues by the trigonometric solution of the cubic.

    An arc cosine would leave an error of sqrt(eps) next to double eigenvalues; the discriminant as a sum of squares does not.
    The derivative ``U diag(g) U^T`` is the Newton interpolation polynomial of g at the matrix, which needs no eigenvectors.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, d, b, e, f, c = entries
        mean = (a + b + c) / 3
        x, y, z = a - mean, b - mean, c - mean
        squares = (x * x + y * y + z * z) / 6 + (d * d + e * e + f * f) / 3
        size = squares.sqrt()
        det = x * (y * z - f * f) - d * (d * z - e * f) + e * (d * f - e * y)
        angle = torch.atan2(_independence((x, y, z), (d, e, f)), det) / 3
        first = mean + 2 * size * torch.cos(angle)
        last = mean + 2 * size * torch.cos(angle + 2 * math.pi / 3)
        return first, 3 * mean - first - last, last

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        a, d, b, e, f, c, first, v, last = ctx.saved_tensors
        mean = (a + b + c) / 3  # taken out, or the squares would cancel next to multiples of the identity
        a, b, c, first, v, last = (t - mean for t in (a, b, c, first, v, last))
        upper = first - v < v - last  # the closer pair comes first
        u, w = torch.where(upper, first, last), torch.where(upper, last, first)
        gu, gw = torch.where(upper, grads[0], grads[2]), torch.where(upper, grads[2], grads[0])
        slope = _quotient(grads[1] - gu, v - u)
        bend = _quotient(_quotient(gw - grads[1], w - v) - slope, w - u)
        # gu + slope (A - u) + bend (A - u) (A - v), the lower triangle of which counts twice off the diagonal
        linear, constant = slope - bend * (u + v), gu - slope * u + bend * u * v
        squares = [a * a + d * d + e * e, d * (a + b) + e * f, d * d + b * b + f * f]
        squares += [e * (a + c) + d * f, f * (b + c) + d * e, e * e + f * f + c * c]
        parts = [linear * t + bend * s for t, s in zip((a, d, b, e, f, c), squares, strict=True)]
        return tuple(t + constant if i in (0, 2, 5) else 2 * t for i, t in enumerate(parts))


def eigenvalues_3x3(entries: Entries) -> tuple[Tensor, Tensor, Tensor]:
    """Descending eigenvalues of symmetric 3 x 3 matrices, for use inside symmetric functions of them.

    ``entries`` are the lower triangle by rows. Second derivatives lose digits as eigenvalues meet, and are NaN at a tie.

    >>> entries = [torch.tensor(v, dtype=torch.float64) for v in (2.0, 1.0, 2.0, 0.0, 0.0, 5.0)]
    >>> [round(float(v), 6) for v in eigenvalues_3x3(entries)]
    [5.0, 3.0, 1.0]
    """
    first, middle, last = _Eigenvalues3.apply(*torch.broadcast_tensors(*entries))  # type: ignore[no-untyped-call]
    return first, middle, last
