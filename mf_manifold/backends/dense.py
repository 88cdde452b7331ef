"""The reference: every pair at once, in memory of order N * M, differentiable any number of times."""

from __future__ import annotations

import torch
from torch import Tensor

from .problem import Problem


def reasons_not(problem: Problem) -> list[str]:
    return []


def reduce(problem: Problem) -> Tensor:
    return log_sum_exp(problem.power * (problem.kernel.pairwise_log_prob(problem.x, problem.w) + problem.log_weights))


def log_sum_exp(logits: Tensor) -> Tensor:
    """Log of the summed exponentials over the last dimension, -inf with a zero gradient where all terms vanish."""
    uncovered = (logits == -torch.inf).all(dim=-1)
    # logsumexp of -inf alone has NaN gradients: such a row is replaced before and after, its gradient is zero.
    return logits.masked_fill(uncovered[..., None], 0.0).logsumexp(dim=-1).masked_fill(uncovered, -torch.inf)
