"""How far the log density of a drawn mixture is from that of the infinite mixture it was drawn from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .mixture import Mixture

ENOUGH = 20.0  # effective components from which the normal interval covers what it says


class LogProbInterval(NamedTuple):
    """An interval for the log density of the infinite mixture; every entry has the shape (*S) of the points.

    ``log_prob`` is the exact log density of the drawn mixture; ``debiased`` estimates that of the infinite mixture, with
    ``standard_error`` around it, and lies between ``lower`` and ``upper``; ``n_effective`` is the number of components
    that carry the density at a point. Where it is below 20, ``trustworthy`` is False and ``log_prob`` is a lower bound in
    expectation, no more.
    """

    log_prob: Tensor
    debiased: Tensor
    standard_error: Tensor
    lower: Tensor
    upper: Tensor
    n_effective: Tensor
    trustworthy: Tensor


def log_prob_interval(mixture: Mixture, x: Tensor, z: float = 1.96) -> LogProbInterval:
    """Interval for the infinite mixture's log density at ``x`` (*S,*E), see :meth:`mf_manifold.Mixture.log_prob_interval`."""
    value = mixture.log_prob(x)
    part = Responsibilities.of(mixture, x)
    error, bias = part.variance.sqrt(), part.bias
    debiased = value - bias
    enough = part.n_effective >= ENOUGH
    return LogProbInterval(value, debiased, error, debiased - z * error, debiased + z * error, part.n_effective, enough)


class Responsibilities(NamedTuple):
    r"""Sums over components of powers of the responsibilities ``r_c = pi_c q(x | w_c) / sum_j pi_j q(x | w_j)``.

    ``share`` is the components' part of the density, which a background takes from; ``squares`` is ``sum r_c^2``, ``cross`` is
    ``sum r_c pi_c``, ``weights`` is ``sum pi_c^2``.
    """

    share: Tensor
    squares: Tensor
    cross: Tensor
    weights: Tensor

    @classmethod
    def of(cls, mixture: Mixture, x: Tensor) -> Responsibilities:
        log_q = mixture._reduce(x)
        whole = mixture.log_prob(x, "riemannian")
        missed = log_q == -math.inf  # no component reaches the point: as if one carried it
        squares = torch.exp(mixture._reduce(x, power=2.0) - 2 * log_q).masked_fill(missed, 1.0)
        share = torch.exp(log_q + mixture._log_share() - whole).masked_fill(missed & (whole == -math.inf), 1.0)
        if mixture.log_weights is None:
            even = torch.full_like(squares, 1 / mixture.n_components)
            return cls(share, squares, even, even)
        doubled = 2 * mixture.log_weights
        cross = torch.exp(mixture._reduce(x, log_weights=doubled) - log_q).masked_fill(missed, 0.0)
        return cls(share, squares, cross, doubled.logsumexp(-1).exp().to(squares).expand_as(squares))

    @property
    def n_effective(self) -> Tensor:
        """Kish's effective number of components."""
        return 1 / self.squares

    @property
    def variance(self) -> Tensor:
        """Variance of the log density: ``share^2 sum (r_c - pi_c)^2``."""
        return self.share.square() * (self.squares - 2 * self.cross + self.weights).clamp_min(0)

    @property
    def bias(self) -> Tensor:
        """Expected excess of the log density over that of the infinite mixture, negative as a rule."""
        return self.share * (self.weights - self.cross) - self.variance / 2
