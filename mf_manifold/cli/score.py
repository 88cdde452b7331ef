"""``mf-manifold score``: log densities of new points."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Data, Device, DropMissing, Force, Json, Output, Quiet, Run, torch_device
from .output import report


def score(
    run: Run,
    data: Data,
    output: Output,
    measure: Annotated[str, typer.Option(help="Reference measure of the density.")] = "riemannian",
    drop_missing: DropMissing = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Write the log density of every row of a table, and print the mean."""
    import torch

    from .. import Measure
    from ..tables import SUFFIXES, check_output, read_table, write_table
    from .runs import load_run
    from .steps import points_of, summarize, without_missing

    check_output(output, SUFFIXES, force)
    fitted = load_run(run, torch_device(device))
    reference = Measure(fitted.density.manifold, measure)
    table = without_missing(read_table(data, fitted.coordinates.columns), drop_missing)
    points = points_of(fitted.coordinates, table)
    with torch.no_grad():
        log_prob = fitted.density.log_prob(fitted.density.like(points), reference).double().cpu()
    columns = dict(zip(table.columns, table.values.T, strict=True))
    write_table(output, {"row": table.rows, **columns, "log_prob": log_prob.numpy()}, log_prob.numpy())
    report({"output": str(output), **summarize(log_prob, measure)}, as_json=as_json, quiet=quiet)
