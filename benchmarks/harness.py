"""The record of an experiment: its table, pictures and circumstances, on disk after every row."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import mf_manifold
from mf_manifold.checkpoint import atomic_path

PACKAGES = ("torch", "geoopt", "numpy", "scipy", "scikit-learn", "zuko", "torchdiffeq")


@dataclass
class Report:
    """What an experiment writes into its folder: ``report.md``, ``table.csv``, ``table.json`` and pictures.

    Attributes:
        seeds: of splits and fits; an experiment repeats itself for each.
        quick: tiny sizes that only show that everything runs.
        options: values of ``--option key=value``.
    """

    name: str
    folder: Path
    about: str = ""
    command: str = ""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    quick: bool = False
    options: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """The JSON value of ``compute()``, kept on disk at once, so that ``--resume`` does not compute it again."""
        path = self.folder / "partial.json"
        key = f"{key}; quick" if self.quick else key  # what a quick run left must not pass for the whole
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if key not in known:
            known[key] = compute()
            _write(path, json.dumps(known, indent=1) + "\n")
        return known[key]

    def row(self, **columns: Any) -> None:
        """Add a line to the table; the first line's columns come first, later ones may have more."""
        self.rows.append(columns)
        self.write()

    def note(self, sentence: str) -> None:
        """Add a sentence below the table."""
        self.notes.append(sentence)
        self.write()

    def figure(self, figure: Any, stem: str, caption: str) -> None:
        """Save a matplotlib figure as ``stem.png``, in a size that a repository can hold."""
        import matplotlib.pyplot as plt

        with atomic_path(self.folder / f"{stem}.png") as temporary:
            figure.savefig(temporary, dpi=80, bbox_inches="tight", format="png", pil_kwargs={"optimize": True})
        plt.close(figure)
        self.pictures.append((f"{stem}.png", caption))
        self.write()

    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def write(self) -> None:
        """Write everything so far, each file whole."""
        record = {**self.circumstances(), "rows": self.rows, "notes": self.notes}
        _write(self.folder / "table.json", json.dumps(_finite(record), indent=2, ensure_ascii=False) + "\n")
        _write(self.folder / "table.csv", self._csv())
        _write(self.folder / "report.md", self._markdown())

    def circumstances(self) -> dict[str, Any]:
        """Command, seeds, versions and machine."""
        return {
            "experiment": self.name,
            "command": self.command,
            "seeds": self.seeds,
            "quick": self.quick,
            "seconds": round(time.monotonic() - self.start, 1),
            "threads": torch.get_num_threads(),
            "machine": machine(),
            "versions": versions(),
        }

    def _csv(self) -> str:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, self.columns(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return stream.getvalue()

    def _markdown(self) -> str:
        facts = self.circumstances()
        lines = [f"# {self.name}", "", self.about.strip(), ""]
        if self.quick:
            lines += ["**A quick run: it shows that everything works, its numbers mean nothing.**", ""]
        lines += [*table(self.columns(), self.rows), ""]
        lines += [f"- {sentence}" for sentence in self.notes] + [""] * bool(self.notes)
        for file, caption in self.pictures:
            lines += [f"![{caption}]({file})", "", caption, ""]
        lines += ["## How it was made", "", "```text", self.command, "```", ""]
        packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        lines += [
            f"Seeds {', '.join(map(str, self.seeds))}; {facts['seconds']:.0f} s in all on {facts['threads']} thread(s).",
            f"Machine: {facts['machine']}. Versions: {packages}.",
            "",
        ]
        return "\n".join(lines)


def table(columns: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table."""
    if not rows:
        return ["No rows yet."]
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return head + ["| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |" for row in rows]


def summary(values: list[float]) -> str:
    """Mean and its standard error over seeds, such as ``0.237 ± 0.004``."""
    data = torch.tensor(values, dtype=torch.float64)
    if len(data) < 2:
        return f"{float(data.mean()):.3f}"
    return f"{float(data.mean()):.3f} ± {float(data.std()) / math.sqrt(len(data)):.3f}"


def versions() -> dict[str, str]:
    """Versions of this package and of those that are installed of the others."""
    found = {"mf-manifold": mf_manifold.__version__, "revision": _revision(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def machine() -> str:
    """Processor, number of cores, accelerator."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    processor = names[0] if names else platform.processor() or platform.machine()
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}, {os.cpu_count()} cores{device}"


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
