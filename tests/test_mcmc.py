"""Markov chains on manifolds: gradients, detailed balance, laws against exact samples, and the diagnostics' own oracles."""

from __future__ import annotations

import math
from collections.abc import Callable

import geoopt
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import mf_manifold as mf
from mf_manifold.mcmc import bulk_ess, ess, mala, rhat
from mf_manifold.mcmc.langevin import Langevin, State, proposal_kernel

PLANE, SPHERE, TORUS, SPD = geoopt.Euclidean(ndim=1), geoopt.Sphere(), mf.manifolds.Torus(), geoopt.SymmetricPositiveDefinite()
LORENTZ, ROTATIONS = geoopt.Lorentz(), mf.manifolds.SpecialOrthogonal()
PRODUCT = geoopt.ProductManifold((SPHERE, (3,)), (TORUS, (2,)))
CHANCE = 2e-5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(manifold: geoopt.Manifold, shape: tuple[int, ...], name: str | None, scale: float = 0.5) -> mf.Mixture:
    """Three bumps that overlap."""
    raw = 0.5 + 0.4 * torch.randn(3, mf.geometry.raw_dim(manifold, shape), generator=seeded(3), dtype=torch.float64)
    kernel = mf.kernel_for(manifold, shape, name)
    loc = mf.geometry.from_raw(manifold, raw, shape)
    return mf.Mixture(kernel, kernel.centered(loc, torch.full((3,), scale, dtype=torch.float64)))


SPACES: dict[str, Callable[[], mf.Mixture]] = {
    "plane": lambda: mixture(PLANE, (2,), "normal"),
    "sphere": lambda: mixture(SPHERE, (3,), "von_mises_fisher"),
    "torus": lambda: mixture(TORUS, (2,), "von_mises"),
    "SPD": lambda: mixture(SPD, (2, 2), "log_normal"),
    "hyperboloid": lambda: mixture(LORENTZ, (3,), "wrapped_normal"),
    "rotations": lambda: mixture(ROTATIONS, (3, 3), "wrapped_normal"),
    "sphere x torus": lambda: mixture(PRODUCT, (5,), None),
}


@pytest.mark.parametrize("space", SPACES)
def test_gradients_equal_finite_differences_along_geodesics(space: str) -> None:
    law = SPACES[space]()
    x = law.sample((20,), seeded())
    local = Langevin(law.log_prob, proposal_kernel(law.manifold, law.point_shape))
    _, gradient = local.value_and_gradient(x)
    for axis in torch.eye(gradient.shape[1], dtype=x.dtype):
        direction = mf.geometry.from_coords(law.manifold, x, 1e-4 * axis.expand(len(x), -1))
        ahead, behind = (mf.geometry.expmap(law.manifold, x, s * direction) for s in (1, -1))
        slope = (law.log_prob(ahead) - law.log_prob(behind)) / 2e-4
        assert torch.allclose(slope, gradient @ axis, atol=2e-6, rtol=1e-5)


def test_on_the_plane_proposals_are_those_of_the_plain_algorithm() -> None:
    target = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.tensor([[1.0, 0.6], [0.6, 1.0]]).double())
    local = Langevin(target.log_prob, proposal_kernel(PLANE, (2,)))
    x, y = torch.randn(2, 50, 2, generator=seeded(), dtype=torch.float64)

    def log_q(b: Tensor, a: Tensor) -> Tensor:
        middle = a - 0.3**2 / 2 * a @ target.precision_matrix
        return torch.distributions.Normal(middle, 0.3).log_prob(b).sum(-1)

    old, new = local.at(x), local.at(y)
    assert torch.allclose(local.law(old, 0.3).log_prob(y), log_q(y, x), atol=1e-10)
    expected = target.log_prob(y) + log_q(x, y) - target.log_prob(x) - log_q(y, x)
    assert torch.allclose(local.log_ratio(old, new, local.law(old, 0.3), local.law(new, 0.3)), expected, atol=1e-10)


def balance(local: Langevin, x: Tensor, y: Tensor, log_flow: Callable[[Tensor, Tensor], Tensor], step: float) -> float:
    """Largest relative difference of the flows ``pi(x) q(y|x) a(x,y)`` there and back, the acceptance a being the chains'."""
    old, new = local.at(x), local.at(y)
    forward, backward = local.law(old, step), local.law(new, step)
    there = log_flow(x, y) + local.log_ratio(old, new, forward, backward).clamp_max(0.0)
    back = log_flow(y, x) + local.log_ratio(new, old, backward, forward).clamp_max(0.0)
    return float((there - back).abs().max())


class NoProposalRatio(Langevin):
    """Wrong: the proposals are taken for symmetric."""

    def log_ratio(self, old: State, new: State, forward: object, backward: object) -> Tensor:
        return new.log_prob - old.log_prob


class TurnedProposalRatio(Langevin):
    """Wrong: the two proposal densities are exchanged."""

    def log_ratio(self, old: State, new: State, forward: mf.KernelDistribution, backward: mf.KernelDistribution) -> Tensor:
        return new.log_prob - old.log_prob + forward.log_prob(new.x) - backward.log_prob(old.x)


@pytest.mark.parametrize("wrong", [None, NoProposalRatio, TurnedProposalRatio])
def test_detailed_balance_on_the_sphere(wrong: type[Langevin] | None) -> None:
    """Against the density of proposals written down by hand: von Mises-Fisher laws around geodesic steps."""
    tilt, step = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), 0.6
    local = (wrong or Langevin)(lambda x: x @ tilt, proposal_kernel(SPHERE, (3,), "von_mises_fisher"))
    kappa = float(local.law(local.at(torch.eye(3).double()), step).params["concentration"][0])

    def log_flow(a: Tensor, b: Tensor) -> Tensor:
        drift = step**2 / 2 * (tilt - (a @ tilt)[:, None] * a)
        angle = drift.norm(dim=-1, keepdim=True)
        middle = angle.cos() * a + angle.sin() * drift / angle
        return a @ tilt + kappa * (middle * b).sum(-1) + math.log(kappa / (4 * math.pi * math.sinh(kappa)))

    x, y = mf.geometry.sample_uniform(SPHERE, (3,), (2, 500), generator=seeded(), dtype=torch.float64)
    difference = balance(local, x, y, log_flow, step)
    assert difference < 1e-9 if wrong is None else difference > 0.1


@pytest.mark.parametrize("space", ["sphere", "torus", "SPD", "sphere x torus"])
def test_chains_have_the_moments_of_exact_samples(space: str) -> None:
    law = SPACES[space]()
    wide = mixture(law.manifold, law.point_shape, None, scale=0.9)
    start, options = wide.sample((100,), seeded(1)), {"warmup": 100, "jumps": wide, "progress": False}
    chains = mala(law.log_prob, law.manifold, start, 200, generator=seeded(), **options)
    exact = mf.geometry.to_raw(law.manifold, law.sample((40_000,), seeded(2)))
    assert float(chains.rhat().max()) < 1.05
    for moment in (lambda f: f, torch.square):
        found = moment(chains.numbers())
        error = (found.flatten(0, 1).var(0) / ess(found) + moment(exact).var(0) / len(exact)).sqrt()
        assert float(((found.mean((0, 1)) - moment(exact).mean(0)) / error).abs().max()) < 5


def after(local: type[Langevin], law: mf.Mixture, monkeypatch: pytest.MonkeyPatch, step: float) -> float:
    """p-value of chains that began with exact samples and took 25 steps, by the law of their log densities."""
    monkeypatch.setattr("mf_manifold.mcmc.riemannian.Langevin", local)
    start = law.sample((4000,), seeded(1))
    chains = mala(law.log_prob, law.manifold, start, 25, warmup=0, step=step, generator=seeded(), progress=False)
    assert 0.2 < float(chains.acceptance.mean()) < 0.9
    exact = law.log_prob(law.sample((40_000,), seeded(2)))
    return float(stats.ks_2samp(chains.log_prob[:, -1], exact).pvalue)


@pytest.mark.parametrize("space", ["sphere", "torus", "SPD"])
def test_chains_stay_in_the_law_they_began_with(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    law, step = SPACES[space](), 0.9
    assert after(Langevin, law, monkeypatch, step) > CHANCE
    assert after(NoProposalRatio, law, monkeypatch, step) < 1e-9


def test_densities_by_another_measure_give_the_same_chains() -> None:
    law = SPACES["SPD"]()
    start = law.sample((20,), seeded())
    options = {"n": 10, "warmup": 10, "progress": False}
    by_volume = mala(law.log_prob, SPD, start, generator=seeded(), **options)
    lebesgue = mala(lambda x: law.log_prob(x, "lebesgue"), SPD, start, measure="lebesgue", generator=seeded(), **options)
    mistaken = mala(lambda x: law.log_prob(x, "lebesgue"), SPD, start, generator=seeded(), **options)
    assert torch.allclose(by_volume.samples, lebesgue.samples, atol=1e-6)
    assert not torch.allclose(by_volume.samples, mistaken.samples, atol=1e-2)


def test_steps_are_adapted_in_the_warm_up_only() -> None:
    law = SPACES["sphere"]()
    chains = mala(law.log_prob, SPHERE, law.sample((50,), seeded()), 50, warmup=150, generator=seeded(), progress=False)
    assert len(chains.steps) == 200 and len(chains.steps[:150].unique()) > 100
    assert len(chains.steps[150:].unique()) == 1
    assert abs(float(chains.acceptance.mean()) - 0.574) < 0.06
    fixed = mala(law.log_prob, SPHERE, law.sample((10,)), 20, warmup=0, step=0.4, generator=seeded(), progress=False)
    assert fixed.steps.tolist() == [0.4] * 20


def test_chains_do_not_depend_on_the_default_device() -> None:
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    with torch.device("meta"):
        generator = torch.Generator("cpu").manual_seed(0)
        chains = mala(lambda x: -x.square().sum(-1) / 2, geoopt.Euclidean(ndim=1), x, 5, generator=generator, progress=False)
    found = (chains.samples, chains.log_prob, chains.acceptance, chains.jump_acceptance, chains.steps)
    assert not any(tensor.is_meta for tensor in found)


def test_a_seed_gives_the_chains_again() -> None:
    law = SPACES["torus"]()
    start = law.sample((10,), seeded())
    runs = [mala(law.log_prob, TORUS, start, 30, warmup=10, jumps=law, generator=seeded(s), progress=False) for s in (5, 5, 6)]
    assert torch.equal(runs[0].samples, runs[1].samples) and torch.equal(runs[0].steps, runs[1].steps)
    assert not torch.equal(runs[0].samples, runs[2].samples)


def test_global_moves_carry_chains_between_modes() -> None:
    poles = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    kernel = mf.kernel_for(SPHERE, (3,), "von_mises_fisher")
    params = {"loc": poles, "concentration": torch.full((2,), 20.0, dtype=torch.float64)}
    law = mf.Mixture(kernel, params, torch.tensor([0.8, 0.2], dtype=torch.float64).log())
    start = poles[torch.arange(40) % 2]
    uniform = mf.distribution(SPHERE, "uniform", point_shape=(3,))
    options = {"n": 250, "warmup": 50, "progress": False}
    alone = mala(law.log_prob, SPHERE, start, generator=seeded(), **options)
    helped = mala(law.log_prob, SPHERE, start, jumps=uniform, jump_share=0.5, generator=seeded(), **options)
    assert float(alone.rhat().max()) > 1.5 and float(helped.rhat(lambda x: x[:, 2]).max()) < 1.1
    assert math.isnan(float(alone.jump_acceptance.mean())) and 0.03 < float(helped.jump_acceptance.mean()) < 0.2
    upper = (helped.samples[..., 2] > 0).double()
    assert abs(float(upper.mean()) - 0.8) < 5 * 0.4 / float(ess(upper)) ** 0.5


def test_densities_that_end_keep_their_chains_inside() -> None:
    """The exponential law, whose density is zero on the left."""
    line = geoopt.Euclidean(ndim=1)
    start = torch.ones(2000, 1, dtype=torch.float64)
    chains = mala(
        lambda x: torch.where(x[:, 0] > 0, -x[:, 0], -torch.inf), line, start, 60, generator=seeded(), warmup=60, progress=False
    )
    assert float(chains.samples.min()) > 0 and chains.broken == 0
    assert stats.kstest(chains.samples[:, -1, 0].numpy(), "expon").pvalue > CHANCE


def test_densities_that_are_not_numbers_are_reported() -> None:
    start = torch.ones(200, 1, dtype=torch.float64)
    with pytest.warns(UserWarning, match="of the proposals the density or its gradient was not a number"):
        chains = mala(lambda x: x[:, 0].log() - x[:, 0], PLANE, start, 20, generator=seeded(), warmup=60, progress=False)
    assert chains.broken > 0.01 and float(chains.samples.min()) > 0


def test_single_precision_and_far_starts() -> None:
    """A start in the tails, where the gradient overshoots by orders of magnitude."""
    start, options = torch.full((50, 2), 30.0), {"target_acceptance": 0.8, "generator": seeded(), "progress": False}
    chains = mala(lambda x: -x.pow(4).sum(-1), PLANE, start, 300, warmup=200, **options)
    assert chains.samples.dtype == torch.float32 and float(chains.rhat().max()) < 1.1
    exact = math.gamma(3 / 4) / math.gamma(1 / 4)
    assert abs(float(chains.points.square().mean()) - exact) < 0.05


def test_wrong_use_is_explained() -> None:
    ones = torch.ones(3, 2, dtype=torch.float64)

    def normal(x: Tensor) -> Tensor:
        return -x.square().sum(-1) / 2

    with pytest.raises(ValueError, match="Expected start of shape"):
        mala(normal, SPHERE, torch.ones(2, 3), progress=False)
    with pytest.raises(ValueError, match="Expected a start where the log density and its gradient are finite, but at 3 of 3"):
        mala(lambda x: normal(x) - torch.inf, PLANE, ones, progress=False)
    with pytest.raises(ValueError, match="differentiable in x"):
        mala(lambda x: normal(x.detach()), PLANE, ones, progress=False)
    with pytest.raises(ValueError, match="one log density a point"):
        mala(lambda x: -x.square(), PLANE, ones, progress=False)
    with pytest.raises(ValueError, match="Expected chains, n >= 1"):
        mala(normal, PLANE, ones, 0, progress=False)
    with pytest.raises(ValueError, match="Expected a target_acceptance in"):
        mala(normal, PLANE, ones, target_acceptance=1.0, progress=False)
    with pytest.raises(ValueError, match="Expected a single law on Euclidean as jumps"):
        mala(normal, PLANE, ones, jumps=mf.distribution(SPHERE, "uniform", point_shape=(3,)), progress=False)
    with pytest.raises(ValueError, match="Expected chains that move, but their mean acceptance is"):
        mala(lambda x: 1e8 * normal(x), PLANE, 1e-4 * ones, 50, warmup=0, step=1.0, generator=seeded(), progress=False)


def autoregression(phi: float, chains: int, n: int) -> Tensor:
    noise = torch.randn(chains, n, generator=seeded(), dtype=torch.float64).numpy()
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0] / (1 - phi**2) ** 0.5
    for t in range(1, n):
        x[:, t] = phi * x[:, t - 1] + noise[:, t]
    return torch.as_tensor(x)


@pytest.mark.parametrize("phi", [0.9, 0.5, 0.0, -0.4])
def test_effective_sample_size_of_an_autoregression(phi: float) -> None:
    """n (1 - phi) / (1 + phi) is known; the ranks' correlations are nearly those of normal values."""
    x = autoregression(phi, 8, 10_000)
    exact = 80_000 * (1 - phi) / (1 + phi)
    assert float(ess(x)) == pytest.approx(exact, rel=0.1)
    assert float(bulk_ess(x)) == pytest.approx(exact, rel=0.1)
    assert float(bulk_ess(x.exp().square())) == pytest.approx(float(bulk_ess(x)))


def test_diagnostics_equal_their_definitions() -> None:
    """The formulas of Vehtari et al. written down naively, with sums for autocovariances."""
    x = autoregression(0.6, 3, 101) + torch.tensor([0.0, 0.3, 0.0]).double()[:, None]
    halves = np.concatenate([x[:, :50].numpy(), x[:, 51:].numpy()])

    def scores(v: np.ndarray) -> np.ndarray:
        ranks = np.array([[(v < a).sum() + ((v == a).sum() + 1) / 2 for a in row] for row in v])
        return stats.norm.ppf((ranks - 0.375) / (v.size + 0.25))

    def variances(z: np.ndarray) -> tuple[float, float]:
        within = np.mean([row.var(ddof=1) for row in z])
        return within, (49 / 50) * within + z.mean(1).var(ddof=1)

    z = scores(halves)
    within, total = variances(z)
    folded = variances(scores(abs(halves - np.median(halves))))
    assert float(rhat(x)) == pytest.approx(max((total / within) ** 0.5, (folded[1] / folded[0]) ** 0.5), rel=1e-12)

    def rho(lag: int) -> float:
        centred = z - z.mean(1, keepdims=True)
        covariance = (centred[:, lag:] * centred[:, : 50 - lag]).sum(1).mean() / 50
        return 1 - (within - covariance * 50 / 49) / total

    time, least = -1.0, math.inf
    for t in range(0, 50, 2):
        pair = (1.0 if t == 0 else rho(t)) + rho(t + 1)
        if pair <= 0:
            break
        least = min(least, pair)
        time += 2 * least
    assert float(bulk_ess(x)) == pytest.approx(300 / time, rel=1e-10)


def test_rhat_sees_other_means_other_spreads_and_drift() -> None:
    x = torch.randn(4, 1000, generator=seeded(), dtype=torch.float64)
    assert float(rhat(x)) < 1.01
    assert float(rhat(x + torch.tensor([[0.0], [0.0], [0.0], [2.0]]))) > 1.2
    assert float(rhat(x * torch.tensor([[1.0], [1.0], [1.0], [5.0]]))) > 1.2  # means agree
    assert float(rhat(x + torch.linspace(0, 3, 1000))) > 1.2  # all chains alike
    assert float(rhat(torch.distributions.Cauchy(0.0, 1.0).icdf(torch.rand(4, 1000, generator=seeded())))) < 1.01
    assert rhat(x.unsqueeze(-1).expand(4, 1000, 3)).shape == (3,) and math.isnan(float(rhat(torch.ones(2, 10))))
    assert math.isnan(float(ess(torch.ones(2, 10))))
    with pytest.raises(ValueError, match="Expected chains of at least 4 draws"):
        rhat(x[:, :3])
    with pytest.raises(ValueError, match="Expected finite numbers"):
        ess(x.log())
