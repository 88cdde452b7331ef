"""Rejection sampling in rounds, without a loop over samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def accepted(propose: Callable[[Tensor], tuple[Tensor, Tensor]], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """One accepted candidate for every row of ``like`` (N); ``propose(rows)`` gives candidates (K,...) and log acceptances (K).

    Rows that were refused are proposed again; each round is one vectorised call. A NaN acceptance, which NaN parameters give,
    accepts: no later proposal would be better.
    """
    rows = torch.arange(len(like), device=like.device)
    result: Tensor | None = None
    while result is None or len(rows):
        value, log_acceptance = propose(rows)
        if result is None:
            result = torch.empty_like(value)
        u = torch.rand(log_acceptance.shape, generator=generator, dtype=value.dtype, device=value.device)
        accept = ~(torch.log(u) >= log_acceptance)
        result[rows[accept]] = value[accept]
        rows = rows[~accept]
    return result
