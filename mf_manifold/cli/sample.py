"""``mf-manifold sample``: new points from a fitted density."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Force, Json, Output, Quiet, Run, Seed, torch_device
from .output import report


def sample(
    run: Run,
    output: Output,
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many points.")] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Draw independent points and write them in the columns and units of the fitted table."""
    import torch

    from ..tables import SUFFIXES, check_output, write_table
    from .runs import load_run

    check_output(output, SUFFIXES, force)
    target = torch_device(device)
    fitted = load_run(run, target)
    points = fitted.density.sample((n,), generator=torch.Generator(target).manual_seed(seed))
    values = fitted.coordinates.from_points(points)
    columns = dict(zip(fitted.coordinates.columns, values.T, strict=True))
    write_table(output, columns, fitted.coordinates.to_array(points))
    report({"output": str(output), "rows": n, "seed": seed}, as_json=as_json, quiet=quiet)
