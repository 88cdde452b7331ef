"""Laws of the plane in pieces, between which a flow of a simple base leaves bridges: density, samples, and where bridges are.

Every law has ``sample(n, generator)`` (n,2), ``log_prob(x)`` (n,2) -> (n), normalised, by area, and ``bridge(x)`` -> (n) bool,
a region between the pieces that has next to no mass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.problems.synthetic2d import EightGaussians


class Pieces(Protocol):
    """A law of the plane in pieces."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor: ...

    def bridge(self, x: Tensor) -> Tensor: ...


class TwoRings:
    """Rings of radius 1 and 2 and width 0.125; E log p = -2.275893.

    .. math:: p(x) = \\frac1C \\sum_{r \\in \\{1, 2\\}} e^{-(|x| - r)^2 / (2 \\cdot 0.125^2)}, \\quad
              C = 6 \\pi \\cdot 0.125 \\sqrt{2 \\pi}
    """

    WIDTH, FARTHEST = 0.125, 4.0
    LOG_NORMALIZER = math.log(6 * math.pi * WIDTH * math.sqrt(2 * math.pi))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        def propose(count: int) -> tuple[Tensor, Tensor]:
            ring = 1.0 + torch.randint(2, (count,), generator=generator)
            radius = ring + self.WIDTH * torch.randn(count, generator=generator, dtype=torch.float64)
            return _polar(radius, generator), radius / self.FARTHEST  # the circumference is the only other factor

        return _thinned(n, propose, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        miss = x.double().norm(dim=-1, keepdim=True) - torch.tensor([1.0, 2.0], dtype=torch.float64, device=x.device)
        return (-miss.square() / (2 * self.WIDTH**2)).logsumexp(-1) - self.LOG_NORMALIZER

    def bridge(self, x: Tensor) -> Tensor:
        """Half way between the rings; 0.0026 of the mass."""
        return (x.norm(dim=-1) - 1.5).abs() < 0.15


class DualMoon:
    """Two arcs of a circle of radius 2, at its left and its right; E log p = -1.571062.

    .. math:: p(x) = \\frac1C e^{-(|x| - 2)^2 / (2 \\cdot 0.2^2)} \\sum_\\pm e^{-(x_1 \\pm 2)^2 / (2 \\cdot 0.3^2)}, \\quad
              C = 2.234940
    """

    WIDTH, SIDE, FARTHEST = 0.2, 0.3, 4.0
    LOG_NORMALIZER = math.log(2.234940)

    def _sides(self, x: Tensor) -> Tensor:
        miss = x[..., :1] - torch.tensor([2.0, -2.0], dtype=torch.float64, device=x.device)
        return (-miss.square() / (2 * self.SIDE**2)).logsumexp(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        def propose(count: int) -> tuple[Tensor, Tensor]:
            radius = 2 + self.WIDTH * torch.randn(count, generator=generator, dtype=torch.float64)
            x = _polar(radius, generator)
            return x, radius / self.FARTHEST * self._sides(x).exp()

        return _thinned(n, propose, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.double()
        return -((x.norm(dim=-1) - 2) / self.WIDTH).square() / 2 + self._sides(x) - self.LOG_NORMALIZER

    def bridge(self, x: Tensor) -> Tensor:
        """Between the moons; less than 0.0001 of the mass."""
        return x[..., 0].abs() < 0.8


class CircleOfEight(EightGaussians):
    """Eight normal laws on a circle."""

    FAR = 3.5  # standard deviations

    def bridge(self, x: Tensor) -> Tensor:
        """Far from all of them; 0.0014 of the mass."""
        return torch.cdist(x.double(), self.centers).amin(-1) > self.FAR * self.SCALE


def _polar(radius: Tensor, generator: torch.Generator) -> Tensor:
    angle = 2 * math.pi * torch.rand(len(radius), generator=generator, dtype=torch.float64)
    return radius.unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], -1)


def _thinned(n: int, propose: Callable[[int], tuple[Tensor, Tensor]], generator: torch.Generator) -> Tensor:
    """The first n accepted proposals; radii of 0 and 4 are eight standard deviations away."""
    kept = [torch.empty(0, 2, dtype=torch.float64)]
    while sum(map(len, kept)) < n:
        x, chance = propose(2 * n)
        kept.append(x[torch.rand(len(x), generator=generator, dtype=torch.float64) < chance])
    return torch.cat(kept)[:n]


BRIDGES: dict[str, Callable[[], Pieces]] = {"dual moon": DualMoon, "circle of 8": CircleOfEight, "two rings": TwoRings}
