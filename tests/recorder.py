"""A report that keeps what an experiment gives it, in the place of the one that writes files."""

from __future__ import annotations

from typing import Any


class Recorder:
    """Rows, stems of figures that could be drawn, and notes of a quick run with one seed."""

    def __init__(self) -> None:
        self.seeds, self.quick = [0], True
        self.rows: list[dict[str, Any]] = []
        self.figures: list[str] = []
        self.notes: list[str] = []

    def row(self, **columns: Any) -> None:
        self.rows.append(columns)

    def figure(self, figure: Any, stem: str, caption: str) -> None:
        figure.canvas.draw()
        self.figures.append(stem)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)
