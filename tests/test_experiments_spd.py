"""The experiment on covariance matrices works from end to end."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import pytest

if not all(find_spec(package) for package in ("zuko", "torchdiffeq", "geomstats", "pandas")):
    pytest.skip("needs zuko, torchdiffeq, geomstats and pandas", allow_module_level=True)

from benchmarks.experiments import spd
from benchmarks.harness import Report


def test_quick_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spd, "CHANNELS", {"EMG, SPD(2)": (0, 4)})
    report = Report("spd", tmp_path, quick=True, seeds=[0])
    spd.run(report)
    assert report.rows[0]["method"] == "kernel density, adaptive"
    assert len({row["method"] for row in report.rows}) == len(report.rows) >= 3
    assert all(math.isfinite(row["nll"]) and row["cpu_seconds"] >= 0 for row in report.rows)
