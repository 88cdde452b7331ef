"""Laws of the plane whose densities are known, so that a model's score can be held against the best possible one.

Every problem has ``sample(n, generator)`` (n,2), float64, and ``log_prob(x)`` (n,2) -> (n), with respect to area.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Problem(Protocol):
    """A law of the plane with a known density."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor: ...


class NoisyCurve:
    """Points of a curve at uniform parameters, plus normal noise; the density is an integral along the curve.

    .. math:: p(x) = \\frac{1}{A} \\sum_{a=1}^{A} \\int_0^1 N(x; \\gamma_a(u), noise^2 I) \\, du

    ``arcs`` map parameters (n) in [0, 1] to points (n,2). Gauss-Legendre rules of ``nodes`` points, a fraction of the noise
    apart, leave an error far below 1e-6.
    """

    def __init__(self, arcs: list[Callable[[Tensor], Tensor]], noise: float, nodes: int = 512) -> None:
        self.arcs, self.noise = arcs, noise
        at, weights = np.polynomial.legendre.leggauss(nodes)
        self.log_weights = torch.as_tensor(weights / 2).log().repeat(len(arcs)) - math.log(len(arcs))
        self.nodes = torch.cat([arc(torch.as_tensor(at / 2 + 0.5)) for arc in arcs])

    def curve(self, u: Tensor, which: Tensor) -> Tensor:
        """The points of the arcs ``which`` (n) at parameters ``u`` (n); (n,2)."""
        return torch.stack([arc(u) for arc in self.arcs])[which, torch.arange(len(u))]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.sample_labelled(n, generator)[0]

    def sample_labelled(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (n,2), and the arcs (n) that they are of."""
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        which = torch.randint(len(self.arcs), (n,), generator=generator)
        return self.curve(u, which) + self.noise * torch.randn(n, 2, generator=generator, dtype=torch.float64), which

    def log_prob(self, x: Tensor) -> Tensor:
        squares = torch.cdist(x.double(), self.nodes, compute_mode="donot_use_mm_for_euclid_dist").square()
        log_q = -squares / (2 * self.noise**2) - math.log(2 * math.pi * self.noise**2)
        return (log_q + self.log_weights).logsumexp(1)


def two_moons(noise: float = 0.05) -> NoisyCurve:
    """Two interleaved half circles of radius 1."""

    def outer(u: Tensor) -> Tensor:
        return torch.stack([(math.pi * u).cos(), (math.pi * u).sin()], -1)

    def inner(u: Tensor) -> Tensor:
        return torch.stack([1 - (math.pi * u).cos(), 0.5 - (math.pi * u).sin()], -1)

    return NoisyCurve([outer, inner], noise)


def swiss_roll(noise: float = 0.05) -> NoisyCurve:
    """The roll ``t (cos t, sin t) / 7`` at angles t from 1.5 pi to 4.5 pi."""
    return NoisyCurve([_spiral(1.5 * math.pi, 4.5 * math.pi, 7.0)], noise, 1024)


def spiral(noise: float = 0.02) -> NoisyCurve:
    """A spiral of one and a half turns, to be described by a curve."""
    return NoisyCurve([_spiral(math.pi, 4 * math.pi, 4 * math.pi)], noise, 1024)


def _spiral(start: float, end: float, size: float) -> Callable[[Tensor], Tensor]:
    def arc(u: Tensor) -> Tensor:
        t = start + (end - start) * u
        return torch.stack([t * t.cos(), t * t.sin()], -1) / size

    return arc


def two_circles(noise: float = 0.05) -> NoisyCurve:
    """Concentric circles of radii 0.8 and 0.4."""

    def circle(radius: float) -> Callable[[Tensor], Tensor]:
        return lambda u: radius * torch.stack([(2 * math.pi * u).cos(), (2 * math.pi * u).sin()], -1)

    return NoisyCurve([circle(0.8), circle(0.4)], noise)


class Pinwheel:
    """Arms: normal laws of sds 0.3 along and 0.05 across at distance 1, rotated by ``rate exp(radius)``, halved.

    The usual definition rotates by the exponential of the coordinate along the arm; rotating by the radius preserves area and
    looks the same, but leaves the density known.
    """

    def __init__(self, arms: int = 5, rate: float = 0.25) -> None:
        self.arms, self.rate = arms, rate

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.sample_labelled(n, generator)[0]

    def sample_labelled(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (n,2), and the arms (n) that they are of."""
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        flat = torch.tensor([0.3, 0.05]) * noise + torch.tensor([1.0, 0.0])
        arm = torch.randint(self.arms, (n,), generator=generator)
        return _rotate(flat, 2 * math.pi / self.arms * arm + self.rate * flat.norm(dim=-1).exp()) / 2, arm

    def log_prob(self, x: Tensor) -> Tensor:
        y = 2 * x.double()
        terms = []
        for arm in range(self.arms):
            flat = _rotate(y, -2 * math.pi / self.arms * arm - self.rate * y.norm(dim=-1).exp())
            along, across = (flat[:, 0] - 1) / 0.3, flat[:, 1] / 0.05
            terms.append(-(along**2 + across**2) / 2 - math.log(2 * math.pi * 0.3 * 0.05))
        return torch.stack(terms).logsumexp(0) + math.log(4 / self.arms)


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], -1)


class Checkerboard:
    """Uniform on the 8 black unit squares of the board [-2, 2]^2; the mean log density is -log 8."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        row, pair = torch.randint(4, (n,), generator=generator), torch.randint(2, (n,), generator=generator)
        corner = torch.stack([2 * pair + row % 2, row], -1) - 2
        return corner + torch.rand(n, 2, generator=generator, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        inside = (x.abs() < 2).all(-1) & (x.floor().sum(-1).remainder(2) == 0)
        return torch.where(inside, -math.log(8.0), -torch.inf).double()


class EightGaussians:
    """Eight normal laws on a circle of radius 2, of standard deviation ``(2/3) sin(pi/8)``; E log p = -2.177596."""

    SCALE = 2 / 3 * math.sin(math.pi / 8)

    def __init__(self) -> None:
        angle = math.pi / 4 * torch.arange(8, dtype=torch.float64)
        self.centers = 2 * torch.stack([angle.cos(), angle.sin()], -1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(8, (n,), generator=generator)
        return self.centers[which] + self.SCALE * torch.randn(n, 2, generator=generator, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        squares = (x.double().unsqueeze(1) - self.centers).square().sum(-1)
        return (-squares / (2 * self.SCALE**2)).logsumexp(1) - math.log(8 * 2 * math.pi * self.SCALE**2)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "two moons": two_moons,
    "pinwheel": Pinwheel,
    "swiss roll": swiss_roll,
    "checkerboard": Checkerboard,
    "8 Gaussians": EightGaussians,
}
