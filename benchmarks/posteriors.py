"""Estimates of posteriors q(theta | x) from simulations: the marginal flow and its rivals behind one interface.

A model is fitted to points of a manifold, or to coordinates in a box where it knows no manifold (`Problem.to_chart`). Where a
model puts mass outside the support of the prior, draws there are rejected and the share of them is reported as leakage;
densities are those of the model as it is, which pays for its leakage.
"""

from __future__ import annotations

import time
from typing import Any

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernel import Kernel, kernel_for

from .problems.problem import Problem
from .rivals.conditional_mixture import ConditionalMixture
from .rivals.conditional_spline_flow import ConditionalSplineFlow

NATIVE = {"plane_wave": "von_mises", "axis": "von_mises_fisher"}
FROZEN = 512  # components of a marginal flow for every reported number


class FlowModel:
    """The conditional marginal flow behind the interface of the rivals."""

    def __init__(self, kernel: Kernel, **options: Any) -> None:
        self.kernel, self.options = kernel, options

    def fit(self, theta: Tensor, x: Tensor, *, seed: int, max_steps: int, batch_size: int = 256) -> FlowModel:
        self.flow = mf.MarginalFlow(
            self.kernel.manifold,
            self.kernel.point_shape,
            self.kernel.name,
            context_shape=(x.shape[1],),
            kernel_options=self.kernel.options,
            **self.options,
        )
        self.flow.fit(theta, x, seed=seed, max_steps=max_steps, batch_size=batch_size, progress=False)
        return self

    @torch.no_grad()
    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        rows = zip(theta.split(128), x.split(128), strict=True)
        return torch.cat([self.flow.freeze(FROZEN, seed=0, context=b).log_prob(a) for a, b in rows])

    def given(self, theta: Tensor, x_o: Tensor) -> Tensor:
        return self.flow.freeze(FROZEN, seed=0, context=x_o).log_prob(theta)

    def sample(self, n: int, x_o: Tensor, seed: int = 0) -> Tensor:
        return self.flow.freeze(FROZEN, seed=0, context=x_o).sample((n,), torch.Generator().manual_seed(seed))


class Estimate:
    """A model of the posterior of one problem, fitted to simulations."""

    def __init__(self, problem: Problem, model: Any, *, chart: bool) -> None:
        self.problem, self.model, self.chart = problem, model, chart
        self.cpu_seconds = 0.0

    def _of(self, theta: Tensor) -> Tensor:
        return self.problem.to_chart(theta).float() if self.chart else theta.float()

    def fit(self, theta: Tensor, x: Tensor, *, seed: int, max_steps: int) -> Estimate:
        """Fit to simulations and count the CPU seconds."""
        start = time.process_time()
        self.model.fit(self._of(theta), x.float(), seed=seed, max_steps=max_steps)
        self.cpu_seconds = time.process_time() - start
        return self

    @torch.no_grad()
    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log density of rows of parameters given rows of simulations, with respect to the manifold's volume; -> (n)."""
        return self.model.log_prob(self._of(theta), x.float()).double()

    @torch.no_grad()
    def given(self, theta: Tensor, x_o: Tensor) -> Tensor:
        """Log density of many parameters given one observation; -> (n)."""
        if isinstance(self.model, FlowModel):
            return self.model.given(self._of(theta), x_o.float()).double()
        return self.model.log_prob(self._of(theta), x_o.float().expand(len(theta), -1)).double()

    def sample(self, n: int, x_o: Tensor, seed: int = 0) -> tuple[Tensor, float]:
        """Draws in the support of the prior, and the share of all draws that were outside; -> (n,*E) and a number.

        Raises:
            RuntimeError: hardly any draw is in the support.
        """
        kept, tried = [], 0
        while sum(map(len, kept)) < n:
            if tried > 200 * n:
                raise RuntimeError(f"Expected draws in the support of the prior, got {sum(map(len, kept))} of {tried}.")
            drawn = self.model.sample(2 * n, x_o.float(), seed=seed + tried).double()
            theta, inside = self.problem.from_chart(drawn) if self.chart else (drawn, self.problem.inside(drawn))
            kept.append(theta[inside])
            tried += len(drawn)
        found = torch.cat(kept)
        return found[:n], 1 - len(found) / tried


def estimates(problem: Problem, flow_options: dict[str, Any], n_components: int) -> dict[str, Estimate]:
    """The methods to compare on a problem, by name."""
    flat = geoopt.Euclidean(ndim=1)
    dim = problem.to_chart(problem.observations()[0]).shape[-1]
    normal = kernel_for(flat, (dim,), covariance="diagonal")
    on_chart = {
        "marginal flow, normal": Estimate(problem, FlowModel(normal, **flow_options), chart=True),
        "mixture network, normal": Estimate(problem, ConditionalMixture(normal, n_components=n_components), chart=True),
        "spline flow": Estimate(problem, ConditionalSplineFlow(), chart=True),
    }
    if isinstance(problem.manifold, geoopt.Euclidean):
        return on_chart
    native = kernel_for(problem.manifold, problem.point_shape, NATIVE[problem.name])
    name = native.name.replace("_", " ")
    del on_chart["mixture network, normal"]
    return {
        f"marginal flow, {name}": Estimate(problem, FlowModel(native, **flow_options), chart=False),
        f"mixture network, {name}": Estimate(problem, ConditionalMixture(native, n_components=n_components), chart=False),
        **on_chart,
    }
