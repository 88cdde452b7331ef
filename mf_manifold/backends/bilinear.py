"""Exponential families in one matrix product, log q(x_n | w_c) = h_n + b_c + phi_n . psi_c, and its streaming log-sum-exp.

A tile of the product stays in the cache: it is made, raised to powers of two, summed and overwritten by the next one. Bias and running
maximum enter as two more features, so the product itself delivers the exponents.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .online import LN2, LOG2E, absorb, exponent_floor, exponent_limit, finite, slices, tile_shape

# 256 x 640 float32 numbers are half a MiB. Not 512 columns: with a row stride that is a power of two the rows of a tile fall on the
# same cache lines and the product is three times slower. Elsewhere launches, not caches, are the cost of a small tile.
CPU_TILE, DEVICE_TILE = (256, 640), (2048, 2048)
# Largest error of a log-density, in nats, that a float32 product is allowed to make.
TOLERANCE = 2e-5


class Bilinear(NamedTuple):
    """log q(x_n | w_c) = offset_n + bias_c + phi_n . psi_c, in which only the sum needs to be of moderate size.

    The result has offset's dtype. Features whose products cancel (kappa * (x.w - 1), say) may come in float64.
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
    if result == torch.float64 or _fp32_products_are_rounded(phi.device.type):
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


class _Tiles:
    """Tiles of 2^(phi_n . psi_c + bias_c - top_n), written over one another."""

    def __init__(self, phi: Tensor, psi: Tensor, bias: Tensor, result: torch.dtype, chunk_size: int | None) -> None:
        dtype = product_dtype(phi, psi, bias, result)
        ones = torch.ones_like(phi[:, :1])
        scaled = torch.cat([psi.double(), bias.double()[:, None]], 1).mul_(LOG2E).to(dtype)
        self.left = torch.cat([phi, ones, torch.zeros_like(ones)], 1).to(dtype)
        self.right = torch.cat([scaled, torch.ones_like(scaled[:, :1])], 1).t().contiguous()
        rows, columns = CPU_TILE if phi.device.type == "cpu" else DEVICE_TILE
        shape = tile_shape(len(phi), len(psi), chunk_size or columns, rows * columns)
        self.rows, self.columns = slices(len(phi), shape[0]), slices(len(psi), shape[1])
        self.pieces = [self.right[:, part] for part in self.columns]
        self.product = torch.empty(shape[0] * shape[1], dtype=dtype, device=phi.device)
        powers = torch.promote_types(result, torch.float32)
        self.tile = self.product if dtype == powers else torch.empty_like(self.product, dtype=powers)
        self.floor = exponent_floor(powers)

    def subtract(self, top: Tensor) -> None:
        self.left[:, -1] = finite(top).neg_()

    def powers(self, left: Tensor, right: Tensor) -> Tensor:
        """In the result's dtype: after the subtraction it has the digits, and exp2 in float64 would cost the most."""
        n, m = left.shape[0], right.shape[1]
        tile = torch.mm(left, right, out=self.product[: n * m].view(n, m))
        if self.tile is not self.product:
            tile = self.tile[: n * m].view(n, m).copy_(tile)
        return tile.clamp_(min=self.floor).exp2_()

    def in_product_dtype(self, powers: Tensor) -> Tensor:
        if self.tile is self.product:
            return powers
        return self.product[: powers.numel()].view_as(powers).copy_(powers)


def _stream(tiles: _Tiles, start: Tensor) -> Tensor:
    """Base-2 log-sum-exp (N,) in the product's dtype, from the exponents of component `start` as first guess of the maxima."""
    left, right = tiles.left, tiles.right
    top = torch.mm(left[:, :-1], right[:-1].index_select(1, start)).squeeze(1)
    total = torch.zeros_like(top, dtype=tiles.tile.dtype)
    limit = exponent_limit(total.dtype)
    tiles.subtract(top)
    for rows in tiles.rows:
        part, sums = left[rows], total[rows]
        for piece in tiles.pieces:
            added = tiles.powers(part, piece).sum(1)
            if not float(added.amax()) <= limit:  # also true for NaN, which must not hide a row that overflows
                _raise_tops(part, piece, top[rows], sums, added, limit)
            sums += added
    return top + total.log2()


def _raise_tops(left: Tensor, right: Tensor, top: Tensor, total: Tensor, added: Tensor, limit: float) -> None:
    """Redo the few rows in which this tile exceeds the maximum in use by so much that the sum would overflow."""
    over = (added > limit).nonzero().squeeze(1)
    logits = torch.mm(left[over, :-1], right[:-1])
    higher, sums = absorb(top[over], total[over], logits)
    left[over, -1] = -finite(higher)
    top[over], total[over], added[over] = higher, sums, 0.0


class _BilinearLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, phi: Tensor, psi: Tensor, bias: Tensor, offset: Tensor, chunk_size: int | None
    ) -> Tensor:
        tiles = _Tiles(phi, psi, bias, offset.dtype, chunk_size)
        log2_sum = _stream(tiles, bias.argmax(0, keepdim=True))
        value = (log2_sum * LN2 + offset).to(offset.dtype)
        ctx.chunk_size = chunk_size
        ctx.save_for_backward(phi, psi, bias, offset, log2_sum, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        phi, psi, bias, offset, log2_sum, value = ctx.saved_tensors
        tiles = _Tiles(phi, psi, bias, offset.dtype, ctx.chunk_size)
        tiles.subtract(log2_sum)
        grad = grad.masked_fill(value == -torch.inf, 0.0)
        needs_phi, needs_psi, needs_bias, _, _ = ctx.needs_input_grad
        grad_phi, grad_right = _gradients(tiles, grad, needs_phi, needs_psi or needs_bias)
        grad_right.masked_fill_(bias == -torch.inf, 0.0)
        grad_psi, grad_bias = grad_right[:-1].t(), grad_right[-1]
        return grad_phi.to(phi.dtype), grad_psi.to(psi.dtype), grad_bias.to(bias.dtype), grad, None


def _gradients(tiles: _Tiles, grad: Tensor, needs_phi: bool, needs_right: bool) -> tuple[Tensor, Tensor]:
    """Gradients of phi (N, K) and of psi and bias together (K + 1, M)."""
    psi = [piece[:-2] for piece in tiles.pieces]
    grad_left = torch.zeros_like(tiles.left[:, :-2])
    grad_right = torch.zeros_like(tiles.right[:-1])
    targets = [grad_right[:, part] for part in tiles.columns]
    for rows in tiles.rows:
        left = tiles.left[rows]
        weighted = (left[:, :-1] * grad[rows, None]).t().contiguous()
        mean = torch.zeros_like(weighted[:-1])
        for piece, psi_piece, target in zip(tiles.pieces, psi, targets, strict=True):
            powers = tiles.in_product_dtype(tiles.powers(left, piece))
            if needs_phi:
                mean.addmm_(psi_piece, powers.t())
            if needs_right:
                target.addmm_(weighted, powers)
        grad_left[rows] = mean.t() * (LN2 * grad[rows, None])
    return grad_left, grad_right
