"""Marginal flow: exactness of frozen mixtures, the estimator's laws, reproducible and interruptible training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import geoopt
import pytest
import torch

import mf_manifold as mf
from mf_manifold import bases

SPHERE = geoopt.Sphere()
SMALL: dict[str, Any] = {"n_components": 128, "hidden": (32, 32), "n_frequencies": 8}


def ring(n: int, seed: int = 0) -> torch.Tensor:
    """Points around a small circle of the sphere: no single bump describes them."""
    g = torch.Generator().manual_seed(seed)
    angle, height = 2 * math.pi * torch.rand(n, generator=g), 0.3 + 0.05 * torch.randn(n, generator=g)
    radius = (1 - height**2).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=-1)


def fit(seed: int = 0, **options: Any) -> mf.MarginalFlow:
    flow = mf.MarginalFlow(SPHERE, (3,), **SMALL)
    return flow.fit(ring(600), **{"seed": seed, "max_steps": 40, "progress": False, **options})


@pytest.fixture(scope="module")
def fitted() -> mf.MarginalFlow:
    flow = mf.MarginalFlow(SPHERE, (3,), n_components=512, hidden=(64, 64), n_frequencies=16)
    return flow.fit(ring(3000), max_steps=400, progress=False)


def test_frozen_mixture_integrates_to_one(fitted: mf.MarginalFlow) -> None:
    mix = fitted.freeze(256, seed=0)
    nodes = bases.sobol(2**16, 2, seed=3).double()
    z, angle = nodes[:, 0], math.pi * nodes[:, 1]
    radius = (1 - z**2).sqrt()
    x = torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1)
    integral = mix.log_prob(x, measure="normalized").exp().mean()
    assert abs(float(integral) - 1) < 2e-3


def test_fit_finds_the_ring(fitted: mf.MarginalFlow) -> None:
    new = ring(2000, seed=1)
    truth = 1.0 / 2 + math.log(0.05 * math.sqrt(2 * math.pi)) + math.log(2 * math.pi)
    nll = -float(fitted.freeze(1024).log_prob(new).mean())
    assert truth - 0.05 < nll < truth + 0.15
    assert len(fitted.history) > 5


def test_samples_follow_the_frozen_density(fitted: mf.MarginalFlow) -> None:
    """E_q[uniform / q] = 1 where q covers the sphere, and the mean log density of samples is minus the entropy."""
    mix = fitted.freeze(256, seed=0)
    samples = mix.sample((20000,), generator=torch.Generator().manual_seed(0))
    uniform = mf.geometry.sample_uniform(SPHERE, (3,), (20000,), generator=torch.Generator().manual_seed(1))
    log_q = mix.log_prob(uniform)
    entropy = -(4 * math.pi * log_q.exp() * log_q).mean()
    sampled = -mix.log_prob(samples)
    error = math.hypot(float(sampled.std()) / 141, float((4 * math.pi * log_q.exp() * log_q).std()) / 141)
    assert abs(float(sampled.mean() - entropy)) < 5 * error


def test_frozen_mixture_is_deterministic_and_fresh_ones_differ(fitted: mf.MarginalFlow) -> None:
    x = ring(20, seed=2)
    assert torch.equal(fitted.freeze(64, seed=1).log_prob(x), fitted.freeze(64, seed=1).log_prob(x))
    assert not torch.equal(fitted.freeze(64, seed=1).log_prob(x), fitted.freeze(64, seed=2).log_prob(x))
    assert not torch.equal(fitted.log_prob(x), fitted.log_prob(x))
    assert fitted.sample((7,)).shape == (7, 3)


def linear_gaussian(n: int, seed: int) -> mf.Mixture:
    """Components N(x; z, 0.5^2) with z ~ N(0, 1): the infinite mixture is N(0, 1.25)."""
    kernel = mf.kernel_for(geoopt.Euclidean(ndim=1), (1,))
    z = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mf.Mixture(kernel, {"loc": z, "scale": torch.full((1, 1), 0.5, dtype=torch.float64)})


def test_bias_and_spread_of_the_log_follow_the_theory() -> None:
    """Bias -V / 2n and standard deviation sqrt(V / n) of log q with V = Var q(x|w) / q(x)^2, at x = 0."""
    n, x = 256, torch.zeros(1, 1, dtype=torch.float64)
    logs = torch.cat([linear_gaussian(n, seed).log_prob(x) for seed in range(4000)])
    exact = torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(torch.tensor(0.0))
    variance = 5.0 / 3.0 - 1  # (1 + s^-2) / sqrt(1 + 2 s^-2) - 1 at s = 1/2
    standard_error = math.sqrt(variance / n / 4000)
    assert abs(float(logs.mean() - exact) + variance / 2 / n) < 4 * standard_error
    assert float(logs.std()) == pytest.approx(math.sqrt(variance / n), rel=0.06)


def test_interval_covers_the_infinite_mixture() -> None:
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    exact = torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(x.squeeze(-1))
    intervals = [linear_gaussian(256, seed).log_prob_interval(x) for seed in range(400)]
    hits = torch.stack([(found.lower < exact) & (exact < found.upper) for found in intervals]).double().mean(0)
    assert ((hits > 0.9) & (hits < 0.99)).all()
    effective = intervals[0].n_effective
    assert ((effective > 20) & (effective < 256)).all()


def test_same_seed_same_model_other_seed_another() -> None:
    x = ring(30, seed=5)
    first, again, other = (fit(seed).freeze(64).log_prob(x) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fit_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    mf.MarginalFlow(SPHERE, (3,), **SMALL)
    torch.manual_seed(7)
    flow = mf.MarginalFlow(SPHERE, (3,), **SMALL)
    torch.manual_seed(7)
    flow.fit(ring(100), max_steps=3, progress=False)
    assert torch.equal(torch.rand(1), expected)


def test_time_limit_stops_early() -> None:
    flow = fit(max_steps=10**6, max_seconds=1.0)
    assert flow.history[-1]["step"] < 10**5


def test_ctrl_c_keeps_the_best_model_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mf_manifold.training.run import Run

    original = Run.advance

    def interrupt_later(self: Run) -> float:
        if self.step == 25:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Run, "advance", interrupt_later)
    flow = mf.MarginalFlow(SPHERE, (3,), **SMALL)
    with pytest.raises(KeyboardInterrupt):
        flow.fit(ring(600), max_steps=50, progress=False, checkpoint=tmp_path)
    saved, x = mf.load(tmp_path), ring(20, seed=3)
    assert torch.equal(saved.freeze(64).log_prob(x), flow.freeze(64).log_prob(x))
    assert saved.history


@pytest.mark.parametrize(
    ("manifold", "shape", "kernel", "options"),
    [
        (SPHERE, (3,), "wrapped_normal", {}),
        (SPHERE, (3,), "wrapped_normal", {"covariance": "full"}),
        (SPHERE, (5,), None, {}),
        (mf.manifolds.Torus(), (2,), None, {}),
        (mf.manifolds.Torus(), (2,), None, {"covariance": "full"}),
        (geoopt.SymmetricPositiveDefinite(), (2, 2), "wishart", {}),
        (geoopt.SymmetricPositiveDefinite(), (2, 2), "log_normal", {"covariance": "full"}),
        (geoopt.Euclidean(ndim=1), (3,), None, {}),
        (geoopt.ProductManifold((SPHERE, 3), (mf.manifolds.Torus(), 1)), (4,), None, {}),
        (geoopt.Scaled(SPHERE, 3.0), (3,), None, {}),
        (geoopt.ProductManifold((geoopt.Scaled(SPHERE, 2.0), 3), (geoopt.Euclidean(ndim=1), 1)), (4,), None, {}),
    ],
    ids=[
        *("wn", "wn-full", "s4", "torus", "torus-full", "wishart", "log_normal-full", "euclidean"),
        *("product", "scaled", "product-scaled"),
    ],
)
def test_every_kernel_trains_and_survives_a_checkpoint(
    manifold: geoopt.Manifold, shape: tuple[int, ...], kernel: str | None, options: dict[str, Any], tmp_path: Path
) -> None:
    raw = torch.randn(200, mf.geometry.raw_dim(manifold, shape), generator=torch.Generator().manual_seed(0))
    x = mf.geometry.from_raw(manifold, 0.5 * raw, shape)
    flow = mf.MarginalFlow(manifold, shape, kernel, kernel_options=options, **SMALL)
    flow.fit(x, max_steps=15, progress=False)
    flow.save(tmp_path)
    loaded = mf.load(tmp_path)
    assert torch.equal(loaded.freeze(64, seed=3).log_prob(x), flow.freeze(64, seed=3).log_prob(x))
    assert torch.isfinite(flow.freeze(64).log_prob(x)).all()
    assert loaded.kernel.options == flow.kernel.options


def test_every_weight_gets_a_gradient() -> None:
    flow = mf.MarginalFlow(SPHERE, (3,), **SMALL)
    flow().log_prob(ring(50)).mean().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in flow.parameters())


def test_matched_noise_is_uniform_and_keeps_neighbours_near() -> None:
    points = ring(1024)
    noise = bases.match(points, 2, torch.Generator().manual_seed(0))
    levels = ((noise + 1) / 2).sort(0).values - (torch.arange(1024)[:, None] + 0.5) / 1024
    assert levels.abs().max() < 0.04
    order = torch.cdist(points, points).argsort(1)[:, 1]
    other = torch.randperm(1024, generator=torch.Generator().manual_seed(1))
    assert (noise - noise[order]).norm(dim=-1).median() < 0.2 * (noise - noise[other]).norm(dim=-1).median()


def test_bad_input_gets_one_clear_sentence() -> None:
    flow = mf.MarginalFlow(SPHERE, (3,), **SMALL)
    bad = ring(50).clone()
    bad[17, 0] = math.nan
    with pytest.raises(ValueError, match=r"1 of 50 rows have NaN.*first row 17"):
        flow.fit(bad)
    with pytest.raises(ValueError, match="at least 10 points"):
        flow.fit(ring(5))
    with pytest.raises(ValueError, match="validation_fraction"):
        flow.fit(ring(50), validation_fraction=1.5)
    with pytest.raises(ValueError, match="got 0 and None"):
        mf.MarginalFlow(SPHERE, (3,), n_components=0)
    with pytest.raises(ValueError, match="n_components=0"):
        flow.freeze(0)
    for name in ("max_steps", "batch_size", "max_seconds", "patience"):
        with pytest.raises(ValueError, match=f"positive {name}"):
            flow.fit(ring(50), **{name: 0})


def test_a_validation_part_that_takes_all_rows_leaves_some_to_train() -> None:
    assert fit(validation_fraction=0.9999, max_steps=2).history
