"""What exact means: laws of drawn mixtures, intervals, errors of averages, diagnoses; frozen mixtures as densities."""

from __future__ import annotations

import copy
import functools
import math

import geoopt
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score
from table.common import F64, SPHERE
from torch import Tensor

import mf_manifold as mf
from mf_manifold.diagnosis import Diagnosis, diagnose
from mf_manifold.dimension import gaussian_variance, local_dimension
from mf_manifold.interval import Responsibilities
from mf_manifold.scoring import score
from mf_manifold.testing.density import generator_for


def space(m: int) -> mf.Kernel:
    return mf.kernel_for(geoopt.Euclidean(ndim=1), (m,))


def drawn(m: int, s: float, count: int, seed: int, repeats: int | None = None) -> mf.Mixture:
    """Normal kernels of width s around standard normal locations: the infinite mixture is N(0, 1 + s^2)."""
    shape = (count, m) if repeats is None else (repeats, count, m)
    loc = torch.randn(shape, generator=generator_for(seed), dtype=F64)
    return mf.Mixture(space(m), {"loc": loc, "scale": torch.full((*shape[:-1], 1), s, dtype=F64)})


def importance(s: float, count: int, seed: int, repeats: int) -> mf.Mixture:
    """The same infinite mixture from locations of N(0, 1.5^2) with weights."""
    loc = 1.5 * torch.randn((repeats, count, 1), generator=generator_for(seed), dtype=F64)
    weights = -loc.square().squeeze(-1) * (1 - 1 / 1.5**2) / 2
    return mf.Mixture(space(1), {"loc": loc, "scale": torch.full((repeats, count, 1), s, dtype=F64)}, weights)


def exact(x: Tensor, s: float) -> Tensor:
    return torch.distributions.Normal(0.0, math.sqrt(1 + s * s)).log_prob(x).sum(-1)


def at(m: int, radius: float) -> Tensor:
    return radius * torch.eye(m, dtype=F64)[:1]


@pytest.mark.parametrize(("m", "s", "radius"), [(1, 0.5, 0.0), (1, 0.2, 1.0), (2, 0.5, 0.0), (2, 0.5, 1.0)])
def test_bias_and_spread_follow_the_law(m: int, s: float, radius: float) -> None:
    """E log q_M = log q* - V / 2M within 30 %, sd = sqrt(V / M) within 10 %, at V / M of about 0.03."""
    v = gaussian_variance(m, s, radius)
    count = round(v / 0.03)
    repeats = round(900 * count / v)
    logs = drawn(m, s, count, 1, repeats).log_prob(at(m, radius))
    bias = float((logs - exact(at(m, radius), s)).mean())
    assert bias == pytest.approx(-v / 2 / count, rel=0.3)
    assert float(logs.std()) == pytest.approx(math.sqrt(v / count), rel=0.1)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("s", [0.2, 0.5, 1.0])
def test_variance_at_the_mode_and_off_it_grows_with_the_dimension(m: int, s: float) -> None:
    """The variance that one large draw estimates is that of the law, on the mode and off it."""
    mixture = drawn(m, s, 2**17, seed=m)
    for radius in (0.0, 1.0, 2.0):
        estimate = float(Responsibilities.of(mixture, at(m, radius)).variance) * mixture.n_components
        assert estimate == pytest.approx(gaussian_variance(m, s, radius), rel=0.15)


@pytest.mark.parametrize("m", [10, 20])
def test_many_dimensions_defeat_a_draw_and_it_says_so(m: int) -> None:
    """At m = 10 and s = 0.2 one effective component takes 4e5: 4096 miss the density by nats and the estimated variance too."""
    found = drawn(m, 0.2, 4096, 0, 20).log_prob_interval(at(m, 0.0))
    assert gaussian_variance(m, 0.2) > 4e5
    assert float((found.log_prob - exact(at(m, 0.0), 0.2)).mean()) < -2
    assert not found.trustworthy.any()
    assert float(found.n_effective.median()) < 3


def covered(mixture: mf.Mixture, x: Tensor, truth: Tensor) -> tuple[float, float]:
    """Share of the trustworthy intervals that hold the truth, and the share that is trustworthy."""
    found = mixture.log_prob_interval(x)
    hits = (found.lower < truth) & (truth < found.upper)
    return float(hits[found.trustworthy].double().mean()), float(found.trustworthy.double().mean())


@pytest.mark.parametrize("radius", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_interval_covers_where_it_claims_to(radius: float, weighted: bool) -> None:
    mixture = importance(0.2, 256, 3, 4000) if weighted else drawn(1, 0.2, 256, 3, 4000)
    share, trusted = covered(mixture, at(1, radius), exact(at(1, radius), 0.2))
    assert 0.9 < share < 0.97
    assert trusted > 0.8


def test_interval_without_the_ratio_would_not_cover() -> None:
    """Weights that vary more than the densities: what holds for a mean is wrong for a ratio of means."""
    s, x = 2.0, at(1, 0.0)
    mixture = importance(s, 256, 4, 4000)
    assert 0.9 < covered(mixture, x, exact(x, s))[0] < 0.97
    part, error = Responsibilities.of(mixture, x), mixture.log_prob(x) - exact(x, s)
    naive = (part.squares - 1 / 256).sqrt()
    assert float((error.abs() < 1.96 * naive).double().mean()) > 0.99
    assert float(error.std()) == pytest.approx(float(part.variance.mean().sqrt()), rel=0.1)


def test_background_is_not_random() -> None:
    """With a background of half the density the interval shrinks, and still covers."""
    s, x, weight = 0.2, at(1, 1.0), 0.4
    bump = mf.distribution(geoopt.Euclidean(ndim=1), loc=torch.zeros(1, dtype=F64), scale=torch.ones(1, dtype=F64))
    truth = torch.logaddexp(exact(x, s) + math.log(1 - weight), bump.log_prob(x) + math.log(weight))
    plain = drawn(1, s, 256, 8, 2000)
    mixture = mf.Mixture(plain.kernel, plain.params, background=bump, background_weight=weight)
    assert 0.9 < covered(mixture, x, truth)[0] < 0.97
    found = mixture.log_prob_interval(x)
    assert float(found.log_prob.std()) == pytest.approx(float(found.standard_error.mean()), rel=0.1)
    assert (found.standard_error < 0.8 * plain.log_prob_interval(x).standard_error).all()


def test_point_that_no_component_reaches_is_not_trusted() -> None:
    found = drawn(1, 0.2, 100, 0).log_prob_interval(at(1, 1e200))
    assert found.log_prob == -math.inf
    assert found.n_effective == 1 and not found.trustworthy


@functools.cache
def moons_flow() -> tuple[mf.MarginalFlow, Tensor]:
    g = generator_for(0)
    angle, which = math.pi * torch.rand(1200, generator=g), torch.randint(2, (1200,), generator=g)
    arcs = torch.stack([torch.stack([angle.cos(), angle.sin()], -1), torch.stack([1 - angle.cos(), 0.5 - angle.sin()], -1)])
    x = arcs[which, torch.arange(1200)] + 0.1 * torch.randn(1200, 2, generator=g)
    flow = mf.MarginalFlow(geoopt.Euclidean(ndim=1), (2,), base="uniform", n_components=512, hidden=(64, 64), bandwidth=0.5)
    return flow.fit(x[:800], max_steps=60, progress=False), x[800:]


def test_interval_of_a_flow_covers_a_much_larger_draw() -> None:
    flow, x = moons_flow()
    with torch.no_grad():
        truth = flow(n_components=2**16, generator=generator_for(1)).log_prob(x)
        shares = [covered(flow(n_components=2048, generator=generator_for(seed)), x, truth) for seed in range(40)]
    assert min(trusted for _, trusted in shares) > 0.9
    assert 0.9 < sum(share for share, _ in shares) / 40 < 0.97


@pytest.mark.parametrize("weighted", [False, True])
def test_error_of_an_average_follows_from_the_shared_draw(weighted: bool) -> None:
    """Against 400 repeated draws; errors of single points added as if independent would be too small."""
    s, x = 1.0, 1 + torch.randn(500, 1, generator=generator_for(5), dtype=F64) / 2
    repeats = importance(s, 512, 6, 400) if weighted else drawn(1, s, 512, 6, 400)
    single = [
        mf.Mixture(repeats.kernel, {k: v[i] for k, v in repeats.params.items()}, repeats.log_weights[i] if weighted else None)
        for i in range(400)
    ]
    means = torch.tensor([float(mixture.log_prob(x).mean()) for mixture in single])
    found = [score(mixture, x) for mixture in single[:20]]
    predicted = sum(each.draw_error for each in found) / 20
    assert float(means.std()) == pytest.approx(predicted, rel=0.2)
    naive = float(Responsibilities.of(single[0], x).variance.mean().sqrt()) / math.sqrt(500)
    assert naive < 0.7 * predicted
    assert found[0].sampling_error == pytest.approx(float(single[0].log_prob(x).std()) / math.sqrt(500), rel=1e-6)
    bias = sum(each.bias for each in found) / 20
    assert float(means.mean()) - float(exact(x, s).mean()) == pytest.approx(bias, abs=4 * predicted / 20)


def test_score_counts_the_background_and_the_measure() -> None:
    loc = mf.geometry.sample_uniform(SPHERE, (3,), (64,), generator=generator_for(1), dtype=F64)
    kernel = mf.kernel_for(SPHERE, (3,))
    params = {"loc": loc, "concentration": torch.full((64,), 20.0, dtype=F64)}
    uniform = mf.distribution(SPHERE, "uniform", point_shape=(3,))
    x = mf.geometry.sample_uniform(SPHERE, (3,), (100,), generator=generator_for(2), dtype=F64)
    plain = score(mf.Mixture(kernel, params, measure="normalized"), x)
    mixed = score(mf.Mixture(kernel, params, measure="normalized", background=uniform, background_weight=0.999), x)
    assert plain.mean == pytest.approx(float(mf.Mixture(kernel, params).log_prob(x, "normalized").mean()))
    assert abs(mixed.mean) < 0.01 and mixed.draw_error < 0.01 * plain.draw_error
    with pytest.raises(ValueError, match="at least two points"):
        score(mf.Mixture(kernel, params), x[:1])


@pytest.mark.parametrize(("m", "expected"), [(1, 1.0), (2, 2.0), (3, 3.0), (10, 10.0)])
def test_dimension_of_normal_points(m: int, expected: float) -> None:
    points = torch.randn(2048, m, generator=generator_for(m), dtype=F64)
    assert local_dimension(points) == pytest.approx(expected, rel=0.1)
    assert local_dimension(points, 0.1) == pytest.approx(expected, rel=0.1)


def test_dimension_is_read_at_the_given_length() -> None:
    g = generator_for(0)
    angle = 2 * math.pi * torch.rand(2048, generator=g, dtype=F64)
    ring = torch.stack([angle.cos(), angle.sin()], -1) + 0.02 * torch.randn(2048, 2, generator=g, dtype=F64)
    assert local_dimension(ring) > 1.8
    assert local_dimension(ring, 0.2) < 1.3


def linear_gaussian_diagnosis(m: int, s: float, count: int) -> tuple[Diagnosis, Tensor]:
    x = math.sqrt(1 + s * s) * torch.randn(2000, m, generator=generator_for(9), dtype=F64)
    return diagnose(drawn(m, s, 16 * count, 7), x, count), x


@pytest.mark.parametrize(("m", "s", "count"), [(1, 0.2, 512), (2, 0.2, 1024)])
def test_diagnosis_finds_bias_dimension_and_width(m: int, s: float, count: int) -> None:
    found, x = linear_gaussian_diagnosis(m, s, count)
    scores = torch.stack([drawn(m, s, count, seed).log_prob(x).mean() for seed in range(100, 140)])
    bias = float(scores.mean() - exact(x, s).mean())
    assert found.bias == pytest.approx(bias, rel=0.3)
    assert found.dimension == pytest.approx(m, rel=0.15)
    assert found.width == pytest.approx(s, rel=0.1)
    assert found.gaussian == pytest.approx(gaussian_variance(m, s), rel=0.35)
    enough = round(found.components_for_bias)
    later = torch.stack([drawn(m, s, enough, seed).log_prob(x).mean() for seed in range(200, 240)])
    assert float(later.mean() - exact(x, s).mean()) == pytest.approx(-0.01, rel=0.4)


def test_diagnosis_counts_trustworthy_points() -> None:
    found, x = linear_gaussian_diagnosis(1, 0.1, 512)
    direct = drawn(1, 0.1, 512, 3).log_prob_interval(x)
    assert found.untrusted == pytest.approx(1 - float(direct.trustworthy.double().mean()), abs=0.03)
    assert found.effective[1] == pytest.approx(float(direct.n_effective.median()), rel=0.1)
    enough = drawn(1, 0.1, round(found.components_for_trust), 3).log_prob_interval(x)
    assert float(enough.trustworthy.double().mean()) == pytest.approx(0.9, abs=0.03)


def test_verdicts() -> None:
    assert "are enough" in linear_gaussian_diagnosis(1, 0.5, 512)[0].verdict
    assert "Freeze with about" in linear_gaussian_diagnosis(2, 0.2, 256)[0].verdict
    assert linear_gaussian_diagnosis(10, 0.2, 256)[0].verdict.startswith("The wrong tool: kernels of relative width 0.")
    assert linear_gaussian_diagnosis(3, 0.02, 64)[0].verdict.startswith("Kernels too narrow")


def test_flow_diagnoses_itself_at_data_and_at_its_own_samples() -> None:
    flow, x = copy.deepcopy(moons_flow())
    flow.base = "sobol"
    at_data, own = flow.diagnose(x, n_components=128), flow.diagnose(n_components=128)
    for found in (at_data, own):
        assert list(found.scores) == [128, 512, 2048] and list(found.frozen) == [128, 512, 2048]
        assert found.scores[128] < found.scores[512] < found.scores[2048]
        assert found.frozen[128] > found.scores[128]  # Sobol components are worth more
        assert found.dimension < 2.3
    assert at_data.n_points == len(x) and own.n_points == 2048
    assert at_data == flow.diagnose(x, n_components=128)
    table = str(at_data)
    assert table.endswith(at_data.verdict) and "points with fewer than 20" in table


def test_diagnosis_errors() -> None:
    x = torch.zeros(10, 1, dtype=F64)
    with pytest.raises(ValueError, match="at least 64 components"):
        diagnose(drawn(1, 0.5, 32, 0), x)
    with pytest.raises(ValueError, match="a quarter or a 16th"):
        diagnose(drawn(1, 0.5, 128, 0), x, 100)
    with pytest.raises(ValueError, match="at least 64 points"):
        local_dimension(torch.zeros(10, 2))


def frozen_moons() -> mf.Mixture:
    return moons_flow()[0].freeze(512, seed=0)


def test_frozen_mixture_integrates_to_one_on_a_grid() -> None:
    mixture, steps = frozen_moons(), 600
    axis = torch.linspace(-4.0, 4.0, steps, dtype=F64)
    mass = float(mixture.log_prob(torch.cartesian_prod(axis, axis)).exp().sum()) * (8.0 / (steps - 1)) ** 2
    assert abs(mass - 1) < 1e-3


def rejection_sample(mixture: mf.Mixture, count: int) -> Tensor:
    """Points of the box [-4, 4]^2 accepted in proportion to the density alone."""
    g, found, box = generator_for(1), [], 8.0
    axis = torch.linspace(-4.0, 4.0, 400)
    top = 1.2 * float(mixture.log_prob(torch.cartesian_prod(axis, axis)).max().exp())
    while sum(map(len, found)) < count:
        x = box * torch.rand(100_000, 2, generator=g) - box / 2
        density = mixture.log_prob(x).exp()
        assert float(density.max()) < top
        found.append(x[torch.rand(len(x), generator=g) * top < density])
    return torch.cat(found)[:count]


def c2st(a: Tensor, b: Tensor) -> float:
    """Accuracy of a classifier that tells two samples of equal size apart; 0.5 for the same law."""
    labels = torch.cat([torch.zeros(len(a)), torch.ones(len(b))])
    classifier = HistGradientBoostingClassifier(max_iter=50, random_state=0)
    return float(cross_val_score(classifier, torch.cat([a, b]).numpy(), labels.numpy(), cv=5).mean())


def test_samples_of_a_frozen_mixture_follow_its_density() -> None:
    mixture = frozen_moons()
    samples, rejected = mixture.sample((8000,), generator_for(2)), rejection_sample(mixture, 8000)
    assert c2st(samples, rejected) < 0.52
    assert c2st(samples + 0.2, rejected) > 0.6  # the test can fail
