"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import typer


def note(message: str) -> None:
    """One line for the user on standard error."""
    typer.echo(message, err=True)


def finite(value: Any) -> Any:
    """The same JSON value with null for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(result: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print a result: as JSON, or one aligned line an entry unless ``quiet``."""
    if as_json:
        typer.echo(json.dumps(finite(result), indent=2))
    elif not quiet:
        width = max(map(len, result))
        for name, value in result.items():
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            typer.echo(f"{name.replace('_', ' '):<{width}}  {shown}")
