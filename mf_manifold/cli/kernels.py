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
    from itertools import groupby

    from rich.console import Console
    from rich.table import Column, Table

    table = Table(
        Column("kernel (* default)", no_wrap=True),
        Column("parameters", overflow="fold"),
        Column("measure", no_wrap=True),
        Column("exactness"),
        box=None,
    )
    for manifold, group in groupby(rows, key=lambda row: row["manifold"]):
        table.add_row(f"[bold]{manifold}[/bold]")
        for row in group:
            name = f"  {row['name']}{' *' if row['default'] else ''}"
            table.add_row(name, ", ".join(row["parameters"]), row["measure"], row["exactness"])
    Console().print(table)
