"""One-dimensional integrals behind the sine bivariate von Mises law: its normaliser, its moments, its marginal.

Given the first angle a, measured from its mean, the second is von Mises with concentration ``r = |(k2, lambda sin a)|``,
so what is left is the marginal ``exp(k1 cos a) I_0(r)``. It is even, and on [0, pi] it rises to one mode and falls from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..quadrature import gauss_legendre
from .bessel import bessel_ratio, one_minus_bessel_ratio

NODES = 128  # on each side of the mode: 64 do, except where two modes are about to part
BISECTIONS = 60
CELLS = 96  # on each side, of the majorant from which samples are proposed


class SineModel(NamedTuple):
    """Concentrations and correlation (*B) in float64."""

    k1: Tensor
    k2: Tensor
    correlation: Tensor

    def detach(self) -> SineModel:
        """The same without gradients."""
        return SineModel(*(v.detach() for v in self))

    def unsqueeze(self) -> SineModel:
        """With one more dimension, for angles."""
        return SineModel(*(v.unsqueeze(-1) for v in self))

    def _excess(self, a: Tensor) -> Tensor:
        """``r - k2`` without cancellation."""
        square, tiny = (self.correlation * torch.sin(a)).square(), torch.finfo(a.dtype).tiny
        # the gradient of the root stays finite where both parts vanish, and multiplies zero there
        return square / (torch.sqrt(self.k2.square() + square + tiny) + self.k2)

    def conditional(self, a: Tensor) -> Tensor:
        """Concentration r of the second angle given the first, positive."""
        return self.k2 + self._excess(a) + math.sqrt(torch.finfo(a.dtype).tiny)

    def log_marginal(self, a: Tensor) -> Tensor:
        """Logarithm of ``exp(k1 cos a - k1) I_0(r) exp(-k2)``, without the cancellation of its large parts."""
        scaled = torch.log(torch.special.i0e(self.conditional(a)))
        return self._excess(a) + scaled - 2 * self.k1 * torch.sin(a / 2).square()

    def mode(self) -> Tensor:
        """The mode of the marginal in [0, pi/2], where ``lambda^2 cos(a) I_1(r) / (r I_0(r)) = k1``, by bisection."""
        low = torch.zeros_like(self.k1 + self.k2 + self.correlation)
        high = torch.full_like(low, math.pi / 2)
        for _ in range(BISECTIONS):
            a = (low + high) / 2
            r = self.conditional(a)
            rising = self.correlation.square() * torch.cos(a) * torch.special.i1e(r) > self.k1 * r * torch.special.i0e(r)
            low, high = torch.where(rising, a, low), torch.where(rising, high, a)
        return torch.where(low > 0, (low + high) / 2, low)

    def _graded(self, u: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Angles at the parts u (K) of the way from the mode to 0 and to pi, fine near the mode, with their speeds; (*B,K)."""
        mode = self.mode().unsqueeze(-1)
        width = 1 / torch.sqrt(self.k1 + self.correlation.abs() + 1).unsqueeze(-1)
        sides = []
        for sign, length in ((-1, mode), (1, math.pi - mode)):
            rate = torch.asinh(length / width)
            sides.append((mode + sign * width * torch.sinh(rate * u), width * rate * torch.cosh(rate * u)))
        return sides

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Angles and logarithms of quadrature weights for even functions on the circle; (*B,2 NODES)."""
        fixed = self.detach()
        nodes, weights = gauss_legendre(NODES, fixed.k1)
        sides = fixed._graded((nodes + 1) / 2)
        angles, speeds = (torch.cat(part, dim=-1) for part in zip(*sides, strict=True))
        return angles, torch.log(speeds * torch.cat([weights, weights]))

    def log_normaliser(self) -> Tensor:
        """``log C - k1 - k2``, C the integral of ``exp(k1 cos a + k2 cos b + lambda sin a sin b)``; differentiable."""
        a, log_weights = self.nodes()
        return math.log(2 * math.pi) + torch.logsumexp(self.unsqueeze().log_marginal(a) + log_weights, dim=-1)

    def mean_of(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Expectation of an even ``function(a, r)`` of the first angle and the concentration of the second."""
        a, log_weights = self.nodes()
        wide = self.unsqueeze()
        share = torch.softmax(wide.log_marginal(a) + log_weights, dim=-1)
        return (share * function(a, wide.conditional(a))).sum(-1)

    def mean_exponent(self) -> Tensor:
        """Expectation of ``k1 (cos a - 1) + k2 (cos b - 1) + lambda sin a sin b``."""
        wide = self.unsqueeze()

        def exponent(a: Tensor, r: Tensor) -> Tensor:
            return wide._excess(a) - r * one_minus_bessel_ratio(2, r) - 2 * wide.k1 * torch.sin(a / 2).square()

        return self.mean_of(exponent)

    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Expectations of ``1 - cos a``, ``1 - cos b``, ``sin a sin b`` and ``cos a cos b``."""
        wide = self.unsqueeze()

        def second_gap(a: Tensor, r: Tensor) -> Tensor:
            return (wide._excess(a) + wide.k2 * one_minus_bessel_ratio(2, r)) / r

        return (
            self.mean_of(lambda a, r: 2 * torch.sin(a / 2).square()),
            self.mean_of(second_gap),
            self.mean_of(lambda a, r: torch.sin(a).square() * wide.correlation * bessel_ratio(2, r) / r),
            self.mean_of(lambda a, r: torch.cos(a) * wide.k2 * bessel_ratio(2, r) / r),
        )

    def cells(self) -> tuple[Tensor, Tensor]:
        """Edges (*B,2 CELLS + 1) of cells from 0 to pi and, for each, the larger of the marginal's logarithms at its ends.

        The marginal is monotone on both sides of the mode, which is an edge: the step function lies above it.
        """
        u = torch.linspace(0, 1, CELLS + 1, dtype=self.k1.dtype, device=self.k1.device)
        (below, _), (above, _) = self._graded(u)
        edges = torch.cat([below.flip(-1), above[..., 1:]], dim=-1).clamp(0, math.pi)
        height = self.unsqueeze().log_marginal(edges)
        return edges, torch.maximum(height[..., 1:], height[..., :-1])
