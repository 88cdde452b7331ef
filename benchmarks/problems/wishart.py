"""A law of SPD matrices that lies around a curve: Wishart matrices whose scale moves along a one-dimensional manifold.

t(X) = integral over u in [0, 1] of Wishart(X; nu, Sigma(u)), with nu = 2 p and Sigma(u) = Q(u) diag(exp e(u)) Q(u)^T / nu.
The frame turns by ``Q(u) = Q0 exp(u A)``, in the plane of the axes 2 j and 2 j + 1 by (1 + j mod 3) * pi / 4, and the log
eigenvalues move as ``e_i(u) = a_i + 0.3 sin(2 pi u + i)`` with a_i falling evenly from 1 to -1 in an order that pairs distant
ones. Q0 is a random orthogonal matrix of seed 0.

Densities are by Lebesgue measure on the entries i <= j, written out here from the textbook formula; they share no code with
the library's kernel. The integral is a Gauss-Legendre rule.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class WishartCurve:
    """The law for matrices of even size p, with ``n_nodes`` nodes of the quadrature in u."""

    def __init__(self, p: int, n_nodes: int = 512) -> None:
        self.p, self.df = p, 2.0 * p
        generator = torch.Generator().manual_seed(0)
        self.frame = torch.linalg.qr(torch.randn(p, p, generator=generator, dtype=torch.float64))[0]
        nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
        scales = self.scale((torch.as_tensor(nodes) + 1) / 2)
        roots = torch.linalg.cholesky(scales)
        self.precisions = torch.cholesky_inverse(roots).flatten(1)
        log_det = 2 * roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_gamma = torch.special.multigammaln(torch.tensor(self.df / 2, dtype=torch.float64), p)
        self.bias = (torch.as_tensor(weights) / 2).log() - self.df / 2 * (log_det + p * math.log(2)) - log_gamma

    def mean(self, u: Tensor) -> Tensor:
        """The mean matrix nu Sigma(u) on the curve; (n) -> (n,p,p)."""
        p, half = self.p, self.p // 2
        order = torch.arange(p)
        level = 1 - 2 * torch.where(order % 2 == 0, order // 2, half + order // 2) / (p - 1)
        log_values = level.to(u) + 0.3 * torch.sin(2 * math.pi * u.unsqueeze(-1) + order.to(u))
        plane = torch.arange(half)
        angle = u.unsqueeze(-1) * ((1 + plane % 3) * math.pi / 4).to(u)
        turn = torch.zeros(len(u), p, p).to(u)
        even, odd = 2 * plane, 2 * plane + 1
        turn[:, even, even], turn[:, odd, odd] = angle.cos(), angle.cos()
        turn[:, odd, even], turn[:, even, odd] = angle.sin(), -angle.sin()
        axes = self.frame.to(u) @ turn
        return (axes * log_values.exp().unsqueeze(-2)) @ axes.mT

    def scale(self, u: Tensor) -> Tensor:
        """Sigma(u); (n) -> (n,p,p)."""
        return self.mean(u) / self.df

    def __call__(self, x: Tensor) -> Tensor:
        """Log density by Lebesgue measure on the entries i <= j; (n,p,p) -> (n)."""
        wide = x.double()
        log_det = 2 * torch.linalg.cholesky(wide).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        pairs = self.bias - wide.flatten(1) @ self.precisions.mT / 2
        return (self.df - self.p - 1) / 2 * log_det + pairs.logsumexp(-1)

    def sample(self, n: int, seed: int) -> Tensor:
        """Independent matrices; -> (n,p,p)."""
        generator = torch.Generator().manual_seed(seed)
        roots = torch.linalg.cholesky(self.scale(torch.rand(n, generator=generator, dtype=torch.float64)))
        half = ((self.df - torch.arange(self.p)) / 2).double().expand(n, -1)
        chi = (2 * torch._standard_gamma(half, generator=generator)).sqrt()
        below = torch.randn(n, self.p, self.p, generator=generator, dtype=torch.float64).tril(-1)
        factor = roots @ (below + torch.diag_embed(chi))
        return factor @ factor.mT
