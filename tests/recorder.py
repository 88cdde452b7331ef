"""A report of a quick run that keeps what an experiment writes."""

from __future__ import annotations

from typing import Any


class Recorder:
    """Stands in for the report of a benchmark."""

    quick = True

    def __init__(self, seeds: tuple[int, ...] = (0,)) -> None:
        self.seeds = list(seeds)
        self.rows: list[dict[str, Any]] = []
        self.figures: list[str] = []
        self.notes: list[str] = []

    def row(self, **columns: Any) -> None:
        """Keep a row."""
        self.rows.append(columns)

    def figure(self, figure: Any, stem: str, caption: str) -> None:
        """Draw the figure and keep its name."""
        figure.canvas.draw()
        self.figures.append(stem)

    def note(self, sentence: str) -> None:
        """Keep a sentence."""
        self.notes.append(sentence)
