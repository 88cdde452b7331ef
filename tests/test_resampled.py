"""Resampled bases: normalised, sampled as they say, with the gradients of their integrals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import geoopt
import pytest
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.integral import total_mass
from mf_manifold.losses import Batch, Sum, forward_kl
from mf_manifold.models import (
    AcceptanceReward,
    FactorizedResampledBase,
    Flow,
    ResampledBase,
    ResampledDistribution,
    ResampledReverseKL,
    resampled,
)
from mf_manifold.models.resampled_base import SEED

LINE = PLANE = geoopt.Euclidean(ndim=1)
SPHERE, TORUS = geoopt.Sphere(), mf.manifolds.Torus()
TRUNCATIONS = (1, 2, 5, 100, None)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sharp(base: ResampledBase, factor: float = 8.0) -> ResampledBase:
    """The base with an acceptance that is far from constant, in float64."""
    with torch.no_grad():
        base.network[-1].weight *= factor
    return base.double()


def middles(cells: int, low: float, high: float) -> tuple[Tensor, float]:
    side = (high - low) / cells
    return low + side * (torch.arange(cells, dtype=torch.float64) + 0.5), side


def grid(space: str) -> tuple[Tensor, Tensor | float]:
    """Points of a quadrature and their volumes."""
    if space == "line":
        axis, side = middles(4000, -9.0, 9.0)
        return axis.unsqueeze(1), side
    if space == "sphere":
        height, angle = middles(300, -1.0, 1.0), middles(300, -math.pi, math.pi)
        z, a = torch.cartesian_prod(height[0], angle[0]).unbind(1)
        radius = (1 - z.square()).sqrt()
        return torch.stack([radius * a.cos(), radius * a.sin(), z], 1), height[1] * angle[1]
    axis, side = middles(300, -math.pi, math.pi) if space == "torus" else middles(500, -8.0, 8.0)
    return torch.cartesian_prod(axis, axis), side**2


def proposals(space: str) -> mf.KernelDistribution | mf.Mixture | None:
    if space == "sphere":
        loc = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
        return mf.distribution(SPHERE, "von_mises_fisher", loc=loc, concentration=3.0)
    if space == "torus":
        kernel = mf.kernel_for(TORUS, (2,), "von_mises")
        params = {"loc": torch.tensor([[0.0, 1.0], [2.0, -3.0]]).double(), "concentration": torch.full((2, 2), 2.0).double()}
        return mf.Mixture(kernel, params, torch.tensor([0.3, 0.7]).double().log())
    return None


SPACES = {"line": (LINE, (1,)), "plane": (PLANE, (2,)), "sphere": (SPHERE, (3,)), "torus": (TORUS, (2,))}


def mass(law: ResampledDistribution, space: str) -> float:
    x, volume = grid(space)
    with torch.no_grad():
        return float((law.log_prob(x).exp() * volume).sum())


def by_quadrature(base: ResampledBase, space: str = "line") -> Tensor:
    """Z, with its gradients."""
    x, volume = grid(space)
    return ((base.proposal.law().log_prob(x) + base.log_acceptance(x)).exp() * volume).sum()


@pytest.mark.parametrize("space", SPACES)
def test_any_acceptance_and_truncation_integrate_to_one(space: str) -> None:
    base = sharp(ResampledBase(*SPACES[space], proposals(space), hidden=(16,)))
    found = base.estimate_normalizer(3e-4)
    assert found.standard_error <= 3e-4 * found.value
    assert float(base.log_acceptance(grid(space)[0]).exp().std()) > 0.02
    assert abs(found.value - float(by_quadrature(base, space))) < 4.3 * found.standard_error
    for truncation in TRUNCATIONS:
        base.truncation = truncation
        assert mass(base.freeze(), space) == pytest.approx(1.0, abs=1e-3), truncation


def test_wrong_normalizers_and_lost_terms_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    base = sharp(ResampledBase(LINE, (1,), hidden=(16,), truncation=3))
    exact = by_quadrature(base).detach()
    base.normalizer.copy_(exact)
    assert mass(base.freeze(), "line") == pytest.approx(1.0, abs=1e-6)
    base.normalizer.copy_(1.05 * exact)
    assert abs(mass(base.freeze(), "line") - 1) > 0.01
    base.normalizer.copy_(exact)
    alpha = (1 - exact) ** 2

    def without_alpha(log_a: Tensor, z: Tensor, truncation: int | None) -> Tensor:
        return torch.log1p(-alpha) + log_a - z.log()

    monkeypatch.setattr(resampled, "log_weight", without_alpha)
    assert mass(base.freeze(), "line") == pytest.approx(1 - float(alpha), abs=1e-6)
    assert float(alpha) > 0.01


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_samples_follow_the_density_and_cost_what_the_formula_says(truncation: int | None) -> None:
    base = sharp(ResampledBase(LINE, (1,), hidden=(16,), truncation=truncation), 20.0)
    base.normalizer.copy_(by_quadrature(base).detach())
    law, n = base.freeze(), 200_000
    drawn = law.draw((n,), seeded(1))
    x, side = grid("line")
    expected = n * (law.log_prob(x).exp() * side).detach().reshape(80, 50).sum(1)
    counts = torch.histc(drawn.points.squeeze(1), 80, -9.0, 9.0)
    used = expected > 20
    chi2 = float(((counts - expected)[used].square() / expected[used]).sum())
    assert chi2 < int(used.sum()) + 4.3 * math.sqrt(2 * int(used.sum()))
    taken = drawn.taken.double()
    assert abs(float(taken.mean() - law.expected_draws)) <= 4.3 * float(taken.std()) / math.sqrt(n) + 1e-9
    assert truncation is None or int(taken.max()) <= truncation
    assert torch.equal(law.draw((50,), seeded(3)).points, law.sample((50,), seeded(3)))


def test_one_proposal_or_constant_acceptance_leave_the_proposal() -> None:
    x = torch.randn(100, 2, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    once = sharp(ResampledBase(PLANE, (2,), truncation=1))
    assert torch.allclose(once.freeze().log_prob(x), normal.log_prob(x).sum(-1), atol=1e-12)
    for bias in (-2.0, 40.0):  # at 40 the acceptance is 1 to rounding
        constant = ResampledBase(PLANE, (2,)).double()
        with torch.no_grad():
            constant.network[-1].weight.zero_()
            constant.network[-1].bias.fill_(bias)
        constant.settle()
        found = constant(generator=seeded(0)).log_prob(x)
        assert torch.allclose(found, normal.log_prob(x).sum(-1), atol=1e-12)
        found.sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in constant.parameters() if p.grad is not None)


def test_many_proposals_are_the_limit() -> None:
    base = sharp(ResampledBase(LINE, (1,), hidden=(16,), truncation=None))
    base.normalizer.copy_(by_quadrature(base).detach())
    x = torch.linspace(-3, 3, 50, dtype=torch.float64).unsqueeze(1)
    limit = base.freeze().log_prob(x)
    with torch.no_grad():
        plain = base.proposal.law().log_prob(x) + base.log_acceptance(x) - base.normalizer.log()
    assert torch.allclose(limit, plain, atol=1e-12)
    for truncation, far in ((3, True), (10_000, False)):
        base.truncation = truncation
        assert bool((base.freeze().log_prob(x) - limit).abs().max() > 1e-3) == far


def slopes(loss: Tensor, base: ResampledBase) -> Tensor:
    """Derivatives along the last layer's weights and the first layer's biases."""
    chosen = [base.network[-1].weight, base.network[1].bias]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, chosen)])


def exact_log_prob(base: ResampledBase, x: Tensor) -> Tensor:
    weight = resampled.log_weight(base.log_acceptance(x), by_quadrature(base), base.truncation)
    return base.proposal.law().log_prob(x) + weight


def likelihood_slopes(base: ResampledBase, x: Tensor, repeats: int = 60) -> tuple[Tensor, Tensor]:
    """Mean and standard error of the gradients of the negative log-likelihood as a fit has them."""
    found = torch.stack([slopes(forward_kl(base, Batch(x, None, seeded(i), 1, 0.0)), base) for i in range(repeats)])
    return found.mean(0), found.std(0) / math.sqrt(repeats)


@pytest.mark.parametrize("truncation", [2, 5, None])
def test_likelihood_gradient_is_that_of_the_integral(truncation: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    base = sharp(ResampledBase(LINE, (1,), hidden=(8,), truncation=truncation, n_proposals=4096))
    base.normalizer.copy_(by_quadrature(base).detach())
    x = torch.cat([torch.randn(300, 1) * 0.3 + 1, torch.randn(200, 1) * 0.2 - 1]).double()

    def loss() -> Tensor:
        return -exact_log_prob(base, x).mean()

    exact, weight, step = slopes(loss(), base), base.network[-1].weight, 1e-6
    for i in range(3):  # finite differences of the quadrature
        with torch.no_grad():
            weight[0, i] += step
            above = loss()
            weight[0, i] -= 2 * step
            below = loss()
            weight[0, i] += step
        assert float((above - below) / (2 * step)) == pytest.approx(float(exact[i]), abs=1e-7)

    def misses() -> bool:
        mean, error = likelihood_slopes(base, x)
        return bool(((mean - exact).abs() > 5 * error + 1e-9).any())

    assert not misses()
    whole = resampled.log_weight

    def detached(log_a: Tensor, z: Tensor, limit: int | None) -> Tensor:
        return whole(log_a, z.detach(), limit)

    def fixed_alpha(log_a: Tensor, z: Tensor, limit: int | None) -> Tensor:
        alpha = (1 - z.detach()) ** ((limit or 1) - 1)
        return torch.log((1 - alpha) * log_a.exp() / z + alpha)

    for mutant in (detached, fixed_alpha) if truncation else (detached,):
        monkeypatch.setattr(resampled, "log_weight", mutant)
        assert misses()


def test_normalizer_has_the_gradient_of_learned_proposals() -> None:
    """By the path where there is one, by the score where there is none."""
    for path in (True, False):
        base = sharp(ResampledBase(TORUS, (1,), "von_mises", hidden=(8,), n_proposals=4096))
        law = base.proposal.law()
        angle, side = middles(2000, -math.pi, math.pi)
        x = angle.unsqueeze(1)
        z = ((law.log_prob(x) + base.log_acceptance(x)).exp() * side).sum()
        exact = torch.autograd.grad(z, base.proposal.raw)[0]
        if not path:
            type(law).has_rsample, kept = property(lambda self: False), type(law).__dict__["has_rsample"]
        try:
            estimates = [base.estimate(base.proposal.law(), 4096, seeded(i)) for i in range(60)]
        finally:
            if not path:
                type(law).has_rsample = kept
        found = torch.stack([torch.autograd.grad(e, base.proposal.raw)[0] for e in estimates])
        assert float(exact.norm()) > 1e-3
        assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / math.sqrt(60) + 1e-9).all()


def test_evaluation_is_deterministic_and_fits_leave_the_right_normalizer() -> None:
    base = ResampledBase(PLANE, (2,), hidden=(16,))
    x = torch.randn(300, 2, generator=seeded(0)).abs()
    before = base.normalizer.clone()
    with torch.no_grad():
        silent = base.log_prob(x)
    assert torch.equal(base.log_prob(x), silent)
    assert torch.equal(base.log_prob(x), silent)
    assert torch.equal(base.normalizer, before)
    base.fit(x, max_steps=100, progress=False)
    kept = float(base.normalizer)
    assert torch.equal(base.freeze().log_prob(x), base.freeze().log_prob(x))
    again = base.estimate_normalizer(1e-3, seed=5)
    assert abs(kept - float(before)) > 0.01
    assert abs(kept - again.value) < 5 * (0.01 * again.value + again.standard_error)
    law = base.freeze()
    moved = ResampledDistribution(law.proposal, law.log_acceptance, law.normalizer + law.normalizer_error, law.truncation)
    change = moved.log_prob(x) - law.log_prob(x)
    assert torch.allclose(law.log_prob_error(x), change, rtol=0.05, atol=1e-5)


def test_a_step_of_a_fit_moves_the_average_of_the_normalizer() -> None:
    base = ResampledBase(PLANE, (2,), decay=0.25)
    base.normalizer.fill_(0.9)
    flow = Flow(PLANE, (2,), transforms=1, hidden=(8,), base=base)
    for part in flow.members():
        part.track(seeded(0))
    with torch.no_grad():
        fresh = base.estimate(base.proposal.law(), base.n_proposals, seeded(0))
    assert float(base.normalizer) == pytest.approx(0.75 * 0.9 + 0.25 * float(fresh), abs=1e-6)


def reverse_slopes(model: Flow, target: Callable[[Tensor], Tensor], drop: bool, repeats: int = 400) -> tuple[Tensor, Tensor]:
    objective, rows = ResampledReverseKL(target, 256), []
    for i in range(repeats):
        model.zero_grad()
        loss = objective(model, Batch(None, None, seeded(i), 1, 1.0))
        if drop:  # the covariance
            law = model(generator=seeded(i))
            z = law.base.sample((256,), seeded(i))
            loss = (law.base.log_prob(z) + law.flow.to_latent(law.flow.to_data(z))[1] - target(law.flow.to_data(z))).mean()
        loss.backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    found = torch.stack(rows)
    return found.mean(0), found.std(0) / math.sqrt(repeats)


def test_covariance_gradient_is_unbiased() -> None:
    base = sharp(ResampledBase(LINE, (1,), hidden=(4,), truncation=5))
    base.normalizer.copy_(by_quadrature(base).detach())
    model = Flow(LINE, (1,), transforms=1, layers="affine", base=base).double()

    def target(x: Tensor) -> Tensor:
        return torch.logaddexp(-2 * (x[:, 0] - 1).square(), -8 * (x[:, 0] + 0.7).square())

    z, side = grid("line")
    log_q = exact_log_prob(base, z)
    x = model.to_data(z)
    divergence = (log_q.exp() * (log_q + model.to_latent(x)[1] - target(x)) * side).sum()
    divergence.backward()
    exact = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    mean, error = reverse_slopes(model, target, drop=False)
    assert len(exact) == len(mean) > 10
    assert ((mean - exact).abs() < 5 * error + 1e-9).all()
    assert float(ResampledReverseKL(target, 200_000)(model, Batch(None, None, seeded(0), 1, 1.0))) == pytest.approx(
        float(divergence.detach()), abs=0.02
    )
    mean, error = reverse_slopes(model, target, drop=True, repeats=100)
    assert ((mean - exact).abs() > 5 * error + 1e-9).any()


def test_reverse_divergence_finds_two_bumps_without_data() -> None:
    def target(x: Tensor) -> Tensor:
        return (-(x[:, :1] - torch.tensor([1.5, -1.5])).square() / 0.1).logsumexp(1) - x[:, 1].square() / 2

    base = ResampledBase(PLANE, (2,), "normal", hidden=(32,))
    base.fit(objective=ResampledReverseKL(target, 256), max_steps=150, learning_rate=1e-2, progress=False)
    x = base.sample((4000,), seeded(0))
    assert float((x[:, 0].abs() < 0.5).float().mean()) < 0.08  # of a normal law of the same variance: 0.26
    assert 0.3 < float((x[:, 0] > 0).float().mean()) < 0.7


def narrow(scale: float) -> Tensor:
    return scale * torch.randn(1000, 24, generator=seeded(0))


def test_guards_hold_the_acceptance_in_24_dimensions() -> None:
    """A law that is narrower in all directions than its proposal pulls the acceptance to zero."""
    options = {"max_steps": 120, "learning_rate": 3e-2, "batch_size": 128, "progress": False}
    x, found = narrow(0.25), {}
    for name, floor, objective in (
        ("none", 0.0, None),
        ("floor", 0.1, None),
        ("reward", 0.0, Sum(forward_kl, AcceptanceReward(), weights=[1.0, 5.0])),
    ):
        base = ResampledBase(PLANE, (24,), hidden=(32,), n_frequencies=0, truncation=None, min_acceptance=floor)
        found[name] = base.fit(x, objective=objective, **options).estimate_normalizer(0.05).value
    assert found["none"] < 0.05
    assert 0.1 <= found["floor"] < 0.3
    assert found["reward"] > 4 * found["none"]


def test_groups_keep_their_own_acceptance_in_24_dimensions() -> None:
    base = FactorizedResampledBase(PLANE, (24,), groups=8, hidden=(16,), n_frequencies=0, truncation=None)
    x = narrow(0.6)
    base.fit(x, max_steps=60, learning_rate=1e-2, batch_size=128, progress=False)
    each = base.estimate_normalizer(0.01)
    assert len(each) == 8 and min(one.value for one in each) > 0.05
    law = base.freeze()
    with torch.no_grad():
        parts = [part.log_prob(own) for part, own in zip(law.parts, law.split(x), strict=True)]
    assert torch.allclose(law.log_prob(x), sum(parts), atol=1e-4)
    assert law.sample((7,), seeded(0)).shape == (7, 24)


def test_factorised_law_integrates_to_one() -> None:
    base = FactorizedResampledBase(TORUS, (2,), 2, hidden=(8,)).double()
    for group in base.groups:
        sharp(group, 8.0)
    base.estimate_normalizer(3e-4)
    assert mass(base.freeze(), "torus") == pytest.approx(1.0, abs=1e-3)
    x = grid("torus")[0][:10]
    assert float(base.freeze().log_prob_error(x).max()) < 5e-3


PROPOSALS: dict[str, Callable[[], ResampledBase]] = {
    "normal": lambda: ResampledBase(PLANE, (2,), "normal", hidden=(8,)),
    "standard": lambda: ResampledBase(PLANE, (2,), hidden=(8,), min_acceptance=0.1, truncation=7),
    "kernel": lambda: ResampledBase(SPHERE, (3,), proposals("sphere"), hidden=(8,)),
    "mixture": lambda: ResampledBase(TORUS, (2,), proposals("torus"), hidden=(8,)),
    "covered mixture": lambda: ResampledBase(SPHERE, (3,), covered(), hidden=(8,)),
    "learned": lambda: ResampledBase(SPHERE, (3,), "von_mises_fisher", hidden=(8,)),
    "matrices": lambda: ResampledBase(geoopt.SymmetricPositiveDefinite(), (2, 2), hidden=(8,)),
    "hyperboloid": lambda: ResampledBase(geoopt.Lorentz(), (3,), "wrapped_normal", hidden=(8,)),
    "subspaces": lambda: ResampledBase(mf.manifolds.Grassmann(), (4, 2), hidden=(8,)),
}


def covered() -> mf.Mixture:
    kernel = mf.kernel_for(SPHERE, (3,), "von_mises_fisher")
    background = mf.distribution(SPHERE, "uniform", point_shape=(3,))
    params = {"loc": torch.eye(3), "concentration": torch.full((3,), 20.0)}
    return mf.Mixture(kernel, params, background=background, background_weight=0.2)


@pytest.mark.parametrize("name", PROPOSALS)
def test_any_proposal_trains_and_returns_from_its_file(name: str, tmp_path: Path) -> None:
    base = PROPOSALS[name]()
    x = base.sample((200,), seeded(0))
    base.fit(x, max_steps=20, progress=False, checkpoint=tmp_path / "run")
    base.save(tmp_path / "model")
    back = mf.load(tmp_path / "model")
    assert torch.equal(back.freeze().log_prob(x), base.freeze().log_prob(x))
    assert torch.equal(back.sample((20,), seeded(1)), base.sample((20,), seeded(1)))
    assert back.config() == base.config()
    weight = base.log_weight(base.propose(20_000, seeded(2))).exp().detach()  # its mean is the mass
    assert abs(float(weight.mean()) - 1) < 4.3 * float(weight.std()) / math.sqrt(20_000) + 0.03


def test_density_of_matrices_integrates_to_one_by_another_law() -> None:
    spd = geoopt.SymmetricPositiveDefinite()
    base = sharp(ResampledBase(spd, (2, 2), hidden=(8,)), 4.0)
    base.estimate_normalizer(2e-3)
    other = mf.distribution(spd, "log_normal", loc=torch.eye(2).double(), scale=1.4)
    x = other.sample((100_000,), seeded(0))
    with torch.no_grad():
        ratio = (base.freeze().log_prob(x) - other.log_prob(x)).exp()
    assert abs(float(ratio.mean()) - 1) < 4.3 * float(ratio.std()) / math.sqrt(len(x)) + 0.01


def test_subspaces_are_accepted_whatever_their_basis() -> None:
    base = PROPOSALS["subspaces"]()
    x = base.sample((50,), seeded(0))
    turned = x.flip(-1)
    assert torch.allclose(base.freeze().log_prob(x), base.freeze().log_prob(turned), atol=1e-5)


def test_flows_of_both_kinds_take_the_base(tmp_path: Path) -> None:
    zuko = pytest.importorskip("zuko")
    base = ResampledBase(PLANE, (2,), hidden=(8,))
    axis, side = middles(400, -12.0, 12.0)
    points = torch.cartesian_prod(axis, axis).float()
    model = Flow(PLANE, (2,), transforms=2, hidden=(8,), base=base).fit(
        torch.randn(200, 2, generator=seeded(0)), max_steps=20, progress=False, checkpoint=tmp_path / "run"
    )
    base.estimate_normalizer(1e-3)
    for context in (None, torch.zeros(3)):
        features = zuko.flows.MAF(2, 0 if context is None else 3, transforms=1, hidden_features=(8,))
        other = zuko.flows.Flow(features.transform, base)
        law = other(context)
        assert law.sample((5,)).shape == (5, 2) and law.rsample().shape == (2,)
        with torch.no_grad():
            assert float(law.log_prob(points).exp().sum() * side**2) == pytest.approx(1.0, abs=5e-3)
    batch = zuko.flows.Flow(features.transform, base)(torch.zeros(4, 3))
    assert batch.batch_shape == (4,) and batch.sample((6,)).shape == (6, 4, 2)
    assert batch.log_prob(torch.zeros(4, 2)).shape == (4,)
    loss = -other(torch.zeros(5, 3)).log_prob(torch.randn(5, 2)).mean()
    loss.backward()
    assert float(base.network[-1].weight.grad.abs().max()) > 0
    model.save(tmp_path / "model")
    back = mf.load(tmp_path / "model")
    assert torch.equal(back.freeze().log_prob(points[:9]), model.freeze().log_prob(points[:9]))


@pytest.mark.parametrize("name", ["normal", "learned"])
def test_a_second_fit_begins_like_the_first(name: str) -> None:
    """At the data's centre and spread, whatever was learned before."""
    base, x = PROPOSALS[name](), PROPOSALS[name]().sample((200,), seeded(0))
    x = mf.geometry.project(base.manifold, 0.1 * x + x[:1])
    fresh = {key: value.clone() for key, value in base.proposal.state_dict().items()}
    rounds = []
    for _ in range(2):
        base.fit(x, max_steps=10, learning_rate=0.1, progress=False)
        rounds.append({key: value.clone() for key, value in base.state_dict().items()})
    assert all(torch.equal(value, rounds[0][key]) for key, value in rounds[1].items())
    base.reset(None, 0.0)
    assert all(torch.equal(value, fresh[key]) for key, value in base.proposal.state_dict().items())
    base.proposal.begin(x)
    with torch.no_grad():
        drawn = base.propose(4000, seeded(1))
    assert 0.7 < float(drawn.std(0).norm() / x.std(0).norm()) < 1.4


def test_groups_estimate_with_proposals_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    base, seeds = FactorizedResampledBase(PLANE, (6,), 3, hidden=(8,)), []
    whole = ResampledBase.estimate_normalizer

    def spy(self: ResampledBase, relative_error: float, *, seed: int = 0) -> object:
        seeds.append(seed)
        return whole(self, relative_error, seed=seed)

    monkeypatch.setattr(ResampledBase, "estimate_normalizer", spy)
    base.estimate_normalizer(0.1)
    base.estimate_normalizer(0.1, seed=1)
    assert len(set(seeds)) == 6 and SEED not in seeds


def test_flows_with_contexts_take_a_factorised_base() -> None:
    zuko = pytest.importorskip("zuko")
    base = FactorizedResampledBase(PLANE, (2,), 2, hidden=(8,))
    features = zuko.flows.MAF(2, 3, transforms=1, hidden_features=(8,))
    law = zuko.flows.Flow(features.transform, base)(torch.zeros(4, 3))
    assert law.batch_shape == (4,) and law.sample((6,)).shape == (6, 4, 2)
    x = torch.randn(5, 4, 2, generator=seeded(0))
    with torch.no_grad():
        alone = zuko.flows.Flow(features.transform, base)(torch.zeros(3))
        assert torch.allclose(law.log_prob(x), alone.log_prob(x), atol=1e-5)


def test_marginal_flows_draw_their_noise_from_it(tmp_path: Path) -> None:
    base = ResampledBase(PLANE, (2,), hidden=(8,))
    flow = mf.MarginalFlow(SPHERE, (3,), base=base, n_components=64, hidden=(16,))
    x = torch.nn.functional.normalize(torch.randn(200, 3, generator=seeded(0)), dim=-1)
    before = base.network[-1].weight.clone()
    flow.fit(x, max_steps=20, progress=False)
    assert float((base.network[-1].weight - before).abs().max()) > 0
    forward_kl(flow, Batch(x, None, seeded(0), 64, 0.0)).backward()
    assert float(base.network[-1].weight.grad.abs().max()) > 1e-6
    mixture = flow.freeze(128)
    assert mixture.log_weights is not None
    assert abs(total_mass(mixture).value - 1) < 1e-5
    with torch.no_grad():
        base.network[-1].bias.fill_(-20.0)  # acceptance 0 leaves the last proposal, and equal weights
        base.network[-1].weight.zero_()
    base.settle()
    z = base.propose(50, seeded(0))
    assert torch.allclose(base.log_weight(z), torch.zeros(50), atol=1e-4)
    flow.save(tmp_path)
    assert torch.equal(mf.load(tmp_path).freeze(64).log_prob(x), flow.freeze(64).log_prob(x))


def test_a_resumed_fit_continues_to_the_bit(tmp_path: Path) -> None:
    x = torch.randn(100, 2, generator=seeded(0))

    def model() -> Flow:
        return Flow(PLANE, (2,), transforms=1, hidden=(8,), base=ResampledBase(PLANE, (2,), hidden=(8,)))

    class Killed(Exception):
        pass

    calls = []

    def forward(flow: Flow, batch: Batch) -> Tensor:
        calls.append(1)
        if len(calls) == 40:
            raise Killed
        return forward_kl(flow, batch)

    options = {"max_steps": 30, "progress": False, "objective": forward}
    with pytest.raises(Killed):
        model().fit(x, **options, checkpoint=tmp_path)
    resumed = model().fit(x, **options, checkpoint=tmp_path, resume=True)
    calls.clear()
    calls.extend([1] * 40)
    whole = model().fit(x, **options)
    assert torch.equal(resumed.freeze().log_prob(x), whole.freeze().log_prob(x))
    assert torch.equal(resumed.base.normalizer, whole.base.normalizer)


def test_collapsed_acceptance_is_explained() -> None:
    base = ResampledBase(LINE, (1,), hidden=(8,), truncation=None)
    with torch.no_grad():
        base.network[-1].bias.fill_(-12.0)
        base.network[-1].weight.zero_()
    with pytest.raises(
        RuntimeError, match=r"100 samples within .* acceptance has collapsed, or Z is not that of these weights"
    ):
        base.sample((100,), seeded(0))
    base.settle()
    with pytest.raises(RuntimeError, match="Expected an acceptance above 1e-05"):
        base.sample((100,), seeded(0))
    with torch.no_grad():
        base.network[-1].bias.fill_(-1e4)
    with pytest.raises(RuntimeError, match="Expected some acceptance, got none"):
        base.estimate_normalizer(max_samples=1000)


def test_wrong_use_is_explained() -> None:
    with pytest.raises(ValueError, match="Expected a proposal with points of shape"):
        ResampledBase(PLANE, (2,), proposals("sphere"))
    with pytest.raises(ValueError, match="Expected one proposal, got a batch"):
        ResampledBase(PLANE, (1,), mf.distribution(PLANE, loc=torch.zeros(4, 1), scale=1.0))
    with pytest.raises(ValueError, match="Expected min_acceptance in"):
        ResampledBase(PLANE, (2,), truncation=0)
    with pytest.raises(ValueError, match="at least 2 samples"):
        ResampledReverseKL(lambda x: x[:, 0], 1)
    with pytest.raises(ValueError, match="Expected R\\^d or a torus"):
        FactorizedResampledBase(SPHERE, (3,), 2)
    with pytest.raises(ValueError, match="Expected a model with a resampled base"):
        AcceptanceReward()(mf.MarginalFlow(SPHERE, (3,)), Batch(None, None, seeded(0), 1, 0.0))
    with pytest.raises(ValueError, match="Expected base in"):
        mf.MarginalFlow(SPHERE, (3,), base=ResampledBase(PLANE, (3,)))
    with pytest.raises(ValueError, match="positive relative_error"):
        ResampledBase(PLANE, (2,)).estimate_normalizer(0.0)
