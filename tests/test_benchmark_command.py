"""The command that runs experiments, and the record that it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mf_manifold.cli import benchmark
from mf_manifold.cli.app import app

EXPERIMENT = '''"""Adds numbers.

More about it.
"""
import matplotlib.pyplot as plt

def run(report):
    for seed in report.seeds:
        total = report.once(f"seed {seed}", lambda: seed + float(report.options["step"]))
        report.row(seed=seed, total=total, bad=float("nan"))
        if report.options.get("stop"):
            raise KeyboardInterrupt
    report.note("Done.")
    report.figure(plt.figure(), "empty", "nothing")
'''


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one experiment."""
    import benchmarks.experiments as package

    folder = tmp_path / "benchmarks" / "experiments"
    folder.mkdir(parents=True)
    (folder / "adding.py").write_text(EXPERIMENT)
    monkeypatch.setattr(benchmark, "REPOSITORY", tmp_path)
    monkeypatch.setattr(package, "__path__", [str(folder)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["benchmark", *arguments])
    return result.exit_code, result.output


def test_an_experiment_leaves_table_picture_and_circumstances(repository: Path) -> None:
    code, output = invoke("adding", "--seeds", "3,4", "--option", "step=0.5")
    assert code == 0, output
    folder = repository / "runs" / "benchmark" / "adding"
    text = (folder / "report.md").read_text()
    for part in ("Adds numbers.", "| 3 | 3.5 | nan |", "![nothing](empty.png)", "- Done.", "Seeds 3, 4", "cores", "torch "):
        assert part in text
    record = json.loads((folder / "table.json").read_text())
    assert record["rows"] == [{"seed": 3, "total": 3.5, "bad": None}, {"seed": 4, "total": 4.5, "bad": None}]
    assert (folder / "table.csv").read_text().splitlines() == ["seed,total,bad", "3,3.5,nan", "4,4.5,nan"]
    assert (folder / "empty.png").stat().st_size > 100
    code, output = invoke("adding", "--option", "step=1")
    assert code == 1
    assert "exists: give another with -o" in output


def test_a_stopped_experiment_keeps_its_rows(repository: Path) -> None:
    code, output = invoke("adding", "--option", "step=1", "--option", "stop=yes", "-o", "here")
    assert code == 130
    assert "rows so far are in here" in output
    assert len(json.loads((repository / "here" / "table.json").read_text())["rows"]) == 1
    assert invoke("adding", "--option", "step=9", "-o", "here", "--resume")[0] == 0
    totals = [row["total"] for row in json.loads((repository / "here" / "table.json").read_text())["rows"]]
    assert totals == [1.0, 10.0, 11.0, 12.0, 13.0]
    assert invoke("adding", "--option", "step=2", "-o", "here", "--force")[0] == 0
    assert json.loads((repository / "here" / "table.json").read_text())["rows"][0]["total"] == 2.0


def test_list_and_errors(repository: Path) -> None:
    assert "Adds numbers." in invoke()[1]
    for arguments, message in (
        (["subtracting"], "got 'subtracting'. There are adding"),
        (["adding", "--seeds", "a"], "Expected seeds such as 0,1,2"),
        (["adding", "--option", "step"], "Expected --option key=value"),
    ):
        code, output = invoke(*arguments)
        assert code == 1
        assert message in output
    (repository / "benchmarks" / "experiments" / "adding.py").unlink()
    assert "run from a checkout" in invoke()[1]
