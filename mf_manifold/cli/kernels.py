"""``mf-manifold list``: what can be fitted."""

from __future__ import annotations

import json

import typer

from .options import Json


def list_kernels(as_json: Json = False) -> None:
    """List every kernel: its manifold, parameters, reference measure of the formula, and exactness."""
    from .. import registered_kernels

    rows = [kernel._asdict() for kernel in registered_kernels()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(name, overflow="fold") for name in ("manifold", "kernel", "parameters", "measure", "exactness")))
    for row in rows:
        name = f"{row['name']} (default)" if row["default"] else row["name"]
        table.add_row(row["manifold"], name, ", ".join(row["parameters"]), row["measure"], row["exactness"])
    Console().print(table)
