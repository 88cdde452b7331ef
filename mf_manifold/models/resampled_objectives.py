"""Objectives for resampled bases: the reverse divergence, and a reward for acceptance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..estimator import LazyDistribution
from ..losses import Batch, ReverseKL, Target, by_volume
from ..measure import Measure
from .flow import FlowDistribution
from .resampled_base import ResampledBase


class ResampledReverseKL(ReverseKL):
    r"""Reverse divergence to an unnormalised density of a base that cannot be sampled pathwise, or of a flow of one.

    With :math:`z_i` from the base, :math:`A_i = \log p_\phi(z_i) - \log|\det J_f(z_i)| - \frac1T \log \tilde p(f(z_i))`,

    .. math:: \nabla_\phi = \frac{1}{S-1} \sum_i (A_i - \bar A)\, \nabla_\phi \log p_\phi(z_i), \quad
              \nabla_\theta = -\nabla_\theta \frac1S \sum_i \left[\tfrac1T \log \tilde p(f_\theta(z_i))
              + \log|\det J_{f_\theta}(z_i)|\right]

    the first for the base, a covariance because whether a proposal is accepted has no derivative, the second for the flow, with
    the points :math:`z_i` held fixed. The value is the mean of A, ``KL - log normaliser`` of the target.

    **Measure**: of the target, ``measure``; the Riemannian volume by default.

    Args:
        target: ``target(x) -> log density``, (n,*E) -> (n), up to a constant; differentiable where there is a flow.
        n_samples: S.
        temperature, anneal, measure, spread: as for :class:`mf_manifold.losses.ReverseKL`.

    Raises:
        ValueError: less than 2 samples, targets that return other shapes or values that are not finite.

    Reference: Stimper, Schölkopf, Hernández-Lobato (2022), arXiv 2110.15828; Williams (1992), Simple statistical
        gradient-following algorithms, for the covariance.

    >>> import geoopt, torch, mf_manifold as mf
    >>> base = mf.models.ResampledBase(geoopt.Sphere(), (3,), hidden=(16,))
    >>> base = base.fit(objective=ResampledReverseKL(lambda x: 5 * x[:, 2], 128), max_steps=300, progress=False)
    >>> bool(base.sample((1000,), torch.Generator().manual_seed(0))[:, 2].mean() > 0.3)                   # the target has 0.8
    True
    """

    def __init__(
        self,
        target: Target,
        n_samples: int = 512,
        temperature: float = 1.0,
        anneal: float = 0.5,
        measure: Measure | str | None = None,
        spread: float = 2.0,
    ) -> None:
        super().__init__(target, 1, temperature, anneal, measure, spread)
        if n_samples < 2:
            raise ValueError(f"Expected at least 2 samples for a covariance, got {n_samples}.")
        self.n_samples = n_samples

    def identity(self) -> list[Any]:
        """The numbers that a resumed run must share; targets cannot be compared."""
        return [self.n_samples, *super().identity()]

    def __call__(self, flow: LazyDistribution, batch: Batch) -> Tensor:
        law = batch.draw(flow)
        base = law.base if isinstance(law, FlowDistribution) else law
        z = base.sample((self.n_samples,), batch.generator)
        log_q, x, log_det = base.log_prob(z), z, torch.zeros(())
        if isinstance(law, FlowDistribution):
            x = law.flow.to_data(z)
            log_det = law.flow.to_latent(x)[1]  # of the inverse
        log_p = by_volume(self.target, x, self.measure, flow.manifold, flow.point_shape)
        if not torch.isfinite(log_p.detach()).all():
            raise ValueError("Expected a target that is finite at the samples, got values that are not. Give it tails.")
        path = log_det - log_p / self.temperature_at(batch.progress)
        gain = (log_q + path).detach()
        score = ((gain - gain.mean()) * log_q).sum() / (self.n_samples - 1)
        return score - score.detach() + path.mean() - path.mean().detach() + gain.mean()


class AcceptanceReward:
    r"""Minus the acceptance of every resampled base of a model, summed: a guard against its collapse.

    .. math:: -\sum \hat Z

    For a sum with another objective, with a weight w. The likelihood pulls Z down by its 1 / Z; so the reward holds an
    acceptance above 1 / w, and does not bring back one that is far below. ``min_acceptance`` of :class:`ResampledBase` is a
    floor instead of a pull.

    Raises:
        ValueError: a model without a resampled base.

    >>> from mf_manifold.losses import Sum, forward_kl
    >>> objective = Sum(forward_kl, AcceptanceReward(), weights=[1.0, 5.0])
    """

    def __call__(self, model: LazyDistribution, batch: Batch) -> Tensor:
        parts = [part for part in model.members() if isinstance(part, ResampledBase)]
        if not parts:
            raise ValueError("Expected a model with a resampled base, got one without.")
        found = [part.estimate(part.proposal.law(), part.n_proposals, batch.generator) for part in parts]
        return -torch.stack(found).sum()
