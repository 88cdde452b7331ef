"""Matrices of all pairs (N,M), filled block by block: what a block needs in between stays in the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .bilinear import Bilinear, product_dtype

CPU_PAIRS, DEVICE_PAIRS = 2**17, 2**22  # in a block: 0.5 to 1 MiB for each intermediate


def by_blocks(function: Callable[[slice], Tensor], n: int, m: int, like: Tensor) -> Tensor:
    """The rows ``function(slice of rows)`` of an (n,m) matrix, computed in blocks; -> dtype and device of ``like``.

    Where gradients are recorded there is one block only: their graph keeps every intermediate anyway.
    """
    if torch.is_grad_enabled() or like.is_meta:
        return function(slice(0, n))
    result = torch.empty(n, m, dtype=like.dtype, device=like.device)
    step = max(1, (CPU_PAIRS if like.device.type == "cpu" else DEVICE_PAIRS) // max(m, 1))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        result[rows] = function(rows)
    return result


def bilinear_pairs(form: Bilinear) -> Tensor:
    """All log densities of a bilinear form by one matrix product, in float64 where float32 would err; -> (N,M)."""
    dtype, offset = product_dtype(form.phi, form.psi, form.bias, form.offset.dtype), form.offset.unsqueeze(1)
    left = torch.cat([form.phi, torch.ones_like(form.phi[:, :1])], 1).to(dtype)
    right = torch.cat([form.psi.double(), form.bias.double().unsqueeze(1)], 1).to(dtype).mT

    def block(rows: slice) -> Tensor:
        return (left[rows] @ right).to(offset.dtype) + offset[rows]

    return by_blocks(block, len(left), right.shape[1], offset)
