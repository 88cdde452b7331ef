"""The options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch

ManifoldName = Literal["sphere", "torus", "spd", "euclidean"]
UnitName = Literal["degrees", "radians", "cartesian", "matrix"]
EstimatorName = Literal["flow", "anchored", "kde", "mixture", "normalizing-flow", "variational", "resampled", "manifold-flow"]
BandwidthName = Literal["adaptive", "single", "multiscale", "combined", "local"]
DeviceName = Literal["auto", "cpu", "cuda"]

Data = Annotated[Path, typer.Argument(help="Table of points: .csv, .npy or .parquet.", show_default=False)]
Run = Annotated[Path, typer.Argument(help="Run folder that fit wrote.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.", show_default=False)]
Device = Annotated[DeviceName, typer.Option(help="Where to compute; auto takes CUDA if there is any.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
DropMissing = Annotated[bool, typer.Option("--drop-missing", help="Drop rows with empty, NaN or infinite entries.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no summary; warnings and errors stay.")]


def torch_device(name: DeviceName) -> torch.device:
    """The device of ``--device``.

    Raises:
        ValueError: CUDA is asked for where there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("Expected a CUDA device for --device cuda, but torch finds none: pass --device cpu.")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
