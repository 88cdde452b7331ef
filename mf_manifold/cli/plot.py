"""``mf-manifold plot``: a picture of a fitted density."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, DropMissing, Force, Output, Run, Seed, torch_device

PICTURES = (".png", ".pdf", ".svg")


def plot_density(
    run: Run,
    output: Output,
    data: Annotated[Path | None, typer.Option(help="Table of points to show on top of the density.")] = None,
    drop_missing: DropMissing = False,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Draw the density of a run with samples of it, and the points of a table if there is one."""
    import torch

    from ..plot import N_SAMPLES, plot, save_figure
    from ..tables import check_output, read_table
    from .runs import load_run
    from .steps import points_of, without_missing

    check_output(output, PICTURES, force)
    target = torch_device(device)
    density, coordinates, held_out = load_run(run, target)
    points = None
    if data is not None:
        table = without_missing(read_table(data, coordinates.columns), drop_missing)
        points = density.like(points_of(coordinates, table))
    samples = density.sample((N_SAMPLES,), torch.Generator(target).manual_seed(seed))
    figure = plot(density, points, samples, names=coordinates.columns, held_out=held_out)
    save_figure(figure, output)
