"""The curves and surfaces have the areas and densities that they claim, and the experiment on them runs."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.problems.noisy_manifolds import (
    CIRCLE,
    HELIX,
    SPHERE,
    SWISS_ROLL,
    mass_by_chords,
    mass_by_triangles,
)
from mf_manifold.testing.density import generator_for

ALL = {problem.name: problem for problem in (CIRCLE, HELIX, SWISS_ROLL, SPHERE)}
LENGTHS = {"circle": 2 * math.pi, "helix": 4 * math.pi * math.sqrt(1 + 1 / 16), "sphere": 4 * math.pi}


@pytest.mark.parametrize("name", LENGTHS)
def test_points_without_noise_have_the_density_of_their_length_or_area(name: str) -> None:
    problem = ALL[name]
    assert problem.manifold_nll() == pytest.approx(math.log(LENGTHS[name]), abs=1e-9)
    points = problem.reference()
    if problem.dim == 1:
        assert mass_by_chords(points, torch.ones(len(points))) == pytest.approx(LENGTHS[name], rel=2e-3)
    else:
        square = points.reshape(*problem.nodes, 3)
        assert mass_by_triangles(square, torch.ones(square.shape[:2])) == pytest.approx(LENGTHS[name], rel=2e-2)


@pytest.mark.parametrize("name", ALL)
def test_noisy_points_have_the_stated_density(name: str) -> None:
    """The mean of 1 / p over samples in a box that holds few others is the volume of that box, over its probability."""
    problem, generator = ALL[name], generator_for(1)
    x = problem.sample(20_000, generator)
    center = problem.reference()[math.prod(problem.nodes) // 3]
    half = 2 * problem.noise
    inside = ((x - center).abs() < half).all(-1)
    box = center + half * (2 * torch.rand(500, 3, generator=generator, dtype=torch.float64) - 1)
    density = problem.log_prob(box).exp()
    expected, error = float(density.mean()) * (2 * half) ** 3, float(density.std()) / 500**0.5 * (2 * half) ** 3
    found = float(inside.double().mean())
    assert abs(found - expected) < 4.3 * math.hypot(error, math.sqrt(expected / len(x)))


def test_nodes_are_close_enough() -> None:
    """For the digits that the table shows; it is at the edges that half a cell counts."""
    for problem in (HELIX, SWISS_ROLL):
        finer = replace(problem, nodes=tuple(3 * count // 2 for count in problem.nodes))
        x = problem.sample(100, generator_for(2))
        error = problem.log_prob(x) - finer.log_prob(x)
        assert float(error.abs().max()) < 1e-2 and abs(float(error.mean())) < 1e-3


@pytest.mark.skipif(not (find_spec("zuko") and find_spec("sklearn")), reason="needs zuko and scikit-learn")
def test_quick_run() -> None:
    from benchmarks.experiments import manifold_flow
    from benchmarks.harness import Report

    with tempfile.TemporaryDirectory() as folder:
        report = Report("manifold_flow", Path(folder), seeds=[0], quick=True)
        manifold_flow.run(report)
        assert [file for file, _ in report.pictures] == ["learned.png"]
        assert (Path(folder) / "learned.png").stat().st_size < 100_000
    counts = {"helix": 10, "Swiss roll": 8, "circle": 4, "sphere": 4, "digits": 3}
    assert [row["data"] for row in report.rows] == [name for name, count in counts.items() for _ in range(count)]
    assert all(math.isfinite(row["rms"]) for row in report.rows if row["data"] != "digits")
    assert all(math.isfinite(row["mse"]) for row in report.rows if row["data"] == "digits")
