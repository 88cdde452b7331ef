"""The experiment on variational mixtures runs, and its data have the densities and classes that they claim."""

from __future__ import annotations

import math
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.problems.labelled import LAWS, digits
from mf_manifold.testing.density import generator_for


@pytest.mark.parametrize("name", LAWS)
def test_density_of_labelled_laws_integrates_to_one(name: str) -> None:
    """By the mid-point rule; arms are sheared to a fraction of their width and need small cells, circles have many nodes."""
    half, cells = 1.5, 200 if name == "two circles" else 800
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 * half - half
    mass = float(LAWS[name]().log_prob(torch.cartesian_prod(axis, axis)).exp().sum()) * (2 * half / cells) ** 2
    assert mass == pytest.approx(1.0, abs=1e-4)


def test_classes_are_the_circles_and_the_arms() -> None:
    x, circle = LAWS["two circles"]().sample_labelled(2000, generator_for(0))
    assert float(((x.norm(dim=1) < 0.6).long() == circle).double().mean()) > 0.999
    for arms in (3, 5):
        law = LAWS[f"pinwheel, {arms} arms"]()
        x, arm = law.sample_labelled(2000, generator_for(0))
        assert torch.equal(x, law.sample(2000, generator_for(0)))
        angle = torch.atan2(x[:, 1], x[:, 0]) - law.rate * (2 * x.norm(dim=1)).exp()  # type: ignore[attr-defined]
        turned = torch.remainder(angle * arms / (2 * math.pi) + 0.5, arms).floor().long()
        assert float((turned == arm).double().mean()) > 0.99


@pytest.mark.skipif(not find_spec("sklearn"), reason="needs scikit-learn")
def test_digits_are_split_and_in_principal_axes() -> None:
    split = digits(0)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [1300, 140, 357]
    assert sorted(split.train_labels.unique().tolist()) == list(range(10))
    covariance = split.train.double().mT.cov()
    assert float((covariance - covariance.diag().diag()).abs().max()) < 1e-5
    assert float(covariance[0, 0]) == pytest.approx(1.0)
    assert not torch.equal(split.test, digits(1).test)


@pytest.mark.skipif(not find_spec("zuko") or not find_spec("sklearn"), reason="needs zuko and scikit-learn")
def test_quick_run() -> None:
    from benchmarks.experiments import flow_mixture
    from benchmarks.harness import Report

    with tempfile.TemporaryDirectory() as folder:
        report = Report("flow_mixture", Path(folder), seeds=[0], quick=True)
        flow_mixture.run(report)
        pictures = [Path(folder) / file for file, _ in report.pictures]
        assert [path.name for path in pictures] == ["densities.png"]
        assert all(path.stat().st_size < 100_000 for path in pictures)
    assert [row["data"] for row in report.rows].count("digits") == 7
    assert len(report.rows) == 7 + 8 + 5 + 7
    assert all(math.isfinite(row["nll"]) for row in report.rows if "labels along" not in row["method"])
    assert all(0 <= row["accuracy"] <= 1 for row in report.rows if "accuracy" in row)


def test_accuracy_matches_components_to_classes_unless_they_have_names() -> None:
    from benchmarks.experiments.flow_mixture import agreement

    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    swapped = torch.tensor([1, 1, 2, 2, 0, 1])
    assert agreement(swapped, labels, 3, named=False)["accuracy"] == pytest.approx(5 / 6)
    assert agreement(swapped, labels, 3, named=True)["accuracy"] == 0.0
