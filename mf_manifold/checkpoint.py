"""Checkpoints: one safetensors file whose header carries a JSON description. Loading never executes code."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE_NAME = "model.safetensors"
FORMAT = 2
_CLASSES: dict[str, type[Any]] = {}


def register_model(cls: type[Any]) -> type[Any]:
    """Class decorator: let checkpoints name this class, which has ``config()`` and ``from_config(config, tensors)``."""
    _CLASSES[cls.__name__] = cls
    return cls


def describe(model: nn.Module) -> dict[str, Any]:
    """Class and configuration of a model, also of one that is part of another."""
    return {"class": type(model).__name__, "config": model.config()}  # type: ignore[operator]


def build(description: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """The model of a description, with these tensors."""
    return _CLASSES[description["class"]].from_config(description["config"], tensors)


def part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of the submodule of that name."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces it when the block ends well; otherwise ``path`` is as before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # here, because some writers replace the temporary file and its mode
        os.replace(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def save(model: nn.Module, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write ``path/model.safetensors`` atomically.

    Raises:
        FileExistsError: there is one already and ``overwrite`` is false.
    """
    target = Path(path) / FILE_NAME
    if target.exists() and not overwrite:
        raise FileExistsError(f"Expected a new checkpoint path, but {target} exists. Pass overwrite=True to replace it.")
    header = {"format": FORMAT, **describe(model)}
    tensors = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}  # parts may share memory
    with atomic_path(target) as temporary:
        save_file(tensors, temporary, metadata={"mf_manifold": json.dumps(header)})
    return target


def _read(target: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not target.is_file():
        raise FileNotFoundError(f"Expected a checkpoint at {target}, found none. Give the folder that save() or fit wrote.")
    try:
        with safetensors.safe_open(target, framework="pt") as file:
            header = dict(json.loads((file.metadata() or {})["mf_manifold"]))
        return header, load_file(target)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected a checkpoint of mf_manifold at {target}, but the file is truncated, corrupted or of another "
            f"program ({error}). Restore it from a copy, or fit again."
        ) from error


def load(path: str | os.PathLike[str]) -> Any:
    """The estimator saved in the folder ``path``, on the CPU.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is truncated, corrupted, inconsistent, has NaN, or is of a newer format.

    >>> import geoopt, tempfile, torch, mf_manifold as mf
    >>> x = mf.geometry.sample_uniform(geoopt.Sphere(), (3,), (50,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = mf.KernelDensity(geoopt.Sphere(), (3,)).fit(x, progress=False).save(folder)
    ...     print(mf.load(folder).mixture.n_components)
    50
    """
    from . import anchors, density, kernel_mixture, marginal, models  # noqa: F401  (estimators register themselves on import)

    target = Path(path) / FILE_NAME
    header, tensors = _read(target)
    version = header.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(
            f"Expected a checkpoint of format {FORMAT} or older at {target}, got format {version}. Upgrade mf-manifold."
        )
    if str(header.get("class")) not in _CLASSES:
        raise ValueError(f"Expected a checkpoint of {', '.join(_CLASSES)} at {target}, got {header.get('class')!r}.")
    broken = [name for name, value in tensors.items() if value.is_floating_point() and bool(value.isnan().any())]
    if broken:
        raise ValueError(f"Expected numbers in the checkpoint {target}, got NaN in {broken[0]}. Fit again.")
    try:
        return build(header, tensors)
    except (RuntimeError, KeyError, TypeError, AttributeError, StopIteration) as error:
        reason = (str(error).splitlines() or ["tensors are missing"])[0]
        raise ValueError(f"Expected a consistent checkpoint at {target}, but its parts do not fit: {reason}") from error
