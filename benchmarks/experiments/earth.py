"""Components around the data, shaped by what is near them, describe positions on the earth better than kernel densities.

Data: ``mf.datasets.airports()``, and where the option ``earth_data`` names a folder, its ``earthquake.csv`` and ``volcano.csv``
(columns latitude and longitude in degrees); the option ``data`` takes one of them alone. Coordinates become unit vectors, are
rounded to 12 decimals, and rows that occur several times are kept once, in lexicographic order: copies across a split would
reward spikes without end.

Protocol: ``torch.randperm`` with the seed as its generator's; the last two tenths of it are validation and test. Everything is
fitted to the first eight tenths; validation rows only select, except in the row that says that they are anchors, and its rival.
Scores are mean negative log densities of all test rows under all components, in nats with respect to the surface measure of the
unit sphere (uniform law: 2.531). Times are CPU seconds of one thread.

How to read the table: ``nll`` lower is better; ``gain`` is by how much it is lower than that of the multi-scale kernel density
on the same splits, with the standard error of the mean of the paired differences; ``splits`` says how many (the mixture and the
spline flow, which take longest, see the first three of airports; they and the marginal flow the first of the others).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geoopt
import numpy as np
import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.harness import Report
from mf_manifold.anchors import AnchoredFlow
from mf_manifold.kernel_mixture import KernelMixture

SPHERE, SHAPE = geoopt.Sphere(), (3,)
RIVAL, ANCHORED = "multi-scale kernel density", "anchored flow"
MORE = "anchored flow, validation rows as anchors"
MIXTURE, SPLINE, MARGINAL = "mixture of von Mises-Fisher laws, EM", "spline flow", "marginal flow"
SLOW = {"airports": (MIXTURE, SPLINE)}  # these see few of the splits
FEW = {"airports": 3}
FILES = ("earthquake", "volcano")
Fit = Callable[[Tensor, Tensor, int], Any]  # train, validation, seed -> something with log_prob


def distinct(x: Tensor) -> Tensor:
    """Rows rounded to 12 decimals, each once, in lexicographic order."""
    return torch.from_numpy(np.unique(x.double().numpy().round(12), axis=0))


def from_degrees(path: Path) -> Tensor:
    """Unit vectors of the latitudes and longitudes in a file with one header line."""
    latitude, longitude = torch.from_numpy(np.deg2rad(np.genfromtxt(path, delimiter=",", skip_header=1))).unbind(1)
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=1)


def data(report: Report) -> dict[str, Tensor]:
    """Distinct rows of every set that is there."""
    folder, wanted = report.options.get("earth_data"), report.options.get("data")
    names = [name for name in ("airports", *(FILES if folder else ())) if wanted in (None, name)]
    sets = {name: mf.datasets.airports().points if name == "airports" else _read(folder, name) for name in names}
    return {name: distinct(x) for name, x in sets.items()}


def _read(folder: str | None, name: str) -> Tensor:
    assert folder is not None
    return from_degrees(Path(folder) / f"{name}.csv")


def split(x: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test rows."""
    order, n = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)), len(x) // 10
    return x[order[: len(x) - 2 * n]], x[order[len(x) - 2 * n : len(x) - n]], x[order[len(x) - n :]]


def kernel_density(bandwidth: str) -> Fit:
    """A kernel density with that choice of widths."""

    def fit(train: Tensor, validation: Tensor, seed: int) -> Any:
        return mf.KernelDensity(SPHERE, SHAPE, bandwidth=bandwidth).fit(train, seed=seed, progress=False)

    return fit


def with_validation(fit: Fit) -> Fit:
    """The same fit to training and validation rows."""
    return lambda train, validation, seed: fit(torch.cat([train, validation]), validation, seed)


def methods(quick: bool) -> dict[str, Fit]:
    """Every row of the table; the first is the one that the others are compared with."""

    def anchored(networks: int) -> Fit:
        def fit(train: Tensor, validation: Tensor, seed: int) -> AnchoredFlow:
            flow = AnchoredFlow(SPHERE, SHAPE, networks=networks)
            return flow.fit(train, validation=validation, seed=seed, max_steps=5 if quick else 200, progress=False)

        return fit

    def mixture(train: Tensor, validation: Tensor, seed: int) -> Any:
        counts = (2, 4) if quick else (min(300, len(train) // 4),)
        return KernelMixture(SPHERE, SHAPE, counts, "von_mises_fisher").fit(train, seed=seed, restarts=1, progress=False)

    def marginal(train: Tensor, validation: Tensor, seed: int) -> Any:
        flow = mf.MarginalFlow(SPHERE, SHAPE, n_components=64 if quick else 4096)
        steps = 5 if quick else 2200
        flow.fit(train, validation=validation, seed=seed, max_steps=steps, patience=50, progress=False)
        return flow.freeze(128 if quick else 16384, seed=seed)

    def spline(train: Tensor, validation: Tensor, seed: int) -> Any:
        from benchmarks.rivals.spline_flow import SplineFlow

        flow = SplineFlow(SPHERE, SHAPE)
        flow.fit(train, validation=validation, seed=seed, max_seconds=2.0 if quick else 180.0)
        return flow

    return {
        RIVAL: kernel_density("multiscale"),
        "combined kernel density": kernel_density("combined"),
        "adaptive kernel density": kernel_density("adaptive"),
        "kernel density, one width": kernel_density("single"),
        MIXTURE: mixture,
        MARGINAL: marginal,
        SPLINE: spline,
        "anchored flow, shared shapes": anchored(0),
        ANCHORED: anchored(3),
        f"{RIVAL}, also of validation rows": with_validation(kernel_density("multiscale")),
    }


def run(report: Report) -> None:
    """Fit every method on every split of every set, and add the rows set by set."""
    for name, x in data(report).items():
        x = x[:: max(1, len(x) // 300)] if report.quick else x
        found: dict[str, list[list[float]]] = {}
        for seed, (method, fit) in itertools.product(report.seeds, methods(report.quick).items()):
            if method in SLOW.get(name, (MIXTURE, SPLINE, MARGINAL)) and seed in report.seeds[FEW.get(name, 1) :]:
                continue
            result = report.once(f"{name}; {method}; seed {seed}", lambda: _score(method, fit, x, seed))  # noqa: B023
            found.setdefault(method, []).append(result[:2])
            if method == ANCHORED:
                found.setdefault(MORE, []).append(result[2:])
        _rows(report, name, len(x), found)


def _score(method: str, fit: Fit, x: Tensor, seed: int) -> list[float]:
    """Negative log density of the test rows and CPU seconds of the fit; for anchored flows again with more anchors."""
    train, validation, test = split(x, seed)
    start = time.process_time()
    model = fit(train, validation, seed)
    result = [time.process_time() - start]
    result.insert(0, -float(model.log_prob(test).mean()))
    if method == ANCHORED:
        model = model.anchor(torch.cat([train, validation]))
        result += [-float(model.log_prob(test).mean()), result[1]]
    return result


def _rows(report: Report, name: str, n: int, found: dict[str, list[list[float]]]) -> None:
    scores = {method: np.array([nll for nll, _ in pairs]) for method, pairs in found.items()}
    for method, nll in scores.items():
        rival = f"{RIVAL}, also of validation rows" if method == MORE else RIVAL
        gain = scores[rival][: len(nll)] - nll
        report.row(
            data=name,
            distinct_rows=n,
            method=method,
            nll=float(nll.mean()),
            nll_error=_error(nll),
            gain=float(gain.mean()),
            gain_error=_error(gain),
            splits=len(nll),
            cpu_seconds=float(np.mean([seconds for _, seconds in found[method]])),
            nll_by_seed=" ".join(f"{value:.4f}" for value in nll),
        )


def _error(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
