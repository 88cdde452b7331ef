"""Posteriors from simulations: conditional marginal flows against mixture networks and spline flows, in boxes and on manifolds.

Problems (`benchmarks/problems`): two moons, Gaussian mixture and SLCP by the definitions of Lueckmann et al. (2021), arXiv
2101.04653, with uniform priors in a box; `plane_wave`, whose parameters are two angles, and `axis`, whose parameter is a
direction, both with exact symmetries that make the posterior multimodal. Every problem has ten fixed observations and exact
draws of their posteriors; the posterior density is known in closed form or by quadrature, except for SLCP.

Sizes: 1000, 10 000 and 100 000 pairs of parameters and simulations in boxes, 10 000 on manifolds, drawn afresh for every
seed; a tenth of them only chooses among states of the training. All methods see the same pairs, one model of each serves all
observations.

Methods: the marginal flow conditioned on the simulation; a mixture density network, which has as many components as the
marginal flow draws at a time but gives each outputs of its own; a neural spline flow (zuko). `normal` components know no
manifold: on the torus they model angles in [-pi, pi), on the sphere longitude and height, coordinates in which Lebesgue
measure is area; so does the spline flow. `von mises` and `von mises fisher` components live on the manifold. All train for
1000 steps of 256 pairs.

How to read the table: mean ± standard error over seeds, for `c2st` over seeds and observations. `c2st`: accuracy of a
classifier between 500 exact draws of the posterior and 500 of the estimate, 0.5 is perfect; angles enter as cosines and sines.
Draws outside the support of the prior are rejected first, `leakage` is their share. `nll`: mean of -log q(theta | x) over 500
fresh pairs, the same for all methods and seeds, with respect to the volume of the manifold; leaked mass counts against a
model. `kl`: mean of log p(theta | x) - log q(theta | x) over those pairs, an unbiased estimate of the mean divergence from the
exact posterior. `kl_grid`: the divergence by quadrature, mean over the ten observations. `nll_vs_network`: difference in nll
to the mixture network, paired by seed. Marginal flows are frozen with 512 components for all numbers. `cpu_seconds`: one fit,
one thread.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.c2st import c2st
from benchmarks.harness import Report, summary
from benchmarks.posteriors import Estimate, estimates
from benchmarks.problems.simulators import PROBLEMS, SLCP, Compact, Problem

FLOW: dict[str, Any] = {
    "n_components": 64,
    "latent_dim": 1,
    "hidden": (128, 64),
    "bandwidth": 4.0,
    "conditioning": "readout",
}
SIZES, STEPS = (1000, 10_000, 100_000), 1000
DRAWS, PAIRS, PAIR_SEED, GRID = 500, 500, 999, 128


class Exact:
    """What is known of a problem and does not depend on models: test pairs, observations, reference draws, densities on
    grids."""

    def __init__(self, problem: Problem, quick: bool) -> None:
        self.problem, self.quick = problem, quick
        self.theta, self.x = problem.pairs(20 if quick else PAIRS, PAIR_SEED)
        count = 1 if quick else 10
        self.observations = problem.observations()[1][:count]
        self.draws = 100 if quick else DRAWS
        self.references = [problem.reference_posterior(x_o, self.draws, seed=0) for x_o in self.observations]
        self.log_p = self._log_p(self.theta[:, None], self.x)  # (pairs,1)
        self.nodes, self.weights = problem.nodes(GRID // 4 if quick else GRID) if isinstance(problem, Compact) else (None, None)
        if self.nodes is not None:
            self.log_p_grid = self._log_p(self.nodes.expand(count, *self.nodes.shape), self.observations)

    def _log_p(self, theta: Tensor, x: Tensor) -> Tensor | None:
        """Log posterior densities at parameters (n,m,*E) for observations (n,k), where they are known; -> (n,m)."""
        problem = self.problem
        if isinstance(problem, SLCP):
            return None
        return torch.stack([problem.log_posterior(rows, x_o) for rows, x_o in zip(theta, x, strict=True)])

    def kl_grid(self, estimate: Estimate) -> float:
        """Mean divergence from the exact posteriors of the observations, by quadrature."""
        if self.nodes is None:
            return math.nan
        log_q = torch.stack([estimate.given(self.nodes, x_o) for x_o in self.observations])
        return float((self.weights * self.log_p_grid.exp() * (self.log_p_grid - log_q)).sum(-1).mean())

    def score(self, estimate: Estimate, seed: int) -> dict[str, Any]:
        """All metrics of one fitted model."""
        log_q = estimate.log_prob(self.theta, self.x)
        tests, leaks = [], []
        for row, (x_o, reference) in enumerate(zip(self.observations, self.references, strict=True)):
            drawn, leak = estimate.sample(self.draws, x_o, seed=1000 * seed + row)
            features = self.problem.features(reference), self.problem.features(drawn)
            tests.append(c2st(*features, seed=seed, max_epochs=50))
            leaks.append(leak)
        return {
            "c2st": tests,
            "leakage": float(np.mean(leaks)),
            "nll": -float(log_q.mean()),
            "kl": math.nan if self.log_p is None else float((self.log_p[:, 0] - log_q).mean()),
            "kl_grid": self.kl_grid(estimate),
            "cpu_seconds": estimate.cpu_seconds,
        }


def run(report: Report) -> None:
    """Fit every method to every problem, size and seed."""
    torch.set_num_threads(1)
    for problem in PROBLEMS.values():
        sizes = (100,) if report.quick else SIZES[1:2] if isinstance(problem, Compact) else SIZES
        exact = Exact(problem, report.quick)
        network = {**FLOW, "hidden": (16,)} if report.quick else FLOW
        for size in sizes:
            scores: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for seed in report.seeds:
                theta, x = problem.pairs(size, seed)
                fitted = estimates(problem, network, FLOW["n_components"])
                drawn = seed == report.seeds[0] and size == max(sizes)
                for name, estimate in fitted.items():
                    compute = partial(fit_and_score, exact, estimate, theta, x, seed)
                    key = f"{problem.name}; {size}; {name}; seed {seed}"
                    scores[name].append(compute() if drawn else report.once(key, compute))
                if drawn:
                    report.figure(draw(exact, fitted), problem.name, f"{problem.name}: exact and estimated posteriors.")
            summarise(report, problem.name, size, scores)


def fit_and_score(exact: Exact, estimate: Estimate, theta: Tensor, x: Tensor, seed: int) -> dict[str, Any]:
    """All metrics of one method on one set of pairs."""
    estimate.fit(theta, x, seed=seed, max_steps=10 if exact.quick else STEPS)
    return exact.score(estimate, seed)


def summarise(report: Report, problem: str, size: int, scores: dict[str, list[dict[str, Any]]]) -> None:
    """One row a method: means over seeds with standard errors."""
    for name, found in scores.items():
        rival = next(others for other, others in scores.items() if other.startswith("mixture network"))
        report.row(
            problem=problem,
            simulations=size,
            method=name,
            c2st=summary([value for one in found for value in one["c2st"]]),
            kl=summary([one["kl"] for one in found]),
            kl_grid=summary([one["kl_grid"] for one in found]),
            nll=summary([one["nll"] for one in found]),
            nll_vs_network=summary([one["nll"] - other["nll"] for one, other in zip(found, rival, strict=True)]),
            leakage=float(np.mean([one["leakage"] for one in found])),
            cpu_seconds=float(np.mean([one["cpu_seconds"] for one in found])),
        )


def draw(exact: Exact, fitted: dict[str, Estimate]) -> Any:
    """Draws of the posterior of one observation, the exact ones first, in the coordinates of the chart."""
    from matplotlib.figure import Figure

    problem, x_o = exact.problem, exact.observations[0]
    panels = {"exact": exact.references[0], **{name: e.sample(exact.draws, x_o)[0] for name, e in fitted.items()}}
    figure = Figure(figsize=(2.2 * len(panels), 2.4), layout="constrained")
    row = figure.subplots(1, len(panels), sharex=True, sharey=True)
    shown = [2, 3] if isinstance(problem, SLCP) else [0, 1]  # the coordinates whose signs SLCP forgets
    for axes, (name, theta) in zip(row, panels.items(), strict=True):
        axes.scatter(*problem.to_chart(theta)[:, shown].T.numpy(), s=2, alpha=0.5, linewidths=0)
        axes.set_title(name, fontsize=8)
    return figure
