"""How close estimators come to the true density of five laws of the plane from 100 to 1000 points.

**Data**: two moons (noise 0.05), pinwheel, swiss roll, checkerboard, eight Gaussians, whose densities are known
(`benchmarks/problems/synthetic2d.py`). 100, 200, 500 and 1000 training points, a fresh 5000 test points for every seed; two
moons with all seeds, the others with the first three, the spline flow with the first two and from 500 points.

**Protocol**: every method has the same training and test points; what needs held-out points to select a model takes a part of
the training points. Marginal flows are scored as one frozen mixture. Reference measure: area (Lebesgue). One thread; CPU
seconds of the fit alone.

**Reading the table**: `log_lik` is the mean test log density in nats per point, `gap` the paired difference to the true density at
the same points, both as mean and standard error over seeds (`gap` 0 is the best possible in expectation). The part "ten
components" compares 10 components that a network draws afresh at every training step, frozen with 10 and with 4096, with mixtures of 10
optimised components. The part "spiral" has marginal flows of latent dimensions 1 and 2 on a noisy curve: `off_curve` is the mean distance
of the learned locations to the curve, `missed_curve` that of the curve to the locations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.harness import Report
from benchmarks.problems.synthetic2d import PROBLEMS, NoisyCurve, Problem, spiral
from mf_manifold.anchors import AnchoredFlow
from mf_manifold.kernel_mixture import KernelMixture
from mf_manifold.scoring import score
from mf_manifold.submanifold import chamfer

PLANE = geoopt.Euclidean(ndim=1)
SIZES = (100, 200, 500, 1000)
TEST = 5000
FROZEN = 4096


class Density(Protocol):
    """What a fitted model is asked for."""

    def log_prob(self, x: Tensor) -> Tensor: ...


Fit = Callable[[Tensor, int], Density]


def marginal(seed: int, x: Tensor, **options: Any) -> mf.MarginalFlow:
    """The settings for some hundred points of the plane: fewer components and smoother maps than by default."""
    settings = {"n_components": 512, "bandwidth": 0.5, **options}
    flow = mf.MarginalFlow(PLANE, (2,), **settings)
    return flow.fit(x, seed=seed, max_steps=400, patience=50, progress=False)


def fit_marginal(x: Tensor, seed: int) -> Density:
    return marginal(seed, x).freeze(FROZEN)


def fit_anchored(x: Tensor, seed: int) -> Density:
    return AnchoredFlow(PLANE, (2,)).fit(x, seed=seed, progress=False).freeze()


def fit_kernel_density(bandwidth: str) -> Fit:
    def fit(x: Tensor, seed: int) -> Density:
        return mf.KernelDensity(PLANE, (2,), bandwidth=bandwidth).fit(x, seed=seed, progress=False)

    return fit


def fit_em(covariance: str, n_components: int | tuple[int, ...] = (5, 10, 20, 40)) -> Fit:
    def fit(x: Tensor, seed: int) -> Density:
        model = KernelMixture(PLANE, (2,), n_components, kernel_options={"covariance": covariance})
        return model.fit(x, seed=seed, progress=False)

    return fit


def fit_spline(x: Tensor, seed: int) -> Density:
    from benchmarks.rivals import SplineFlow

    return SplineFlow(PLANE, (2,)).fit(x, seed=seed, max_seconds=30.0)


METHODS: dict[str, Fit] = {
    "MarginalFlow": fit_marginal,
    "AnchoredFlow": fit_anchored,
    "KernelDensity, single": fit_kernel_density("single"),
    "KernelDensity, adaptive": fit_kernel_density("adaptive"),
    "KernelDensity, local": fit_kernel_density("local"),
    "KernelMixture, diagonal": fit_em("diagonal"),
    "KernelMixture, full": fit_em("full"),
    "spline flow": fit_spline,
}


class Trial:
    """One draw of training and test points of a problem."""

    def __init__(self, problem: Problem, n: int, seed: int) -> None:
        self.seed = seed
        self.train = problem.sample(n, torch.Generator().manual_seed(seed)).float()
        self.test = problem.sample(TEST, torch.Generator().manual_seed(10_000 + seed)).float()
        self.truth = float(problem.log_prob(self.test).mean())

    def measured(self, fit: Fit) -> tuple[Density, float, float]:
        """The fitted density, its mean log density at the test points, CPU seconds of the fit."""
        start = time.process_time()
        density = fit(self.train, self.seed)
        seconds = time.process_time() - start
        return density, mean_log(density, self.test), seconds


@torch.no_grad()
def mean_log(density: Density, x: Tensor) -> float:
    return float(density.log_prob(x).double().mean())


def mean_and_error(values: list[float]) -> tuple[float, float | None]:
    numbers = torch.tensor(values, dtype=torch.float64)
    return float(numbers.mean()), float(numbers.std()) / len(values) ** 0.5 if len(values) > 1 else None


def summarised(trials: list[Trial], logs: list[float], seconds: list[float]) -> dict[str, Any]:
    log_lik, error = mean_and_error(logs)
    gap, gap_error = mean_and_error([trial.truth - value for trial, value in zip(trials, logs, strict=True)])
    return {
        "log_lik": log_lik,
        "log_lik_se": error,
        "gap": gap,
        "gap_se": gap_error,
        "cpu_seconds": sum(seconds) / len(seconds),
        "seeds": len(trials),
    }


def run(report: Report) -> None:
    torch.set_num_threads(1)
    densities = compare(report)
    draw_densities(report, densities)
    ten_components(report)
    draw_spiral(report, spirals(report))


def compare(report: Report) -> dict[str, dict[str, Density]]:
    """The table of problems, sizes and methods; densities of the largest size and the first seed."""
    kept: dict[str, dict[str, Density]] = {}
    for name, make in PROBLEMS.items():
        problem = make()
        kept[name] = {"true density": problem}
        for n in (50,) if report.quick else SIZES:
            seeds = report.seeds if name == "two moons" else report.seeds[:3]
            trials = [Trial(problem, n, seed) for seed in seeds]
            common = {"part": "densities", "problem": name, "n": n}
            report.row(**common, method="true density", **summarised(trials, [t.truth for t in trials], [0.0] * len(trials)))
            for method, fit in METHODS.items():
                if method == "spline flow" and n < 500:
                    continue
                used = trials[:2] if method == "spline flow" else trials
                results = [trial.measured(fit) for trial in used]
                logs, seconds = [r[1] for r in results], [r[2] for r in results]
                report.row(**common, method=method, **summarised(used, logs, seconds))
                kept[name][method] = results[0][0]
    return kept


def ten_components(report: Report) -> None:
    """Ten components drawn afresh at every step, against ten optimised ones."""
    problem = PROBLEMS["two moons"]()
    trials = [Trial(problem, 50 if report.quick else 1000, seed) for seed in report.seeds]
    common = {"part": "ten components", "problem": "two moons", "n": len(trials[0].train)}
    flows, seconds = [], []
    for trial in trials:
        start = time.process_time()
        flows.append(marginal(trial.seed, trial.train, n_components=10))
        seconds.append(time.process_time() - start)
    for count in (10, 100, FROZEN):
        logs = [mean_log(flow.freeze(count), trial.test) for flow, trial in zip(flows, trials, strict=True)]
        report.row(**common, method=f"MarginalFlow of 10, frozen with {count}", **summarised(trials, logs, seconds))
    for covariance in ("diagonal", "full"):
        results = [trial.measured(fit_em(covariance, 10)) for trial in trials]
        logs, times = [r[1] for r in results], [r[2] for r in results]
        report.row(**common, method=f"KernelMixture of 10, {covariance}", **summarised(trials, logs, times))
    errors = [score(flow(n_components=FROZEN), trial.test) for flow, trial in zip(flows, trials, strict=True)]
    report.note(
        f"Of the mean test log density of 10-component flows drawn with {FROZEN} components, the standard error is "
        f"{errors[0].sampling_error:.4f} by the test points and {errors[0].draw_error:.4f} by the components (seed {trials[0].seed})."
    )


def spirals(report: Report) -> list[tuple[int, mf.MarginalFlow, Trial]]:
    """Marginal flows of one and two latent dimensions on a noisy spiral."""
    problem, fitted = spiral(), []
    trials = [Trial(problem, 100 if report.quick else 1000, seed) for seed in report.seeds[:3]]
    common = {"part": "spiral", "problem": "spiral", "n": len(trials[0].train)}
    report.row(**common, method="true density", **summarised(trials, [t.truth for t in trials], [0.0] * len(trials)))
    for dim in (1, 2):
        flows, logs, seconds, far = [], [], [], []
        for trial in trials:
            start = time.process_time()
            flows.append(marginal(trial.seed, trial.train, latent_dim=dim))
            seconds.append(time.process_time() - start)
            logs.append(mean_log(flows[-1].freeze(FROZEN), trial.test))
            far.append(chamfer(PLANE, locations(flows[-1]), on_curve(problem)))
        report.row(
            **common,
            method=f"MarginalFlow, latent_dim={dim}",
            **summarised(trials, logs, seconds),
            off_curve=sum(f.to_reference for f in far) / len(far),
            missed_curve=sum(f.from_reference for f in far) / len(far),
        )
        fitted.append((dim, flows[0], trials[0]))
    return fitted


@torch.no_grad()
def locations(flow: mf.MarginalFlow) -> Tensor:
    return flow.decode(2 * torch.rand(2048, flow.latent_dim, generator=torch.Generator().manual_seed(0)) - 1)


def on_curve(problem: NoisyCurve, count: int = 2048) -> Tensor:
    return problem.curve(torch.linspace(0, 1, count, dtype=torch.float64), torch.zeros(count, dtype=torch.long)).float()


def draw_densities(report: Report, densities: dict[str, dict[str, Density]]) -> None:
    from matplotlib.figure import Figure

    shown = ["true density", "MarginalFlow", "AnchoredFlow", "KernelMixture, full", "spline flow"]
    shown = [name for name in shown if name in densities["two moons"]]
    figure = Figure(figsize=(2 * len(shown), 2 * len(densities)), dpi=60, layout="constrained")
    for row, (problem, models) in enumerate(densities.items()):
        center, half = (0.5, 0.25) if problem == "two moons" else (0.0, 0.0), _half(problem)
        axis = torch.linspace(-half, half, 120)
        grid = torch.cartesian_prod(axis, axis) + torch.tensor(center)
        top = float(models["true density"].log_prob(grid).max().exp())
        for column, name in enumerate(shown):
            axes = figure.add_subplot(len(densities), len(shown), row * len(shown) + column + 1)
            with torch.no_grad():
                values = models[name].log_prob(grid).exp().reshape(120, 120).T
            axes.imshow(values.numpy(), origin="lower", vmin=0, vmax=top, cmap="magma")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(name, fontsize=8)
    report.figure(figure, "densities", "Densities fitted to the largest training sets, first seed; colours as for the true density.")


def _half(problem: str) -> float:
    return {"two moons": 1.9, "pinwheel": 1.3, "swiss roll": 2.2, "checkerboard": 2.3, "8 Gaussians": 3.0}[problem]


def draw_spiral(report: Report, fitted: list[tuple[int, mf.MarginalFlow, Trial]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(fitted), 4), dpi=60, layout="constrained")
    for column, (dim, flow, trial) in enumerate(fitted):
        axes = figure.add_subplot(1, len(fitted), column + 1)
        axes.plot(*trial.train.T, ".", color="0.7", markersize=3, label="data")
        where = locations(flow)
        axes.plot(*where.T, ".", markersize=2, label=f"locations, latent_dim={dim}")
        axes.plot(*on_curve(spiral()).T, "k", linewidth=0.5, label="true curve")
        axes.set_aspect("equal")
        axes.legend(fontsize=7)
    report.figure(figure, "spiral", "Locations that flows of one and two latent dimensions learned from noisy points of a spiral.")
