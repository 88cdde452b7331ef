"""The demonstration and its report."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mf_manifold as mf
from mf_manifold import demo, report
from mf_manifold.demo import held_out_score
from mf_manifold.plot import common


@pytest.fixture(scope="module", autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "PAIRS", 1e5)
        demo.main(["--quick", "--output", str(output), "--seed", "1"])
    return output


def test_every_fit_leaves_a_row_a_picture_and_a_model(folder: Path) -> None:
    record = json.loads((folder / "table.json").read_text())
    rows = record["rows"]
    assert record["quick"]
    assert [row["estimator"] for row in rows] == [name for case in demo.CASES for name in case.estimators()]
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    for row in rows:
        assert math.isfinite(row["log_likelihood"])
        assert row["standard_error"] > 0
        assert abs(row["total_mass"] - 1) <= 1e-4 + 5 * row["total_mass_error"]
        assert row["total_mass_error"] < 0.05
        assert (folder / row["picture"]).stat().st_size > 10_000


def test_saved_models_give_the_score_of_the_table(folder: Path) -> None:
    row = json.loads((folder / "table.json").read_text())["rows"][0]
    case = demo.CASES[0]
    data = case.load()
    _, test = demo._split(data, 1, True, True)
    model = mf.load(folder / row["model"])
    score, error = held_out_score(demo._frozen(model, 1).log_prob(data.points[test]), None)
    assert score == pytest.approx(row["log_likelihood"], abs=1e-9)
    assert error == pytest.approx(row["standard_error"], abs=1e-9)
    assert len(test) == row["n_held_out"]


def test_tables_agree(folder: Path) -> None:
    rows = json.loads((folder / "table.json").read_text())["rows"]
    with (folder / "table.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    assert [{k: str(v) for k, v in row.items()} for row in rows] == listed
    lines = (folder / "table.md").read_text().splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(f"{row['log_likelihood']:.3f} ± " in line for row, line in zip(rows, lines[2:], strict=True))
    assert len({line.count("|") for line in lines}) == 1


def test_the_page_needs_nothing_from_outside(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]*", "", page))
    images = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert len(images) == page.count("<img ") == sum(len(case.estimators()) for case in demo.CASES)
    for image in images:
        data = base64.b64decode(image, validate=True)
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(b"\x89PNG")
        assert min(width, height) > 400
    for term in (
        "nats",
        "reference measure",
        "standard error",
        "total mass",
        "random split",
        "same held-out rows",
        "quick run",
    ):
        assert term in page


def test_a_second_report_replaces_the_files(folder: Path, tmp_path: Path) -> None:
    rows = [report.Row(**row) for row in json.loads((folder / "table.json").read_text())["rows"]]
    (tmp_path / rows[0].picture).write_bytes((folder / rows[0].picture).read_bytes())
    (tmp_path / "mine.txt").write_text("kept")
    for chosen in ([], rows[:1]):
        section = report.Section("title", "source", "units", "note", [], chosen)
        report.write_report(tmp_path, [section], seed=0, quick=False, seconds=1.0)
    assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 1
    assert (tmp_path / "report.html").read_text().count("<img ") == 1
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_score_of_independent_rows_is_mean_and_standard_error() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, error = held_out_score(values, None)
    assert mean == pytest.approx(float(values.mean()))
    assert error == pytest.approx(float(values.std()) / math.sqrt(200))


def test_score_of_groups_counts_groups() -> None:
    group_values = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, error = held_out_score(group_values.repeat_interleave(25), torch.arange(40).repeat_interleave(25) + 3)
    assert mean == pytest.approx(float(group_values.mean()))
    assert error == pytest.approx(float(group_values.std()) / math.sqrt(40))
    with pytest.raises(ValueError, match="at least two groups"):
        held_out_score(torch.zeros(5), torch.ones(5))


def test_texts_are_escaped(tmp_path: Path) -> None:
    section = report.Section("<b>title", "a & b", "units", "note", ["x < y"], [])
    report.write_report(tmp_path, [section], seed=0, quick=False, seconds=1.0)
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;title" in page
    assert "a &amp; b" in page
    assert "x &lt; y" in page
    assert "A quick run" not in page


def test_output_must_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        demo.main(["--output", str(tmp_path / "file")])
    assert stop.value.code == 2
    assert "must be a folder" in capsys.readouterr().err


def test_missing_packages_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> None:
        raise ImportError("needs the package x")

    monkeypatch.setattr(demo, "CASES", (replace(demo.CASES[0], load=load),))
    with pytest.raises(SystemExit) as stop:
        demo.main(["--output", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert capsys.readouterr().err.endswith("needs the package x\n")
