"""How close estimators come to the true density of five laws of the plane from 100 to 1000 points.

Data. Two moons (noise 0.05), pinwheel, swiss roll, checkerboard, eight Gaussians, whose densities are known
(`benchmarks/problems/synthetic2d.py`). 100, 200, 500 and 1000 points, of which a tenth only selects a model where a method
needs that, and 5000 fresh test points for every seed. Two moons with all seeds, the other laws with the first three, the
spline flow from 500 points on. The option `problem` takes one law alone.

Protocol. Marginal flows have the same settings everywhere (256 components of one shared shape, bandwidth 0.25, 400 steps)
and are scored as one frozen mixture of 4096 components. EM mixtures choose 5, 10, 20 or 40 components by held-out
points. One thread, CPU seconds of the fit. Reference measure: area.

How to read the table. `nll` is the mean negative log density of the test points in nats, `kl` its paired difference to the true
density at the same points (0 is the best possible), `difference` that to the rival named "KernelMixture, full". The rows "ten
components" have a marginal flow trained with 10 components of full covariance, drawn afresh at each of 6000 steps, frozen
with 10, 100 and 4096, and mixtures of 10 optimised components. The rows "spiral" have flows of one and of two latent
dimensions; `off_curve` is the mean distance of their locations to the true curve and `missed_curve` that of the curve to the
locations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.comparison import LogDensity, Method, compare
from benchmarks.problems.synthetic2d import PROBLEMS, NoisyCurve, Problem, spiral

if TYPE_CHECKING:
    from benchmarks.harness import Report

PLANE = geoopt.Euclidean(ndim=1)
SIZES = (100, 200, 500, 1000)
FROZEN = 4096
RIVAL = "KernelMixture, full"
HALF = {"two moons": 1.9, "pinwheel": 1.3, "swiss roll": 2.2, "checkerboard": 2.3, "8 Gaussians": 3.0}


def run(report: Report) -> None:
    """The comparison, ten components, the spiral."""
    torch.set_num_threads(1)
    few = replace(report, seeds=report.seeds[:3])  # shares the rows
    shown: dict[str, dict[str, LogDensity]] = {}
    chosen = report.options.get("problem")
    for name, make in PROBLEMS.items():
        if chosen not in (None, name):
            continue
        sizes = (60,) if report.quick else SIZES
        for n in sizes:
            problem, repeats = make(), report if name == "two moons" else few
            found, keep = methods(n, report.quick), report.seeds[:1] if n == sizes[-1] else ()
            title, parts = f"{name}, {n} points", split(problem, n)
            fits = compare(repeats, title, parts, found, rival=RIVAL, truth=problem.log_prob, keep=keep)
            shown[name] = {"true density": problem.log_prob, **fits}
    draw_densities(report, shown)
    ten_components(report)
    draw_spirals(report, spirals(few))


def split(problem: Problem, n: int) -> Any:
    """Points to fit, a ninth of them to select with, test points."""

    def parts(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        x = problem.sample(n, torch.Generator().manual_seed(seed))
        test = problem.sample(5000, torch.Generator().manual_seed(10_000 + seed))
        held = n // 10
        return x[held:], x[:held], test

    return parts


def methods(n: int, quick: bool) -> dict[str, Method]:
    """Every estimator, ready to be fitted."""

    def flow(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        return marginal(train, validation, seed, quick).freeze(FROZEN).log_prob

    def anchored(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        options = {"neighbors": (4, 8), "networks": 0} if quick else {}
        return mf.AnchoredFlow(PLANE, (2,), **options).fit(both(train, validation), seed=seed, progress=False).freeze().log_prob

    def spline(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        from benchmarks.rivals import SplineFlow

        model = SplineFlow(PLANE, (2,), hidden=(16,) if quick else (64, 64))
        return model.fit(train, seed=seed, max_seconds=0.3 if quick else 30.0, validation=validation).log_prob

    counts = 5 if quick else (5, 10, 20, 40)
    found = {
        RIVAL: em("full", counts),
        "KernelMixture, diagonal": em("diagonal", counts),
        "MarginalFlow": flow,
        "AnchoredFlow": anchored,
        **{f"KernelDensity, {bandwidth}": kernel_density(bandwidth) for bandwidth in ("single", "adaptive", "local")},
    }
    return {**found, "spline flow": spline} if n >= 500 or quick else found


def both(train: Tensor, validation: Tensor) -> Tensor:
    return torch.cat([train, validation])


def marginal(
    train: Tensor, validation: Tensor, seed: int, quick: bool, steps: int = 400, **options: Any
) -> mf.MarginalFlow:
    """For some hundred points: fewer components and a smoother map than by default, one shape for all components."""
    settings: dict[str, Any] = {"n_components": 256, "bandwidth": 0.25, "shared_shape": True, **options}
    flow = mf.MarginalFlow(PLANE, (2,), **settings)
    return flow.fit(train, validation=validation, seed=seed, max_steps=4 if quick else steps, patience=50, progress=False)


def kernel_density(bandwidth: str) -> Method:
    def method(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        model = mf.KernelDensity(PLANE, (2,), bandwidth=bandwidth)
        return model.fit(both(train, validation), seed=seed, progress=False).freeze().log_prob

    return method


def em(covariance: str, n_components: int | tuple[int, ...]) -> Method:
    def method(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        model = mf.KernelMixture(PLANE, (2,), n_components, kernel_options={"covariance": covariance})
        return model.fit(both(train, validation), seed=seed, progress=False).freeze().log_prob

    return method


def ten_components(report: Report) -> None:
    """Ten components drawn afresh at every step, against ten optimised ones."""
    problem, flows = PROBLEMS["two moons"](), {}
    parts = split(problem, 60 if report.quick else 1000)

    def resampled(count: int) -> Method:
        def method(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
            if seed not in flows:
                own = {"n_components": 10, "shared_shape": False, "kernel_options": {"covariance": "full"}}
                flows[seed] = marginal(train, validation, seed, report.quick, 6000, **own)
            return flows[seed].freeze(count).log_prob

        return method

    rival = "10 optimised components, full"
    found: dict[str, Method] = {rival: em("full", 10), "10 optimised components, diagonal": em("diagonal", 10)}
    found |= {f"MarginalFlow of 10, frozen with {count}": resampled(count) for count in (10, 100, FROZEN)}
    compare(report, "two moons, ten components", parts, found, rival=rival, truth=problem.log_prob, keep=report.seeds[:1])
    seed = report.seeds[0]
    with torch.no_grad():
        error = mf.score(flows[seed](n_components=FROZEN), parts(seed)[2])
    report.note(
        f"The flow of 10 components, drawn with {FROZEN}: mean test log density {error} (seed {seed}; components are evenly "
        "spread, so that the second error is an upper bound)."
    )


def spirals(report: Report) -> list[tuple[mf.MarginalFlow, Tensor]]:
    """Flows of one and two latent dimensions on a noisy spiral; with the data, those of the first seed."""
    problem, fitted = spiral(), []
    parts = split(problem, 100 if report.quick else 1000)
    for dim in (1, 2):
        flows: list[mf.MarginalFlow] = []

        def method(train: Tensor, validation: Tensor, seed: int, dim: int = dim, flows: Any = flows) -> LogDensity:
            flows.append(marginal(train, validation, seed, report.quick, latent_dim=dim))
            return flows[-1].freeze(FROZEN).log_prob

        name = f"MarginalFlow, latent_dim={dim}"
        compare(report, "spiral", parts, {name: method}, rival=name, truth=problem.log_prob, keep=report.seeds)
        far = [mf.chamfer(PLANE, locations(flow), on_curve(problem)) for flow in flows]
        report.rows[-1] |= {
            "off_curve": sum(found.to_reference for found in far) / len(far),
            "missed_curve": sum(found.from_reference for found in far) / len(far),
        }
        fitted.append((flows[0], parts(report.seeds[0])[0]))
    return fitted


@torch.no_grad()
def locations(flow: mf.MarginalFlow) -> Tensor:
    return flow.decode(mf.bases.sobol(2048, flow.latent_dim, seed=0)).double()


def on_curve(problem: NoisyCurve, count: int = 2048) -> Tensor:
    return problem.curve(torch.linspace(0, 1, count, dtype=torch.float64), torch.zeros(count, dtype=torch.long))


def draw_densities(report: Report, densities: dict[str, dict[str, LogDensity]]) -> None:
    from matplotlib.figure import Figure

    names = ["true density", "MarginalFlow", "AnchoredFlow", RIVAL, "spline flow"]
    figure, cells = Figure(figsize=(1.6 * len(names), 1.7 * len(densities)), layout="constrained"), 100
    panels = figure.subplots(len(densities), len(names), squeeze=False)
    for row, (problem, models) in enumerate(densities.items()):
        axis = torch.linspace(-HALF[problem], HALF[problem], cells)
        grid = torch.cartesian_prod(axis, axis) + torch.tensor([0.5, 0.25] if problem == "two moons" else [0.0, 0.0])
        top = float(models["true density"](grid).max().exp())
        for axes, name in zip(panels[row], names, strict=True):
            with torch.no_grad():
                values = models[name](grid).exp().reshape(cells, cells).T
            axes.imshow(values.numpy(), origin="lower", vmin=0, vmax=top, cmap="magma")
            axes.set_axis_off()
            axes.set_title(name if row == 0 else "", fontsize=7)
    report.figure(figure, "densities", "Densities fitted to the largest sets, first seed; colours as for the true density.")


def draw_spirals(report: Report, fitted: list[tuple[mf.MarginalFlow, Tensor]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(fitted), 4), layout="constrained")
    for axes, (flow, data) in zip(figure.subplots(1, len(fitted)), fitted, strict=True):
        axes.plot(*data.T, ".", color="0.7", markersize=2, label="data")
        axes.plot(*locations(flow).T, ".", markersize=1, label=f"locations, latent_dim={flow.latent_dim}")
        axes.plot(*on_curve(spiral()).T, "k", linewidth=0.5, label="true curve")
        axes.set_aspect("equal")
        axes.legend(fontsize=7)
    report.figure(figure, "spiral", "Locations that flows of one and two latent dimensions learned from points of a spiral.")
