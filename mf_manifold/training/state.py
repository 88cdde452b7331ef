"""The state of a run on disk: everything that its next step depends on, so that a killed run resumes to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..checkpoint import atomic_path

FILE_NAME = "training.safetensors"


def save(folder: Path, tensors: dict[str, dict[str, Tensor]], numbers: dict[str, Any]) -> None:
    """Write named groups of tensors and JSON numbers atomically."""
    flat = {f"{group}/{k}": v.detach().cpu().clone() for group, named in tensors.items() for k, v in named.items()}
    with atomic_path(folder / FILE_NAME) as temporary:
        save_file(flat, temporary, metadata={"run": json.dumps(numbers)})


def clear(folder: Path | None) -> None:
    """Forget the state of an earlier run in the folder."""
    if folder is not None:
        (folder / FILE_NAME).unlink(missing_ok=True)


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """What :func:`save` wrote, or None if there is nothing.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            numbers = json.loads(file.metadata()["run"])
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in load_file(path).items():
            group, _, key = name.partition("/")
            groups.setdefault(group, {})[key] = tensor
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"Expected the state of a run at {path}, but it is damaged ({error}). Delete it to start anew."
        ) from error
    return groups, numbers


def of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of AdamW, flat."""
    return {f"{i}.{k}": v for i, entry in optimizer.state_dict()["state"].items() for k, v in entry.items()}


def into_optimizer(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Put back what :func:`of_optimizer` gave."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        i, _, key = name.partition(".")
        entries.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
