"""The experiment on reverse divergences: its targets against known normalisers, its scores, and a run of seconds."""

from __future__ import annotations

import dataclasses
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import mf_manifold as mf

if not (find_spec("zuko") and find_spec("torchdiffeq")):  # importing them here would switch torch's validation off
    pytest.skip("needs zuko and torchdiffeq", allow_module_level=True)

from benchmarks.experiments import reverse_kl
from benchmarks.harness import Report
from benchmarks.problems.targets import MAKERS, all_targets, dual_moon, kent_bumps, ring_of_gaussians, two_rings


def test_normalisers_are_known_or_converged() -> None:
    known = {ring_of_gaussians: math.log(8 * 2 * math.pi * (2 / 3 * math.sin(math.pi / 8)) ** 2), dual_moon: 0.804214}
    known[two_rings] = math.log(6 * math.pi * 0.125 * math.sqrt(2 * math.pi))
    for make, value in known.items():
        assert make().log_normalizer == pytest.approx(value, abs=1e-6)
    for target in all_targets():
        finer = dataclasses.replace(target, n_grid=target.n_grid // 2)
        assert finer.log_normalizer == pytest.approx(target.log_normalizer, abs=1e-4)


def test_regions_are_where_the_mass_is() -> None:
    """Regions partition a target, and none is without mass."""
    for target in all_targets():
        coarse = dataclasses.replace(target, n_grid=120)
        mass = coarse.region_mass(coarse.log_prob)
        assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
        assert float(mass.min()) > 0.02
    assert {target.space for target in all_targets()} == {"plane", "sphere", "torus"}
    assert len(MAKERS) >= 12


def test_scores_of_a_mixture_that_misses_a_mode() -> None:
    """One of two equal bumps: KL(q || p) = log 2, and the second region is not covered."""
    kernel = mf.kernel_for(kent_bumps().manifold, (3,), "von_mises_fisher")
    params = {"loc": torch.eye(3, dtype=torch.float64)[:2], "concentration": torch.full((2,), 60.0, dtype=torch.float64)}
    both, one = mf.Mixture(kernel, params), mf.Mixture(kernel, {name: value[:1] for name, value in params.items()})
    target = dataclasses.replace(kent_bumps(), log_density=both.log_prob, anchors=params["loc"], n_grid=150)
    exact, half = reverse_kl.evaluate(target, both, 500), reverse_kl.evaluate(target, one, 500)
    assert (exact["kl_qp"], half["kl_qp"]) == pytest.approx((0, math.log(2)), abs=1e-3)
    assert (exact["covered"], half["covered"]) == ("2/2", "1/2")
    assert (exact["ess"], exact["integral"], half["integral"]) == pytest.approx((1, 1, 1), abs=1e-6)


def test_quick_run(tmp_path: Path) -> None:
    report = Report("reverse_kl", tmp_path, quick=True, seeds=[0])
    reverse_kl.run(report)
    assert {row["space"] for row in report.rows} == {"plane", "sphere", "torus"}
    assert {row["method"] for row in report.rows} == {"marginal flow", "marginal flow, 64 components", "free components"}
    assert all(abs(row["integral"] - 1) < 0.01 and math.isfinite(row["kl_qp"]) for row in report.rows)
    assert [file for file, _ in report.pictures] == [f"reverse_kl_{space}.png" for space in ("plane", "sphere", "torus")]
