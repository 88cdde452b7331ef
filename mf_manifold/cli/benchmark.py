"""``mf-manifold benchmark``: the experiments of the repository."""

from __future__ import annotations

import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Force, Json
from .output import note, report

REPOSITORY = Path(__file__).resolve().parents[2]


def benchmark(
    name: Annotated[str | None, typer.Argument(help="Experiment; without a name all are listed.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write; default: runs/benchmark/NAME.", show_default=False)
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of splits and fits, comma-separated.")] = "0,1,2,3,4",
    option: Annotated[
        list[str] | None, typer.Option(help="key=value for the experiment; may be repeated.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the fits that a stopped run has finished.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, which only show that everything runs.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run an experiment: a table, pictures, and under what circumstances they were made."""
    known = _experiments()
    if name is None:
        report({key: _about(path).splitlines()[0] for key, path in known.items()}, as_json=as_json, quiet=False)
        return
    if name not in known:
        raise ValueError(f"Expected an experiment, got {name!r}. There are {', '.join(known)}.")
    folder = output or Path("runs") / "benchmark" / name
    _check_new(folder, resume, force)
    numbers, options = _seeds(seeds), dict(_pair(text) for text in option or [])
    module, harness = _module(f"experiments.{name}"), _module("harness")
    record = harness.Report(name, folder, _about(known[name]), _command(), numbers, quick, options)
    record.write()
    try:
        module.run(record)
    except KeyboardInterrupt:
        note(f"stopped; the rows so far are in {folder}")
        raise typer.Exit(130) from None
    report({"report": str(folder / "report.md"), "rows": len(record.rows)}, as_json=as_json, quiet=False)


def _check_new(folder: Path, resume: bool, force: bool) -> None:
    if resume:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise ValueError(f"The output {folder} exists: give another with -o, --resume to continue, or --force to overwrite it.")
    (folder / "partial.json").unlink(missing_ok=True)


def _experiments() -> dict[str, Path]:
    """Files of the experiments by name.

    Raises:
        ValueError: the package was installed without the repository.
    """
    files = sorted((REPOSITORY / "benchmarks" / "experiments").glob("[a-z]*.py"))
    if not files:
        raise ValueError(
            "Expected the folder benchmarks beside the package: experiments are run from a checkout. Clone the repository, and "
            "install it with pip install -e '.[dev]'."
        )
    return {path.stem: path for path in files}


def _about(path: Path) -> str:
    import ast

    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem


def _module(name: str) -> Any:
    if str(REPOSITORY) not in sys.path:
        sys.path.insert(0, str(REPOSITORY))
    return import_module(f"benchmarks.{name}")


def _command() -> str:
    return shlex.join(["mf-manifold", *sys.argv[1:]])


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"Expected seeds such as 0,1,2, got {text!r}.") from None


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ValueError(f"Expected --option key=value, got {text!r}.")
    return key, value
