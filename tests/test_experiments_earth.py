"""The experiment on positions: rounding and splits, and one tiny run."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.experiments import earth
from benchmarks.harness import Report


def test_rows_are_distinct_and_splits_have_no_common_rows() -> None:
    x = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1e-14, 0], [0, 0, 1]], dtype=torch.float64)
    assert len(earth.distinct(x)) == 3
    parts = earth.split(torch.arange(50), 3)
    assert sorted(torch.cat(parts).tolist()) == list(range(50))
    assert [len(part) for part in parts] == [40, 5, 5]


def test_a_quick_run_has_every_row_and_resumes_from_its_fits(tmp_path: Path) -> None:
    (tmp_path / "earthquake.csv").write_text("LATITUDE,LONGITUDE\n" + "".join(f"{i % 90},{7 * i % 180}\n" for i in range(330)))
    options = {"earth_data": str(tmp_path), "data": "earthquake"}
    report = Report("earth", tmp_path / "run", seeds=[0, 1], quick=True, options=options)
    earth.run(report)
    methods = [*earth.methods(True), earth.MORE]
    assert sorted(row["method"] for row in report.rows) == sorted(methods)
    rival = next(row for row in report.rows if row["method"] == earth.RIVAL)
    assert rival["gain"] == 0.0 and rival["distinct_rows"] <= 330
    again = Report("earth", tmp_path / "run", seeds=[0, 1], quick=True, options=options)
    earth.run(again)
    assert again.rows == report.rows
