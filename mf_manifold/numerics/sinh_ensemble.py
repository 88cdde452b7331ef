r"""Normaliser of the Riemannian normal law on SPD matrices, exact for every size and stable for every scale.

The log-eigenvalues have the density ``prod_{i<j} sinh(|l_i - l_j| / 2) exp(-sum l_i^2 / 2 s^2)`` up to a constant. Its integral
is a Pfaffian of error functions (de Bruijn 1955). Evaluated as written it cancels like ``s^(p(p-1)/2)``. But since

.. math:: \mathrm{erf}(s k / 2) = \frac{2}{\pi} \int_0^\infty \frac{e^{-\theta^2 / s^2}}{\theta} \sin(k \theta)\, d\theta

the Pfaffian expands (minor summation) into determinants of sines and cosines, which are squares of Vandermonde determinants in
``y = 4 sin^2(theta / 2)``: it is the Hankel determinant of the positive weight

.. math:: W(\theta) = \frac{2}{\pi} \sin\theta\, y^{p \bmod 2} \sum_k \frac{e^{-(\theta + 2\pi k)^2 / s^2}}{\theta + 2\pi k}
          \quad\text{on } (0, \pi),

the product of the squared norms of its first ``p // 2`` monic orthogonal polynomials. Stieltjes' procedure finds these without
cancellation, and the midpoint rule integrates the periodic weight to rounding. As s -> 0 they are Laguerre's polynomials.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TAIL = 7.0  # weights are cut off where exp(-t^2) has fallen by exp(-49) beyond the largest zero


def log_multigamma(a: float, p: int) -> float:
    """Logarithm of the multivariate gamma function.

    >>> round(log_multigamma(1.5, 2), 6) == round(math.lgamma(1.5) + math.log(math.pi) / 2, 6)
    True
    """
    return p * (p - 1) / 4 * math.log(math.pi) + sum(math.lgamma(a - j / 2) for j in range(p))


def log_noncolliding(scale: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """``log Pf erf(s (k - j) / 2)``, j, k = 1..p, and its derivative by log s; odd p with a border of ones.

    It is the probability that p Brownian motions from points ``s^2`` apart have not met at time ``s^2``. Shapes: any, float64.
    """
    s, n = scale.double().unsqueeze(-1), p // 2
    if n == 0:
        return torch.zeros_like(s[..., 0]), torch.zeros_like(s[..., 0])
    y, weight, slope = _weights(s, p)
    log_s = s.detach()[..., 0].log()
    total = n * weight.sum(-1).log() + 2 * n * (n - 1 + p % 2) * log_s
    q = (weight / weight.sum(-1, keepdim=True)).sqrt()
    before, beta, density = torch.zeros_like(q), torch.zeros_like(s), q.square()
    for k in range(1, n):
        alpha = (y * q.square()).sum(-1, keepdim=True)
        raised = (y - alpha) * q - beta * before
        beta = raised.square().sum(-1, keepdim=True).sqrt()
        total = total + 2 * (n - k) * beta[..., 0].log()
        before, q = q, raised / beta
        density = density + q.square()
    return total, (density * slope).sum(-1)


def _weights(s: Tensor, p: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes ``y / s^2``, weights with ``y^(p % 2)`` taken by ``s^2`` too, and log derivatives of the weights by log s."""
    n = p // 2
    end, count = math.sqrt(4 * n + 2) + TAIL, 2 * n + 60
    fixed = s.detach()
    step = (end * fixed).clamp_max(math.pi) / count
    theta = (torch.arange(count, dtype=s.dtype, device=s.device) + 0.5) * step
    value, slope = torch.zeros_like(theta), torch.zeros_like(theta)
    for k in range(int(_largest(s) * TAIL / (2 * math.pi)) + 1):
        # the terms k and -k-1 together are positive
        for angle, sign in ((2 * math.pi * k + theta, 1.0), (2 * math.pi * (k + 1) - theta, -1.0)):
            square = (angle / s).square()
            term = sign * torch.exp(-square) / angle
            value, slope = value + term, slope + 2 * square * term
    y = (2 * torch.sin(theta / 2) / fixed).square()
    weight = 2 / math.pi * step * value * torch.sin(theta)
    return y, weight * y if p % 2 else weight, slope / value


def _largest(value: Tensor) -> float:
    """Largest entry, read once a call to choose the number of terms; 1 where there is none to read."""
    return 1.0 if value.is_meta or value.numel() == 0 else float(value.detach().amax())


def log_normalizer(scale: Tensor, p: int) -> Tensor:
    """``log Z``, Z the integral of ``exp(-d^2 / 2 s^2)`` over the affine-invariant volume of SPD(p); float64, shape of scale.

    >>> s = torch.tensor(0.7, dtype=torch.float64)        # p = 2 in closed form
    >>> z = 2 * math.sqrt(2) * math.pi**2 * s**2 * (s**2 / 4).exp() * torch.erf(s / 2)
    >>> bool(abs(log_normalizer(s, 2) - z.log()) < 1e-13)
    True
    """
    s2 = scale.double().square()
    constant = p * (p - 1) / 4 * math.log(2) + p * p / 2 * math.log(math.pi) - log_multigamma(p / 2, p)
    gaussians = p / 2 * torch.log(2 * math.pi * s2) + s2 * (p * (p * p - 1) / 24)
    return constant + gaussians + log_noncolliding(scale, p)[0]


def mean_square(scale: Tensor, p: int) -> Tensor:
    """Mean squared distance ``E d^2 = s^3 d log Z / d s``; float64, shape of scale."""
    s2 = scale.double().square()
    return s2 * (p + s2 * (p * (p * p - 1) / 12) + log_noncolliding(scale, p)[1])
