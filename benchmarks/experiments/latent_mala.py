"""What Langevin chains in the latent space of a trained flow do to the bridges between its modes, and what they cost.

Data. Dual moon and circle of eight Gaussians, whose densities are known (`benchmarks/problems/bridges.py`), 5000 points to fit;
the backbone torsions of simulated alanine dipeptide, every tenth frame, blocks of 400 frames of the trajectory on one side of
the 80/10/10 split.

Methods. On the plane RealNVP of six affine couplings with two hidden layers of 64 units. "plain samples" are those of its
own law. The chains target the tempered law ``q_X(x)^2 / q_Z(z)``, not that of the flow: 64 chains that start far apart,
150 draws after 100 steps of warm-up, with local moves only or with a fifth of global ones, with and without the metric
``J^T J``. "chains of the exact law" target the flow's own law, as a check. "importance resampling" draws from the tempered law
by weights ``1 / |det J|`` of plain samples. "by quadrature" is the law itself, from a grid of latent points. A marginal flow,
a flow of the same layers on a resampled base and exact samples of the truth stand beside. Torsions are cut open where they
are rarest and fitted with a spline flow of R^2, which does not know that the sides of the box touch; the other way there are
chains on the torus itself for the density of a marginal flow, whose samples can also be drawn exactly.

How to read the table. `below` is the share of samples at which the true density is lower than at 99.9 % of true samples (for
torsions: lower than at 99 % of held-out frames, by a kernel density of other held-out frames). `bridge` is the share in a
region between the modes. `weight_error` is the largest error of a mode's weight (torsions: of the share with phi > 0), `sd`
the standard deviation of the second coordinate. `acceptance`, `jump_acceptance`: of local and global moves. `ess` is the
smallest effective sample size of the coordinates and the radius, of 9600 draws; `rhat` the largest R-hat. `ms_per_ess` are
CPU milliseconds for an effective sample, without the fit; `cost` is that relative to plain samples of the same flow. `_se` are
standard errors over the seeds.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.problems.bridges import BRIDGES, Pieces
from mf_manifold.manifolds.torus import wrap
from mf_manifold.mcmc import Chains, bulk_ess, latent_mala, mala, rhat
from mf_manifold.mcmc.latent import latent_target

if TYPE_CHECKING:
    from benchmarks.harness import Report

PLANE, TORUS = geoopt.Euclidean(ndim=1), mf.manifolds.Torus()
TARGETS = ("dual moon", "circle of 8")
PLAIN, CHAINS = "flow, plain samples", "chains, local and global moves"
SHOWN = 1000
COLUMNS = ("below", "bridge", "weight_error", "sd", "acceptance", "jump_acceptance", "ess", "rhat", "ms_per_ess", "cost")
ERRORS = ("below", "bridge", "weight_error", "ess", "cost")

Numbers = dict[str, float]
Score = Callable[[Tensor], Numbers]  # points (n,2), perhaps -> shares and errors


def run(report: Report) -> None:
    """The plane, then the torsions."""
    torch.set_num_threads(1)
    pictures = {}
    for name in TARGETS[:1] if report.quick else TARGETS:
        found = [
            report.once(f"{name}; seed {seed}", functools.partial(plane, BRIDGES[name](), seed, report.quick))
            for seed in report.seeds
        ]
        rows(report, name, found)
        pictures[name] = found[0]["points"]
    torsion = [report.once(f"torsions; seed {seed}", functools.partial(torsions, seed, report.quick)) for seed in report.seeds]
    rows(report, "alanine dipeptide", torsion)
    pictures["alanine dipeptide"] = torsion[0]["points"]
    for name, points in pictures.items():
        report.figure(scatter(points), name.replace(" ", "_"), f"{name}: samples of the first seed.")


def rows(report: Report, data: str, found: list[dict[str, Any]]) -> None:
    """One line a method: means over the seeds and their standard errors."""
    for method in found[0]["numbers"]:
        line: dict[str, Any] = {"data": data, "method": method}
        for column in COLUMNS:
            values = [seed["numbers"][method][column] for seed in found if column in seed["numbers"][method]]
            if values:
                line[column] = statistics.mean(values)
                if len(values) > 1 and column in ERRORS:
                    line[f"{column}_se"] = statistics.stdev(values) / math.sqrt(len(values))
        report.row(**line)


class Table:
    """Scores of one seed: numbers of every method, and some of its points for the picture."""

    def __init__(self, score: Score) -> None:
        self.score, self.numbers, self.points = score, dict[str, Numbers](), dict[str, list[list[float]]]()

    def add(self, method: str, draw: Callable[[], Tensor | Chains], effective: float | None = None) -> Any:
        """Draw, clock and score; independent samples are worth as many as they are."""
        start = time.process_time()
        drawn = draw()
        seconds = time.process_time() - start
        points = drawn.points if isinstance(drawn, Chains) else drawn
        numbers = self.score(points)
        if isinstance(drawn, Chains):
            numbers |= diagnosed(drawn)
        numbers.setdefault("ess", float(len(points)) if effective is None else effective)
        numbers["ms_per_ess"] = 1000 * seconds / numbers["ess"]
        self.numbers[method] = numbers
        shown = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:SHOWN]]
        self.points[method] = [[round(v, 3) for v in row] for row in shown.tolist()]
        return drawn

    def compared(self, reference: str) -> dict[str, Any]:
        """Everything as JSON, with costs relative to one of the methods."""
        for numbers in self.numbers.values():
            if "ms_per_ess" in numbers:
                numbers["cost"] = numbers["ms_per_ess"] / self.numbers[reference]["ms_per_ess"]
        return {"numbers": self.numbers, "points": self.points}


def diagnosed(chains: Chains) -> Numbers:
    """Acceptance, effective sample size and R-hat of the coordinates and their radius."""
    values = chains.numbers()
    values = torch.cat([values, values.norm(dim=-1, keepdim=True)], -1) if chains.manifold is not TORUS else values
    found = {
        "acceptance": float(chains.acceptance.mean()),
        "ess": float(bulk_ess(values).min()),
        "rhat": float(rhat(values).max()),
    }
    jumps = float(chains.jump_acceptance.mean())
    return found if math.isnan(jumps) else found | {"jump_acceptance": jumps}


def plane(law: Pieces, seed: int, quick: bool) -> dict[str, Any]:
    """All methods for one law of the plane."""
    generator = torch.Generator().manual_seed(seed)
    n, options = (200, {"chains": 8, "warmup": 30}) if quick else (9600, {"chains": 64, "warmup": 100})
    draws = n // int(options["chains"])
    x = law.sample(300 if quick else 5000, generator)
    flow = fitted(
        mf.models.Flow(PLANE, (2,), transforms=2 if quick else 8, hidden=(16,) if quick else (64, 64)), x, seed, quick
    )
    table = Table(scored(law))

    def chains(**more: Any) -> Callable[[], Chains]:
        return lambda: latent_mala(flow, draws, generator=generator, progress=False, **options, **more)

    table.add("truth, exact samples", lambda: law.sample(n, generator))
    table.add(PLAIN, lambda: flow.sample((n,), generator))
    table.numbers["flow, by quadrature"] = by_quadrature(flow, table.score, 0.0, quick)
    table.add("chains of the exact law", chains(law="exact"))
    table.add("chains, local moves", chains(jump_share=0.0))
    table.add(CHAINS, chains())
    table.add("chains, local moves, metric", chains(jump_share=0.0, metric=True))
    table.add("chains, local and global moves, metric", chains(metric=True))
    table.numbers["tempered law, by quadrature"] = by_quadrature(flow, table.score, 1.0, quick)
    resampled(table, flow, n, generator)
    others(table, x, n, seed, quick, generator)
    return table.compared(PLAIN)


def layers(quick: bool) -> dict[str, Any]:
    """Of the flows of the plane."""
    return {"transforms": 2 if quick else 6, "hidden": (16,) if quick else (64, 64)}


def fitted(flow: mf.models.Flow, x: Tensor, seed: int, quick: bool) -> mf.models.Flow:
    """A trained flow, in double precision for the chains."""
    return flow.fit(x.float(), seed=seed, max_steps=20 if quick else 1500, progress=False).double()


def scored(law: Pieces) -> Score:
    """Shares of samples that the true law would hardly have."""
    exact = law.sample(100_000, torch.Generator().manual_seed(10_000))
    threshold = float(law.log_prob(exact).quantile(0.001))
    weights = modes(law, exact)

    def score(x: Tensor, weight: Tensor | None = None) -> Numbers:
        share = torch.full((len(x),), 1 / len(x), dtype=torch.float64) if weight is None else weight
        return {
            "below": float(share @ (law.log_prob(x) < threshold).double()),
            "bridge": float(share @ law.bridge(x).double()),
            "weight_error": float((modes(law, x, share) - weights).abs().max()),
            "sd": float((share @ x[:, 1].double().square() - (share @ x[:, 1].double()).square()).sqrt()),
        }

    return score


def modes(law: Pieces, x: Tensor, share: Tensor | None = None) -> Tensor:
    """Weights of the modes: eight sectors around the centres, or the two sides."""
    share = torch.full((len(x),), 1 / len(x), dtype=torch.float64) if share is None else share
    sides = torch.tensor([[2.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    nearest = torch.cdist(x.double(), getattr(law, "centers", sides)).argmin(1)
    return torch.zeros(8, dtype=torch.float64).index_add(0, nearest, share)


@torch.no_grad()
def by_quadrature(flow: mf.models.Flow, score: Score, power: float, quick: bool) -> Numbers:
    """Scores of the law itself, from the middles of the cells of a square of latent points."""
    cells = 60 if quick else 400
    side = (2 * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells - 1) * 6
    z = torch.cartesian_prod(side, side)
    mass = torch.softmax(latent_target(flow, flow.freeze().base, None, power)(z), 0)
    return score(flow.to_data(z), mass)  # type: ignore[call-arg]


@torch.no_grad()
def resampled(table: Table, flow: mf.models.Flow, n: int, generator: torch.Generator) -> None:
    """Plain samples drawn again by their weights under the tempered law."""
    worth: list[float] = []

    def draw() -> Tensor:
        x = flow.to_data(flow.freeze().base.sample((n,), generator))
        weight = torch.softmax(flow.to_latent(x)[1], 0)
        worth.append(1 / float(weight.square().sum()))
        return x[torch.multinomial(weight, n, replacement=True, generator=generator)]

    table.add("importance resampling", draw)
    numbers = table.numbers["importance resampling"]
    numbers["ms_per_ess"] *= n / worth[0]
    numbers["ess"] = worth[0]


def others(table: Table, x: Tensor, n: int, seed: int, quick: bool, generator: torch.Generator) -> None:
    """Models without bridges to begin with."""
    marginal = mf.MarginalFlow(PLANE, (2,), n_components=32 if quick else 256)
    marginal.fit(x.float(), seed=seed, max_steps=10 if quick else 400, progress=False)
    table.add("marginal flow, samples", lambda: marginal.freeze(64 if quick else 4096).sample((n,), generator))
    base = mf.models.ResampledBase(PLANE, (2,))
    flow = fitted(mf.models.Flow(PLANE, (2,), **layers(quick), base=base), x, seed, quick)
    table.add("flow of a resampled base, samples", lambda: flow.sample((n,), generator))


def torsions(seed: int, quick: bool) -> dict[str, Any]:
    """The torsions, in an open box and on the torus."""
    data = mf.datasets.alanine_dipeptide(every=100 if quick else 10)
    parts = mf.datasets.split(data.points, seed, groups=data.groups)
    train, validation, test = (data.points[rows].double() for rows in parts)
    generator = torch.Generator().manual_seed(seed)
    n, chains, warmup = (200, 8, 30) if quick else (9600, 64, 100)
    table = Table(scored_torsions(validation, test))
    cut = rarest(train)
    spline = layers(quick) | {"layers": "spline", "transforms": 2 if quick else 4}
    flow = fitted(mf.models.Flow(PLANE, (2,), **spline), wrap(train - cut - math.pi), seed, quick)

    def latent(**more: Any) -> Callable[[], Chains]:
        return lambda: latent_mala(flow, n // chains, chains=chains, warmup=warmup, generator=generator, progress=False, **more)

    def closed(chains: Callable[[], Chains]) -> Callable[[], Chains]:
        return lambda: on_torus(chains(), cut)

    table.add("truth, held-out frames", lambda: test)
    table.add(PLAIN, lambda: wrap(flow.sample((n,), generator) + cut + math.pi))
    table.add("chains of the exact law", closed(latent(law="exact")))
    table.add("chains, local moves", closed(latent(jump_share=0.0)))
    table.add(CHAINS, closed(latent()))
    marginal = mf.MarginalFlow(TORUS, (2,), n_components=32 if quick else 512)
    marginal.fit(train.float(), seed=seed, max_steps=10 if quick else 600, progress=False)
    law = marginal.double().freeze(64 if quick else 2048)
    table.add("marginal flow, samples", lambda: law.sample((n,), generator))
    uniform = mf.distribution(TORUS, "uniform", point_shape=(2,))
    start = mf.geometry.sample_uniform(TORUS, (2,), (chains,), generator=generator, dtype=torch.float64)
    options = {"warmup": warmup, "generator": generator, "progress": False}
    table.add(
        "marginal flow, chains on the torus", lambda: mala(law.log_prob, TORUS, start, n // chains, jumps=uniform, **options)
    )
    return table.compared(PLAIN)


def rarest(x: Tensor, bins: int = 72) -> Tensor:
    """The angle with the fewest data around, of each coordinate."""
    width = 2 * math.pi / bins
    where = ((x + math.pi) / width).floor().long().clamp(0, bins - 1)
    counts = torch.stack([torch.bincount(where[:, i], minlength=bins) for i in range(2)]).double()
    smooth = sum(counts.roll(shift, 1) for shift in range(-3, 4))
    assert isinstance(smooth, Tensor)
    return (smooth.argmin(1) + 0.5) * width - math.pi


def on_torus(chains: Chains, cut: Tensor) -> Chains:
    """Chains of the open box as angles."""
    return replace(chains, samples=wrap(chains.samples + cut + math.pi), manifold=TORUS)


def scored_torsions(reference: Tensor, test: Tensor) -> Score:
    """Shares of samples where other frames are rare, by a kernel density of held-out ones."""
    density = mf.KernelDensity(TORUS, (2,)).fit(reference, progress=False).freeze()
    threshold, right = float(density.log_prob(test).quantile(0.01)), float((test[:, 0] > 0).double().mean())

    def score(x: Tensor) -> Numbers:
        return {
            "below": float((density.log_prob(x.double()) < threshold).double().mean()),
            "weight_error": abs(float((x[:, 0] > 0).double().mean()) - right),
            "sd": float(x[:, 1].double().std()),
        }

    return score


def scatter(points: dict[str, list[list[float]]]) -> Any:
    """Samples of every method."""
    from matplotlib.figure import Figure

    columns = 5
    lines = math.ceil(len(points) / columns)
    figure = Figure(figsize=(2.0 * columns, 2.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, x) in zip(panels, points.items(), strict=False):
        axes.plot(*zip(*x, strict=True), "k.", markersize=0.8)
        axes.set_title(name.replace(", ", ",\n", 1), fontsize=7)
        axes.set_aspect("equal")
    for axes in panels:
        axes.set_axis_off()
    return figure
