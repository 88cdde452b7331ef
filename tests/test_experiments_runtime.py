"""The experiment on run times works from end to end."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if not (find_spec("zuko") and find_spec("torchdiffeq") and find_spec("airportsdata")):
    pytest.skip("needs zuko, torchdiffeq and airportsdata", allow_module_level=True)

from benchmarks.experiments import runtime
from benchmarks.harness import Report
from benchmarks.problems.surface import Surface


def test_quick_run(tmp_path: Path) -> None:
    report = Report("runtime", tmp_path, quick=True, seeds=[0])
    runtime.sphere(report, 0)
    runtime.euclidean(report, 0, 10)
    assert [(row["part"], row["method"]) for row in report.rows] == [
        (part, method) for part in ("sphere", "euclidean") for method in ("marginal", "spline", "matching")
    ]
    assert all(math.isfinite(row[f"{what}_seconds"]) for row in report.rows for what in ("train", "evaluate", "sample"))


def test_medians_leave_the_first_round_out() -> None:
    calls: list[str] = []
    times = runtime.medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert set(times) == {"a", "b"}


def test_the_surface_has_the_density_of_its_samples() -> None:
    """The mean of r / q over samples of q is 1 for every density r, here a normal law around a point of the surface."""
    law = Surface(4, 0, 0.5, grid=64)
    x = law.sample(20_000)
    center = (law.strip(torch.tensor([[0.4, 0.6]]).double()) @ law.turn.T)[0]
    normal = torch.distributions.MultivariateNormal(center, 0.2 * torch.eye(4).double())
    ratio = (normal.log_prob(x) - law.log_prob(x)).exp()
    assert abs(float(ratio.mean()) - 1) < 4.3 * float(ratio.std()) / math.sqrt(len(x))
    assert float(ratio.std()) < 10
