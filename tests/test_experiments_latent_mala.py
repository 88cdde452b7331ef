"""The experiment on chains in latent space: a run of seconds, and its scores on samples whose scores are known."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if not find_spec("zuko"):
    pytest.skip("needs zuko", allow_module_level=True)

from benchmarks.experiments import latent_mala
from benchmarks.harness import Report
from benchmarks.problems.bridges import BRIDGES


def test_scores_of_the_truth_and_of_points_between_the_modes() -> None:
    for name in latent_mala.TARGETS:
        law = BRIDGES[name]()
        score = latent_mala.scored(law)
        exact = score(law.sample(50_000, torch.Generator().manual_seed(0)))
        assert exact["below"] == pytest.approx(0.001, abs=6e-4) and exact["bridge"] < 0.003
        assert exact["weight_error"] < 0.02
        middle = score(torch.zeros(10, 2))
        assert (middle["below"], middle["bridge"]) == (1, 1) and middle["sd"] == 0


def test_the_rarest_angles() -> None:
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + torch.tensor([1.0, -2.0])
    cut = latent_mala.rarest(latent_mala.wrap(x))
    assert bool((latent_mala.wrap(cut - torch.tensor([1.0, -2.0])).abs() > 1.5).all())


def test_quick_run(tmp_path: Path) -> None:
    report = Report("latent_mala", tmp_path, quick=True, seeds=[0])
    latent_mala.run(report)
    assert {row["data"] for row in report.rows} == {"dual moon", "alanine dipeptide"}
    chains = [row for row in report.rows if row["method"].startswith("chains")]
    assert len(chains) == 8 and all(0 < row["acceptance"] <= 1 and row["ess"] > 1 for row in chains)
    assert all(math.isfinite(row["rhat"]) and row["cost"] > 0 for row in chains)
    assert [file for file, _ in report.pictures] == ["dual_moon.png", "alanine_dipeptide.png"]


@pytest.mark.slow
def test_bridges_of_the_dual_moon_fall_five_times_at_good_acceptance() -> None:
    law, generator = BRIDGES["dual moon"](), torch.Generator().manual_seed(0)
    flow = latent_mala.mf.models.Flow(latent_mala.PLANE, (2,), **latent_mala.layers(quick=False))
    latent_mala.fitted(flow, law.sample(5000, generator), 0, quick=False)
    score = latent_mala.scored(law)
    plain = score(flow.sample((20_000,), generator))
    chains = latent_mala.latent_mala(flow, 150, chains=64, warmup=100, generator=generator, progress=False)
    found = score(chains.points)
    assert plain["bridge"] > 5 * found["bridge"] and plain["below"] > 2 * found["below"]
    assert 0.5 < float(chains.acceptance.mean()) < 0.9
    exact = latent_mala.by_quadrature(flow, score, 1.0, quick=False)
    assert found["bridge"] == pytest.approx(exact["bridge"], abs=2e-3)
    assert found["weight_error"] == pytest.approx(exact["weight_error"], abs=0.03)
    assert plain["bridge"] == pytest.approx(latent_mala.by_quadrature(flow, score, 0.0, False)["bridge"], abs=4e-3)
