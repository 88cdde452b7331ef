"""The scale of the moves that leads to a wanted acceptance."""

from __future__ import annotations

import math


class DualAveraging:
    r"""Steps whose mean acceptance tends to ``target``, for a warm-up.

    .. math:: \log h_{t+1} = \log h_1 - \frac{\sqrt t}{\gamma} \frac{1}{t + t_0} \sum_{s \le t} (target - a_s), \quad
              \log \bar h_{t+1} = t^{-\kappa} \log h_{t+1} + (1 - t^{-\kappa}) \log \bar h_t

    with :math:`\gamma = 0.05, t_0 = 10, \kappa = 0.75`. After the warm-up the average :math:`\bar h` is used.

    Reference: Hoffman, Gelman (2014), The No-U-Turn Sampler, section 3.2.1, eq. (6).

    >>> steps = DualAveraging(1.0, target=0.5, largest=10.0)
    >>> for _ in range(200):
    ...     steps.update(math.exp(-steps.current))                       # acceptance 0.5 at log 2 = 0.69
    >>> abs(steps.average - math.log(2)) < 0.05
    True
    """

    GAMMA, DELAY, KAPPA = 0.05, 10, 0.75

    def __init__(self, start: float, target: float, largest: float) -> None:
        self.target, self.log_largest, self.log_start = target, math.log(largest), math.log(start)
        self.current = self.average = math.exp(min(self.log_start, self.log_largest))
        self.count, self.short = 0, 0.0

    def update(self, acceptance: float) -> None:
        """Learn from the mean acceptance probability of a step at ``current``."""
        self.count += 1
        self.short += self.target - acceptance
        log_step = self.log_start - math.sqrt(self.count) / self.GAMMA * self.short / (self.count + self.DELAY)
        log_step = min(log_step, self.log_largest)
        weight = self.count**-self.KAPPA
        self.average = math.exp(weight * log_step + (1 - weight) * math.log(self.average))
        self.current = math.exp(log_step)
