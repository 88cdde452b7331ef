"""The experiment on posteriors, in its quick form, and the rivals for conditional densities."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch

from benchmarks.experiments import sbi
from benchmarks.posteriors import Estimate, FlowModel
from benchmarks.problems.simulators import PROBLEMS
from benchmarks.rivals.conditional_mixture import ConditionalMixture
from mf_manifold.kernel import kernel_for


class Notebook:
    """A report that keeps its rows."""

    quick, seeds = True, [0, 1]

    def __init__(self):
        self.rows, self.figures, self.notes = [], [], []

    def once(self, key, compute):
        return compute()

    def row(self, **columns):
        self.rows.append(columns)

    def figure(self, figure, stem, caption):
        figure.canvas.draw()
        self.figures.append(stem)

    def note(self, sentence):
        self.notes.append(sentence)


def test_quick_run_fills_the_table(monkeypatch):
    monkeypatch.setattr(sbi, "PROBLEMS", {name: PROBLEMS[name] for name in ("two_moons", "axis")})
    report = Notebook()
    sbi.run(report)
    assert len(report.rows) == 3 + 4 and report.figures == ["two_moons", "axis"]
    for row in report.rows:
        mean = {key: float(row[key].split()[0]) for key in ("c2st", "nll", "kl", "kl_grid", "nll_vs_network")}
        assert 0.4 < mean["c2st"] <= 1 and math.isfinite(mean["nll"]) and math.isfinite(mean["kl"]) and 0 <= row["leakage"] < 1
        assert math.isnan(mean["kl_grid"]) if row["problem"] == "two_moons" else mean["kl_grid"] > 0
        assert mean["nll_vs_network"] == 0 or not row["method"].startswith("mixture network")
    native = [row for row in report.rows if "fisher" in row["method"]]
    assert len(native) == 2 and all(row["leakage"] == 0 for row in native)


@pytest.mark.parametrize("name", ["plane_wave", "axis"])
def test_charts_keep_the_volume(name):
    """The model's mass on the manifold, by quadrature, is what its draws leave inside the chart."""
    problem = PROBLEMS[name]
    theta, x = problem.pairs(300, seed=0)
    flat = kernel_for(geoopt.Euclidean(ndim=1), (2,), covariance="diagonal")
    estimate = Estimate(problem, ConditionalMixture(flat, n_components=4, hidden=(16,)), chart=True)
    estimate.fit(theta, x, seed=0, max_steps=30)
    nodes, weights = problem.nodes(128)
    total = float(weights @ estimate.given(nodes, x[0]).exp())
    drawn, leakage = estimate.sample(10000, x[0])
    assert problem.inside(drawn).all()
    assert 0.02 < leakage < 0.98
    assert total == pytest.approx(1 - leakage, abs=4.3 * 0.5 / 10000**0.5 + 2e-3)


def test_native_network_integrates_to_one_without_leaks():
    problem = PROBLEMS["axis"]
    theta, x = problem.pairs(300, seed=0)
    estimate = Estimate(
        problem, ConditionalMixture(kernel_for(problem.manifold, (3,)), n_components=4, hidden=(16,)), chart=False
    )
    estimate.fit(theta, x, seed=0, max_steps=30)
    nodes, weights = problem.nodes(128)
    assert float(weights @ estimate.given(nodes, x[0]).exp()) == pytest.approx(1, abs=1e-5)
    assert estimate.sample(100, x[0])[1] == 0


def test_rows_and_repeated_contexts_give_the_same_density():
    problem = PROBLEMS["plane_wave"]
    theta, x = problem.pairs(300, seed=0)
    kernel = kernel_for(problem.manifold, (2,), "von_mises")
    flow = FlowModel(kernel, n_components=8, latent_dim=1, hidden=(16,))
    estimate = Estimate(problem, flow, chart=False).fit(theta, x, seed=0, max_steps=20)
    rows = estimate.log_prob(theta[:5], x[:5])
    single = torch.cat([estimate.given(a[None], b) for a, b in zip(theta[:5], x[:5], strict=True)])
    assert torch.allclose(rows, single, atol=1e-4)
    nodes, weights = problem.nodes(128)
    assert float(weights @ estimate.given(nodes, x[0]).exp()) == pytest.approx(1, abs=1e-4)
