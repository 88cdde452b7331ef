"""The experiment on tori works from end to end, and its known laws are what they claim."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if not (find_spec("zuko") and find_spec("torchdiffeq") and find_spec("matplotlib")):
    pytest.skip("needs zuko, torchdiffeq and matplotlib", allow_module_level=True)

from benchmarks import comparison
from benchmarks.experiments import torus
from benchmarks.harness import Report
from benchmarks.problems.torus import TARGETS


def test_quick_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torus, "TARGETS", {"winding band T^2": TARGETS["winding band T^2"]})
    report = Report("torus", tmp_path, quick=True, seeds=[0])
    torus.run(report)
    assert {row["data"] for row in report.rows} == {"winding band T^2", "alanine dipeptide"}
    assert len(report.rows) == 2 * len(torus.methods(2, quick=True))
    assert all(math.isfinite(row["nll"]) for row in report.rows)
    assert report.rows[0]["difference"] == 0
    assert (tmp_path / "alanine.png").stat().st_size > 1000


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.dim == 2])
def test_known_laws_integrate_to_one_and_match_their_samples(name: str) -> None:
    target, n = TARGETS[name], 200
    line = 2 * math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n - math.pi
    grid = torch.cartesian_prod(line, line)
    density = target.log_prob(grid).exp() * (2 * math.pi / n) ** 2
    assert abs(float(density.sum()) - 1) < 1e-9
    x = target.sample(20_000, 0)
    for feature in (
        lambda y: torch.cos(y[:, 1] - 2 * y[:, 0]),
        lambda y: torch.sin(y[:, 0] + y[:, 1]),
        lambda y: y[:, 1].cos(),
    ):
        mean = float((density * feature(grid)).sum())
        assert abs(float(feature(x).mean()) - mean) < 4.3 * float(feature(x).std()) / math.sqrt(len(x))


def test_a_resumed_comparison_makes_the_fits_that_are_used(tmp_path: Path) -> None:
    made: list[int] = []

    def method(train: torch.Tensor, validation: torch.Tensor, seed: int) -> comparison.LogDensity:
        made.append(seed)
        return lambda x: -x - seed

    for _ in range(2):
        report = Report("comparison", tmp_path, seeds=[5, 6])
        fits = comparison.compare(report, "data", lambda seed: (torch.zeros(4),) * 3, {"one": method}, rival="one", keep=[5])
        assert float(fits["one"](torch.zeros(()))) == -5
        assert report.rows[0]["nll"] == 5.5
    assert made == [5, 6, 5]


def test_what_a_quick_run_left_is_not_the_whole(tmp_path: Path) -> None:
    assert Report("once", tmp_path, quick=True).once("a", lambda: 1) == 1
    assert Report("once", tmp_path).once("a", lambda: 2) == 2
    assert [Report("once", tmp_path, quick=quick).once("a", lambda: 3) for quick in (True, False)] == [1, 2]


def test_differences_are_paired(tmp_path: Path) -> None:
    """A shift that all methods share on a seed leaves the differences and their error alone."""
    report = Report("comparison", tmp_path, seeds=[0, 1, 2])

    def split(seed: int) -> tuple[torch.Tensor, ...]:
        return (torch.full((4,), float(seed**3)),) * 3

    methods = {
        "worse": lambda train, validation, seed: lambda x: -x - 2,
        "base": lambda train, validation, seed: lambda x: -x,
    }
    comparison.compare(report, "data", split, methods, rival="base", truth=lambda x: -x + 1)
    base, worse = report.rows
    assert (base["method"], base["difference"], base["kl"]) == ("base", 0, 1)
    assert (worse["difference"], worse["difference_se"], worse["kl"], worse["kl_se"]) == (2, 0, 3, 0)
    assert worse["nll"] == pytest.approx(2 + (0 + 1 + 8) / 3)
    assert worse["nll_se"] == pytest.approx(torch.tensor([0.0, 1, 8]).std().item() / math.sqrt(3))
