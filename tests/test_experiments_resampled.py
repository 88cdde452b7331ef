"""The laws in pieces have the densities that they claim, and the experiment on them runs."""

from __future__ import annotations

import math
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.problems.bridges import BRIDGES

GENERATOR = torch.Generator()
KNOWN = {"dual moon": (-1.571062, 1e-4), "circle of 8": (-2.177596, 0.0014), "two rings": (-2.275893, 0.0026)}


@pytest.mark.parametrize("name", BRIDGES)
def test_density_samples_and_bridges_agree(name: str) -> None:
    law, side = BRIDGES[name](), 8.0 / 800
    axis = side * (torch.arange(800, dtype=torch.float64) + 0.5) - 4.0
    grid = torch.cartesian_prod(axis, axis)
    log_p = law.log_prob(grid)
    p = log_p.exp() * side**2
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)
    expected, bridge = KNOWN[name]
    assert float((p * log_p).nan_to_num().sum()) == pytest.approx(expected, abs=2e-5)
    assert float(p[law.bridge(grid)].sum()) == pytest.approx(bridge, abs=2e-4)
    x = law.sample(40_000, GENERATOR.manual_seed(1))
    for statistic in (law.log_prob, lambda y: y[:, 0].abs(), lambda y: y[:, 1].square(), lambda y: y.norm(dim=-1).sin()):
        found, exact = statistic(x), float((p * statistic(grid)).nan_to_num().sum())
        assert abs(float(found.mean()) - exact) < 4.3 * float(found.std()) / math.sqrt(len(x)) + 1e-4


@pytest.mark.skipif(not find_spec("zuko") or not find_spec("sklearn"), reason="needs zuko and scikit-learn")
def test_quick_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.experiments import resampled
    from benchmarks.harness import Report

    monkeypatch.setattr(resampled, "CELLS", 40)
    monkeypatch.setattr(resampled, "BRIDGES", {"two rings": BRIDGES["two rings"]})
    with tempfile.TemporaryDirectory() as folder:
        report = Report("resampled", Path(folder), seeds=[0], quick=True)
        resampled.run(report)
        assert all((Path(folder) / file).stat().st_size < 100_000 for file, _ in report.pictures)
    rows = {(row["data"], row["method"]): row for row in report.rows}
    assert len(rows) == 1 + 8 + 5 + 9
    assert all(math.isfinite(row["nll"]) for row in rows.values())
    kept = rows["two rings", "flow, resampled base"]
    assert kept["draws"] == pytest.approx((1 - (1 - kept["z"]) ** 100) / kept["z"], rel=1e-3)
    assert kept["kl"] > 0 and 0 < kept["bridge"] < 1 and 0 < kept["z"] < 1
