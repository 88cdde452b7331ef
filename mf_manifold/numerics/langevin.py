"""Normaliser of the matrix Langevin law for one and two columns.

For F with singular values s the integral of exp(tr F^T X) over uniform frames is 0F1(n/2; F^T F / 4), a function of a matrix.
For two columns condition on t, the coordinate of the first column along the second singular vector: given t both integrals
are those of von Mises-Fisher laws on S^(n-2), so that with f(k) = 0F1((n-1)/2; k^2/4)

    0F1 = E f(a sqrt(1 - t^2)) f(b sqrt(1 - t^2)),    density of t proportional to (1 - t^2)^((n-3)/2).

In t = sin(phi) the integrand is analytic, at most exp(-R t^2 / 2) times its value at 0 with R = a A(a) + b A(b) + n - 2 and A
= f' / f (log f is concave in the square of its argument): Gauss-Legendre nodes up to t = 9 / sqrt(R) leave out less than
1e-17 of it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .bessel import bessel_ratio, log_vmf_normalizer, one_minus_bessel_ratio

NODES, REACH = 80, 9.0


def log_vmf_deficit(dim: int, kappa: Tensor) -> Tensor:
    """``kappa - log E exp(kappa x_1)`` for x uniform on the unit sphere of R^dim; grows like log kappa only."""
    return log_vmf_normalizer(dim, kappa) + math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def log_normalizer(n: int, s: Tensor) -> tuple[Tensor, Tensor]:
    """``log 0F1(n/2; diag(s)^2 / 4) - sum s`` and its derivatives by s, in float64.

    Both are differentiable. Shapes: singular values (*B,k), k = 1 or 2, to (*B) and (*B,k).

    **Raises** ValueError if k > 2.

    Reference: Khatri and Mardia (1977), The von Mises-Fisher matrix distribution in orientation statistics.

    >>> value, slope = log_normalizer(3, torch.zeros(2, dtype=torch.float64))
    >>> abs(float(value)) < 1e-14, slope.tolist()
    (True, [-1.0, -1.0])
    """
    s, k = s.double(), s.shape[-1]
    if k == 1:
        return -log_vmf_deficit(n, s[..., 0]), -one_minus_bessel_ratio(n, s)
    if k != 2:
        raise ValueError(f"Expected one or two columns, got {k}: for more the normaliser has no exact form of low dimension.")
    phi, log_weights = _nodes(n, s.detach())
    loss = 2 * torch.sin(phi / 2).square()
    shorter = s.unsqueeze(-2) * phi.cos().unsqueeze(-1)
    exponents = -(s.sum(-1, keepdim=True) * loss) - log_vmf_deficit(n - 1, shorter).sum(-1)
    terms = exponents + (n - 2) * phi.cos().log() + log_weights
    total = torch.logsumexp(terms, dim=-1)
    slopes = -loss.unsqueeze(-1) - phi.cos().unsqueeze(-1) * one_minus_bessel_ratio(n - 1, shorter)
    mean = (torch.exp(terms - total.unsqueeze(-1)).unsqueeze(-1) * slopes).sum(-2)
    return total - (math.log(math.pi) / 2 + math.lgamma((n - 1) / 2) - math.lgamma(n / 2)), mean


def _nodes(n: int, s: Tensor) -> tuple[Tensor, Tensor]:
    """Angles (*B,NODES) and the logarithms of their weights, doubled for the other half of the line."""
    rate = (s * bessel_ratio(n - 1, s)).sum(-1, keepdim=True) + n - 2
    end = torch.asin((REACH / rate.sqrt()).clamp_max(1.0))
    nodes, weights = (torch.from_numpy(a).to(s) for a in np.polynomial.legendre.leggauss(NODES))
    return end * (nodes + 1) / 2, torch.log(end * weights)
