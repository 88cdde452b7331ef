"""Learned accept/reject over a proposal: the density and its sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..bases import on_device
from ..distributions import KernelDistribution, ManifoldDistribution
from ..geometry import Shape
from ..measure import Measure
from ..mixture import Mixture

FEWEST, MOST = 1e-5, 30.0  # acceptance that a sampler without truncation needs; -log of the chance that it is still at work


class Draws(NamedTuple):
    """Samples, and what they cost.

    Attributes:
        points: (*sample_shape,*B,*E).
        taken: proposals that each took (*sample_shape,*B).
    """

    points: Tensor
    taken: Tensor


def log_weight(log_acceptance: Tensor, normalizer: Tensor, truncation: int | None) -> Tensor:
    r"""Log density of resampled points relative to the proposal.

    .. math:: \log\left[(1 - \alpha_T)\,\frac{a}{Z} + \alpha_T\right], \quad \alpha_T = (1 - Z)^{T - 1}

    ``truncation`` T of None is the limit of many proposals, ``log a - log Z``; of 1 the proposal itself.

    Shapes: ``log_acceptance`` (*S), ``normalizer`` () -> (*S).

    >>> import torch
    >>> log_weight(torch.tensor([0.5]).log(), torch.tensor(0.5), 3)
    tensor([0.])
    """
    if truncation is None:
        return log_acceptance - normalizer.log()
    if truncation == 1:
        return torch.zeros_like(log_acceptance)
    # a mean of numbers below 1 is 1 by rounding only; then no proposal is rejected, and the second term vanishes
    rejected = torch.log1p(-normalizer.clamp_max(1 - torch.finfo(normalizer.dtype).eps))
    log_alpha = (truncation - 1) * rejected
    log_rest = torch.log(-torch.expm1(log_alpha))
    return torch.logaddexp(log_rest + log_acceptance - normalizer.log(), log_alpha.expand_as(log_acceptance))


class ResampledDistribution(ManifoldDistribution):
    r"""The law of the first accepted one of at most T proposals, the T-th being accepted in any case.

    .. math:: p(x) = \pi(x) \left[(1 - \alpha_T)\,\frac{a(x)}{Z} + \alpha_T\right], \quad
              Z = E_\pi\,a, \quad \alpha_T = (1 - Z)^{T - 1}

    It is exactly normalised where ``normalizer`` is Z; an error of it is one of the total mass.

    **Measure**: that of the proposal.

    Args:
        proposal: the law :math:`\pi`, a single one.
        log_acceptance: the logarithm of a, (*S,*E) -> (*S), at most 0.
        normalizer: Z, a number.
        truncation: T; None for no limit.
        normalizer_error: standard error of Z.

    Raises:
        ValueError: a batch of proposals, a truncation below 1.

    Reference: Bauer, Mnih (2019), Resampled Priors for Variational Autoencoders, arXiv 1810.11428, section 3.

    >>> import geoopt, torch, mf_manifold as mf
    >>> normal = mf.distribution(geoopt.Euclidean(ndim=1), loc=torch.zeros(1), scale=1.0)
    >>> positive = lambda x: torch.where(x[..., 0] > 0, 0.0, -torch.inf)
    >>> half = ResampledDistribution(normal, positive, torch.tensor(0.5), truncation=None)
    >>> half.log_prob(torch.tensor([[1.0], [-1.0]])).exp()                       # twice the normal density, and 0
    tensor([0.4839, 0.0000])
    """

    def __init__(
        self,
        proposal: KernelDistribution | Mixture,
        log_acceptance: Callable[[Tensor], Tensor],
        normalizer: Tensor,
        truncation: int | None = 100,
        normalizer_error: Tensor | float = 0.0,
        batch_shape: Shape = (),
        validate_args: bool | None = None,
    ) -> None:
        if proposal.batch_shape:
            raise ValueError(f"Expected one proposal, got a batch of them of shape {tuple(proposal.batch_shape)}.")
        if truncation is not None and truncation < 1:
            raise ValueError(f"Expected a truncation of at least 1 proposal, or None for no limit, got {truncation}.")
        super().__init__(proposal.manifold, proposal.point_shape, batch_shape, proposal.measure, validate_args)
        self.proposal, self.log_acceptance, self.truncation = proposal, log_acceptance, truncation
        self.normalizer, self.normalizer_error = normalizer, normalizer_error

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """False: which proposal is accepted does not change smoothly."""
        return False

    @property
    def expected_draws(self) -> Tensor:
        """Mean number of proposals that a sample takes, ``(1 - (1 - Z)^T) / Z``."""
        missed = 0.0 if self.truncation is None else torch.exp(self.truncation * torch.log1p(-self.normalizer.detach()))
        return (1 - missed) / self.normalizer.detach()

    def log_weight(self, x: Tensor) -> Tensor:
        """Log density relative to the proposal, :func:`log_weight`; (*S,*E) -> (*S)."""
        return log_weight(self.log_acceptance(x), self.normalizer, self.truncation)

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density with respect to ``measure`` (default: the proposal's own); (*S,*B,*E) -> (*S,*B)."""
        self._check(value)
        log_q = self._to_measure(self.proposal.log_prob(value, "riemannian") + self.log_weight(value), value, measure)
        return log_q.expand(torch.broadcast_shapes(log_q.shape, self.batch_shape))

    def log_prob_error(self, x: Tensor) -> Tensor:
        r"""Change of the log density where Z is larger by one standard error; (*S,*E) -> (*S).

        .. math:: \mathrm{se}(Z) \; \partial \log p(x) / \partial Z

        All points share the error of Z: that of a mean log density is the mean of these numbers, not divided by any root.
        """
        with torch.no_grad():
            log_a, z = self.log_acceptance(x), self.normalizer.detach()

            def weight(value: Tensor) -> Tensor:
                return log_weight(log_a, value, self.truncation)

            slope: Tensor = torch.func.jvp(weight, (z,), (torch.ones_like(z),))[1]
        return slope * self.normalizer_error

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples; -> (*sample_shape,*B,*E)."""
        return self.draw(sample_shape, generator).points

    @torch.no_grad()
    def draw(self, sample_shape: Shape = (), generator: torch.Generator | None = None, progress: bool = False) -> Draws:
        """Independent samples and the number of proposals that each took; all open places are proposed to at once.

        Raises:
            RuntimeError: without truncation, where acceptance is too rare for sampling, or rarer than Z says.
        """
        shape = (*sample_shape, *self.batch_shape)
        n, turn, like = math.prod(shape), 0, self.normalizer
        limit, places = self._limit(n), torch.arange(n, device=like.device)
        taken, points = torch.zeros_like(places), like.new_empty((n, *self.point_shape))
        with tqdm(total=n, desc="sample", disable=not progress) as bar:
            while len(places):
                turn += 1
                x = self._propose(len(places), generator)
                good = self._accepted(x, generator) | (turn == self.truncation)
                points[places[good]], taken[places[good]] = x[good], turn
                places = places[~good]
                bar.update(int(good.sum()))
                if turn > limit and len(places):
                    raise RuntimeError(
                        f"Expected {n} samples within {turn} turns at an acceptance of {float(like):.2g}, {len(places)} are "
                        "missing: acceptance has collapsed, or Z is not that of these weights. Call estimate_normalizer()."
                    )
        return Draws(points.reshape(*shape, *self.point_shape), taken.reshape(shape))

    def _limit(self, n: int) -> float:
        """Turns that a correct sampler takes for n samples, but for a chance of exp(-30)."""
        acceptance = float(self.normalizer)
        if self.truncation is not None:
            return math.inf
        if not acceptance > FEWEST:
            raise RuntimeError(
                f"Expected an acceptance above {FEWEST:g} to sample without truncation, got Z = {acceptance:.2g}: it has "
                "collapsed. Set a truncation, or train with min_acceptance or AcceptanceReward."
            )
        return 1 + (math.log(max(n, 1)) + MOST) / acceptance

    def _propose(self, n: int, generator: torch.Generator | None) -> Tensor:
        params = list(self.proposal.params.values())
        device = params[0].device if params else torch.device("cpu")  # the uniform law knows neither
        return self.proposal.sample((n,), on_device(generator, device)).to(self.normalizer)

    def _accepted(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(len(x), generator=on_device(generator, x.device), dtype=x.dtype, device=x.device)
        return u < self.log_acceptance(x).exp()

    def expand(self, batch_shape: Shape, _instance: Any = None) -> ResampledDistribution:  # type: ignore[override]
        """The same law for every entry of a batch."""
        return ResampledDistribution(
            self.proposal,
            self.log_acceptance,
            self.normalizer,
            self.truncation,
            self.normalizer_error,
            tuple(batch_shape),
            self._validate_args,
        )

    def __repr__(self) -> str:
        return f"ResampledDistribution({self.proposal}, truncation={self.truncation}, Z={float(self.normalizer):.3g})"
