"""``mf-manifold fit``: a density from a table of points."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
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

FROZEN_COMPONENTS = 16384


def fit(
    data: Data,
    manifold: Annotated[ManifoldName, typer.Option(help="What the rows are points of.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.", show_default=False)],
    columns: Annotated[str | None, typer.Option(help="Columns, comma-separated and in order; default: all.")] = None,
    units: Annotated[UnitName | None, typer.Option(help="Units of the columns; required for angles.")] = None,
    estimator: Annotated[EstimatorName, typer.Option(help="Marginal flow, or kernel density estimate.")] = "flow",
    kernel: Annotated[str | None, typer.Option(help="Kernel, see mf-manifold list; default: the manifold's.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0.1, help="End with the best model after this time.")] = None,
    components: Annotated[
        int | None, typer.Option(min=1, help=f"Components that a flow is frozen to; default: {FROZEN_COMPONENTS}.")
    ] = None,
    test_fraction: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of rows held out.")] = 0.1,
    drop_missing: DropMissing = False,
    distinct: Annotated[bool, typer.Option("--distinct", help="Remove rows that repeat an earlier row.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Fit a density to the rows of a table and report its log-likelihood on held-out rows."""
    from ..coordinates import coordinates_for
    from ..datasets import split
    from ..tables import read_table
    from .runs import check_new_run, prepare_run, write_run
    from .steps import points_of, summarize, without_copies, without_missing

    check_new_run(output, force)
    target = torch_device(device)
    if components is not None and estimator == "kde":
        raise ValueError("Expected --components with --estimator flow only: the components of kde are the data.")
    table = read_table(data, _names(columns))
    coordinates = coordinates_for(manifold, table.columns, units)
    used = without_copies(without_missing(table, drop_missing), distinct)
    points = points_of(coordinates, used)
    train, _, test = (points[rows].to(target) for rows in split(points, seed, (1 - test_fraction, 0, test_fraction)))

    model = _new_model(estimator, coordinates, kernel).to(target)
    staged, start = prepare_run(output), time.monotonic()
    progress = not quiet and sys.stderr.isatty()
    finished = _fit(model, train, seed=seed, max_seconds=max_seconds, progress=progress, checkpoint=staged)
    seconds = time.monotonic() - start

    frozen = {"components": components or FROZEN_COMPONENTS, "seed": seed}
    mixture = model.freeze(frozen["components"], seed=seed)
    metrics = summarize(mixture.log_prob(test), mixture.measure.kind, prefix="held_out_")
    metrics |= {"training_rows": len(train), "components": mixture.n_components, "seconds": seconds}
    description = {
        "coordinates": coordinates.to_config(),
        "data": {"file": str(data), "rows": len(table.rows), "rows_used": len(used.rows)},
        "estimator": estimator,
        "kernel": mixture.kernel.name,
        "seed": seed,
        "test_fraction": test_fraction,
        "frozen": frozen,
        "finished": finished,
        "metrics": metrics,
    }
    write_run(output, description)
    report({"run": str(output), **metrics}, as_json=as_json, quiet=quiet)
    if not finished:
        note(f"stopped; the best model so far is in {output}")
        raise typer.Exit(130)


def _names(columns: str | None) -> list[str] | None:
    return None if columns is None else [name.strip() for name in columns.split(",")]


def _new_model(estimator: EstimatorName, coordinates: Coordinates, kernel: str | None) -> Any:
    import mf_manifold as mf

    cls = mf.MarginalFlow if estimator == "flow" else mf.KernelDensity
    return cls(coordinates.manifold, coordinates.point_shape, kernel)


def _fit(model: Any, train: Tensor, *, checkpoint: Path, **options: Any) -> bool:
    """Fit, leaving the best model in ``checkpoint``; whether the fit came to its end."""
    from ..checkpoint import FILE_NAME

    try:
        model.fit(train, checkpoint=checkpoint, **options)
    except KeyboardInterrupt:
        if not (checkpoint / FILE_NAME).exists():
            raise
        return False
    return True
