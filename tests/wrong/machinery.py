"""A reduction and a measure that are wrong on purpose."""

from __future__ import annotations

import geoopt
from torch import Tensor

from mf_manifold.backends.problem import Problem
from mf_manifold.measure import Measure, log_ratio


def reduce_without_weights(problem: Problem) -> Tensor:
    """A dense reduction that forgets the weights of the components."""
    return (problem.power * problem.kernel.pairwise_log_prob(problem.x, problem.w)).logsumexp(1)


def frobenius_for_lebesgue(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """Lebesgue measure without the factor 2^(p (p - 1) / 4) that sets it apart from the Frobenius volume."""
    return log_ratio(Measure(manifold, "frobenius"), Measure(manifold), x)
