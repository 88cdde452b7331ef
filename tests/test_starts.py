"""Starts without data: points of the covering law, resampled to where a target has its mass."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch

import mf_manifold as mf
from mf_manifold import losses, starts


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_points_follow_a_target_that_candidates_reach() -> None:
    """exp(5 z) on the sphere: the heights of the points have the law's distribution function."""
    sphere = geoopt.Sphere()
    x = losses.ReverseKL(lambda x: 5 * x[:, 2]).start(sphere, (3,), 2000, generator())
    assert x.shape == (2000, 3)
    z = x[:, 2].sort().values
    levels = ((5 * z).exp() - math.exp(-5)) / (math.exp(5) - math.exp(-5))
    expected = torch.arange(1, 2001, dtype=torch.float64) / 2000
    assert float((levels - expected).abs().max()) < 0.05


def test_starts_use_the_measure_of_the_target() -> None:
    """By Lebesgue or by the metric's volume, the same Wishart law gives the same points."""
    spd = geoopt.SymmetricPositiveDefinite()
    law = mf.distribution(spd, "wishart", df=6.0, covariance_matrix=torch.eye(2, dtype=torch.float64) / 6)
    by_volume = losses.ReverseKL(law.log_prob).start(spd, (2, 2), 500, generator())
    by_entries = losses.ReverseKL(lambda x: law.log_prob(x, "lebesgue"), measure="lebesgue").start(
        spd, (2, 2), 500, generator()
    )
    torch.testing.assert_close(by_volume, by_entries)


def test_targets_beyond_reach_leave_the_points_spread() -> None:
    """In 30 dimensions no candidate is near the target: tempered weights keep hundreds of different points."""
    space = geoopt.Euclidean(ndim=1)
    x = losses.ReverseKL(lambda x: -50 * (x - 3).square().sum(-1)).start(space, (30,), 1000, generator())
    assert len(x.unique(dim=0)) > 150
    assert float(x.mean()) > 0.2  # and yet they lean towards it


def test_the_covering_law() -> None:
    assert starts.covering_law(geoopt.Sphere(), (3,), 2.0).kernel.name == "uniform"
    normal = starts.covering_law(geoopt.Euclidean(ndim=1), (2,), 3.0)
    assert float(normal.params["scale"].reshape(-1)[0]) == 3.0


def test_a_target_without_mass_is_an_error() -> None:
    for nothing in (-math.inf, math.nan):
        with pytest.raises(ValueError, match="mass around the start"):
            losses.ReverseKL(lambda x, v=nothing: x[:, 2] * 0 + v).start(geoopt.Sphere(), (3,), 10, generator())
