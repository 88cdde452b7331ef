"""Importance sampling of a mixture, tail indices of its weights, and both bounds of the reverse divergence."""

from __future__ import annotations

import math
import warnings
from typing import Any

import geoopt
import pytest
import torch
from scipy import stats
from torch import Tensor

import mf_manifold as mf
from mf_manifold.evidence import importance, pareto_k, reverse_kl_bounds

LINE = mf.kernel_for(geoopt.Euclidean(ndim=1), (1,))
WIDTH, SPREAD = 0.3, 1.3


def normal(scale: float, loc: float = 0.0) -> mf.Mixture:
    params = {"loc": torch.tensor([[loc]], dtype=torch.float64), "scale": torch.tensor([[scale]], dtype=torch.float64)}
    return mf.Mixture(LINE, params)


def log_target(x: Tensor) -> Tensor:
    """An unnormalised N(0, 1.3^2) with log Z = log(1.3 sqrt(2 pi)) + 2."""
    return -((x[:, 0] / SPREAD) ** 2) / 2 + 2


LOG_Z = math.log(SPREAD * math.sqrt(2 * math.pi)) + 2


class LinearGaussian:
    """Components N(z, 0.3^2), z ~ N(0, 1): the infinite mixture is N(0, 1.09)."""

    def __call__(self, context: Any = None, n_components: int | None = None, generator: Any = None) -> mf.Mixture:
        loc = torch.randn(n_components or 64, 1, generator=generator, dtype=torch.float64)
        return mf.Mixture(LINE, {"loc": loc, "scale": torch.full((1, 1), WIDTH, dtype=torch.float64)})


def test_an_exact_proposal_counts_every_sample() -> None:
    report = importance(normal(SPREAD), log_target, n=500)
    assert report.effective_sample_size == pytest.approx(500, rel=1e-9)
    assert report.log_normalizer == pytest.approx(LOG_Z, abs=1e-9)
    assert report.standard_error < 1e-6
    assert report.pareto_k == -math.inf
    assert report.efficiency == pytest.approx(1)


def test_normaliser_and_error_follow_the_theory() -> None:
    """N(0, 1.6^2) as proposal: Z within its errors as often as a normal law says, ESS / n = 1 / E w^2 of mean-one weights."""
    reports = [importance(normal(1.6), log_target, n=400, seed=seed) for seed in range(400)]
    z = torch.tensor([(r.log_normalizer - LOG_Z) / r.standard_error for r in reports])
    assert 0.90 < float((z.abs() < 1.96).double().mean()) < 0.985
    assert abs(float(z.mean())) < 0.25
    second = 1.6**2 / SPREAD**2 / math.sqrt(2 * 1.6**2 / SPREAD**2 - 1)  # E_q (p / q)^2
    assert float(torch.tensor([r.efficiency for r in reports]).mean()) == pytest.approx(1 / second, rel=0.02)


def test_a_narrow_proposal_is_called_out() -> None:
    with pytest.warns(UserWarning, match="tail index"):
        report = importance(normal(0.5), log_target, n=5000)
    assert report.pareto_k > 0.7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert importance(normal(1.6), log_target, n=5000).pareto_k < 0.5


def test_tail_index_of_a_narrow_normal_proposal() -> None:
    """Weights p / q of normal laws have the index 1 - s_q^2 / s_p^2."""
    x = 0.5 * torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = pareto_k(-(x**2) / 2 + x**2 / 2 / 0.25)
    assert found == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.5, 0.9])
def test_tail_index_of_pareto_weights(k: float) -> None:
    """All weights from a generalised Pareto law, whose tails are again such laws with the same index; scipy fits agree."""
    weights = torch.as_tensor(stats.genpareto(k).rvs(40_000, random_state=1)) + 1e-12
    found = pareto_k(weights.log())
    assert found == pytest.approx(k, abs=0.15)
    tail = weights.sort().values[-601:]
    scipy_k = stats.genpareto.fit((tail[1:] - tail[0]).numpy(), floc=0)[0]
    assert found == pytest.approx((600 * scipy_k + 5) / 610, abs=0.05)


def test_few_weights_have_no_index() -> None:
    assert math.isnan(pareto_k(torch.zeros(20)))


def test_bounds_bracket_the_exact_divergence() -> None:
    """Upper .186, .082, .053 and lower -.237, -.020, .028 for 16, 64, 256 components, around the exact 0.0418."""
    ratio = (1 + WIDTH**2) / SPREAD**2
    exact = (ratio - 1 - math.log(ratio)) / 2
    assert exact == pytest.approx(0.0418, abs=5e-5)
    known = {16: (-0.237, 0.186), 64: (-0.020, 0.082), 256: (0.028, 0.053)}
    for n, (lower, upper) in known.items():
        draws = 4096 // n
        found = reverse_kl_bounds(LinearGaussian(), log_target, log_normalizer=LOG_Z, n_components=n, n_draws=draws)
        assert found.lower - 4.3 * found.lower_error < exact < found.upper + 4.3 * found.upper_error
        assert abs(found.upper - upper) < 4.3 * found.upper_error + 0.004
        assert abs(found.lower - lower) < 4.3 * found.lower_error + 0.02


def test_components_scored_by_themselves_are_no_lower_bound() -> None:
    """The mistake that the two bounds tell apart: the same draw for both."""
    found = reverse_kl_bounds(LinearGaussian(), log_target, log_normalizer=LOG_Z, n_components=16, n_draws=256)
    assert found.lower + 5 * found.lower_error < 0.0418 < found.upper - 5 * found.upper_error


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        importance(normal(1.0), log_target, n=1)
    with pytest.raises(ValueError, match="at least 2 draws"):
        reverse_kl_bounds(LinearGaussian(), log_target, n_draws=1)
    with pytest.raises(ValueError, match="finite where the kernel has mass"):
        importance(normal(1.0), lambda x: torch.where(x[:, 0] > 0, 0.0, -math.inf), n=100)
