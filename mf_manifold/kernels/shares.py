"""Weights of points in a maximum-likelihood fit."""

from __future__ import annotations

import torch
from torch import Tensor


def shares(x: Tensor, weights: Tensor | None) -> Tensor:
    """The share of each of N points in a sum of one, in float64; None weighs all alike.

    >>> shares(torch.eye(2).expand(4, 2, 2), None).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    if weights is None:
        return torch.full((len(x),), 1 / len(x), dtype=torch.float64, device=x.device)
    return weights.double() / weights.double().sum()


def average(share: Tensor, values: Tensor) -> Tensor:
    """The weighted average over the rows of float64 values; (N), (N,...) -> (...)."""
    return torch.tensordot(share, values, dims=1)
