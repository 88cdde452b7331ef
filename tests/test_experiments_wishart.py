"""The experiment on Wishart laws around a curve: its target against scipy and samples, and a run of seconds."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from scipy import stats

if not (find_spec("zuko") and find_spec("torchdiffeq")):  # importing them here would switch torch's validation off
    pytest.skip("needs zuko and torchdiffeq", allow_module_level=True)

from benchmarks.experiments import wishart, wishart_large
from benchmarks.harness import Report
from benchmarks.problems.wishart import WishartCurve


def test_the_target_is_the_average_of_textbook_densities() -> None:
    curve = WishartCurve(4, n_nodes=32)
    x = curve.sample(20, seed=0)
    scales = curve.scale((torch.arange(200, dtype=torch.float64) + 0.5) / 200)
    logs = torch.stack(
        [torch.as_tensor(stats.wishart(8, scale.numpy()).logpdf(x.permute(1, 2, 0).numpy())) for scale in scales]
    )
    reference = logs.logsumexp(0) - math.log(len(logs))
    torch.testing.assert_close(curve(x), reference, rtol=0, atol=1e-3)
    torch.testing.assert_close(WishartCurve(4, n_nodes=64)(x), curve(x), rtol=0, atol=1e-6)


def test_the_quadrature_has_converged_at_ten_by_ten() -> None:
    x = WishartCurve(10, 128).sample(50, seed=0)
    torch.testing.assert_close(WishartCurve(10, 512)(x), WishartCurve(10, 128)(x), rtol=0, atol=1e-10)


def test_samples_follow_the_target() -> None:
    """The mean matrix is the average over the curve, and E_t[s / t] = 1 for another Wishart law s."""
    curve = WishartCurve(2, n_nodes=32)
    x = curve.sample(50_000, seed=0)
    u = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    mean, error = curve.mean(u).mean(0), x.std(0) / math.sqrt(len(x))
    assert float(((x.mean(0) - mean) / error).abs().max()) < 4.3
    other = stats.wishart(6, mean.numpy() / 6)
    ratio = (torch.as_tensor(other.logpdf(x.permute(1, 2, 0).numpy())) - curve(x)).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=4.3 * float(ratio.std()) / math.sqrt(len(x)))


def test_quick_run(tmp_path: Path) -> None:
    report = Report("wishart", tmp_path, quick=True, seeds=[0])
    wishart.run(report)
    assert [row["method"] for row in report.rows] == ["marginal flow", "free components", "Cholesky flow", "Cholesky flow"]
    assert all(math.isfinite(row["kl_qt"]) and row["kl_qt_se"] > 0 for row in report.rows)
    assert [file for file, _ in report.pictures] == ["wishart.png"]


def test_quick_run_of_large_matrices(tmp_path: Path) -> None:
    report = Report("wishart_large", tmp_path, quick=True, seeds=[0])
    wishart_large.run(report)
    assert [row["method"] for row in report.rows] == ["marginal flow", "free components", "one Wishart law"]
    assert all(row["excess_log_likelihood"] < 4.3 * row["excess_se"] for row in report.rows)
    assert "held-out mean log-likelihood" in report.notes[0]
