"""Problems of inference from simulations: exact posteriors against oracles that share no code with them."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from benchmarks.c2st import c2st
from benchmarks.problems.simulators import PROBLEMS, SLCP, Axis, Box, Compact, GaussianMixture, PlaneWave, TwoMoons

Z = 4.3  # standard errors; exceeded with probability 2e-5


def observation(problem, row):
    theta, x = problem.observations()
    return theta[row], x[row]


@pytest.mark.parametrize("name", PROBLEMS)
def test_observations_are_fixed_and_inside(name):
    problem = PROBLEMS[name]
    theta, x = problem.observations()
    assert theta.shape == (10, *problem.point_shape) and x.shape == (10, problem.data_dim)
    assert torch.equal(x, problem.observations()[1])
    assert problem.inside(theta).all()
    sample = problem.reference_posterior(x[0], 50, seed=1)
    assert sample.shape == (50, *problem.point_shape) and problem.inside(sample).all()
    assert torch.equal(sample, problem.reference_posterior(x[0], 50, seed=1))
    assert not torch.equal(sample, problem.reference_posterior(x[0], 50, seed=2))


@pytest.mark.parametrize("name", PROBLEMS)
def test_posterior_given_simulations_of_the_prior_is_the_prior(name):
    """Averaged over simulations, posteriors are the prior: the simulator and the posterior belong to one joint law."""
    problem = PROBLEMS[name]
    theta, x = problem.pairs(100 if name in ("two_moons", "gaussian_mixture") else 30, seed=5)
    drawn = torch.cat([problem.reference_posterior(row, 1, seed=i) for i, row in enumerate(x)])
    for index in range(math.prod(problem.point_shape)):
        expected = theta.flatten(1)[:, index]
        assert stats.ks_2samp(expected, drawn.flatten(1)[:, index]).pvalue > 2e-5
        # ranks of the true value among draws of the same posterior are uniform, so signed differences have mean zero
        difference = drawn.flatten(1)[:, index] - expected
        assert abs(float(difference.mean())) < Z * float(difference.std()) / math.sqrt(len(difference))


def box_integral(problem, x_o, size, low, high):
    """Mean and second moments of the normalised log_posterior on a grid of midpoints."""
    edges = [(torch.arange(size, dtype=torch.float64) + 0.5) / size * (b - a) + a for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*edges)
    mass = problem.log_posterior(grid, x_o).exp() * math.prod(b - a for a, b in zip(low, high, strict=True)) / size**2
    return float(mass.sum()), mass @ grid, (mass[:, None] * grid).T @ grid


@pytest.mark.parametrize("row", [0, 1])
def test_two_moons_samples_have_the_moments_of_the_density(row):
    problem = TwoMoons()
    _, x_o = observation(problem, row)
    total, mean, second = box_integral(problem, x_o, 2000, (-1, -1), (1, 1))
    assert total == pytest.approx(1, abs=3e-3)
    sample = problem.reference_posterior(x_o, 20000, seed=0)
    statistics = torch.stack([*sample.T, sample.prod(-1)], -1)
    expected = torch.stack([*mean, second[0, 1]])
    error = Z * statistics.std(0) / 20000**0.5 + 3e-3 * expected.abs()
    assert ((statistics.mean(0) - expected).abs() < error).all()


def test_two_moons_has_two_moons():
    problem = TwoMoons()
    _, x_o = observation(problem, 0)
    sample = problem.reference_posterior(x_o, 4000, seed=0)
    share = float((sample.sum(-1) > 0).double().mean())
    assert abs(share - 0.5) < Z * 0.5 / 4000**0.5  # theta_1 + theta_2 enters by its absolute value
    assert torch.allclose(problem.log_posterior(sample, x_o), problem.log_posterior(-sample.flip(-1), x_o), atol=1e-6)


def test_two_moons_likelihood_integrates_over_simulations():
    problem = TwoMoons()
    theta = torch.tensor([[0.2, -0.5]], dtype=torch.float64)
    center = torch.tensor([-0.3, -0.7], dtype=torch.float64) / math.sqrt(2) + torch.tensor([0.25, 0.0], dtype=torch.float64)
    steps = (torch.arange(1200, dtype=torch.float64) + 0.5) / 1200 * 0.4 - 0.2
    x = center + torch.cartesian_prod(steps, steps)
    total = float(problem.log_likelihood(theta, x.T).exp().sum()) * (0.4 / 1200) ** 2
    assert total == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("row", range(10))
def test_gaussian_mixture_normaliser_against_adaptive_quadrature(row):
    problem = GaussianMixture()
    _, x_o = observation(problem, row)

    def along(s, x):  # an integral over one axis; the law factors for each scale
        near = [p for p in (x - 5 * s, x, x + 5 * s) if -10 < p < 10]
        return integrate.quad(lambda t: stats.norm.pdf(x, t, s), -10, 10, points=near, epsabs=1e-12)[0]

    total = sum(along(s, float(x_o[0])) * along(s, float(x_o[1])) for s in (1.0, 0.1)) / 2
    assert problem.log_evidence(x_o) == pytest.approx(math.log(total / 400), abs=1e-8)


def test_gaussian_mixture_samples_follow_the_density():
    problem = GaussianMixture()
    x_o = torch.tensor([9.7, -2.0], dtype=torch.float64)  # cut off by the box
    total, mean, second = box_integral(problem, x_o, 1500, (4.0, -8.0), (10.0, 4.0))
    assert total == pytest.approx(1, abs=1e-4)
    sample = problem.reference_posterior(x_o, 20000, seed=0)
    for i in range(2):
        assert abs(float(sample[:, i].mean() - mean[i])) < Z * float(sample[:, i].std()) / 20000**0.5 + 1e-3
        squares = sample[:, i].square()
        assert abs(float(squares.mean() - second[i, i])) < Z * float(squares.std()) / 20000**0.5 + 1e-2


def test_slcp_likelihood_against_multivariate_normal():
    problem = SLCP()
    theta, x = problem.pairs(40, seed=3)
    regular = (theta[:, 2:4].abs() > 0.3).all(-1)
    assert regular.sum() > 20
    for t, row in zip(theta[regular], x[regular], strict=True):
        s1, s2, rho = float(t[2] ** 2), float(t[3] ** 2), math.tanh(float(t[4]))
        covariance = torch.tensor([[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]], dtype=torch.float64)
        law = torch.distributions.MultivariateNormal(t[:2], covariance)
        expected = float(law.log_prob(row.reshape(4, 2)).sum())
        assert float(problem.log_likelihood(t[None], row)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_slcp_simulations_have_their_covariance():
    problem = SLCP()
    theta = torch.tensor([1.0, -2.0, 1.5, -0.8, 0.7], dtype=torch.float64)
    x = problem.simulate(theta.expand(20000, 5), torch.Generator().manual_seed(0)).reshape(-1, 2).numpy()
    s1, s2, rho = 1.5**2, 0.8**2, math.tanh(0.7)
    expected = np.array([[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]])
    assert np.abs(x.mean(0) - [1, -2]).max() < Z * s1 / len(x) ** 0.5
    assert np.abs(np.cov(x.T) / expected - 1).max() < Z * math.sqrt(3 / len(x))


@pytest.mark.parametrize("row", [1, 3])
def test_slcp_reference_against_importance_sampling(row):
    """Moments against self-normalised importance sampling from a widened normal law around the reference itself."""
    problem = SLCP()
    _, x_o = observation(problem, row)
    sample = problem.reference_posterior(x_o, 4000, seed=0)
    folded = sample.clone()
    folded[:, 2:4] = folded[:, 2:4].abs()
    proposal = torch.distributions.MultivariateNormal(folded.mean(0), 2.5 * folded.T.cov())
    torch.manual_seed(0)
    theta = proposal.sample((400_000,))
    inside = problem.inside(theta) & (theta[:, 2:4] > 0).all(-1)
    log_weight = torch.where(inside, problem.log_likelihood(theta, x_o) - proposal.log_prob(theta), -math.inf)
    weight = torch.softmax(log_weight, 0)
    effective = float(1 / weight.square().sum())
    assert effective > 2000
    mean = weight @ theta
    error = Z * folded.std(0) * math.sqrt(1 / 4000 + 4 / effective)  # 4: weights and values are dependent
    assert ((folded.mean(0) - mean).abs() < error).all()
    spread = (weight @ (theta - mean).square()).sqrt()
    assert (folded.std(0) / spread - 1).abs().max() < 0.1


def test_slcp_has_four_modes_and_independent_runs_agree():
    problem = SLCP()
    _, x_o = observation(problem, 0)
    one, other = (problem.reference_posterior(x_o, 1000, seed=seed) for seed in (0, 1))
    shares = torch.stack([((one[:, 2] * a > 0) & (one[:, 3] * b > 0)).double().mean() for a, b in product((1, -1), repeat=2)])
    assert (shares - 0.25).abs().max() < Z * math.sqrt(0.25 * 0.75 / 1000)
    assert c2st(one[:, [0, 1, 4]], other[:, [0, 1, 4]], max_epochs=50) < 0.5 + Z * 0.5 / math.sqrt(2000)


@pytest.mark.parametrize("problem", [PlaneWave(), Axis()], ids=lambda p: p.name)
def test_compact_posteriors_integrate_to_one_and_rules_have_converged(problem):
    for x_o in problem.observations()[1]:
        nodes, weights = problem.nodes(problem.grid // 2)
        assert float((problem.log_posterior(nodes, x_o).exp() * weights).sum()) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("problem", [PlaneWave(), Axis()], ids=lambda p: p.name)
def test_compact_samples_have_the_moments_of_the_density(problem):
    nodes, weights = problem.nodes(problem.grid)
    for row in (0, 4):
        _, x_o = observation(problem, row)
        mass = problem.log_posterior(nodes, x_o).exp() * weights
        sample = problem.reference_posterior(x_o, 5000, seed=0)
        at_nodes, at_sample = problem.features(nodes), problem.features(sample)
        at_nodes, at_sample = (torch.cat([f, f.square(), f[:, :1] * f], -1) for f in (at_nodes, at_sample))
        error = Z * at_sample.std(0) / 5000**0.5 + 1e-9
        assert ((at_sample.mean(0) - mass @ at_nodes).abs() < error).all()


@pytest.mark.parametrize("problem", [PlaneWave(), Axis()], ids=lambda p: p.name)
def test_rejection_has_the_top_of_the_likelihood(problem):
    """No point is above the allowance over the rule's best node."""
    theta = problem.prior(200_000, torch.Generator().manual_seed(0))
    nodes, _ = problem.nodes(problem.grid)
    for x_o in problem.observations()[1][:5]:
        best = nodes[problem.log_likelihood(nodes, x_o).argmax()]
        near = best + 0.02 * torch.randn(20_000, *problem.point_shape, generator=torch.Generator().manual_seed(1))
        near = near / near.norm(dim=-1, keepdim=True) if isinstance(problem, Axis) else near
        top = float(problem.log_likelihood(best, x_o)) + 0.1
        assert float(problem.log_likelihood(torch.cat([theta, near]), x_o).max()) < top


def test_hidden_symmetries_are_in_the_references():
    wave, axis = PlaneWave(), Axis()
    theta, _ = wave.pairs(50, seed=0)
    other = torch.stack([theta[:, 0] + math.pi, -theta[:, 1]], -1)
    assert torch.allclose(wave.readings(theta), wave.readings(other), atol=1e-12)
    u, _ = axis.pairs(50, seed=0)
    assert torch.allclose(axis.readings(u), axis.readings(-u), atol=1e-12)
    for problem, sample_feature in ((wave, lambda t: t[:, 0].cos()), (axis, lambda t: t[:, 2])):
        _, x_o = observation(problem, 2)
        values = sample_feature(problem.reference_posterior(x_o, 4000, seed=0))
        assert abs(float(values.mean())) < Z * float(values.std()) / 4000**0.5  # opposite directions weigh the same


def test_problems_are_of_two_kinds():
    assert all(isinstance(problem, Box | Compact) for problem in PROBLEMS.values())
    for problem in PROBLEMS.values():
        theta = problem.prior(100, torch.Generator().manual_seed(0))
        assert problem.inside(theta).all()
    assert not TwoMoons().inside(torch.tensor([[1.5, 0.0]])).any()


def test_c2st_of_equal_different_and_shifted_samples():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(400, 2, generator=generator) for _ in range(2))
    assert abs(c2st(a, b, max_epochs=100) - 0.5) < 0.08
    scores = [c2st(a, b + shift, max_epochs=100) for shift in (0.5, 1.0, 5.0)]
    assert all(low < high for low, high in pairwise(scores))
    # the best classifier of N(0, I) and N((1, 1), I) has the accuracy ndtr(sqrt 2 / 2)
    assert scores[1] == pytest.approx(stats.norm.cdf(math.sqrt(2) / 2), abs=0.06)
    assert scores[2] > 0.99
    with pytest.raises(ValueError, match="one shape"):
        c2st(a, b[:100])
    with pytest.raises(ValueError, match="finite"):
        c2st(a, b / 0)
