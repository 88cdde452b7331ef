"""Whether a resampled base lets a small flow separate the pieces of a law, and what its samples cost.

Data. Dual moon, circle of eight Gaussians and two rings, whose densities are known (`benchmarks/problems/bridges.py`),
9000 points to fit, 1000 to select a model with and 5000 to test; the backbone torsions of simulated alanine dipeptide, every
fourth frame, blocks of 400 frames of the trajectory on one side of the 80/10/10 split; the 30 measurements of the breast
cancer data of scikit-learn (569 rows, split 80/10/10), standardised by the training part, whose density is that of the
standardised numbers.

Methods. RealNVP of four affine couplings with two hidden layers of 32 units, on a standard normal base, on a mixture of ten
normal laws trained with it, and on a resampled standard normal base (acceptance network of 32 Fourier features and two hidden
layers of 64 units, at most 100 proposals); in thirty dimensions also a factorised one of ten groups. "8 couplings" is the
normal base with about as many parameters as flow and acceptance network have together. A resampled normal law with learned
mean and scales without a flow, on the torus resampled uniform and von Mises laws; mixtures by expectation-maximisation, kernel
densities, the marginal flow. All gradient fits have the same steps (600), batches (512), rate (0.005), selection points; Z is
estimated to a relative error of 0.002 before a score is taken.

How to read the table. `nll` is the mean negative log density of the test points in nats. `kl` is the divergence from the true
density to the model by the mid-point rule on [-3.2, 3.2]^2, `bridge` the model's mass between the pieces (the true one is in
the row "true density"). `z` is the mean acceptance, `draws` the proposals that a sample takes, `z_error` the standard error of
a mean log density that the error of Z causes. `speed` is the number of samples per CPU second relative to the flow with the
normal base (the best of seven turns of 10 000 samples, first seed). `_se` are standard errors over the seeds.
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
from benchmarks.rivals.mixture_base import MixtureBase
from mf_manifold.models import FactorizedResampledBase, Flow, ResampledBase

if TYPE_CHECKING:
    from benchmarks.harness import Report

SPACE, TORUS = geoopt.Euclidean(ndim=1), mf.manifolds.Torus()
HALF, CELLS = 3.2, 256
NORMAL, RESAMPLED = "flow, normal base", "flow, resampled base"
SHOWN = (NORMAL, "flow, mixture base", RESAMPLED, "resampled normal law")

Method = Callable[[Tensor, Tensor, int], Any]  # points to fit, to select with, seed -> a fitted estimator
Split = Callable[[int], tuple[Tensor, Tensor, Tensor]]


def run(report: Report) -> None:
    """The plane, the torus, the table."""
    torch.set_num_threads(1)
    few = replace(report, seeds=report.seeds[:3])  # shares the rows
    quick, pictures = report.quick, {}
    for name, make in BRIDGES.items():
        law, found = make(), methods(2, quick)
        few.row(data=name, method="true density", **truth(law))
        pictures[name] = compare(few, name, plane(law, quick), found, NORMAL, functools.partial(on_grid, law))
    draw_densities(report, pictures)
    data = mf.datasets.alanine_dipeptide(every=100 if quick else 4)

    def torsions(seed: int) -> tuple[Tensor, ...]:
        return tuple(data.points[rows] for rows in mf.datasets.split(data.points, seed, groups=data.groups))

    compare(few, data.name, torsions, on_torus(quick), "kernel density")  # type: ignore[arg-type]
    compare(few, "breast cancer", table, methods(30, quick), NORMAL)


def plane(law: Pieces, quick: bool) -> Split:
    """Points to fit, to select with, to test."""

    def parts(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [90, 20, 50] if quick else [9000, 1000, 5000]
        train, validation, test = law.sample(sum(sizes), torch.Generator().manual_seed(seed)).split(sizes)
        return train, validation, test

    return parts


def table(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the breast cancer data, standardised by the training rows."""
    from sklearn.datasets import load_breast_cancer

    x = torch.from_numpy(load_breast_cancer().data)
    train, validation, test = (x[rows] for rows in mf.datasets.split(x, seed))
    center, spread = train.mean(0), train.std(0)
    return (train - center) / spread, (validation - center) / spread, (test - center) / spread


def methods(dim: int, quick: bool) -> dict[str, Method]:
    """Every estimator on R^dim."""
    acceptance: dict[str, Any] = {"hidden": (16,) if quick else (64, 64), "n_proposals": 512}
    hidden = (8,) if quick else (32, 32)
    bases: dict[str, tuple[int, Callable[[], Any]]] = {
        NORMAL: (4, lambda: None),
        "flow, normal base, 8 couplings": (8, lambda: None),
        "flow, mixture base": (4, lambda: MixtureBase(dim)),
        RESAMPLED: (4, lambda: ResampledBase(SPACE, (dim,), **acceptance)),
    }
    if dim > 2:
        groups = {**acceptance, "hidden": (16,) if quick else (32,)}
        bases["flow, factorised resampled base"] = (4, lambda: FactorizedResampledBase(SPACE, (dim,), dim // 3, **groups))

    def flow(transforms: int, base: Callable[[], Any]) -> Method:
        def method(train: Tensor, validation: Tensor, seed: int) -> Any:
            model = Flow(SPACE, (dim,), transforms=transforms, hidden=hidden, base=base())
            return settled(trained(model, train, validation, seed, quick), quick)

        return method

    def alone(train: Tensor, validation: Tensor, seed: int) -> Any:
        return settled(trained(ResampledBase(SPACE, (dim,), "normal", **acceptance), train, validation, seed, quick), quick)

    flows = {name: flow(transforms, base) for name, (transforms, base) in bases.items()}
    return {**flows, "resampled normal law": alone, **others(SPACE, (dim,), quick)}


def on_torus(quick: bool) -> dict[str, Method]:
    """Every estimator of torsions."""

    def thinned(proposal: str | None) -> Method:
        def method(train: Tensor, validation: Tensor, seed: int) -> Any:
            base = ResampledBase(TORUS, (2,), proposal, hidden=(16,) if quick else (64, 64), n_proposals=512)
            return settled(trained(base, train, validation, seed, quick), quick)

        return method

    return {
        "resampled uniform law": thinned(None),
        "resampled von Mises law": thinned("von_mises"),
        **others(TORUS, (2,), quick),
    }


def trained(model: Any, train: Tensor, validation: Tensor, seed: int, quick: bool) -> Any:
    options: dict[str, Any] = {"max_steps": 4 if quick else 600, "batch_size": 512, "learning_rate": 5e-3}
    return model.fit(train, validation=validation, seed=seed, progress=False, **options)


def resampled_parts(model: Any) -> list[ResampledBase]:
    return [part for part in model.modules() if isinstance(part, ResampledBase)] if hasattr(model, "modules") else []


def settled(model: Any, quick: bool) -> Any:
    for part in resampled_parts(model):
        part.estimate_normalizer(2e-3, max_samples=2**12 if quick else 2**22)
    return model


def others(manifold: geoopt.Manifold, point_shape: tuple[int, ...], quick: bool) -> dict[str, Method]:
    """Estimators without a flow or resampling."""

    def mixture(train: Tensor, validation: Tensor, seed: int) -> Any:
        wide = point_shape[0] > 2
        counts = (2, 3) if quick else (2, 5, 10) if wide else (10, 40)
        model = mf.KernelMixture(manifold, point_shape, counts)
        steps = 3 if quick else 100
        return model.fit(torch.cat([train, validation]), seed=seed, restarts=1, max_steps=steps, progress=False)

    def kernel_density(train: Tensor, validation: Tensor, seed: int) -> Any:
        model = mf.KernelDensity(manifold, point_shape, bandwidth="adaptive")
        return model.fit(torch.cat([train, validation]), seed=seed, progress=False)

    def marginal(train: Tensor, validation: Tensor, seed: int) -> Any:
        model = mf.MarginalFlow(manifold, point_shape, n_components=32 if quick else 256)
        return trained(model, train, validation, seed, quick)

    return {"mixture, EM": mixture, "kernel density": kernel_density, "marginal flow": marginal}


def compare(
    report: Report,
    data: str,
    split: Split,
    found: dict[str, Method],
    reference: str,
    more: Callable[[Any], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """One row for each method; returns the fits of the first seed that the picture shows."""
    first: dict[str, Any] = {}
    reference_rate = math.nan
    for name in [reference, *(name for name in found if name != reference)]:

        def score(seed: int, name: str = name) -> dict[str, float]:
            train, validation, test = split(seed)
            start = time.process_time()
            model = found[name](train, validation, seed)
            seconds = time.process_time() - start
            if seed == report.seeds[0] and name in SHOWN:
                first[name] = model
            return {**measured(model, test), "cpu_seconds": seconds} | (more or _none)(model)

        drawn = more is not None and name in SHOWN  # pictures need the fit of the first seed
        scores = [
            score(seed)
            if drawn and seed == report.seeds[0]
            else report.once(f"{data}; {name}; {seed}", lambda s=seed: score(s))
            for seed in report.seeds
        ]
        columns = averages(scores)
        if drawn:
            rate = throughput(first[name], 100 if report.quick else 10_000)
            reference_rate = rate if name == reference else reference_rate
            columns["speed"] = rate / reference_rate
        report.row(data=data, method=name, **columns)
    return first


def _none(model: Any) -> dict[str, float]:
    return {}


@torch.no_grad()
def measured(model: Any, test: Tensor) -> dict[str, float]:
    """Score and acceptance."""
    law = model.freeze()
    like = next(iter([*model.parameters(), test])) if hasattr(model, "parameters") else test
    x = test.to(like.dtype)
    scores = {"nll": -float(law.log_prob(x).double().mean())}
    parts = resampled_parts(model)
    if parts:
        scores["z"] = statistics.mean(float(part.normalizer) for part in parts)
        scores["draws"] = statistics.mean(float(part.freeze().expected_draws) for part in parts)
        base = law.base if hasattr(law, "base") else law
        z = model.to_latent(x)[0] if isinstance(model, Flow) else x
        scores["z_error"] = abs(float(base.log_prob_error(z).mean()))
    return scores


@torch.no_grad()
def throughput(model: Any, count: int) -> float:
    """Samples per CPU second, the best of several turns."""
    law, seconds = model.freeze(), []
    for turn in range(7):
        start = time.process_time()
        law.sample((count,), torch.Generator().manual_seed(turn))
        seconds.append(time.process_time() - start)
    return count / min(seconds)


def averages(scores: list[dict[str, float]]) -> dict[str, float]:
    """Means over the seeds, with standard errors of what is compared."""
    means: dict[str, float] = {}
    for name in scores[0]:
        values = [one[name] for one in scores]
        means[name] = statistics.mean(values)
        if name in ("nll", "kl", "bridge"):
            means[f"{name}_se"] = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return means


def grid() -> tuple[Tensor, float]:
    """Middles of the cells of the square, and the area of one."""
    axis = HALF * ((2 * torch.arange(CELLS, dtype=torch.float64) + 1) / CELLS - 1)
    return torch.cartesian_prod(axis, axis), (2 * HALF / CELLS) ** 2


@torch.no_grad()
def log_density(model: Any, x: Tensor) -> Tensor:
    law, like = model.freeze(), next(iter([*model.parameters(), x]))
    return torch.cat([law.log_prob(rows.to(like.dtype)).double() for rows in x.split(2**14)])


def on_grid(law: Pieces, model: Any) -> dict[str, float]:
    """Divergence from the law, and the mass between its pieces."""
    x, area = grid()
    log_p, log_q = law.log_prob(x), log_density(model, x)
    kl = (log_p.exp() * (log_p - log_q)).sum() * area
    return {"kl": float(kl), "bridge": float(log_q.exp()[law.bridge(x)].sum()) * area}


def truth(law: Pieces) -> dict[str, float]:
    x, area = grid()
    log_p = law.log_prob(x)
    entropy = -float((log_p.exp() * log_p).nan_to_num().sum()) * area
    return {"nll": entropy, "kl": 0.0, "bridge": float(log_p.exp()[law.bridge(x)].sum()) * area}


def draw_densities(report: Report, pictures: dict[str, dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    x, _ = grid()
    figure = Figure(figsize=(1.05 * (len(SHOWN) + 1), 1.1 * len(pictures)), layout="constrained")
    panels = figure.subplots(len(pictures), len(SHOWN) + 1, squeeze=False)
    for row, (name, fits) in enumerate(pictures.items()):
        law = BRIDGES[name]()
        densities = {"true density": law.log_prob(x), **{title: log_density(fits[title], x) for title in SHOWN}}
        top = float(densities["true density"].max().exp())
        for axes, (title, values) in zip(panels[row], densities.items(), strict=True):
            image = values.exp().reshape(CELLS, CELLS).T.sqrt()
            axes.imshow(image.numpy(), origin="lower", vmin=0, vmax=math.sqrt(top), cmap="magma")
            axes.set_axis_off()
            axes.set_title(title if row == 0 else "", fontsize=5)
    caption = "Square roots of the densities, which show bridges, first seed; colours as for the true density."
    report.figure(figure, "densities", caption)
