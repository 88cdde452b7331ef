"""Run folders: ``model.safetensors`` and ``run.json``, which belong together."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import load
from ..checkpoint import FILE_NAME, atomic_path
from ..coordinates import Coordinates, coordinates_for
from ..training.history import FILE_NAME as HISTORY
from ..training.state import FILE_NAME as STATE
from .output import finite

if TYPE_CHECKING:
    import torch

    from ..distributions import ManifoldDistribution

RUN_FILE = "run.json"
RUN_FORMAT = 1
UNFINISHED = "unfinished"  # folder in the run folder for checkpoints of the fit, which spares an older run until the end


class FittedRun(NamedTuple):
    """What ``score``, ``sample`` and ``plot`` need of a run."""

    density: ManifoldDistribution
    coordinates: Coordinates
    held_out_mean_log_prob: float | None


class _Description(NamedTuple):
    """The part of ``run.json`` that is read again."""

    coordinates: Coordinates
    components: int
    seed: int
    held_out_mean_log_prob: float | None
    model_sha256: str


def check_new_run(folder: Path, force: bool, resume: bool = False) -> None:
    """Check the folder of a new run, or of one to resume, before the fit, which makes it.

    Raises:
        ValueError: it is a file, it cannot be written, or it has contents and ``force`` is false.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Expected the name of a run folder, got {folder}, which is a file.")
    unfinished = can_resume(folder)
    if resume and not unfinished:
        raise ValueError(f"Expected a run that was stopped in {folder}, found none: leave out --resume to start one.")
    if unfinished and not resume and not force:
        raise ValueError(f"The output {folder} holds a run that was stopped: --resume continues it, --force starts anew.")
    if folder.is_dir() and any(folder.iterdir()) and not (force or resume):
        raise ValueError(f"The output {folder} exists: give another name, or --force to overwrite its run.")
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"Expected a folder that can be written for {folder}, got {existing}: choose another.")


def write_run(folder: Path, description: dict[str, Any]) -> None:
    """Put the fitted model and its history in their place and write ``run.json``, which names the model by its hash.

    What a stopped run needs to resume stays in ``unfinished``.
    """
    staging = folder / UNFINISHED
    digest = _sha256(staging / FILE_NAME)
    for name in (FILE_NAME, HISTORY):
        if (staging / name).exists():
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(staging / name, temporary)
    content = {"format": RUN_FORMAT, **description, "versions": _versions(), "model_sha256": digest}
    with atomic_path(folder / RUN_FILE) as temporary:
        temporary.write_text(json.dumps(finite(content), indent=2) + "\n", encoding="utf-8")
    if description["finished"] or not can_resume(folder):  # last, so that a process killed before can resume
        shutil.rmtree(staging)


def can_resume(folder: Path) -> bool:
    """Whether a fit that was stopped left its state in the run folder."""
    return (folder / UNFINISHED / STATE).exists()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    from .. import __version__

    packages = {name: metadata.version(name) for name in ("torch", "geoopt", "numpy")}
    return {"mf_manifold": __version__, "python": platform.python_version(), **packages}


def load_run(folder: Path, device: torch.device) -> FittedRun:
    """Read a run folder, with the density frozen as it was for the metrics of the run.

    Raises:
        ValueError: the folder, its ``run.json`` or its model is missing, damaged or newer than this version.
    """
    described = _read_description(folder)
    model = folder / FILE_NAME
    if not model.is_file():
        raise ValueError(f"Expected the model {model}, which does not exist: restore it, or run mf-manifold fit again.")
    if _sha256(model) != described.model_sha256:
        raise ValueError(
            f"Expected the model of {folder / RUN_FILE}, but {model} is another file or damaged (its SHA-256 differs): "
            "restore it, or run mf-manifold fit again."
        )
    density = load(folder).to(device).freeze(described.components, described.seed)
    return FittedRun(density, described.coordinates, described.held_out_mean_log_prob)


def _read_description(folder: Path) -> _Description:
    path = folder / RUN_FILE
    if not path.is_file():
        raise ValueError(f"Expected a run folder with {RUN_FILE}, got {folder}: give the -o of mf-manifold fit.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > RUN_FORMAT:
            raise ValueError(f"Expected format {RUN_FORMAT} or older in {path}, got {content['format']}: upgrade mf-manifold.")
        return _Description(
            coordinates_for(**content["coordinates"]),
            int(content["frozen"]["components"]),
            int(content["frozen"]["seed"]),
            content["metrics"]["held_out_mean_log_prob"],
            content["model_sha256"],
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"Expected a readable {path}, but it is damaged: restore it, or run mf-manifold fit again.") from error
