"""Weights of a mixture whose components are given, by the EM algorithm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GROWTH = 1.5  # of the power of a step after one that gained


class Weights(NamedTuple):
    """Mixing weights (J) that sum to one, and the mean log-likelihood at the start and after each step."""

    weights: Tensor
    path: list[float]


def mixing_weights(
    log_density: Tensor, *, last_within: tuple[float, float] = (0.0, 1.0), tolerance: float = 1e-9, max_steps: int = 10_000
) -> Weights:
    r"""Weights of largest likelihood for J given densities at S points, the last weight within given bounds.

    .. math:: \hat\pi = \arg\max_\pi \frac1S \sum_s \log \sum_j \pi_j q_j(x_s), \quad
              \pi_j \leftarrow \frac1S \sum_s \frac{\pi_j q_j(x_s)}{\sum_l \pi_l q_l(x_s)}

    The likelihood is concave in the weights. A step takes its factors to a power that grows while the likelihood does, and
    falls back to the plain one, which never lowers it; steps end when one gains less than ``tolerance`` nats. Points that no
    density covers are left out.

    Shapes: log_density (S,J).

    References:
        Dempster, Laird, Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm, section 4.3.
        Salakhutdinov, Roweis (2003), Adaptive overrelaxed bound optimization methods.

    >>> import torch
    >>> normal = torch.distributions.Normal(torch.tensor([0.0, 5.0]), 1.0)
    >>> x = torch.tensor([0.0, 0.1, -0.1, 5.0]).unsqueeze(-1)
    >>> mixing_weights(normal.log_prob(x)).weights
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    logs = log_density.double()
    top = logs.amax(1, keepdim=True)
    covered = top.squeeze(1) > -torch.inf
    density, level = (logs - top)[covered].exp(), float(top[covered].mean())
    weights = density.new_full((density.shape[1],), 1 / density.shape[1])
    mixed, power, path = density @ weights, 1.0, []
    for _ in range(max_steps):
        path.append(level + float(mixed.log().mean()))
        if len(path) > 1 and power == GROWTH and path[-1] - path[-2] < tolerance:
            break
        factors = (mixed.reciprocal() @ density) / len(density)
        bold = bounded(weights * factors**power, last_within)
        mixed = density @ bold
        if power > 1 and not level + float(mixed.log().mean()) > path[-1] + tolerance:
            power, bold = 1.0, bounded(weights * factors, last_within)
            mixed = density @ bold
        weights, power = bold, power * GROWTH
    return Weights(weights, path)


def bounded(weights: Tensor, last_within: tuple[float, float]) -> Tensor:
    """Weights (J) that sum to one, the last within bounds; the others keep their ratios.

    Of all such weights they have the largest likelihood for responsibilities proportional to those given.
    """
    weights = weights / weights.sum()
    last = weights[-1].clamp(*last_within)
    if torch.equal(last, weights[-1]):
        return weights
    others = (
        weights[:-1] / weights[:-1].sum() if float(weights[-1]) < 1 else torch.full_like(weights[:-1], 1 / len(weights[:-1]))
    )
    return torch.cat([(1 - last) * others, last.unsqueeze(0)])


def log_mixed(log_density: Tensor, weights: Tensor) -> Tensor:
    """Log density (S) of the mixture of given densities (S,J); -inf where none covers the point."""
    return torch.logsumexp(log_density.double() + weights.log(), dim=1)
