"""The demonstration: fit real data on a sphere, a torus and SPD matrices, and write a report.

``python -m mf_manifold.demo --output runs/demo`` writes ``report.html`` (one file, nothing external), the same table as CSV,
Markdown and JSON, the pictures and the fitted models. Existing files of the folder are replaced one by one.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import datasets, geometry
from .anchors import AnchoredFlow
from .datasets import Dataset
from .density import KernelDensity
from .estimator import Estimator
from .evidence import importance
from .integral import TotalMass, total_mass
from .marginal import MarginalFlow
from .mixture import Mixture
from .plot import N_SAMPLES, plot, save_figure
from .report import Row, Section, write_report

QUICK_ROWS = 400
QUICK_FLOW = {"n_components": 128, "hidden": (32, 32)}
QUICK_FIT = {"max_steps": 10}
DRAWS, UNIFORM = 4096, 0.2  # of the integral of an anchored flow, whose many components make quadrature slow


@dataclass(frozen=True)
class Case:
    """One data set with the settings of its fits.

    Attributes:
        slug: file name of its results.
        load: reads the data.
        about: what is split how, and why.
        names: names of the angles in pictures.
        flow: constructor options of ``MarginalFlow``.
        fit: options of its ``fit``.
        density_fit: options of ``KernelDensity.fit``.
        anchored: constructor options of ``AnchoredFlow``; None for no such fit.
    """

    slug: str
    load: Callable[[], Dataset]
    about: str
    names: tuple[str, ...] | None = None
    flow: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    density_fit: dict[str, Any] = field(default_factory=dict)
    anchored: dict[str, Any] | None = None

    def estimators(self) -> list[str]:
        """Names of what is fitted."""
        return ["KernelDensity", "MarginalFlow", *([] if self.anchored is None else ["AnchoredFlow"])]


EMG_SPLIT = (
    "Neighbouring windows of one gesture are alike, so a random split of windows leaks between training and test. Whole holds "
    "of a gesture are held out instead, and the standard error counts holds."
)
CASES = (
    Case(
        slug="airports",
        load=datasets.airports,
        about="Rows are independent places, so the split is random by rows: a seeded permutation, of which the first 90 % are "
        "fitted (both estimators validate within them) and the last 10 % are scored.",
        flow={"n_components": 4096},
        fit={"max_seconds": 40},
        anchored={"networks": 0, "neighbors": (4, 8, 16, 32, 64, 128)},  # every other of the default: half the time
    ),
    Case(
        slug="alanine-dipeptide",
        load=partial(datasets.alanine_dipeptide, every=4),
        about="The frames are a time series: neighbours are alike, and a random split would put near-copies of training frames "
        "into the test part. Whole blocks of consecutive frames are held out instead, and the standard error counts blocks.",
        names=("φ", "ψ"),
        flow={"n_components": 512},
        fit={"max_seconds": 20},
        anchored={"networks": 0},
    ),
    Case(
        slug="emg-2-channels",
        load=partial(datasets.emg_covariances, channels=(1, 2)),
        about=EMG_SPLIT,
        flow={"n_components": 2048},
        fit={"max_seconds": 15},
    ),
    Case(
        slug="emg-8-channels",
        load=datasets.emg_covariances,
        about=EMG_SPLIT,
        flow={"n_components": 1024},
        fit={"max_seconds": 30},
    ),
)


def held_out_score(log_prob: Tensor, groups: Tensor | None) -> tuple[float, float]:
    """Mean log-likelihood per datum and its standard error.

    With ``groups`` (N,) the error is that of clustered data, ``sqrt(G / (G - 1) sum_g r_g^2) / N`` with ``r_g`` the sum over
    group g of the deviations from the mean; it allows for any dependence within groups.

    Raises:
        ValueError: a single group, which tells nothing about the error.

    >>> import torch
    >>> score, error = held_out_score(torch.tensor([1.0, 3.0]), None)
    >>> round(score, 6), round(error, 6)
    (2.0, 1.0)
    """
    mean = log_prob.double().mean()
    index = torch.arange(len(log_prob)) if groups is None else torch.unique(groups, return_inverse=True)[1]
    count = int(index.max()) + 1
    if count < 2:
        raise ValueError("Expected held-out data of at least two groups, got one.")
    deviations = torch.zeros(count, dtype=torch.float64).index_add_(0, index, log_prob.double() - mean)
    return float(mean), math.sqrt(count / (count - 1)) * float(deviations.norm()) / len(log_prob)


def _split(data: Dataset, seed: int, grouped: bool, quick: bool) -> tuple[Tensor, Tensor]:
    """Rows to fit (training and validation part, as the estimators validate by themselves) and held-out rows."""
    groups = data.groups if grouped else None
    train, validation, test = datasets.split(data.points, seed, groups=groups)
    fitted = torch.cat([train, validation])
    return (fitted[:: max(1, len(fitted) // QUICK_ROWS)], test[:: max(1, len(test) // 50)]) if quick else (fitted, test)


def _fit(case: Case, data: Dataset, name: str, x: Tensor, seed: int) -> Estimator:
    space = (data.manifold, data.point_shape)
    if name == "KernelDensity":
        return KernelDensity(*space).fit(x, seed=seed, **case.density_fit)
    if name == "AnchoredFlow":
        return AnchoredFlow(*space, **(case.anchored or {})).fit(x, seed=seed)
    return MarginalFlow(*space, **case.flow).fit(x, seed=seed, **case.fit)


def _frozen(model: Estimator, seed: int) -> Mixture:
    """The fitted mixture in double precision: scores and integrals should not carry rounding of the training's float32."""
    mixture = model.freeze(seed=seed)
    assert isinstance(mixture, Mixture)
    return mixture.to(torch.float64)


def _mass(mixture: Mixture, proposal: Mixture | None, seed: int) -> TotalMass:
    """The integral, with a ``proposal`` by samples of it, whose own integral is another row of the table."""
    if proposal is None:
        return total_mass(mixture, seed=seed)
    components, everywhere = (proposal.kernel, proposal.params, proposal.log_weights), proposal.background
    covering = Mixture(*components, background=everywhere, background_weight=UNIFORM)  # so that no weight is large
    found = importance(covering, mixture.log_prob, DRAWS, seed)
    value = math.exp(found.log_normalizer)
    return TotalMass(value, value * found.standard_error, "importance sampling from the kernel density")


class Result(NamedTuple):
    """One line of the table, the log density of every held-out row, and the density."""

    row: Row
    log_prob: Tensor
    mixture: Mixture


def _run(case: Case, data: Dataset, name: str, output: Path, seed: int, quick: bool, proposal: Mixture | None) -> Result:
    """Fit, score, integrate, draw and save."""
    fitted, test = _split(data, seed, True, quick)
    start = time.monotonic()
    model = _fit(case, data, name, data.points[fitted], seed)
    seconds = time.monotonic() - start
    stem = f"{case.slug}-{name}"
    model.save(output / "models" / stem, overwrite=True)
    mixture = _frozen(model, seed)
    groups = None if data.groups is None else data.groups[test]
    log_prob = mixture.log_prob(data.points[test])
    score, error = held_out_score(log_prob, groups)
    mass = _mass(mixture, proposal, seed)
    samples = mixture.sample((N_SAMPLES,), torch.Generator().manual_seed(seed))
    title = f"{data.name} · {name}"
    figure = plot(mixture, data.points[test], samples, names=case.names, title=title, held_out=score)
    row = Row(
        data_set=data.name,
        manifold=f"{data.manifold.name}, dimension {mixture.kernel.dim}",
        estimator=name,
        kernel=mixture.kernel.name,
        components=mixture.n_components,
        n_fit=len(fitted),
        n_held_out=len(test),
        log_likelihood=score,
        standard_error=error,
        measure=str(mixture.measure),
        total_mass=mass.value,
        total_mass_error=mass.error,
        total_mass_method=mass.method,
        fit_seconds=seconds,
        picture=str(save_figure(figure, output / f"{stem}.png").name),
        model=f"models/{stem}",
    )
    return Result(row, log_prob, mixture)


def _notes(case: Case, data: Dataset, log_probs: dict[str, Tensor], seed: int, quick: bool) -> list[str]:
    """What a reader needs to judge the scores of a data set."""
    groups = None if data.groups is None else data.groups[_split(data, seed, True, quick)[1]]
    notes = [case.about]
    for name in [name for name in log_probs if name != "KernelDensity"]:
        gain, error = held_out_score(log_probs[name] - log_probs["KernelDensity"], groups)
        notes.append(f"{name} minus KernelDensity on the same held-out rows: {gain:+.3f} ± {error:.3f} nats per datum.")
    volume = geometry.log_volume(data.manifold, data.point_shape)
    if math.isfinite(volume):
        notes.append(f"The uniform density, which knows nothing, scores {-volume:.3f} nats here.")
    if data.groups is not None:
        fitted, test = _split(data, seed, False, quick)
        model = _fit(case, data, "KernelDensity", data.points[fitted], seed)
        random, ours = float(model.log_prob(data.points[test]).mean()), float(log_probs["KernelDensity"].mean())
        notes.append(
            f"For comparison: with a random split of single rows KernelDensity scores {random:.3f} instead of {ours:.3f}. The "
            f"difference of {random - ours:+.3f} nats is no merit of a density: it is what near-copies of fitted rows in the "
            "scored part are worth, give or take the chance of another test part."
        )
    return notes


def _quick(case: Case) -> Case:
    fit = {**case.fit, **QUICK_FIT}
    anchored = None if case.anchored is None else {"networks": 0, "neighbors": (4, 8)}
    return replace(case, flow=dict(QUICK_FLOW), fit=fit, density_fit={"n_scored": 50}, anchored=anchored)


def run(output: Path, *, seed: int = 0, quick: bool = False) -> Path:
    """Fit every data set with its estimators and write everything to the folder ``output``; returns the path of the report.

    Args:
        seed: of the splits, the fits, the samples and the integrals.
        quick: a few hundred rows and a few steps, to see in seconds that everything works; the scores mean nothing.

    Raises:
        ImportError: a package of the extras ``datasets`` or ``plot`` is missing.
    """
    start, sections = time.monotonic(), []
    cases = [_quick(case) for case in CASES] if quick else list(CASES)
    with tqdm(total=sum(len(case.estimators()) for case in cases), desc="demo", unit="fit", position=0) as bar:
        for case in cases:
            data, results = case.load(), dict[str, Result]()
            for name in case.estimators():
                bar.set_description(f"{data.name}, {name}")
                proposal = results["KernelDensity"].mixture if name == "AnchoredFlow" else None
                results[name] = _run(case, data, name, output, seed, quick, proposal)
                bar.update()
            notes = _notes(case, data, {name: result.log_prob for name, result in results.items()}, seed, quick)
            source, rows = f"{data.source}. Licence: {data.license}.", [result.row for result in results.values()]
            sections.append(Section(data.name, source, data.units, data.note, notes, rows))
        bar.set_description("report")
    return write_report(output, sections, seed=seed, quick=quick, seconds=time.monotonic() - start)


def main(arguments: list[str] | None = None) -> None:
    """Run the demonstration from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mf_manifold.demo",
        description="Fit real data on a sphere, a torus and SPD matrices, and write a report (about 5 minutes on two cores).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of the splits, the fits and the samples")
    parser.add_argument("--quick", action="store_true", help="tiny fits that only show that everything works")
    options = parser.parse_args(arguments)
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output must be a folder, got the file {options.output}")
    # the tiles of the reduction gain little from a second thread, and lose a factor of 20 where another program uses its core
    torch.set_num_threads(1)
    try:
        report = run(options.output, seed=options.seed, quick=options.quick)
    except ImportError as error:
        parser.exit(1, f"{error}\n")
    print(f"report: {report}\n")
    print((options.output / "table.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
