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

How to read the table. `times_slower` columns divide by the marginal flow's time in the same part; below 1 the rival
is faster.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import geoopt
import torch
from benchmarks.harness import Report
from torch import Tensor

import mf_manifold as mf
from benchmarks.rivals import FlowMatching, SplineFlow
from benchmarks.rivals.training import Check, Rival

POINTS = 1000  # evaluated and sampled
NOISE = 0.1
LIMIT = 60.0  # CPU seconds of one evaluation, beyond which fewer points are scored


def run(report: Report) -> None:
    """Measure on the sphere and in Euclidean spaces of growing dimension."""
    torch.set_num_threads(1)
    for seed in report.seeds[:1]:
        sphere(report, seed)
        for d in (10, 100) if report.quick else (10, 100, 1000, 10_000):
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


def sphere(report: Report, seed: int) -> None:
    """One table row for each model, all of at least the quality of flow matching."""
    data = mf.datasets.airports()
    rows = mf.datasets.split(data.points, seed)
    train, validation, test = (data.points[r[:300]] if report.quick else data.points[r] for r in rows)
    scored = validation[:POINTS]
    matching, reached, trained = train_matching(report, train, validation, scored, seed)
    shape = (data.manifold, data.point_shape)
    lengths = [10] if report.quick else [25, 50, 100, 200, 400, 800]
    flow, flow_seconds, flow_steps = fit_marginal(*shape, train, scored, reached, lengths, seed)
    spline, spline_seconds = fit_spline(
        *shape, train, validation, scored, reached, [2] if report.quick else [15, 30, 60, 120, 240], seed
    )
    mixture = fewest_components(flow, scored, reached)
    models: dict[str, Any] = {"marginal": mixture.to(torch.float32), "spline": spline, "matching": matching}
    points = test[:POINTS]
    narrow = points.float()
    evaluate = {
        "marginal": lambda: models["marginal"].log_prob(narrow),
        "spline": lambda: spline.log_prob(points),
        "matching": lambda: matching.log_prob(points),
    }
    draw = {
        "marginal": lambda: models["marginal"].sample((POINTS,)),
        "spline": lambda: spline.sample(POINTS),
        "matching": lambda: matching.sample(POINTS),
    }
    rounds = 1 if report.quick else 5
    evaluation, sampling = medians(evaluate, rounds), medians(draw, rounds)
    training = {"marginal": flow_seconds, "spline": spline_seconds, "matching": trained}
    sizes = {
        "marginal": sum(p.numel() for p in flow.parameters()),
        "spline": spline.parameter_count,
        "matching": matching.parameter_count,
    }
    remarks = {"marginal": f"{flow_steps} steps", "spline": "", "matching": f"trained for {trained:.0f} s; sets the quality"}
    for name, model in models.items():
        report.row(
            part="sphere",
            d=2,
            method=name,
            parameters=sizes[name],
            components=mixture.n_components if name == "marginal" else "",
            validation_nll=nll(model.log_prob, scored.float() if name == "marginal" else scored),
            test_nll=nll(model.log_prob, points.float() if name == "marginal" else points),
            train_seconds=training[name],
            evaluate_seconds=evaluation[name],
            sample_seconds=sampling[name],
            **ratios(name, training, evaluation, sampling),
            remark=remarks[name],
        )


def ratios(name: str, *times: dict[str, float]) -> dict[str, float]:
    """Times relative to those of the marginal flow."""
    return {
        f"{what}_times_slower": seconds[name] / seconds["marginal"]
        for what, seconds in zip(("train", "evaluate", "sample"), times, strict=True)
    }


def train_matching(
    report: Report, train: Tensor, validation: Tensor, scored: Tensor, seed: int
) -> tuple[FlowMatching, float, float]:
    """Flow matching after its budget, its NLL and its CPU seconds of training."""
    hidden, budget = ((64, 64), 2.0) if report.quick else ((512,) * 6, 240.0)
    model = FlowMatching(geoopt.Sphere(), (3,), hidden=hidden)

    def log(check: Check) -> None:
        report.note(f"Flow matching after {check.seconds:.0f} s: validation NLL {nll(model.log_prob, scored):.3f}.")

    model.fit(train, seed=seed, max_seconds=budget, max_steps=10**6, validation=validation, checks=4, on_check=log)
    return model, nll(model.log_prob, scored), model.history[-1].seconds


def fit_marginal(
    manifold: geoopt.Manifold, shape: tuple[int, ...], train: Tensor, scored: Tensor, goal: float, lengths: list[int], seed: int
) -> tuple[mf.MarginalFlow, float, int]:
    """The first of fits of growing length that reaches the goal, its CPU seconds and its steps."""
    for steps in lengths:
        flow = mf.MarginalFlow(manifold, shape, n_components=1024)
        seconds = cpu_seconds(lambda: flow.fit(train, seed=seed, max_steps=steps, patience=50, progress=False))  # noqa: B023
        if nll(flow.freeze(16_384).log_prob, scored) <= goal:
            break
    return flow, seconds, steps


def fit_spline(
    manifold: geoopt.Manifold,
    shape: tuple[int, ...],
    train: Tensor,
    validation: Tensor,
    scored: Tensor,
    goal: float,
    budgets: list[float],
    seed: int,
) -> tuple[SplineFlow, float]:
    """The first of fits of growing length that reaches the goal (or the last), and its CPU seconds."""
    for budget in budgets:
        flow = SplineFlow(manifold, shape)
        seconds = cpu_seconds(lambda: flow.fit(train, seed=seed, max_seconds=budget, validation=validation))  # noqa: B023
        if nll(flow.log_prob, scored) <= goal:
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


class Surface:
    """A rolled-up strip in R^3, turned into R^d, with normal noise; its density is known."""

    def __init__(self, d: int, seed: int, grid: int = 256) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.d, self.generator = d, generator
        self.turn = torch.linalg.qr(torch.randn(d, 3, generator=generator, dtype=torch.float64))[0]
        line = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
        self.grid = self.strip(torch.cartesian_prod(line, line))

    @staticmethod
    def strip(u: Tensor) -> Tensor:
        angle = 1.5 * math.pi * (1 + u[:, 0])
        return torch.stack([angle * angle.cos() / 4, angle * angle.sin() / 4, 4 * u[:, 1] - 2], dim=-1)

    def sample(self, n: int) -> Tensor:
        u = torch.rand(n, 2, generator=self.generator, dtype=torch.float64)
        noise = torch.randn(n, self.d, generator=self.generator, dtype=torch.float64)
        return self.strip(u) @ self.turn.T + NOISE * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """A sum over a fine grid of the strip, and the normal noise at right angles to it."""
        inside = x @ self.turn
        kernel = mf.kernel_for(geoopt.Euclidean(ndim=1), (3,))
        law = mf.Mixture(kernel, {"loc": self.grid, "scale": torch.full((1, 3), NOISE, dtype=torch.float64)})
        outside = x.square().sum(-1) - inside.square().sum(-1)
        log_normal = -outside / (2 * NOISE**2) - (self.d - 3) * (math.log(NOISE) + 0.5 * math.log(2 * math.pi))
        return law.log_prob(inside) + log_normal


def euclidean(report: Report, seed: int, d: int) -> None:
    """One table row for each model in R^d, each after the same CPU seconds of training."""
    law = Surface(d, seed)
    train, test = law.sample(400 if report.quick else 4000), law.sample(100 if report.quick else POINTS)
    truth = nll(law.log_prob, test)
    budget, rounds = (2.0, 1) if report.quick else (30.0, 3)
    space = geoopt.Euclidean(ndim=1)
    flow = mf.MarginalFlow(space, (d,), latent_dim=2, n_components=1024)
    spline = SplineFlow(space, (d,))
    matching = FlowMatching(space, (d,), hidden=(64, 64) if report.quick else (512,) * 6)
    steps = marginal_steps(flow, train, budget)
    training = {"marginal": cpu_seconds(lambda: flow.fit(train, seed=seed, max_steps=steps, batch_size=256, progress=False))}
    for name, rival in (("spline", spline), ("matching", matching)):
        rival.batch_size = 256
        training[name] = cpu_seconds(lambda: rival.fit(train, seed=seed, max_seconds=budget, max_steps=10**6, checks=10))  # noqa: B023
    mixture = flow.freeze(4096)
    narrow = test.float()
    count, remark = affordable(matching, test)
    evaluation = medians({"marginal": lambda: mixture.log_prob(narrow), "spline": lambda: spline.log_prob(test)}, rounds)
    if count:
        scored: list[Tensor] = []
        evaluation["matching"] = cpu_seconds(lambda: scored.append(matching.log_prob(test[:count]))) * len(test) / count
    sampling = medians(
        {
            "marginal": lambda: mixture.sample((len(test),)),
            "spline": lambda: spline.sample(len(test)),
            "matching": lambda: matching.sample(len(test)),
        },
        rounds,
    )
    stepping = medians(
        {
            "marginal": lambda: marginal_step(flow, narrow),
            "spline": lambda: rival_step(spline, narrow),
            "matching": lambda: rival_step(matching, narrow),
        },
        rounds,
    )
    excess = {"marginal": nll(mixture.log_prob, narrow) - truth, "spline": nll(spline.log_prob, test) - truth}
    if count:
        excess["matching"] = -float(scored[0].mean()) - nll(law.log_prob, test[:count])
    for name, model in (("marginal", flow), ("spline", spline), ("matching", matching)):
        report.row(
            part="euclidean",
            d=d,
            method=name,
            parameters=sum(p.numel() for p in model.parameters()),
            components=mixture.n_components if name == "marginal" else "",
            excess_nll=excess.get(name, math.nan),
            train_seconds=training[name],
            step_seconds=stepping[name],
            evaluate_seconds=evaluation.get(name, math.nan),
            sample_seconds=sampling[name],
            evaluate_times_slower=evaluation.get(name, math.nan) / evaluation["marginal"],
            sample_times_slower=sampling[name] / sampling["marginal"],
            remark=remark if name == "matching" else "",
        )


def marginal_steps(flow: mf.MarginalFlow, train: Tensor, budget: float) -> int:
    """Steps that fit into the budget, from the cost of a short fit (its regression and its steps)."""
    short = cpu_seconds(lambda: flow.fit(train, seed=0, max_steps=5, batch_size=256, progress=False))
    longer = cpu_seconds(lambda: flow.fit(train, seed=0, max_steps=15, batch_size=256, progress=False))
    return max(20, int(budget / max((longer - short) / 10, 1e-4)))


def marginal_step(flow: mf.MarginalFlow, x: Tensor) -> None:
    """The work of one training step without the optimiser's."""
    flow.zero_grad()
    (-flow().log_prob(x[:256]).mean()).backward()


def rival_step(model: Rival, x: Tensor) -> None:
    """The work of one training step without the optimiser's."""
    model.zero_grad()
    model.loss(model.coordinates(x[:256]), torch.Generator().manual_seed(0)).backward()


def affordable(model: FlowMatching, test: Tensor) -> tuple[int, str]:
    """How many points flow matching can score within the limit, judged by one divergence at one point; 0 for none."""
    solver_calls = 100  # what dopri5 takes at the least
    t, x = torch.full((1, 1), 0.5), model.coordinates(test[:1])
    one = cpu_seconds(lambda: model.divergence(t, x))
    count = min(len(test), int(LIMIT / (one * solver_calls)))
    if count == 0:
        return 0, f"one divergence at one point takes {one:.1f} s: no exact density within {LIMIT:.0f} s"
    return count, "" if count == len(test) else f"density of {count} points, time scaled up"
