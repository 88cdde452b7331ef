"""``mf-manifold fit``: a density from a table of points."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .models import CHOICES, CLUSTERS, FROZEN_COMPONENTS, MIXTURE_COMPONENTS, STEPS
from .options import (
    BandwidthName,
    Data,
    Device,
    DropMissing,
    EstimatorName,
    Force,
    Json,
    ManifoldName,
    Quiet,
    Seed,
    UnitName,
    torch_device,
)
from .output import note, report

if TYPE_CHECKING:
    from torch import Tensor

    from ..coordinates import Coordinates
    from ..distributions import ManifoldDistribution


def fit(
    data: Data,
    manifold: Annotated[ManifoldName, typer.Option(help="What the rows are points of.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.", show_default=False)],
    columns: Annotated[str | None, typer.Option(help="Columns, comma-separated and in order; default: all.")] = None,
    units: Annotated[UnitName | None, typer.Option(help="Units of the columns; required for angles.")] = None,
    estimator: Annotated[
        EstimatorName,
        typer.Option(
            help="Marginal flow from noise or anchored at the data, kernel density estimate, EM mixture; normalizing flow or "
            "manifold flow in R^d, variational mixture, resampled base."
        ),
    ] = "anchored",
    kernel: Annotated[str | None, typer.Option(help="Kernel, see mf-manifold list; default: the manifold's.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0.1, help="End with the best model after this time.")] = None,
    components: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Of a mixture (default: {MIXTURE_COMPONENTS}), a variational one ({CLUSTERS}), or a frozen flow "
            f"({FROZEN_COMPONENTS}).",
        ),
    ] = None,
    bandwidth: Annotated[
        BandwidthName | None, typer.Option(help="Widths of a kernel density estimate; default: adaptive.", show_default=False)
    ] = None,
    latent_dim: Annotated[
        int | None, typer.Option(min=1, help="Of a flow's noise, or of a manifold flow's manifold.", show_default=False)
    ] = None,
    test_fraction: Annotated[float, typer.Option(min=0.01, max=0.4, help="Share of rows held out.")] = 0.1,
    drop_missing: DropMissing = False,
    distinct: Annotated[bool, typer.Option("--distinct", help="Remove rows that repeat an earlier row.")] = False,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a flow's fit that was stopped or killed.")] = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Fit a density to the rows of a table and report its log-likelihood on held-out rows."""
    from .models import check_options, new_model
    from .runs import UNFINISHED, can_resume, check_new_run, write_run

    trained = CHOICES[estimator].trained
    if resume and not trained:
        able = ", ".join(name for name, choice in CHOICES.items() if choice.trained)
        raise ValueError(f"Expected --resume with {able} only: a fit of {estimator} is repeated from the start.")
    check_new_run(output, force, resume)
    target = torch_device(device)
    own = {"kernel": kernel, "components": components, "bandwidth": bandwidth, "latent-dim": latent_dim}
    check_options(estimator, own)
    coordinates, points, counts = _points(data, manifold, columns, units, drop_missing, distinct)
    train, test = _split(points.to(target), seed, test_fraction)
    model = new_model(estimator, coordinates, own).to(target)
    options: dict[str, Any] = {"seed": seed, "max_seconds": max_seconds, "progress": not quiet and sys.stderr.isatty()}
    if trained:  # as many rows choose the model as test it
        options["validation_fraction"] = test_fraction / (1 - test_fraction)
        options |= {"resume": resume, "max_steps": STEPS}
    if not resume:  # the model of an earlier run that was stopped must not pass for this one's
        shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    start = time.monotonic()
    code = _fit(model, train, output / UNFINISHED, options)
    seconds = time.monotonic() - start

    frozen = {"components": (components if estimator == "flow" else None) or FROZEN_COMPONENTS, "seed": seed}
    metrics = {**_held_out(model.freeze(frozen["components"], seed), test), "training_rows": len(train), "seconds": seconds}
    description = {
        "coordinates": coordinates.to_config(),
        "data": {"file": str(data), **counts},
        "estimator": estimator,
        "kernel": getattr(getattr(model, "kernel", None), "name", None),
        "seed": seed,
        "test_fraction": test_fraction,
        "frozen": frozen,
        "finished": code == 0,
        "metrics": metrics,
    }
    write_run(output, description)
    report({"run": str(output), **metrics}, as_json=as_json, quiet=quiet)
    if code:
        more = "; --resume continues it" if can_resume(output) else ""
        note(f"stopped; the best model so far is in {output}{more}")
        raise typer.Exit(code)


def _points(
    data: Path, manifold: str, columns: str | None, units: str | None, drop_missing: bool, distinct: bool
) -> tuple[Coordinates, Tensor, dict[str, int]]:
    """What the columns mean, the points of the rows that are used, and how many rows were read and used."""
    from ..coordinates import coordinates_for
    from ..tables import read_table
    from .steps import points_of, without_copies, without_missing

    names = None if columns is None else [name.strip() for name in columns.split(",")]
    table = read_table(data, names)
    coordinates = coordinates_for(manifold, table.columns, units)
    used = without_copies(without_missing(table, drop_missing), distinct)
    return coordinates, points_of(coordinates, used), {"rows": len(table.rows), "rows_used": len(used.rows)}


def _split(points: Tensor, seed: int, test_fraction: float) -> tuple[Tensor, Tensor]:
    """The rows to fit, which include those that choose the model, and the rows to test."""
    from ..datasets import split

    train, _, test = split(points, seed, (1 - test_fraction, 0, test_fraction))
    return points[train], points[test]


def _held_out(density: ManifoldDistribution, test: Tensor) -> dict[str, Any]:
    import torch

    from ..mixture import Mixture
    from .steps import summarize

    with torch.no_grad():
        summary = summarize(density.log_prob(density.like(test)), density.measure.kind, prefix="held_out_")
    return {**summary, "components": density.n_components} if isinstance(density, Mixture) else summary


def _fit(model: Any, train: Tensor, checkpoint: Path, options: dict[str, Any]) -> int:
    """Fit, leaving the best model in ``checkpoint``; returns 0, or the exit code of a fit that was cut short with a model."""
    from ..checkpoint import FILE_NAME
    from .models import fit_model

    try:
        fit_model(model, train, checkpoint, options)
    except (KeyboardInterrupt, FloatingPointError) as error:
        if not (checkpoint / FILE_NAME).exists():
            raise
        if isinstance(error, KeyboardInterrupt):
            return 130
        note(f"error: {error}")
        return 1
    return 0
