"""What a problem of inference from simulations offers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

N_OBSERVATIONS = 10
FIRST_SEED = 2_000_000  # of the observations; far from the seeds of training sets
PEAK = 0.1  # more than the log-likelihood can rise between the nodes of the rules


class Problem(ABC):
    """A prior on a manifold, a simulator with a known likelihood, and its exact posterior.

    Shapes: parameters ``theta`` (n,*E), simulations ``x`` (n,k), one observation ``x_o`` (k,). Densities of parameters are with
    respect to the Riemannian volume of ``manifold``, which is Lebesgue measure in a box and on the torus, area on the sphere.
    References are computed in float64.
    """

    name: str
    manifold: geoopt.Manifold
    point_shape: tuple[int, ...]
    data_dim: int

    @abstractmethod
    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Independent draws of the prior; (n,*E) in float64."""

    @abstractmethod
    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """One simulation for every row of parameters; (n,*E) -> (n,k)."""

    @abstractmethod
    def log_likelihood(self, theta: Tensor, x_o: Tensor) -> Tensor:
        """Log density of one observation at parameters (n,*E), up to a constant that does not depend on them; -> (n)."""

    @abstractmethod
    def reference_posterior(self, x_o: Tensor, n: int, seed: int) -> Tensor:
        """Independent draws of the posterior of one observation; -> (n,*E)."""

    def inside(self, theta: Tensor) -> Tensor:
        """Whether parameters lie in the support of the prior; -> (n)."""
        return torch.ones(theta.shape[: theta.ndim - len(self.point_shape)], dtype=torch.bool)

    def features(self, theta: Tensor) -> Tensor:
        """Coordinates without seams, in which a classifier compares samples; -> (n,f)."""
        return theta

    def to_chart(self, theta: Tensor) -> Tensor:
        """Coordinates in a box whose Lebesgue measure is the manifold's volume, for models that know no manifold; -> (n,d)."""
        return theta

    def from_chart(self, chart: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters at coordinates (n,d), and whether those are in the box; -> (n,*E), (n)."""
        return chart, self.inside(chart)

    def pairs(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Parameters of the prior with a simulation each; (n,*E), (n,k)."""
        generator = torch.Generator().manual_seed(seed)
        theta = self.prior(n, generator)
        return theta, self.simulate(theta, generator)

    def observations(self) -> tuple[Tensor, Tensor]:
        """Ten fixed observations with the parameters that made them; (10,*E), (10,k)."""
        rows = [self.pairs(1, FIRST_SEED + i) for i in range(N_OBSERVATIONS)]
        return torch.cat([theta for theta, _ in rows]), torch.cat([x for _, x in rows])


class Box(Problem):
    """A problem whose prior is uniform in the cube [-bound, bound]^d."""

    bound: float

    @property
    def log_prior(self) -> float:
        """Log density of the prior inside the box."""
        return -self.point_shape[0] * math.log(2 * self.bound)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.bound * (2 * torch.rand(n, *self.point_shape, generator=generator, dtype=torch.float64) - 1)

    def inside(self, theta: Tensor) -> Tensor:
        return (theta.abs() <= self.bound).all(-1)


class Compact(Problem):
    """A problem with a uniform prior on a compact manifold, whose log-likelihood is at most 0 there.

    Samples of the posterior are exact, by rejection from the prior; its normaliser comes from a quadrature rule.
    """

    noise: float  # standard deviation of the normal noise of every entry
    grid: int  # size of the rule

    @abstractmethod
    def readings(self, theta: Tensor) -> Tensor:
        """The simulation without noise; (n,*E) -> (n,k)."""

    @abstractmethod
    def nodes(self, size: int) -> tuple[Tensor, Tensor]:
        """Nodes and weights of a rule that integrates over the manifold; (N,*E), (N)."""

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        clean = self.readings(theta)
        return clean + self.noise * torch.randn(clean.shape, generator=generator, dtype=theta.dtype)

    def log_likelihood(self, theta: Tensor, x_o: Tensor) -> Tensor:
        """Up to the constant of the normal law; at most 0."""
        return -(x_o - self.readings(theta)).square().sum(-1) / (2 * self.noise**2)

    def log_evidence(self, x_o: Tensor, size: int | None = None) -> float:
        """Log of the integral of the likelihood over the manifold."""
        nodes, weights = self.nodes(size or self.grid)
        return float(torch.logsumexp(self.log_likelihood(nodes, x_o.double()) + weights.log(), 0))

    def log_posterior(self, theta: Tensor, x_o: Tensor) -> Tensor:
        """Log density of the posterior with respect to the manifold's volume."""
        return self.log_likelihood(theta, x_o) - self.log_evidence(x_o)

    def reference_posterior(self, x_o: Tensor, n: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        top = float(self.log_likelihood(self.nodes(self.grid)[0], x_o.double()).max()) + PEAK

        def draw(count: int) -> tuple[Tensor, Tensor]:
            theta = self.prior(count, generator)
            u = torch.rand(count, generator=generator, dtype=torch.float64)
            return theta, u.log() < self.log_likelihood(theta, x_o.double()) - top

        return rejection(draw, n, 50 * n)


def rejection(draw: Callable[[int], tuple[Tensor, Tensor]], n: int, block: int) -> Tensor:
    """The first n accepted rows of ``draw(block) -> (rows, accepted)``, called as often as it takes.

    Raises:
        RuntimeError: fewer than one row in a million is accepted.
    """
    kept: list[Tensor] = []
    count, tried = 0, 0
    while count < n:
        rows, accepted = draw(block)
        kept.append(rows[accepted])
        count, tried = count + len(kept[-1]), tried + len(rows)
        if tried > 1_000_000 * (count + 1):
            raise RuntimeError(f"Expected an acceptance rate above 1e-6, got {count} of {tried} rows.")
    return torch.cat(kept)[:n]
