"""The commands, one file each, and how errors reach the user. Nothing here imports torch before a command runs."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from .. import __version__
from . import benchmark, fit, kernels, plot, sample, score
from .output import note


class _Commands(TyperGroup):
    """Turns errors that the user can mend into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _stop("stopped; no output was changed", 130)
        except BrokenPipeError:
            raise
        except ModuleNotFoundError as error:
            _stop(f"error: this command needs the package {error.name}: pip install 'mf-manifold[cli]'", 1)
        except (ValueError, OSError, ImportError, NotImplementedError, FloatingPointError, MemoryError) as error:
            _stop(f"error: {' '.join(str(error).split())}", 1)


def _stop(message: str, code: int) -> NoReturn:
    note(message)
    raise typer.Exit(code) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Exact probability densities on spheres, tori, SPD matrices and Euclidean space, from tables of points.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mf-manifold {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    return None


app.command("fit")(fit.fit)
app.command("score")(score.score)
app.command("sample")(sample.sample)
app.command("plot")(plot.plot_density)
app.command("list")(kernels.list_kernels)
app.command("benchmark")(benchmark.benchmark)
