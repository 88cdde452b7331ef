"""Weights of points in a maximum-likelihood fit."""

from __future__ import annotations

import torch
from torch import Tensor


def shares(x: Tensor, weights: Tensor | None) -> Tensor:
    """The share of each of N points in a sum of one, in float64; None weighs all alike."""
    if weights is None:
        return torch.full((len(x),), 1 / len(x), dtype=torch.float64, device=x.device)
    return weights.double() / weights.double().sum()
