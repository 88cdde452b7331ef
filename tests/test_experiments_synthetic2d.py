"""The laws of the plane have the densities that they claim, and the experiment on them runs."""

from __future__ import annotations

import math
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.problems.synthetic2d import PROBLEMS, NoisyCurve, Problem, spiral, two_moons
from mf_manifold.testing.density import generator_for

ALL = {**{name: make() for name, make in PROBLEMS.items()}, "spiral": spiral(), "moons with noise 0.1": two_moons(0.1)}


@pytest.mark.parametrize("name", ALL)
def test_density_integrates_to_one(name: str) -> None:
    """By the mid-point rule, whose cells are narrower than the noise; of the checkerboard they fit the squares."""
    problem, steps = ALL[name], 200
    half = {"checkerboard": 2.5, "spiral": 1.25, "8 Gaussians": 4.0}.get(name, 2.5)
    axis = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * 2 * half - half
    mass = float(problem.log_prob(torch.cartesian_prod(axis, axis)).exp().sum()) * (2 * half / steps) ** 2
    assert mass == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_samples_follow_the_density(name: str) -> None:
    """Counts of samples in the squares of a grid against the density's integral over them."""
    problem, n, cells, fine = ALL[name], 40_000, 12, 16
    x = problem.sample(n, generator_for(1))
    low, high = x.min(0).values.floor(), x.max(0).values.ceil()
    middles = (torch.arange(cells * fine, dtype=torch.float64) + 0.5) / (cells * fine)
    axes = [low[i] + (high[i] - low[i]) * middles for i in (0, 1)]
    density = torch.cat([problem.log_prob(torch.cartesian_prod(part, axes[1])).exp() for part in axes[0].split(12)])
    area = float((high - low).prod()) / (cells * fine) ** 2
    expected = n * area * density.reshape(cells, fine, cells, fine).sum((1, 3))
    at = ((x - low) / (high - low) * cells).long().clamp_max(cells - 1)
    counts = torch.zeros(cells, cells, dtype=torch.float64).index_put_((at[:, 0], at[:, 1]), torch.ones(n).double(), True)
    used = expected > 20
    chi2 = float(((counts - expected)[used].square() / expected[used]).sum())
    degrees = int(used.sum())
    assert chi2 < degrees + 4.5 * math.sqrt(2 * degrees)


@pytest.mark.parametrize(
    ("problem", "expected", "error"),
    [
        (ALL["two moons"], -0.290, 0.005),
        (ALL["moons with noise 0.1"], -1.008, 0.005),
        (ALL["8 Gaussians"], -2.177596, 0.0),
        (ALL["checkerboard"], -math.log(8), 0.0),
    ],
    ids=["moons", "moons 0.1", "gaussians", "checkerboard"],
)
def test_mean_log_densities_are_the_known_ones(problem: Problem, expected: float, error: float) -> None:
    logs = problem.log_prob(problem.sample(10_000, generator_for(2)))
    assert float(logs.mean()) == pytest.approx(expected, abs=2 * error + 4.3 * float(logs.std()) / 100 + 1e-8)


def test_rules_along_curves_are_fine_enough() -> None:
    x = ALL["spiral"].sample(200, generator_for(3))
    finer = spiral()
    finer = NoisyCurve(finer.arcs, finer.noise, 2048)
    assert float((ALL["spiral"].log_prob(x) - finer.log_prob(x)).abs().max()) < 1e-9


@pytest.mark.skipif(not find_spec("zuko"), reason="needs zuko")
def test_quick_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.experiments import synthetic2d
    from benchmarks.harness import Report

    monkeypatch.setattr(synthetic2d, "PROBLEMS", {"two moons": two_moons})
    monkeypatch.setattr(synthetic2d, "FROZEN", 256)
    with tempfile.TemporaryDirectory() as folder:
        report = Report("synthetic2d", Path(folder), seeds=[0], quick=True)
        synthetic2d.run(report)
        pictures = [Path(folder) / file for file, _ in report.pictures]
        assert [path.name for path in pictures] == ["densities.png", "spiral.png"]
        assert all(path.stat().st_size < 100_000 for path in pictures)
    assert [row["data"].split(",")[0] for row in report.rows] == 13 * ["two moons"] + 2 * ["spiral"]
    assert all(math.isfinite(row["nll"]) and math.isfinite(row["kl"]) for row in report.rows)
    assert all(row["off_curve"] >= 0 and row["missed_curve"] >= 0 for row in report.rows[-2:])
