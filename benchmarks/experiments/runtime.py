"""What training, density evaluation and sampling cost: marginal flow, neural spline flow, flow matching.

Data. *sphere*: positions of airports on S^2 (28 thousand distinct ones; `mf_manifold.datasets.airports`), split
80/10/10 by row with the seed. *euclidean*: a curved surface of two dimensions, turned into d = 10, 100, 1000 and 10
000 dimensions by an orthonormal map, with normal noise of standard deviation 0.1 in every direction; 4000 rows to
fit, 1000 to test. The density of this law is known.

Models. *marginal*: 1024 components while training, the stated number when frozen. *spline*: neural spline flow, five
layers of 8 bins with conditioners of two layers of 128 units; autoregressive up to 16 dimensions, above it six
couplings. *matching*: flow matching with six layers of 512 units, exact divergence, dopri5 at 1e-5. All networks
float32.

Protocol. One thread, CPU seconds. Evaluation and sampling are of 1000 points, medians over rounds in which the models
take turns. On the sphere flow matching trains for a fixed time; every other model gets fits of growing length, and
its time is that of the first one whose validation NLL is no worse than the one of flow matching; the frozen mixture
has the smallest power of two of components that keeps that. In the Euclidean part every model trains for one fixed
budget, a step is one mini-batch of 256, and `excess_nll` is the held-out NLL minus the true one. Where the divergence
at 1000 points is beyond the time limit of a measurement, fewer points are evaluated and the time is scaled up;
`remark` says so.

Options. `part=sphere` and `part=euclidean` run one part; `seconds=120` is what flow matching trains for on the sphere.

How to read the table. `times_slower` columns divide by the marginal flow's time in the same part; below 1 the rival
is faster.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import geoopt
import torch
from torch import Tensor, nn

import mf_manifold as mf
from benchmarks.problems.surface import Surface
from benchmarks.rivals import FlowMatching, SplineFlow
from benchmarks.rivals.training import Check, Rival

if TYPE_CHECKING:
    from benchmarks.harness import Report

POINTS = 1000  # evaluated and sampled
BATCH = 256  # in Euclidean spaces
NOISE = 0.1
LIMIT = 60.0  # CPU seconds of one evaluation, beyond which fewer points are scored


def run(report: Report) -> None:
    """Measure on the sphere and in Euclidean spaces of growing dimension."""
    torch.set_num_threads(1)
    part, seed = report.options.get("part", "both"), report.seeds[0]
    if part != "euclidean":
        sphere(report, seed)
    for d in [] if part == "sphere" else [10, 100] if report.quick else [10, 100, 1000, 10_000]:
        euclidean(report, seed, d)
    report.note("Times are CPU seconds of one thread; one seed, because they hardly depend on it.")


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def medians(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU time of each action over rounds in which they take turns; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds + 1):
        for name, action in actions.items():
            times[name].append(cpu_seconds(action))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def nll(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Mean negative log density."""
    return -float(log_prob(x).mean())


# The sphere, at matched quality


class Parts(NamedTuple):
    """Points of the sphere to fit, to select with and to test; `scored` are those whose NLL has to be reached."""

    train: Tensor
    validation: Tensor
    test: Tensor

    @property
    def scored(self) -> Tensor:
        return self.validation[:POINTS]


def sphere(report: Report, seed: int) -> None:
    """One table row for each model, all of at least the quality of flow matching."""
    data, quick = mf.datasets.airports(), report.quick
    parts = Parts(*(data.points[rows[:300]] if quick else data.points[rows] for rows in mf.datasets.split(data.points, seed)))
    matching, goal, trained = train_matching(report, parts, seed)
    flow, flow_seconds = fit_marginal(parts, goal, [10] if quick else [25, 50, 100, 200, 400, 800], seed)
    spline, spline_seconds = fit_spline(parts, goal, [0.5] if quick else [5, 15, 60, 180], seed)
    mixture = fewest_components(flow, parts.scored, goal).to(torch.float64)
    points, rounds = parts.test[:POINTS], 1 if quick else 5
    evaluation = medians(evaluations(mixture, spline, matching, points), rounds)
    sampling = medians(samplings(mixture, spline, matching, POINTS), rounds)
    training = {"marginal": flow_seconds, "spline": spline_seconds, "matching": trained}
    for name, model in (("marginal", mixture), ("spline", spline), ("matching", matching)):
        report.row(
            part="sphere",
            d=2,
            method=name,
            parameters=parameter_count(flow if name == "marginal" else model),
            components=mixture.n_components if name == "marginal" else "",
            validation_nll=nll(model.log_prob, parts.scored),
            test_nll=nll(model.log_prob, points),
            train_seconds=training[name],
            evaluate_seconds=evaluation[name],
            sample_seconds=sampling[name],
            **ratios(name, training, evaluation, sampling),
            remark="sets the quality" if name == "matching" else "",
        )


def evaluations(mixture: mf.Mixture, spline: Rival, matching: Rival, x: Tensor) -> dict[str, Callable[[], object]]:
    """The density of the same points by each model."""
    return {
        "marginal": lambda: mixture.log_prob(x),
        "spline": lambda: spline.log_prob(x),
        "matching": lambda: matching.log_prob(x),
    }


def samplings(mixture: mf.Mixture, spline: Rival, matching: Rival, n: int) -> dict[str, Callable[[], object]]:
    """The same number of samples of each model."""
    return {
        "marginal": lambda: mixture.sample((n,)),
        "spline": lambda: spline.sample(n),
        "matching": lambda: matching.sample(n),
    }


def parameter_count(model: nn.Module) -> int:
    """Number of trained reals."""
    return sum(p.numel() for p in model.parameters())


def ratios(name: str, *times: dict[str, float]) -> dict[str, float]:
    """Times relative to those of the marginal flow."""
    return {
        f"{what}_times_slower": seconds[name] / seconds["marginal"]
        for what, seconds in zip(("train", "evaluate", "sample"), times, strict=True)
    }


def train_matching(report: Report, parts: Parts, seed: int) -> tuple[FlowMatching, float, float]:
    """Flow matching after its budget, its validation NLL and its CPU seconds of training."""
    hidden, budget = ((64, 64), 0.5) if report.quick else ((512,) * 6, float(report.options.get("seconds", 120)))
    model = FlowMatching(geoopt.Sphere(), (3,), hidden=hidden)

    def log(check: Check) -> None:
        report.note(f"Flow matching after {check.seconds:.0f} s: validation NLL {nll(model.log_prob, parts.scored):.3f}.")

    options = {"validation": parts.validation, "max_steps": 10**6, "checks": 4, "on_check": log}
    model.fit(parts.train, seed=seed, max_seconds=budget, **options)
    return model, nll(model.log_prob, parts.scored), model.history[-1].seconds


def fit_marginal(parts: Parts, goal: float, lengths: list[int], seed: int) -> tuple[mf.MarginalFlow, float]:
    """The first of fits of growing length that reaches the goal (or the last), and its CPU seconds."""
    for steps in lengths:
        flow = mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=1024)
        options = {"validation": parts.validation, "max_steps": steps, "patience": 50, "progress": False}
        seconds = cpu_seconds(partial(flow.fit, parts.train, seed=seed, **options))
        if nll(flow.freeze(16_384).log_prob, parts.scored) <= goal:
            break
    return flow, seconds


def fit_spline(parts: Parts, goal: float, budgets: list[float], seed: int) -> tuple[SplineFlow, float]:
    """The first of fits of growing length that reaches the goal (or the last), and its CPU seconds."""
    for budget in budgets:
        flow = SplineFlow(geoopt.Sphere(), (3,))
        seconds = cpu_seconds(
            partial(flow.fit, parts.train, seed=seed, max_seconds=budget, max_steps=10**6, validation=parts.validation)
        )
        if nll(flow.log_prob, parts.scored) <= goal:
            break
    return flow, seconds


def fewest_components(flow: mf.MarginalFlow, scored: Tensor, goal: float) -> mf.Mixture:
    """The frozen flow with the smallest power of two of components that reaches the goal, at most 16 384."""
    for power in range(8, 15):
        mixture = flow.freeze(2**power)
        if nll(mixture.log_prob, scored) <= goal:
            break
    return mixture


# Euclidean spaces of growing dimension


def euclidean(report: Report, seed: int, d: int) -> None:
    """One table row for each model in R^d, each after the same CPU seconds of training."""
    law = Surface(d, seed, NOISE)
    train, test = law.sample(400 if report.quick else 4000), law.sample(100 if report.quick else POINTS)
    budget, rounds, space = 0.5 if report.quick else 30.0, 1 if report.quick else 3, geoopt.Euclidean(ndim=1)
    flow = mf.MarginalFlow(space, (d,), latent_dim=2, n_components=1024)
    matching = FlowMatching(space, (d,), hidden=(64, 64) if report.quick else (512,) * 6)
    rivals: dict[str, Rival] = {"spline": SplineFlow(space, (d,)), "matching": matching}
    steps = marginal_steps(flow, train, budget)
    training = {"marginal": cpu_seconds(lambda: flow.fit(train, seed=seed, max_steps=steps, batch_size=BATCH, progress=False))}
    for name, rival in rivals.items():
        rival.batch_size = BATCH
        training[name] = cpu_seconds(partial(rival.fit, train, seed=seed, max_seconds=budget, max_steps=10**6, checks=10))
    mixture = flow.freeze(4096).to(torch.float64)
    count, remark = affordable(matching, test)
    evaluate = evaluations(mixture, rivals["spline"], matching, test)
    evaluation = medians({name: evaluate[name] for name in ("marginal", "spline")}, rounds)
    truth = law.log_prob(test)
    excess = {"marginal": nll(mixture.log_prob, test) + float(truth.mean())}
    excess["spline"] = nll(rivals["spline"].log_prob, test) + float(truth.mean())
    evaluation["matching"] = excess["matching"] = math.nan
    if count:
        start = time.process_time()
        excess["matching"] = nll(matching.log_prob, test[:count]) + float(truth[:count].mean())
        evaluation["matching"] = (time.process_time() - start) * len(test) / count
    sampling = medians(samplings(mixture, rivals["spline"], matching, len(test)), rounds)
    batch = test[:BATCH].float()
    losses = {"marginal": partial(marginal_step, flow, batch)}
    stepping = medians(losses | {name: partial(rival_step, rival, batch) for name, rival in rivals.items()}, rounds)
    for name, model in {"marginal": flow, **rivals}.items():
        report.row(
            part="euclidean",
            d=d,
            method=name,
            parameters=parameter_count(model),
            components=mixture.n_components if name == "marginal" else "",
            excess_nll=excess[name],
            train_seconds=training[name],
            step_seconds=stepping[name],
            evaluate_seconds=evaluation[name],
            sample_seconds=sampling[name],
            evaluate_times_slower=evaluation[name] / evaluation["marginal"],
            sample_times_slower=sampling[name] / sampling["marginal"],
            remark=remark if name == "matching" else "",
        )


def marginal_steps(flow: mf.MarginalFlow, train: Tensor, budget: float) -> int:
    """Steps that fit into the budget, from the cost of a short fit (its regression and its steps)."""
    short = cpu_seconds(lambda: flow.fit(train, seed=0, max_steps=5, batch_size=BATCH, progress=False))
    longer = cpu_seconds(lambda: flow.fit(train, seed=0, max_steps=15, batch_size=BATCH, progress=False))
    return max(20, int(budget / max((longer - short) / 10, 1e-4)))


def marginal_step(flow: mf.MarginalFlow, x: Tensor) -> None:
    """The work of one training step without the optimiser's."""
    flow.zero_grad()
    (-flow().log_prob(x).mean()).backward()


def rival_step(model: Rival, x: Tensor) -> None:
    """The work of one training step without the optimiser's."""
    model.zero_grad()
    model.loss(model.coordinates(x), torch.Generator().manual_seed(0)).backward()


def affordable(model: FlowMatching, test: Tensor) -> tuple[int, str]:
    """How many points flow matching can score within the limit, judged by the divergence at a few points; 0 for none."""
    solver_calls, few = 60, max(1, min(8, 4000 // test.shape[1]))  # calls that dopri5 takes at the least
    t, x = torch.full((few, 1), 0.5), model.coordinates(test[:few])
    model.divergence(t[:1], x[:1])  # the first call of torch.func costs a second
    one = cpu_seconds(lambda: model.divergence(t, x)) / few
    count = min(len(test), int(LIMIT / (one * solver_calls)))
    if count == 0:
        return 0, f"one divergence at one point takes {one:.1f} s: no exact density within {LIMIT:.0f} s"
    return count, "" if count == len(test) else f"density of {count} points, time scaled up"
