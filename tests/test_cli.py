"""The command line: every command, every way in which its input can be wrong, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geoopt
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import mf_manifold as mf
from mf_manifold import bandwidth
from mf_manifold.cli.app import app

PLACES = ["--manifold", "sphere", "--columns", "latitude,longitude", "--units", "degrees"]
FAST = ["--estimator", "kde", "--max-seconds", "0.1", "--device", "cpu"]


def mfm(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def succeed(*arguments: object) -> Any:
    result = mfm(*arguments)
    assert result.exit_code == 0, result.output
    return result


def fail(message: str, *arguments: object, code: int = 1) -> Any:
    """The command ends with one sentence that has ``message`` in it, and no traceback."""
    result = mfm(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert message in lines[-1], result.stderr
    assert not any("Traceback" in line for line in lines)
    return result


def places(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    names = [f"place {i}" for i in range(n)]
    return pd.DataFrame({"name": names, "latitude": rng.normal(40, 10, n), "longitude": rng.normal(-100, 15, n)})


@pytest.fixture(scope="session")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "places.csv"
    places(60).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def fitted(csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "deep" / "places"
    succeed("fit", csv, *PLACES, *FAST, "-o", run)
    return run


@pytest.fixture
def run(fitted: Path, tmp_path: Path) -> Path:
    """A copy of a run that a test may damage."""
    copy = tmp_path / "run"
    copy.mkdir()
    for file in fitted.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_fit_describes_its_run_and_reports_held_out_rows(csv: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = succeed("fit", csv, *PLACES, *FAST, "-o", run, "--json", "--test-fraction", "0.2", "--seed", "3")
    reported = json.loads(result.stdout)
    assert sorted(p.name for p in run.iterdir()) == ["model.safetensors", "run.json"]
    description = json.loads((run / "run.json").read_text())
    assert description["coordinates"] == {"manifold": "sphere", "units": "degrees", "columns": ["latitude", "longitude"]}
    assert (description["estimator"], description["kernel"], description["seed"]) == ("kde", "von_mises_fisher", 3)
    assert description["finished"] is True
    assert {"run": str(run), **description["metrics"]} == reported
    assert (reported["held_out_rows"], reported["training_rows"], reported["components"]) == (12, 48, 48)
    assert reported["measure"] == "riemannian" and reported["standard_error"] > 0


def test_score_gives_the_log_density_of_the_library(fitted: Path, tmp_path: Path) -> None:
    new, output = tmp_path / "new.csv", tmp_path / "scores.csv"
    frame = places(20, seed=1)[["longitude", "name", "latitude"]]
    frame.to_csv(new, index=False)
    reported = json.loads(succeed("score", fitted, new, "-o", output, "--json").stdout)
    scores = pd.read_csv(output)
    assert list(scores) == ["row", "latitude", "longitude", "log_prob"]
    assert scores["row"].tolist() == list(range(2, 22))
    lat, lon = np.deg2rad(frame["latitude"]), np.deg2rad(frame["longitude"])
    x = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    expected = mf.load(fitted).mixture.log_prob(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(scores["log_prob"], expected, rtol=1e-9)
    assert reported["mean_log_prob"] == pytest.approx(expected.mean())
    assert reported["standard_error"] == pytest.approx(expected.std(ddof=1) / np.sqrt(20))
    assert (reported["rows"], reported["measure"]) == (20, "riemannian")


def test_score_in_another_measure_differs_by_the_volume(fitted: Path, csv: Path, tmp_path: Path) -> None:
    succeed("score", fitted, csv, "-o", tmp_path / "a.npy")
    succeed("score", fitted, csv, "-o", tmp_path / "b.npy", "--measure", "normalized")
    difference = np.load(tmp_path / "b.npy") - np.load(tmp_path / "a.npy")
    np.testing.assert_allclose(difference, np.log(4 * np.pi), rtol=1e-9)
    fail("riemannian, normalized", "score", fitted, csv, "-o", tmp_path / "c.npy", "--measure", "lebesgue")


def test_one_row_has_no_standard_error(fitted: Path, tmp_path: Path) -> None:
    places(1).to_csv(tmp_path / "one.csv", index=False)
    result = succeed("score", fitted, tmp_path / "one.csv", "-o", tmp_path / "s.csv", "--json")
    assert json.loads(result.stdout)["standard_error"] is None


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".parquet"])
def test_samples_come_in_the_columns_and_units_of_the_input(fitted: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"samples{suffix}"
    succeed("sample", fitted, "-n", 400, "-o", output)
    if suffix == ".npy":
        values = np.load(output)
    else:
        frame = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
        assert list(frame) == ["latitude", "longitude"]
        values = frame.to_numpy()
    assert values.shape == (400, 2)
    np.testing.assert_allclose(values.mean(axis=0), [40, -100], atol=6)
    succeed("score", fitted, output, "-o", tmp_path / "scores.csv")


def test_samples_and_scores_are_the_same_for_the_same_seed(fitted: Path, tmp_path: Path) -> None:
    for name, seed in (("a.npy", 0), ("b.npy", 0), ("c.npy", 1)):
        succeed("sample", fitted, "-n", 10, "-o", tmp_path / name, "--seed", seed)
    a, b, c = (np.load(tmp_path / name) for name in ("a.npy", "b.npy", "c.npy"))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_flow_is_frozen_once_and_for_all(tmp_path: Path) -> None:
    angles, run = tmp_path / "angles.npy", tmp_path / "run"
    np.save(angles, np.random.default_rng(0).normal(170, 20, (80, 1)))
    options = ["--manifold", "torus", "--units", "degrees", "--max-seconds", "0.5", "--device", "cpu"]
    options += ["--estimator", "flow", "--components", "256"]
    reported = json.loads(succeed("fit", angles, *options, "-o", run, "--json").stdout)
    assert (reported["components"], reported["held_out_rows"], reported["training_rows"]) == (256, 8, 72)
    assert json.loads((run / "run.json").read_text())["frozen"] == {"components": 256, "seed": 0}
    for name in ("a.npy", "b.npy"):
        succeed("score", run, angles, "-o", tmp_path / name)
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    test = mf.datasets.split(torch.zeros(80, 1), 0, (0.9, 0, 0.1))[2]
    assert np.load(tmp_path / "a.npy")[test].mean() == pytest.approx(reported["held_out_mean_log_prob"], rel=1e-5)


@pytest.mark.parametrize("columns", [9, 6])
def test_matrices_in_arrays_and_triangles(tmp_path: Path, columns: int) -> None:
    root = np.random.default_rng(0).normal(size=(40, 3, 8))
    matrices, run = root @ root.transpose(0, 2, 1), tmp_path / "run"
    lower = matrices[:, *np.tril_indices(3)]
    np.save(tmp_path / "data.npy", matrices if columns == 9 else lower)
    succeed("fit", tmp_path / "data.npy", "--manifold", "spd", *FAST, "-o", run)
    succeed("sample", run, "-n", 50, "-o", tmp_path / "samples.npy")
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == ((50, 3, 3) if columns == 9 else (50, 6))
    for name in ("samples.npy", "data.npy"):
        succeed("score", run, tmp_path / name, "-o", tmp_path / "scores.csv", "--measure", "lebesgue", "--force")


def test_vectors_on_a_sphere_of_any_dimension(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 5)) + 2
    np.save(tmp_path / "data.npy", x / np.linalg.norm(x, axis=1, keepdims=True))
    succeed("fit", tmp_path / "data.npy", "--manifold", "sphere", *FAST, "-o", tmp_path / "run", "--quiet")
    succeed("sample", tmp_path / "run", "-n", 7, "-o", tmp_path / "samples.parquet")
    np.testing.assert_allclose(np.linalg.norm(pd.read_parquet(tmp_path / "samples.parquet"), axis=1), 1, rtol=1e-12)


def test_plot_writes_a_picture(fitted: Path, csv: Path, tmp_path: Path) -> None:
    succeed("plot", fitted, "-o", tmp_path / "density.png", "--data", csv)
    assert (tmp_path / "density.png").read_bytes().startswith(b"\x89PNG")
    fail("--force", "plot", fitted, "-o", tmp_path / "density.png")
    fail("ends in .png or .pdf or .svg", "plot", fitted, "-o", tmp_path / "density.txt")


def test_list_names_every_kernel() -> None:
    rows = json.loads(succeed("list", "--json").stdout)
    assert [row["name"] for row in rows] == [kernel.name for kernel in mf.registered_kernels()]
    assert {"manifold", "parameters", "measure", "exactness", "default"} <= set(rows[0])
    shown = succeed("list").stdout.replace("\n", "")
    assert all(word in shown for word in ("Sphere", "Torus", "wishart"))


def test_missing_rows_are_dropped_only_if_asked_and_counted(tmp_path: Path) -> None:
    frame, path = places(60), tmp_path / "holes.csv"
    frame.loc[[3, 7], "latitude"] = [np.nan, np.inf]
    frame.to_csv(path, index=False)
    fit = ["fit", path, *PLACES, *FAST, "-o", tmp_path / "run"]
    fail("2 of 60 rows", *fit)
    assert "(rows 5, 9)" in mfm(*fit).stderr
    result = succeed(*fit, "--drop-missing", "--quiet")
    assert "dropped 2 of 60 rows" in result.stderr and result.stdout == ""
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["rows_used"] == 58
    fail("2 of 60 rows", "score", tmp_path / "run", path, "-o", tmp_path / "s.csv")
    succeed("score", tmp_path / "run", path, "-o", tmp_path / "s.csv", "--drop-missing")
    assert set(range(2, 62)) - set(pd.read_csv(tmp_path / "s.csv")["row"]) == {5, 9}
    frame["latitude"] = np.nan
    frame.to_csv(path, index=False)
    fail("at least one complete row", *fit, "--drop-missing", "--force")


def test_copies_are_warned_of_and_removed_if_asked(tmp_path: Path) -> None:
    pd.concat([places(60), places(60).head(3)]).to_csv(tmp_path / "copies.csv", index=False)
    fit = ["fit", tmp_path / "copies.csv", *PLACES, *FAST, "-o", tmp_path / "run", "--force"]
    assert "warning: 3 of 63 rows" in succeed(*fit).stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"] == {
        "file": str(tmp_path / "copies.csv"),
        "rows": 63,
        "rows_used": 63,
    }
    assert "removed 3 of 63 rows" in succeed(*fit, "--distinct").stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["rows_used"] == 60


def test_degrees_within_two_pi_are_warned_of(tmp_path: Path) -> None:
    np.save(tmp_path / "angles.npy", np.random.default_rng(0).normal(size=(40, 2)))
    fit = ["fit", tmp_path / "angles.npy", "--manifold", "torus", *FAST, "-o", tmp_path / "run", "--quiet"]
    assert "pass --units radians" in succeed(*fit, "--units", "degrees").stderr
    assert succeed(*fit, "--units", "radians", "--force").stderr == ""


def test_wrong_use_of_fit_is_told_in_one_sentence(csv: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sphere = ["--manifold", "sphere", "--columns", "latitude,longitude"]
    fail("no default units", "fit", csv, *sphere, "-o", run)
    fail("exceed 2 pi", "fit", csv, *sphere, "--units", "radians", "-o", run)
    fail("latitude before longitude", "fit", csv, *sphere[:3], "longitude,latitude", *PLACES[4:], "-o", run)
    fail("which has name, latitude, longitude", "fit", csv, *sphere[:3], "lat,longitude", *PLACES[4:], "-o", run)
    fail("numbers in column name", "fit", csv, *sphere[:2], "--units", "degrees", "-o", run)
    fail("its kernels are", "fit", csv, *PLACES, *FAST, "--kernel", "wishart", "-o", run)
    fail("--components with --estimator flow or mixture", "fit", csv, *PLACES, *FAST, "--components", "5", "-o", run)
    fail("does not exist", "fit", tmp_path / "none.csv", *PLACES, "-o", run)
    assert not run.exists()


def test_usage_errors_are_told_apart(csv: Path, tmp_path: Path) -> None:
    assert mfm("fit", csv, "-o", tmp_path / "run").exit_code == 2
    assert mfm("fit", csv, "--manifold", "cube", "-o", tmp_path / "run").exit_code == 2
    assert mfm("fit", csv, *PLACES, "--test-fraction", "0.99", "-o", tmp_path / "run").exit_code == 2
    assert mfm("paint").exit_code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(csv: Path, fitted: Path, tmp_path: Path) -> None:
    fail("pass --device cpu", "fit", csv, *PLACES, "-o", tmp_path / "run", "--device", "cuda")
    fail("pass --device cpu", "score", fitted, csv, "-o", tmp_path / "s.csv", "--device", "cuda")


def test_existing_output_is_kept_without_force(csv: Path, run: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    (tmp_path / "scores.csv").write_text("kept")
    fail("--force", "fit", csv, *PLACES, *FAST, "-o", run)
    fail("--force", "score", run, csv, "-o", tmp_path / "scores.csv")
    fail("--force", "sample", run, "-o", tmp_path / "scores.csv")
    fail("which is a file", "fit", csv, *PLACES, *FAST, "-o", csv, "--force")
    fail("folder that can be written", "fit", csv, *PLACES, *FAST, "-o", csv / "run")
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    assert (tmp_path / "scores.csv").read_text() == "kept"


def test_force_replaces_the_run_and_nothing_else_in_its_folder(csv: Path, run: Path) -> None:
    (run / "notes.txt").write_text("kept")
    before = (run / "run.json").read_text()
    succeed("fit", csv, *PLACES, *FAST, "-o", run, "--force", "--seed", "9")
    assert sorted(p.name for p in run.iterdir()) == ["model.safetensors", "notes.txt", "run.json"]
    assert (run / "run.json").read_text() != before


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _change_description(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


DAMAGES = [
    ("run.json", Path.unlink, "run folder with run.json"),
    ("run.json", _truncate, "it is damaged"),
    ("run.json", lambda path: path.write_text("[]"), "it is damaged"),
    ("run.json", lambda path: path.write_text('{"format": 1}'), "it is damaged"),
    ("run.json", lambda path: path.write_bytes(b"\xff\xfe"), "it is damaged"),
    ("run.json", _change_description(format=2), "upgrade mf-manifold"),
    ("run.json", _change_description(frozen={}), "it is damaged"),
    ("run.json", _change_description(coordinates={"manifold": "sphere"}), "it is damaged"),
    ("model.safetensors", Path.unlink, "does not exist"),
    ("model.safetensors", _truncate, "its SHA-256 differs"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damaged_runs(run: Path, csv: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], message: str) -> None:
    damage(run / name)
    fail(message, "score", run, csv, "-o", tmp_path / "s.csv")
    fail(message, "sample", run, "-o", tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


def test_a_missing_run_folder(csv: Path, tmp_path: Path) -> None:
    fail("run folder with run.json", "score", tmp_path / "none", csv, "-o", tmp_path / "s.csv")


def test_new_files_are_checked_like_the_first(fitted: Path, tmp_path: Path) -> None:
    frame = places(5)
    frame["latitude"] += 90
    frame.to_csv(tmp_path / "new.csv", index=False)
    fail("latitudes within 90 degrees", "score", fitted, tmp_path / "new.csv", "-o", tmp_path / "s.csv")
    frame[["name", "latitude"]].to_csv(tmp_path / "new.csv", index=False)
    fail("column(s) longitude", "score", fitted, tmp_path / "new.csv", "-o", tmp_path / "s.csv")


def _interrupt_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C at a step of the fit."""
    evaluate, calls = bandwidth.Search.evaluate, []

    def interrupted(self: bandwidth.Search, level: Any, **record: float) -> float:
        calls.append(level)
        if len(calls) == call:
            raise KeyboardInterrupt
        return evaluate(self, level, **record)

    monkeypatch.setattr(bandwidth.Search, "evaluate", interrupted)


def test_ctrl_c_leaves_the_best_model_as_a_run(csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    _interrupt_at(3, monkeypatch)
    result = mfm("fit", csv, *PLACES, "--estimator", "kde", "-o", run)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == f"stopped; the best model so far is in {run}"
    assert json.loads((run / "run.json").read_text())["finished"] is False
    monkeypatch.undo()
    succeed("score", run, csv, "-o", tmp_path / "s.csv")


def test_ctrl_c_before_any_model_changes_nothing(csv: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    _interrupt_at(1, monkeypatch)
    fail("no output was changed", "fit", csv, *PLACES, "--estimator", "kde", "-o", run, "--force", code=130)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_a_defect_of_the_program_keeps_its_traceback(csv: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError("defect")

    monkeypatch.setattr(mf.Mixture, "sample", defect)
    assert isinstance(mfm("sample", fitted, "-o", csv.parent / "never.csv").exception, ZeroDivisionError)


def test_the_module_answers_help_without_heavy_imports() -> None:
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, "-m", "mf_manifold", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "score" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "mf_manifold.cli.app" in imported
    assert not imported & {"torch", "geoopt", "pandas", "numpy", "scipy", "matplotlib"}


def test_the_process_ends_with_the_exit_code_and_clean_streams(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mf_manifold", "score", str(tmp_path), "x.csv", "-o", str(tmp_path / "y.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Expected a run folder") and done.stderr.count("\n") == 1


def test_a_stopped_flow_resumes_as_if_nothing_had_happened(csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mf_manifold.training.run import Run

    small = lambda *a: mf.MarginalFlow(*a, n_components=32, hidden=(8, 8), n_frequencies=2)  # noqa: E731
    monkeypatch.setattr("mf_manifold.cli.models.new_model", lambda _, c, own: small(c.manifold, c.point_shape, own["kernel"]))
    monkeypatch.setattr("mf_manifold.cli.fit.STEPS", 60)
    arguments = ["fit", csv, *PLACES, "--estimator", "flow", "--components", "64", "--json", "--device", "cpu"]
    whole = json.loads(succeed(*arguments, "-o", tmp_path / "whole").stdout)
    original = Run.advance

    def stopping(self: Run) -> float:
        if self.step == 5:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Run, "advance", stopping)
    stopped = mfm(*arguments, "-o", tmp_path / "run")
    assert stopped.exit_code == 130 and "--resume continues it" in stopped.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is False
    monkeypatch.setattr(Run, "advance", original)
    fail("--resume continues it", *arguments, "-o", tmp_path / "run")
    resumed = json.loads(succeed(*arguments, "-o", tmp_path / "run", "--resume").stdout)
    assert resumed["held_out_mean_log_prob"] == whole["held_out_mean_log_prob"]
    names = ["history.jsonl", "model.safetensors", "run.json"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names
    fail("found none: leave out --resume", *arguments, "-o", tmp_path / "run", "--resume")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    # the moment between the model and run.json, where the state must still be there
    with monkeypatch.context() as patch:
        patch.setattr("mf_manifold.cli.runs._versions", killed)
        assert mfm(*arguments, "-o", tmp_path / "again").exit_code != 0
    succeed(*arguments, "-o", tmp_path / "again", "--resume")
    # the model of a stopped run must not pass for the one of a run that stops before it has any
    (tmp_path / "run" / "unfinished").mkdir()
    shutil.copy(tmp_path / "run" / "model.safetensors", tmp_path / "run" / "unfinished")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "begin", killed)
        before = (tmp_path / "run" / "run.json").read_bytes()
        assert mfm(*arguments, "-o", tmp_path / "run", "--force").exit_code != 0
        assert (tmp_path / "run" / "run.json").read_bytes() == before
    fail("--resume with flow, normalizing-flow", *arguments, "-o", tmp_path / "run", "--resume", "--estimator", "kde")


@pytest.mark.parametrize(
    "options",
    [
        ["--estimator", "anchored"],
        ["--estimator", "mixture", "--components", "3"],
        ["--estimator", "kde", "--bandwidth", "multiscale"],
        ["--estimator", "kde", "--bandwidth", "local"],
    ],
    ids=lambda options: options[-1],
)
def test_every_estimator_fits_scores_and_samples(options: list[str], csv: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    reported = json.loads(succeed("fit", csv, *PLACES, *options, "--max-seconds", "5", "-o", run, "--json").stdout)
    assert np.isfinite(reported["held_out_mean_log_prob"])
    succeed("score", run, csv, "-o", tmp_path / "s.csv")
    succeed("sample", run, "-n", "10", "-o", tmp_path / "x.csv")


def test_options_of_another_estimator_are_refused(csv: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fail("--estimator flow or mixture", "fit", csv, *PLACES, "--components", "9", "-o", run)
    fail("--estimator kde only", "fit", csv, *PLACES, "--bandwidth", "single", "-o", run)


ON_THE_PLANE = ["normalizing-flow", "variational", "resampled", "manifold-flow --latent-dim 1"]


@pytest.mark.parametrize("estimator", [*ON_THE_PLANE, "variational on the sphere", "resampled on the sphere"])
def test_models_run_from_table_to_picture(estimator: str, csv: Path, tmp_path: Path) -> None:
    name, *more = estimator.removesuffix(" on the sphere").split()
    table, place = csv, PLACES
    if estimator in ON_THE_PLANE:
        t = np.random.default_rng(0).uniform(-1, 1, (200, 1))
        table, place = tmp_path / "curve.npy", ["--manifold", "euclidean"]
        np.save(table, np.hstack([t, t**2]) + 0.05 * np.random.default_rng(1).normal(size=(200, 2)))
    run, out = tmp_path / "run", tmp_path / "out.csv"
    fit = ["fit", table, *place, "--estimator", name, *more, "--max-seconds", "2", "-o", run, "--device", "cpu"]
    found = json.loads(succeed(*fit, "--json").stdout)
    assert np.isfinite(found["held_out_mean_log_prob"])
    again = json.loads(succeed("score", run, table, "-o", out, "--json", "--device", "cpu").stdout)
    assert np.isfinite(again["mean_log_prob"])
    succeed("sample", run, "-o", tmp_path / "new.csv", "-n", "20", "--device", "cpu")
    succeed("plot", run, "-o", tmp_path / "density.png", "--data", table, "--device", "cpu")
    assert mf.load(run).freeze().measure.kind == "riemannian"


def test_both_stages_of_a_manifold_flow_share_the_time_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mf_manifold.cli.models import fit_model

    pytest.importorskip("zuko")
    model, seconds = mf.models.ManifoldFlow(geoopt.Euclidean(ndim=1), (2,), 1), []
    for stage in ("fit", "fit_density"):
        monkeypatch.setattr(type(model), stage, lambda *_, max_seconds, **__: seconds.append(max_seconds))
    options = {"seed": 0, "progress": False, "validation_fraction": 0.1, "max_steps": 10, "resume": False}
    for limit in (8.0, None):
        fit_model(model, torch.zeros(20, 2), tmp_path, {**options, "max_seconds": limit})
    assert seconds == [6.0, 2.0, None, None]


def test_options_go_with_estimators(csv: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fail("--latent-dim, the dimension of the manifold", "fit", csv, *PLACES, "--estimator", "manifold-flow", "-o", run)
    flow = ["fit", csv, *PLACES, "--estimator", "normalizing-flow", "-o", run]
    fail("Expected --kernel with --estimator flow or", *flow, "--kernel", "x")
    fail("Expected R^d", *flow)
    fail("--resume with flow, normalizing-flow", "fit", csv, *PLACES, "--estimator", "kde", "--resume", "-o", run)
    assert not run.exists()
