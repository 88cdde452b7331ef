"""The record of a fit: JSON lines in the run's folder, and events for TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..checkpoint import atomic_path

FILE_NAME = "history.jsonl"


class Recorder:
    """Writes each entry of a history as it comes; without a folder it writes nothing."""

    def __init__(self, folder: Path | None, history: list[dict[str, float]]) -> None:
        self.folder, self.events = folder, _events(folder)
        if folder is not None:  # a resumed run may have written lines that its state does not know
            with atomic_path(folder / FILE_NAME) as temporary:
                temporary.write_text("".join(_line(entry) for entry in history), encoding="utf-8")
        for entry in history:
            self._show(entry)

    def write(self, entry: dict[str, float]) -> None:
        if self.folder is None:
            return
        with (self.folder / FILE_NAME).open("a", encoding="utf-8") as file:
            file.write(_line(entry))
        self._show(entry)

    def _show(self, entry: dict[str, float]) -> None:
        if self.events is not None:
            for name, value in entry.items():
                if name != "step":
                    self.events.add_scalar(name, value, int(entry["step"]))

    def close(self) -> None:
        if self.events is not None:
            self.events.close()


def _line(entry: dict[str, float]) -> str:
    return json.dumps(entry) + "\n"


def _events(folder: Path | None) -> Any:
    """TensorBoard's writer, or None without a folder or without TensorBoard."""
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # what was written before is purged, because the whole history comes again
    return SummaryWriter(str(folder / "tensorboard"), purge_step=0)  # type: ignore[no-untyped-call]
