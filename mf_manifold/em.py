"""Expectation-maximisation for mixtures of any kernel, of which no step lowers the likelihood.

The M step is the kernel's weighted maximum likelihood, or some steps of L-BFGS on unconstrained parameters where a family has
none. Either is a proposal: a component takes it if its part of the expected log-likelihood does not fall by that and its
density at the data stays below a cap. A component on a single datum, or on copies of one, would otherwise have an unbounded
likelihood. Nor is a component fitted to fewer data than its shape needs: a covariance of little more data than dimensions
describes them and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .backends import mixture_log_prob
from .kernel import Kernel, Params
from .weights import bounded

PAIRS = 2**20  # pairs of points and components at once
NEGLIGIBLE = 1e-14  # responsibility of a component for a point, below which its fit leaves the point out
PER_NUMBER, PER_DIMENSION = 2, 4  # data that a component needs: for each number of its shape, or dimension if that is less
CLIMBS = 10  # iterations of L-BFGS for an M step


@dataclass(frozen=True)
class State:
    """Parameters of M components, their unconstrained ones where the kernel has no fit, and weights, the background's last.

    Attributes:
        capped: which components stand at the cap of their density.
    """

    params: Params
    raw: Tensor | None
    weights: Tensor
    capped: Tensor


class ExpectationMaximisation:
    """Steps of the EM algorithm for points (N,*E).

    Args:
        background: log density of the background at the points (N); None for none.
        floor_range: bounds of its weight.
        min_scale: the largest density that a component may have at a datum is that of a flat normal law of this scale.
    """

    def __init__(
        self, kernel: Kernel, x: Tensor, *, background: Tensor | None, floor_range: tuple[float, float], min_scale: float
    ) -> None:
        self.kernel, self.x, self.background, self.floor_range = kernel, x, background, floor_range
        self.min_scale, self.cap = min_scale, -kernel.dim * (math.log(min_scale) + math.log(2 * math.pi) / 2)

    def log_prob(self, state: State) -> Tensor:
        """Log density of the mixture at the points; (N) float64."""
        components = len(state.capped)
        share = state.weights[:components]
        log_q = mixture_log_prob(self.kernel, self.x, state.params, (share / share.sum()).log().to(self.x)).double()
        if self.background is None:
            return log_q
        return torch.logaddexp(log_q + share.sum().log(), self.background + state.weights[-1].log())

    @torch.no_grad()
    def step(self, state: State) -> tuple[float, State]:
        """Mean log-likelihood at a state, and the next state."""
        log_q = self.log_prob(state)
        count = len(state.capped)
        parts = torch.arange(count, device=self.x.device).split(max(1, PAIRS // len(self.x)))
        moved = [self._moved(part, state, log_q) for part in parts]
        params = {name: torch.cat([m[0].params[name] for m in moved]) for name in state.params}
        raw = None if state.raw is None else torch.cat([m[0].raw for m in moved if m[0].raw is not None])
        totals = torch.cat([m[1] for m in moved])
        if self.background is not None:
            own = (self.background + state.weights[-1].log() - log_q).exp().sum()
            totals = torch.cat([totals, own.unsqueeze(0)])
        weights = bounded(totals, self.floor_range) if self.background is not None else totals / totals.sum()
        capped = torch.cat([m[0].capped for m in moved])
        return float(log_q.mean()), State(params, raw, weights, capped)

    def _moved(self, part: Tensor, state: State, log_q: Tensor) -> tuple[State, Tensor]:
        """Some components after their M step, and their total responsibilities."""
        old = State(
            {name: value[part] for name, value in state.params.items()},
            None if state.raw is None else state.raw[part],
            state.weights[part],
            state.capped[part],
        )
        before = self.kernel.pairwise_log_prob(self.x, old.params).double()
        share = (before + old.weights.log() - log_q.unsqueeze(1)).exp()
        expected = _expected(share, before)
        proposal = self._proposal(old, share)
        new = self._accepted(old, proposal, share, expected)
        if bool(new.capped.any()) and self.kernel.location in proposal.params and old.raw is None:
            new = self._narrowest(new, proposal, share, expected)
        return new, share.sum(0)

    def _accepted(self, old: State, proposal: State, share: Tensor, expected: Tensor) -> State:
        """The proposal for the components that gain by it, stay below the cap and have enough data; the others as they are."""
        after = self.kernel.pairwise_log_prob(self.x, proposal.params).double()
        below = after.amax(0) <= self.cap + 1e-9 * abs(self.cap)
        enough = share.sum(0) >= min(PER_NUMBER * self.kernel.num_raw_shape, PER_DIMENSION * self.kernel.dim)
        better = enough & below & (_expected(share, after) >= expected)
        return replace(_chosen(better, proposal, old), capped=enough & ~below)

    def _narrowest(self, new: State, proposal: State, share: Tensor, expected: Tensor) -> State:
        """For components whose proposal was too narrow: a bump of the smallest scale at its location, if they gain by it."""
        points = proposal.params[self.kernel.location]
        bump = self.kernel.centered(points, points.new_full((len(points),), self.min_scale))
        tried = replace(proposal, params={name: value.expand_as(new.params[name]) for name, value in bump.items()})
        after = self.kernel.pairwise_log_prob(self.x, tried.params).double()
        better = new.capped & (_expected(share, after) >= expected)
        return replace(_chosen(better, tried, new), capped=new.capped)

    def _proposal(self, old: State, share: Tensor) -> State:
        if old.raw is not None:
            return self._climbed(old, share)
        try:
            return replace(old, params=self.kernel.fit_many(self.x, share))
        except ValueError:  # some component has too few points to be fitted: it stays, the others move
            fits = [self._fitted(old, share, c) for c in range(len(old.capped))]
            # a start has one scale for all coordinates, a fit one for each
            apart = {name: torch.broadcast_tensors(*(fit[name] for fit in fits)) for name in old.params}
            return replace(old, params={name: torch.stack(values) for name, values in apart.items()})

    def _fitted(self, old: State, share: Tensor, c: int) -> Params:
        near = share[:, c] > NEGLIGIBLE
        try:
            return self.kernel.fit(self.x[near], share[near, c])
        except ValueError:
            return {name: value[c] for name, value in old.params.items()}

    def _climbed(self, old: State, share: Tensor) -> State:
        """Some steps of L-BFGS on the expected log-likelihood, for all components together."""
        assert old.raw is not None
        raw = old.raw.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([raw], max_iter=CLIMBS, line_search_fn="strong_wolfe")

        def cost() -> Tensor:
            optimizer.zero_grad()
            value = -_expected(share, self.kernel.pairwise_log_prob(self.x, self.kernel.params(raw))).sum() / len(self.x)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            optimizer.step(cost)  # type: ignore[arg-type]
        return replace(old, params=self.kernel.params(raw.detach()), raw=raw.detach())


def _expected(share: Tensor, log_q: Tensor) -> Tensor:
    """Expected log-likelihood of each component (M), to which points without responsibility add nothing even at -inf."""
    return torch.where(share > 0, share * log_q, torch.zeros((), dtype=log_q.dtype, device=log_q.device)).sum(0)


def _chosen(mask: Tensor, first: State, second: State) -> State:
    """The components of the first state where the mask is true, of the second elsewhere."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.reshape(-1, *[1] * (b.ndim - 1)), a, b)

    params = {name: pick(first.params[name], value) for name, value in second.params.items()}
    raw = None if first.raw is None or second.raw is None else pick(first.raw, second.raw)
    return replace(second, params=params, raw=raw)
