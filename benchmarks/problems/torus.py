"""Laws on the torus of which the density is known, as chains of von Mises laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.special import i0e
from torch import Tensor
from torch.distributions import VonMises

Shift = Callable[[Tensor], Tensor]


class Chain:
    r"""Every angle is von Mises around a function of the one before it; the first is von Mises around 0.

    .. math:: q(x) = f(x_1; 0, \kappa_1) \prod_{i>1} f(x_i; s(x_{i-1}), \kappa)

    **Measure**: radians.
    """

    def __init__(self, dim: int, first: float, concentration: float, shift: Shift) -> None:
        self.dim, self.first, self.concentration, self.shift = dim, first, concentration, shift

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at angles; (N,d) -> (N)."""
        x = x.double()
        return _log_von_mises(x[:, 0], self.first) + _log_von_mises(x[:, 1:] - self.shift(x[:, :-1]), self.concentration).sum(
            -1
        )

    def sample(self, n: int, seed: int) -> Tensor:
        """Independent points; -> (n,d)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # torch's von Mises law takes no generator
            angles = [VonMises(torch.zeros(n).double(), torch.tensor(self.first).double()).sample()]
            for _ in range(self.dim - 1):
                angles.append(VonMises(self.shift(angles[-1]), torch.tensor(self.concentration).double()).sample())
        return torch.remainder(torch.stack(angles, -1) + math.pi, 2 * math.pi) - math.pi


def _log_von_mises(x: Tensor, concentration: float) -> Tensor:
    """By scipy's Bessel function: the one in torch's law is good to 1e-8 only."""
    return concentration * (x.cos() - 1) - math.log(2 * math.pi * float(i0e(concentration)))


TARGETS = {
    # a narrow band that winds once around the second circle
    "winding band T^2": Chain(2, 0.3, 30.0, lambda x: x + 1.5 * torch.sin(x)),
    # two bands that cross, by a map of the circle of degree two
    "doubled band T^2": Chain(2, 1.0, 10.0, lambda x: 2 * x + math.pi),
    "chain T^5": Chain(5, 0.3, 12.0, lambda x: x + torch.sin(2 * x)),
}
