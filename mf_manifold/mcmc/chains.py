"""What a run of Markov chains returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import geoopt
from torch import Tensor

from .. import geometry
from .diagnostics import bulk_ess, rhat


@dataclass(frozen=True)
class Chains:
    """Draws of Markov chains, kept apart.

    Attributes:
        samples: draws after the warm-up (chains,draws,*E).
        law: in words, which law they follow.
        manifold: of the samples.
        log_prob: log density at the draws up to a constant (chains,draws), by the Riemannian volume; of latent chains, that
            of the latent points.
        acceptance: mean acceptance probability of each chain's local moves (chains).
        jump_acceptance: the same of the global moves; NaN where there were none.
        steps: scale of the local moves in every step, those of the warm-up first (warmup + draws).
        warmup: how many steps went before the draws.
        broken: share of the proposals after the warm-up at which the density or its gradient was not a number; rejected.
        latents: the draws in latent space (chains,draws,*Z), of which the samples are images; None on the space itself.
    """

    samples: Tensor
    law: str
    manifold: geoopt.Manifold
    log_prob: Tensor
    acceptance: Tensor
    jump_acceptance: Tensor
    steps: Tensor
    warmup: int
    broken: float
    latents: Tensor | None = None

    @property
    def points(self) -> Tensor:
        """All draws of all chains; (chains * draws,*E)."""
        return self.samples.flatten(0, 1)

    @property
    def step(self) -> float:
        """Scale of the local moves after the warm-up."""
        return float(self.steps[-1])

    def numbers(self, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """What diagnostics look at: ``function`` of the points (n,*E) -> (n,*F), by default unconstrained coordinates.

        On tori these are cosines and sines; elsewhere those of :func:`mf_manifold.geometry.to_raw`.
        """
        points = self.points
        values = geometry.to_raw(self.manifold, points) if function is None else function(points)
        return values.reshape(*self.samples.shape[:2], *values.shape[1:])

    def ess(self, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Bulk effective sample size (:func:`mf_manifold.mcmc.bulk_ess`) of each of :meth:`numbers`."""
        return bulk_ess(self.numbers(function))

    def rhat(self, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Rank-normalised split R-hat (:func:`mf_manifold.mcmc.rhat`) of each of :meth:`numbers`."""
        return rhat(self.numbers(function))

    def __repr__(self) -> str:
        chains, draws = self.samples.shape[:2]
        acceptance = float(self.acceptance.mean())
        short = f"Chains({chains} of {draws} draws; {self.law}; acceptance {acceptance:.2f}, step {self.step:.3g}"
        if draws < 4:  # too few for the diagnostics
            return f"{short})"
        return f"{short}, smallest ESS {float(self.ess().min()):.0f}, largest R-hat {float(self.rhat().max()):.3f})"
