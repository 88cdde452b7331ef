"""Online log-sum-exp in base 2, the arithmetic that all streaming reductions share.

Base 2 because `torch.exp2` is vectorised without a slow path, while `torch.exp` in float32 calls a library that is 4 times slower
on ordinary arguments and 50 times slower on those that underflow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LN2 = math.log(2.0)
LOG2E = 1.0 / LN2


def exponent_floor(dtype: torch.dtype) -> float:
    """Smallest exponent given to exp2.

    A term at the floor weighs 2^-100 (float32) of the largest one: 1e9 of them do not reach one rounding error. Without the floor the
    powers become denormal numbers, on which exp2 and the products after it are several times slower.
    """
    return 0.8 * math.log2(torch.finfo(dtype).tiny)


def exponent_limit(dtype: torch.dtype) -> float:
    """Largest sum of powers for which a stale maximum still does; far enough below overflow to be added up for ever."""
    return math.exp2(0.75 * math.log2(torch.finfo(dtype).max))


def finite(top: Tensor) -> Tensor:
    """`top` with infinities replaced by huge numbers, so that subtracting it from an infinite logit gives no NaN."""
    huge = torch.finfo(top.dtype).max / 4
    return top.clamp(-huge, huge)


def absorb(top: Tensor, total: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Add the powers 2^logits (N, C) to the running sums 2^top * total (N,); logits are overwritten.

    A row whose terms are all -inf keeps top = -inf, whatever total says; +inf and NaN stay what they are.
    """
    higher = torch.maximum(top, logits.amax(1))
    shift = finite(higher)
    powers = logits.sub_(shift[:, None]).to(total.dtype).clamp_(min=exponent_floor(total.dtype)).exp2_()
    return higher, total * torch.exp2(finite(top) - shift).to(total.dtype) + powers.sum(1)


def slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def tile_shape(n: int, m: int, chunk_size: int, elements: int) -> tuple[int, int]:
    """Rows and columns of a tile with chunk_size columns and about `elements` pairs."""
    columns = min(chunk_size, m)
    return max(1, min(n, elements // columns)), columns
