"""Streaming log-sum-exp of an exponential family, log q(x_n | w_c) = h_n + b_c + phi_n . psi_c.

A tile of the product stays in the cache: it is made, raised to powers of two, summed and overwritten by the next.
Bias and running maximum enter as two more features, so the product itself delivers the exponents.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .derivative import Gradients, first_derivative
from .online import LN2, LOG2E, absorb, drop_floor_, exponent_floor, exponent_limit, finite
from .tiles import Tiles, tile

# Components and pairs per tile, 0.6 MiB of float32. Not 512 components: where rows lie a power of two apart, a tile
# falls on few cache lines and the product takes three times as long.
CPU_TILE, DEVICE_TILE = (640, 160 * 2**10), (2048, 2**22)
# Largest error of a log-density, in nats, that a float32 product is allowed to make.
TOLERANCE = 2e-5


class Bilinear(NamedTuple):
    """log q(x_n | w_c) = offset_n + bias_c + phi_n . psi_c, a matrix product.

    The result has the dtype of offset. Features that cancel, as in kappa (x.w - 1), are best given in float64;
    phi and psi are finite: outside the support offset or bias is -inf.
    **Shapes**: phi (N, K), psi (M, K), bias (M,), offset (N,).
    """

    phi: Tensor
    psi: Tensor
    bias: Tensor
    offset: Tensor


def product_dtype(phi: Tensor, psi: Tensor, bias: Tensor, result: torch.dtype) -> torch.dtype:
    """float64 where a float32 product would err by more than TOLERANCE or may be rounded to TF32 or bfloat16.

    The error of a float32 product is about eps * (max |phi_n| * max |psi_c| + max |bias_c|).
    """
    if result == torch.float64 or phi.is_meta or _fp32_products_are_rounded(phi.device.type):
        return torch.float64
    size = _largest_norm(phi) * _largest_norm(psi) + _largest_norm(bias[:, None])
    return torch.float64 if float(size) * torch.finfo(torch.float32).eps > TOLERANCE else torch.float32


def _largest_norm(rows: Tensor) -> Tensor:
    """Largest Euclidean norm of the rows with finite entries, 0 if there is none."""
    norms = torch.linalg.vector_norm(rows.detach(), dim=1).double()
    return torch.cat([norms.nan_to_num(0.0, 0.0, 0.0), norms.new_zeros(1)]).amax()


def _fp32_products_are_rounded(device_type: str) -> bool:
    backend = torch.backends.cuda if device_type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("tf32", "bf16")


def bilinear_log_sum_exp(form: Bilinear, chunk_size: int | None) -> Tensor:
    """logsumexp_c [offset_n + bias_c + phi_n . psi_c] in memory of order (N + M) K; differentiable once."""
    result: Tensor = _BilinearLogSumExp.apply(*form, chunk_size)  # type: ignore[no-untyped-call]
    return result


class _Exponents:
    """The matrices whose product is phi_n . psi_c + bias_c - top_n, in units of log 2."""

    def __init__(self, phi: Tensor, psi: Tensor, bias: Tensor, result: torch.dtype, chunk_size: int | None) -> None:
        self.dtype = product_dtype(phi, psi, bias, result)
        self.powers_dtype = torch.promote_types(result, torch.float32)
        ones = torch.ones_like(phi[:, :1])
        scaled = torch.cat([psi.double(), bias.double()[:, None]], 1).mul_(LOG2E).to(self.dtype)
        self.left = torch.cat([phi, ones, torch.zeros_like(ones)], 1).to(self.dtype)
        self.right = torch.cat([scaled, torch.ones_like(scaled[:, :1])], 1).t().contiguous()
        columns, pairs = CPU_TILE if phi.device.type == "cpu" else DEVICE_TILE
        self.tiles: Tiles = tile(len(phi), len(psi), chunk_size or columns, pairs, phi.device)
        self.pieces = [self.right[:, columns] for columns in self.tiles.columns]

    def subtract(self, top: Tensor) -> None:
        self.left[:, -1] = finite(top).neg_()


class _Workspace:
    """Tiles of 2^exponents, written over one another; one workspace a thread."""

    def __init__(self, exponents: _Exponents) -> None:
        n, m = exponents.tiles.shape
        self.product = torch.empty(n * m, dtype=exponents.dtype, device=exponents.left.device)
        same = exponents.dtype == exponents.powers_dtype
        self.tile = self.product if same else torch.empty_like(self.product, dtype=exponents.powers_dtype)
        self.floor = exponent_floor(self.tile.dtype)

    def powers(self, left: Tensor, right: Tensor) -> Tensor:
        """Powers in the result's dtype: enough once the maximum is subtracted, and float64 ones cost the most."""
        n, m = left.shape[0], right.shape[1]
        powers = torch.mm(left, right, out=self.product[: n * m].view(n, m))
        if self.tile is not self.product:
            powers = self.tile[: n * m].view(n, m).copy_(powers)
        return powers.clamp_(min=self.floor).exp2_()

    def in_product_dtype(self, powers: Tensor) -> Tensor:
        if self.tile is self.product:
            return powers
        return self.product[: powers.numel()].view_as(powers).copy_(powers)


def _log2_sum(exponents: _Exponents, start: Tensor) -> Tensor:
    """Base-2 log-sum-exp (N,) in the product's dtype; the exponents of component `start` are the first maxima."""
    left, right = exponents.left, exponents.right
    top = torch.mm(left[:, :-1], right[:-1].index_select(1, start)).squeeze(1)
    total = torch.zeros_like(top, dtype=exponents.powers_dtype)
    exponents.subtract(top)
    limit = exponent_limit(total.dtype)

    def work(blocks: list[slice]) -> None:
        workspace = _Workspace(exponents)
        for rows in blocks:
            part, sums = left[rows], total[rows]
            for piece in exponents.pieces:
                added = workspace.powers(part, piece).sum(1)
                # The negation lets NaN in as well: it must not hide a row that overflows.
                if not float(added.amax()) <= limit:
                    _raise_tops(part, piece, top[rows], sums, added, limit)
                sums += added

    exponents.tiles.map(work)
    return top + total.log2()


def _raise_tops(left: Tensor, right: Tensor, top: Tensor, total: Tensor, added: Tensor, limit: float) -> None:
    """Redo, in place, the few rows in which this tile exceeds the maximum in use so far that it may overflow."""
    over = (added > limit).nonzero().squeeze(1)
    higher, sums = absorb(top[over], total[over], torch.mm(left[over, :-1], right[:-1]))
    left[over, -1] = finite(higher).neg_()
    top[over], total[over], added[over] = higher, sums, 0.0


def _gradients(exponents: _Exponents, grad: Tensor, needs_phi: bool, needs_right: bool) -> tuple[Tensor, Tensor]:
    """Gradients of phi (N, K) and of psi and bias together (K + 1, M)."""
    grad_left = torch.zeros_like(exponents.left[:, :-2])

    def work(blocks: list[slice]) -> Tensor:
        workspace = _Workspace(exponents)
        grad_right = torch.zeros_like(exponents.right[:-1])
        for rows in blocks:
            left, scale = exponents.left[rows], grad[rows, None]
            weighted = (left[:, :-1] * scale).t().contiguous()
            mean = torch.zeros_like(weighted[:-1])
            for columns, piece in zip(exponents.tiles.columns, exponents.pieces, strict=True):
                powers = workspace.in_product_dtype(drop_floor_(workspace.powers(left, piece)))
                if needs_phi:
                    mean.addmm_(piece[:-2], powers.t())
                if needs_right:
                    grad_right[:, columns].addmm_(weighted, powers)
            grad_left[rows] = mean.t() * (LN2 * scale)
        return grad_right

    return grad_left, torch.stack(exponents.tiles.map(work)).sum(0)


class _BilinearLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, phi: Tensor, psi: Tensor, bias: Tensor, offset: Tensor, chunk_size: int | None) -> Tensor:
        exponents = _Exponents(phi, psi, bias, offset.dtype, chunk_size)
        log2_sum = _log2_sum(exponents, bias.argmax(0, keepdim=True))
        value = (log2_sum * LN2 + offset).to(offset.dtype)
        ctx.chunk_size = chunk_size
        ctx.save_for_backward(phi, psi, bias, offset, log2_sum, value)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        needs_phi, needs_psi, needs_bias, _, _ = ctx.needs_input_grad

        def compute(
            grad: Tensor, phi: Tensor, psi: Tensor, bias: Tensor, offset: Tensor, log2_sum: Tensor, value: Tensor
        ) -> Gradients:
            exponents = _Exponents(phi, psi, bias, offset.dtype, ctx.chunk_size)
            # An infinite density has no gradient, NaN; a point that nothing covers has the gradient zero.
            exponents.subtract(log2_sum.masked_fill(log2_sum == torch.inf, torch.nan))
            grad = grad.masked_fill(value == -torch.inf, 0.0)
            grad_phi, grad_right = _gradients(exponents, grad, needs_phi, needs_psi or needs_bias)
            grad_psi, grad_bias = grad_right[:-1].t(), grad_right[-1]
            return grad_phi.to(phi.dtype), grad_psi.to(psi.dtype), grad_bias.to(bias.dtype), grad

        return (*first_derivative(compute, grad, *ctx.saved_tensors), None)
