"""Whether a manifold flow learns the curve or surface near which data lie, and what its two densities are worth.

Data. Noisy curves and surfaces of R^3 (`benchmarks/problems/noisy_manifolds.py`): a helix of two turns, a Swiss roll, and
as the limit of one chart a circle and a sphere; 4000 points to fit, of which a tenth selects the model, 2000 to test, drawn
anew for every seed. Then scikit-learn's digits, 64 grey levels each, made continuous by uniform noise of one level (standard
deviation 0.289 levels, 0.017 of the range) and scaled to [0, 1]; a fifth of them to test. All seeds for the manifold flow on
helix and Swiss roll, the first two for the others.

Methods, at equal numbers m of coordinates. The manifold flow, with its one-step loss; its second stage, a spline flow of the
coordinates; the same flow by likelihood alone (weight 0); without the start that follows the data's turns; on the helix
with a weight that falls from thirty times its final value, or rises from a hundredth, where by default it is constant; in two
phases, first reconstruction and then the density of the coordinates (as M-flows are trained); an autoencoder with a spline flow
of its codes (an injective flow); a marginal flow with `latent_dim=m`, whose projection is the nearest of 8000 locations. Circle
and sphere have one manifold flow, and a variational mixture of several, with the penalty of each at the points that it is
responsible for. The row "the manifold itself" has what no model can beat.

How to read the table. `rms` is the root mean square error of the projection of test points over the noise floor, noise times
sqrt(3 - m); `ok` counts the seeds with rms below 1.3 and both Chamfer distances below the noise more than "the manifold
itself" has. `to_manifold` and `from_manifold` are mean distances of the projections to 10000 points of the true manifold,
and back. `astray` is the share of samples on the learned manifold that are off the true one by more than three noises.
Two columns have negative log densities, and these are never comparable: `nats_lebesgue` of test points by Lebesgue
measure of R^3, `nats_hausdorff` of their projections by arc length or area. `integral` is that of the density on the
learned manifold, over lengths or areas of a mesh that knows nothing of derivatives (of surfaces for the first seed only).
`energy_train` and `energy_test` are mean squares of an off-manifold coordinate, 1 if these are standard normal. `c2st` tells
coordinates of test points from samples of their law (0.5 is best).
"""

from __future__ import annotations

import copy
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.c2st import c2st
from benchmarks.problems.noisy_manifolds import (
    CIRCLE,
    HELIX,
    SPHERE,
    SWISS_ROLL,
    NoisyManifold,
    mass_by_chords,
    mass_by_triangles,
)
from benchmarks.rivals.injective import Injective
from mf_manifold.models import ManifoldFlow, VariationalMixture
from mf_manifold.models.manifold_flow import charts, reconstruction

if TYPE_CHECKING:
    from benchmarks.harness import Report

SPACE = geoopt.Euclidean(ndim=1)
STEPS = {"helix": 800, "circle": 500, "Swiss roll": 1000, "sphere": 500}
TRANSFORMS = {"helix": 8, "circle": 6, "Swiss roll": 12, "sphere": 6}
CHARTS = {"circle": 3, "sphere": 6}
BOUND = 1.3  # noise floors
DIGIT_DIMS = (2, 8, 16)
FIRST, SECOND, PHASES = "manifold flow", "manifold flow, second stage", "two phases"
Fitted = Any  # with encode, decode, project, sample_on_manifold, and log_prob_on_manifold or log_prob or both
Method = Callable[[NoisyManifold, Tensor, int, bool], dict[str, Fitted]]  # the models, each with the name of its row


def run(report: Report) -> None:
    """Helix and Swiss roll by every method, circle and sphere, digits; pictures."""
    torch.set_num_threads(1)
    few = report.seeds[:2]
    shown: dict[str, dict[str, Tensor]] = {}
    for problem, methods in METHODS.items():
        best = true_row(report, problem)
        shown[problem.name] = {}
        for method in methods:
            seeds = report.seeds if method is joint and problem in (HELIX, SWISS_ROLL) else few
            shown[problem.name] |= compare(report, problem, method, seeds, best)
    for dim in DIGIT_DIMS[:1] if report.quick else DIGIT_DIMS:
        digits_row(report, dim, few)
    draw(report, shown)


def draw_data(problem: NoisyManifold, seed: int, quick: bool) -> tuple[Tensor, Tensor]:
    """Points to fit, and to test."""
    generator, sizes = torch.Generator().manual_seed(seed), (200, 100) if quick else (4000, 2000)
    return problem.sample(sizes[0], generator), problem.sample(sizes[1], generator)


def options(problem: NoisyManifold, seed: int, quick: bool) -> dict[str, Any]:
    return {"seed": seed, "max_steps": 3 if quick else STEPS[problem.name], "batch_size": 256, "progress": False}


def flow(problem: NoisyManifold, quick: bool, **settings: Any) -> ManifoldFlow:
    size: dict[str, Any] = {"transforms": 2, "hidden": (8,)} if quick else {"transforms": TRANSFORMS[problem.name]}
    return ManifoldFlow(SPACE, (3,), problem.dim, **size, **settings)


def joint(problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> dict[str, Fitted]:
    """The manifold flow by its own objective, and a copy with the second stage."""
    model = flow(problem, quick).fit(x, **options(problem, seed, quick))
    return {FIRST: model, SECOND: second_stage(copy.deepcopy(model), x, seed, quick)}


def likelihood(problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> dict[str, Fitted]:
    return {"likelihood alone": flow(problem, quick, weight=0.0).fit(x, **options(problem, seed, quick))}


def without_start(problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> dict[str, Fitted]:
    return {"without the start": flow(problem, quick, start=False).fit(x, **options(problem, seed, quick))}


def rising_weight(problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> dict[str, Fitted]:
    return {"rising weight": flow(problem, quick, first=0.01).fit(x, **options(problem, seed, quick))}


def falling_weight(problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> dict[str, Fitted]:
    return {"falling weight": flow(problem, quick, first=30.0).fit(x, **options(problem, seed, quick))}


def second_stage(model: ManifoldFlow, x: Tensor, seed: int, quick: bool) -> ManifoldFlow:
    return model.fit_density(x, seed=seed, max_steps=3 if quick else 400, batch_size=512, progress=False)


def two_phases(problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> dict[str, Fitted]:
    model = flow(problem, quick).fit(x, objective=reconstruction, **options(problem, seed, quick))
    return {PHASES: second_stage(model, x, seed, quick)}


def injective(problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> dict[str, Fitted]:
    steps = 3 if quick else 2 * STEPS[problem.name]
    return {"autoencoder and flow": Injective(3, problem.dim).fit(x, seed=seed, max_steps=steps)}


def marginal(problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> dict[str, Fitted]:
    return {"marginal flow": Locations(problem, x, seed, quick)}


class Charts:
    """A mixture of manifold flows, each of them for a part of the manifold."""

    def __init__(self, problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> None:
        parts = [flow(problem, quick) for _ in range(CHARTS[problem.name])]
        self.mixture = VariationalMixture(parts).fit(x, objective=charts, **options(problem, seed, quick))

    def sample_on_manifold(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        weights = self.mixture.logits.softmax(0)
        counts = torch.multinomial(weights, shape[0], replacement=True, generator=generator).bincount(minlength=len(weights))
        drawn = zip(self.mixture.parts, counts.tolist(), strict=True)
        return torch.cat([part.sample_on_manifold((count,), generator) for part, count in drawn])

    def project(self, x: Tensor) -> Tensor:
        """By the chart that is the likeliest."""
        all_of_them = torch.stack([part.project(x) for part in self.mixture.parts])
        return all_of_them[self.mixture.predict(x), torch.arange(len(x))]

    def log_prob(self, x: Tensor) -> Tensor:
        return self.mixture.freeze().log_prob(x)


def several_charts(problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> dict[str, Fitted]:
    return {f"mixture of {CHARTS[problem.name]} manifold flows": Charts(problem, x, seed, quick)}


class Locations:
    """A marginal flow as a learner of manifolds: its locations."""

    def __init__(self, problem: NoisyManifold, x: Tensor, seed: int, quick: bool) -> None:
        self.flow = mf.MarginalFlow(SPACE, (3,), latent_dim=problem.dim, n_components=1024, shared_shape=True)
        self.flow.fit(x, seed=seed, max_steps=3 if quick else 500, patience=50, progress=False)
        self.frozen = self.flow.freeze(1024 if quick else 8192)

    def sample_on_manifold(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        mixture = self.frozen
        weights = torch.ones(mixture.n_components) if mixture.log_weights is None else mixture.log_weights.softmax(0)
        return mixture.params["loc"][torch.multinomial(weights, shape[0], replacement=True, generator=generator)]

    def project(self, x: Tensor) -> Tensor:
        points = self.frozen.params["loc"]
        return points[torch.cdist(x, points).argmin(1)]

    def log_prob(self, x: Tensor) -> Tensor:
        return self.frozen.log_prob(x)


COMMON = (joint, likelihood, without_start, two_phases, injective, marginal)
METHODS: dict[NoisyManifold, tuple[Method, ...]] = {
    HELIX: (*COMMON, falling_weight, rising_weight),
    SWISS_ROLL: COMMON,
    CIRCLE: (joint, several_charts),
    SPHERE: (joint, several_charts),
}


def true_row(report: Report, problem: NoisyManifold) -> dict[str, float]:
    """What points of the manifold itself score, as far as that has a meaning."""

    def score() -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        test = draw_data(problem, report.seeds[0], report.quick)[1]
        away, missed = coverage(problem, clean(problem, len(test), generator), report.quick)
        return {
            "rms": 1.0,
            "to_manifold": away,
            "from_manifold": missed,
            "nats_lebesgue": -float(problem.log_prob(test).mean()),
            "nats_hausdorff": problem.manifold_nll(),
            "integral": 1.0,
        }

    found = report.once(f"{problem.name}; truth", score)
    report.row(data=problem.name, m=problem.dim, method="the manifold itself", seeds=1, **found)
    return dict(found)


def clean(problem: NoisyManifold, n: int, generator: torch.Generator) -> Tensor:
    return problem.embed(torch.rand(n, problem.dim, generator=generator))


def coverage(problem: NoisyManifold, points: Tensor, quick: bool) -> tuple[float, float]:
    """Mean distances of points to the true manifold, and back."""
    reference = clean(problem, 500 if quick else 10_000, torch.Generator().manual_seed(1))
    away, missed = mf.chamfer(SPACE, points.to(reference), reference)
    return away, missed


def astray(problem: NoisyManifold, points: Tensor) -> float:
    """The share of points that are farther from the manifold than three times the noise."""
    reference = clean(problem, 10_000, torch.Generator().manual_seed(1))
    nearest = torch.cat([torch.cdist(part.to(reference), reference).amin(1) for part in points.split(500)])
    return float((nearest > 3 * problem.noise).double().mean())


def compare(
    report: Report, problem: NoisyManifold, method: Method, seeds: list[int], best: dict[str, float]
) -> dict[str, Tensor]:
    """Rows of the models of one method; returns points on what the first seed's models learned."""
    found = [
        report.once(f"{problem.name}; {method.__name__}; {seed}", functools.partial(scores, report, problem, method, seed))
        for seed in seeds
    ]
    for name in found[0]:
        values = [entry[name] for entry in found]
        columns: dict[str, Any] = {"seeds": len(seeds), "ok": sum(reaches(problem, entry, best) for entry in values)}
        for column in values[0]:
            if column != "points":
                columns |= mean(column, [entry[column] for entry in values if column in entry])
        report.row(data=problem.name, m=problem.dim, method=name, **columns)
    return {name: torch.tensor(entry["points"]) for name, entry in found[0].items()}


def mean(name: str, values: list[float]) -> dict[str, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {name: statistics.mean(values), f"{name}_se": error}


def reaches(problem: NoisyManifold, found: dict[str, float], best: dict[str, float]) -> bool:
    """Whether the projection is as near as the noise lets it be, and what was learned is the whole manifold and no more."""
    near = all(found[name] < best[name] + problem.noise for name in ("to_manifold", "from_manifold"))
    return near and found["rms"] < BOUND


def scores(report: Report, problem: NoisyManifold, method: Method, seed: int) -> dict[str, dict[str, Any]]:
    """Numbers of every model of a method."""
    train, test = draw_data(problem, seed, report.quick)
    start = time.process_time()
    models = method(problem, train, seed, report.quick)
    seconds = time.process_time() - start
    with torch.no_grad():
        return {
            name: score(problem, name, model, train, test, seed == report.seeds[0], report.quick) | {"cpu_seconds": seconds}
            for name, model in models.items()
        }


def score(
    problem: NoisyManifold, name: str, model: Fitted, train: Tensor, test: Tensor, first: bool, quick: bool
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    points, projections = model.sample_on_manifold((100 if quick else 2000,), generator), model.project(test)
    away, missed = coverage(problem, projections, quick)
    rms = float((projections - test).square().sum(-1).mean().sqrt()) / problem.floor
    found: dict[str, Any] = {"rms": rms, "to_manifold": away, "from_manifold": missed, "astray": astray(problem, points)}
    if hasattr(model, "log_prob") and name != PHASES:  # which never saw the law across the manifold
        found["nats_lebesgue"] = -float(model.log_prob(test).mean())
    if hasattr(model, "log_prob_on_manifold"):
        u = model.encode(test)
        found["nats_hausdorff"] = -float(model.log_prob_on_manifold(u=u).mean())
        if first or problem.dim == 1:  # of a surface it costs as much as the fit
            found["integral"] = integral(problem, model, u, quick)
        if not quick:
            found["c2st"] = c2st(u[:1000], model.coordinate_law().sample((1000,), generator=generator), max_epochs=100)
    if isinstance(model, ManifoldFlow) and name != PHASES:
        for part, x in (("train", train), ("test", test)):
            found[f"energy_{part}"] = float(model.to_latent(x)[0][:, problem.dim :].square().mean())
    return found | {"points": [[round(v, 3) for v in row] for row in points[:1500].tolist()]}


def integral(problem: NoisyManifold, model: Fitted, u: Tensor, quick: bool) -> float:
    """Of the density on the learned manifold, by lengths or areas between points at a grid of coordinates around ``u``."""
    count = 101 if quick else 20_001 if problem.dim == 1 else 401
    low, high = u.amin(0), u.amax(0)
    sides = [
        torch.linspace(*(end[i] + sign * (high[i] - low[i]) / 4 for end, sign in ((low, -1), (high, 1))), count)
        for i in range(problem.dim)
    ]
    at = torch.cartesian_prod(*sides).reshape(-1, problem.dim)
    parts = [(model.decode(rows), model.log_prob_on_manifold(u=rows).exp()) for rows in at.split(10_000)]
    points, density = (torch.cat(part).double() for part in zip(*parts, strict=True))
    if problem.dim == 1:
        return mass_by_chords(points, density)
    return mass_by_triangles(points.reshape(count, count, 3), density.reshape(count, count))


def digits(seed: int) -> tuple[Tensor, Tensor]:
    """Continuous grey levels in [0, 1], to fit and to test."""
    from sklearn.datasets import load_digits

    generator = torch.Generator().manual_seed(seed)
    levels = torch.as_tensor(load_digits().data, dtype=torch.float32)
    x = (levels + torch.rand(levels.shape, generator=generator)) / 17
    order = torch.randperm(len(x), generator=generator)
    return x[order[len(x) // 5 :]], x[order[: len(x) // 5]]


def digits_row(report: Report, dim: int, seeds: list[int]) -> None:
    """A manifold flow of the digits, beside as many principal components."""
    found = [report.once(f"digits; {dim}; {seed}", functools.partial(digits_scores, dim, seed, report.quick)) for seed in seeds]
    for name in found[0]:
        values = [entry[name] for entry in found]
        columns = {
            key: value for column in values[0] for key, value in mean(column, [entry[column] for entry in values]).items()
        }
        report.row(data="digits", m=dim, method=name, seeds=len(seeds), **columns)


def digits_scores(dim: int, seed: int, quick: bool) -> dict[str, dict[str, float]]:
    train, test = digits(seed)
    start = time.process_time()
    size: dict[str, Any] = {"transforms": 2, "hidden": (8,)} if quick else {"transforms": 8, "hidden": (128, 128)}
    model = ManifoldFlow(SPACE, (64,), dim, **size)
    model.fit(train, seed=seed, max_steps=3 if quick else 800, batch_size=256, progress=False)
    both = {FIRST: model, SECOND: second_stage(copy.deepcopy(model), train, seed, quick)}
    seconds = time.process_time() - start
    with torch.no_grad():
        rows = {name: digits_score(fitted, train, test) | {"cpu_seconds": seconds} for name, fitted in both.items()}
    directions = torch.linalg.svd(train - train.mean(0), full_matrices=False)[2][:dim]
    centered = test - train.mean(0)
    return {**rows, "principal components": {"mse": float((centered - centered @ directions.T @ directions).square().mean())}}


def digits_score(model: ManifoldFlow, train: Tensor, test: Tensor) -> dict[str, float]:
    across = {
        part: float(model.to_latent(x)[0][:, model.latent_dim :].square().mean())
        for part, x in (("train", train), ("test", test))
    }
    return {
        "mse": float((model.project(test) - test).square().mean()),
        "noise": float(model.noise),
        "nats_lebesgue": -float(model.log_prob(test).mean()),
        "nats_hausdorff": -float(model.log_prob_on_manifold(test).mean()),
        "energy_train": across["train"],
        "energy_test": across["test"],
    }


def draw(report: Report, shown: dict[str, dict[str, Tensor]]) -> None:
    """Points that the models of the first seed sample on what they learned."""
    from matplotlib.figure import Figure

    columns = list(shown[HELIX.name])
    figure = Figure(figsize=(1.5 * len(columns), 6.4), layout="constrained")
    for i, (problem, models) in enumerate(shown.items()):
        for j, (name, points) in enumerate(models.items()):
            axes: Any = figure.add_subplot(len(shown), len(columns), i * len(columns) + j + 1, projection="3d")
            axes.plot(*points.T, ".", markersize=1, alpha=0.5)
            axes.set_axis_off()
            axes.set_title(name.replace(", ", ",\n") if not i else "", fontsize=6)
            if not j:
                axes.text2D(-0.1, 0.5, problem, transform=axes.transAxes, fontsize=6, rotation=90)
    report.figure(figure, "learned", "Samples on the learned manifolds, first seed; a row for each of the data.")
