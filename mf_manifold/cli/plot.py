"""``mf-manifold plot``: a picture of a fitted density."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, DropMissing, Force, Output, Run, torch_device

PICTURES = (".png", ".pdf", ".svg")


def plot(
    run: Run,
    output: Output,
    data: Annotated[Path | None, typer.Option(help="Table of points to show on top of the density.")] = None,
    drop_missing: DropMissing = False,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Draw the density of a run, with the points of a table on top if there is one."""
    from ..checkpoint import atomic_path
    from ..plot import plot_run
    from ..tables import check_output, read_table
    from .runs import load_run
    from .steps import points_of, without_missing

    check_output(output, PICTURES, force)
    fitted = load_run(run, torch_device(device))
    points = None
    if data is not None:
        table = without_missing(read_table(data, fitted.coordinates.columns), drop_missing)
        points = points_of(fitted.coordinates, table)
    with atomic_path(output) as temporary:
        plot_run(fitted.mixture, fitted.coordinates, points, temporary)
