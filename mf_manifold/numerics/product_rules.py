"""Product quadrature over boxes some of whose sides are glued together, in cells that tile the box; on the CPU."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


@functools.cache
def gauss_rule(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def line_rule(lower: float, upper: float, periodic: bool, count: int) -> tuple[Tensor, Tensor]:
    """Nodes (n) and weights (n) on an interval: equal steps where its ends are glued, else Gauss-Legendre.

    Consecutive intervals as long as the weights contain one node each (for Gauss rules by Szego (1939), theorem 3.41.1).
    """
    if periodic:
        step = (upper - lower) / count
        middles = torch.from_numpy(lower + step * (np.arange(count) + 0.5))
        return middles, torch.full_like(middles, step)
    nodes, weights = gauss_rule(count)
    return (lower + upper) / 2 + (upper - lower) / 2 * nodes, (upper - lower) / 2 * weights


def grid(lower: list[float], upper: list[float], periodic: list[bool], counts: list[int]) -> tuple[Tensor, Tensor]:
    """Nodes (K,d) and log weights (K) of the product rule with ``counts`` nodes a side."""
    lines = [line_rule(*side) for side in zip(lower, upper, periodic, counts, strict=True)]
    nodes = torch.cartesian_prod(*[n for n, _ in lines]).reshape(-1, len(lines))
    return nodes, torch.cartesian_prod(*[w.log() for _, w in lines]).reshape(len(nodes), -1).sum(-1)


def cells(lower: list[float], upper: list[float], periodic: list[bool], counts: list[int]) -> tuple[Tensor, Tensor]:
    """Lower and upper corners (K,d) of the cells that belong to the nodes of :func:`grid`."""
    corners = []
    for side in zip(lower, upper, periodic, counts, strict=True):
        ends = side[0] + line_rule(*side)[1].cumsum(0)
        ends[-1] = side[1]  # rounding must not lead out of the box
        corners.append((torch.cat([torch.full_like(ends[:1], side[0]), ends[:-1]]), ends))
    low, high = (torch.cartesian_prod(*[c[i] for c in corners]).reshape(-1, len(corners)) for i in (0, 1))
    return low, high
