"""The command ``mf-manifold``."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        sys.exit(f"error: the command line needs the package {error.name}: pip install 'mf-manifold[cli]'")
    app(prog_name="mf-manifold")
