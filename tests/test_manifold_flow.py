"""Manifold flows: the penalised likelihood, the second stage, and the two densities with their measures."""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec
from pathlib import Path

import geoopt
import pytest
import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.problems import noisy_manifolds as problems
from benchmarks.problems.noisy_manifolds import mass_by_chords, mass_by_triangles
from mf_manifold.losses import Batch, forward_kl
from mf_manifold.mcmc import latent_mala
from mf_manifold.models import Flow, ManifoldFlow, VariationalMixture
from mf_manifold.models.manifold_flow import charts, reconstruction
from mf_manifold.models.manifold_start import intrinsic_coordinates, noise_scale

pytestmark = pytest.mark.skipif(not find_spec("zuko"), reason="needs zuko")
SPACE = geoopt.Euclidean(ndim=1)
NOISE = 0.05


def arc(n: int, seed: int = 0) -> Tensor:
    """Half a turn of a helix, and noise."""
    generator = torch.Generator().manual_seed(seed)
    t = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    noise = NOISE * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return torch.stack([t.cos(), t.sin(), t / 2], -1) + noise


def small(dim: int = 3, latent: int = 1, **options: object) -> ManifoldFlow:
    settings = {"transforms": 4, "hidden": (24,), **options}
    torch.manual_seed(0)
    return ManifoldFlow(SPACE, (dim,), latent, **settings).double()  # type: ignore[arg-type]


def rough(dim: int, latent: int, factor: float = 2.0) -> ManifoldFlow:
    """A flow that is far from linear, without a fit."""
    model = small(dim, latent)
    with torch.no_grad():
        for parameter in model.flow.couplings.parameters():
            parameter.mul_(factor)
    return model


def batch(x: Tensor, progress: float = 1.0) -> Batch:
    return Batch(x, None, torch.Generator().manual_seed(0), 1, progress)


@pytest.fixture(scope="module")
def fitted() -> ManifoldFlow:
    return small().fit(arc(800), max_steps=300, batch_size=200, progress=False)


@pytest.fixture(scope="module")
def second(fitted: ManifoldFlow) -> ManifoldFlow:
    density = Flow(SPACE, (1,), layers="spline", transforms=2, hidden=(8,))
    return copy.deepcopy(fitted).fit_density(arc(800), density, max_steps=150, progress=False)


def test_a_weight_of_zero_is_exactly_the_likelihood() -> None:
    model, x = small(weight=0.0), arc(50)
    plain = Flow(SPACE, (3,), transforms=4, hidden=(24,)).double()
    plain.load_state_dict(model.flow.state_dict())
    losses = model.objective(batch(x)), forward_kl(plain, batch(x))
    assert torch.equal(*losses)
    gradients = [torch.autograd.grad(loss, part.parameters()) for loss, part in zip(losses, (model.flow, plain), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert not torch.equal(small(weight=1.0).objective(batch(x)), losses[0])


def test_the_penalty_is_quadratic_and_then_linear_in_every_coordinate() -> None:
    model, u = small(noise=0.1, delta=3.0), torch.zeros(4, 1, dtype=torch.float64)
    residual = torch.tensor([[0.1, 0.0, 0.0], [0.0, -0.3, 0.2], [2.0, 0.0, 0.0], [0.0, -2.0, 0.1]], dtype=torch.float64)
    expected = torch.tensor([0.01 / 2, 0.13 / 2, 0.3 * (2.0 - 0.15), 0.3 * (2.0 - 0.15) + 0.01 / 2], dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model.penalty(model.decode(u) + residual, u), expected, atol=1e-8)


def test_the_loss_is_the_sum_of_its_two_parts_and_the_weight_is_annealed() -> None:
    model, x = small(noise=0.1, weight=2.0, first=16.0, anneal=0.4), arc(50)
    assert model.penalty_weight(0.0) == pytest.approx(16 * 2.0 / 0.01)
    assert model.penalty_weight(0.2) == pytest.approx(4 * 2.0 / 0.01)
    assert model.penalty_weight(0.7) == pytest.approx(2.0 / 0.01)
    with torch.no_grad():
        parts = model.penalty_weight(0.2) * model.penalty(x, model.encode(x)) - model.log_prob(x)
        assert torch.allclose(model.objective(batch(x, 0.2)), parts.mean())


@pytest.mark.parametrize("dim", [1, 2])
def test_noise_is_estimated_before_any_fit(dim: int) -> None:
    problem = problems.HELIX if dim == 1 else problems.SWISS_ROLL
    generator = torch.Generator().manual_seed(0)
    x = problem.sample(3000, generator)
    u, rows = intrinsic_coordinates(x, dim, generator)
    assert abs(noise_scale(x[rows], u) / problem.noise - 1) < 0.25
    assert noise_scale(x[rows], u[torch.randperm(len(u), generator=generator)]) > 5 * problem.noise


def test_a_fit_reconstructs_to_the_noise_and_covers_the_curve(fitted: ManifoldFlow) -> None:
    x, t = arc(1000, seed=1), math.pi * torch.linspace(0, 1, 1000, dtype=torch.float64)
    with torch.no_grad():
        error = float((fitted.project(x) - x).square().sum(-1).mean().sqrt())
        points = fitted.sample_on_manifold((1000,), torch.Generator().manual_seed(0))
    assert error < 1.3 * NOISE * math.sqrt(2)
    away, missed = mf.chamfer(SPACE, points, torch.stack([t.cos(), t.sin(), t / 2], -1))
    assert away < NOISE and missed < NOISE


def test_the_density_of_the_space_integrates_to_one_in_both_stages() -> None:
    x = arc(400)[:, :2]
    model = small(2).fit(x, max_steps=60, progress=False)
    axis = torch.linspace(-5, 5, 1000, dtype=torch.float64)
    grid, cell = torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2
    with torch.no_grad():
        assert abs(float(model.log_prob(grid).exp().sum()) * cell - 1) < 2e-3
    model.fit_density(x, Flow(SPACE, (1,), layers="spline", transforms=2, hidden=(8,)), max_steps=60, progress=False)
    with torch.no_grad():
        assert abs(float(model.log_prob(grid).exp().sum()) * cell - 1) < 2e-3


def curve_mass(model: ManifoldFlow, log_density: object) -> float:
    """Integral of a density at coordinates along the curve, by the lengths of chords, of which it knows nothing."""
    u = torch.linspace(-8, 8, 20_001, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        return mass_by_chords(model.decode(u), log_density(u).exp())  # type: ignore[operator]


def full_determinant(model: ManifoldFlow, u: Tensor) -> Tensor:
    """The wrong density: with the Jacobian determinant of the whole flow in the place of that of g."""
    return model.coordinate_law().log_prob(u) + model.to_latent(model.decode(u))[1]


def test_the_density_on_a_curve_integrates_to_one_by_arc_length(fitted: ManifoldFlow, second: ManifoldFlow) -> None:
    for model in (rough(3, 1), fitted, second):
        assert abs(curve_mass(model, lambda u, model=model: model.log_prob_on_manifold(u=u)) - 1) < 0.01
        assert abs(curve_mass(model, lambda u, model=model: model.on_manifold().log_prob(model.decode(u))) - 1) < 0.01


def test_the_determinant_of_the_whole_flow_does_not(fitted: ManifoldFlow) -> None:
    for model in (rough(3, 1), fitted):
        assert abs(curve_mass(model, lambda u, model=model: full_determinant(model, u)) - 1) > 0.1


def test_the_density_on_a_surface_integrates_to_one_by_area() -> None:
    model, axis = rough(3, 2, 1.5), torch.linspace(-5, 5, 241, dtype=torch.float64)
    u = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        points = model.decode(u).reshape(241, 241, 3)
        right = model.log_prob_on_manifold(u=u).exp().reshape(241, 241)
        wrong = full_determinant(model, u).exp().reshape(241, 241)
    assert abs(mass_by_triangles(points, right) - 1) < 0.01
    assert abs(mass_by_triangles(points, wrong) - 1) > 0.1


def test_volumes_by_automatic_differentiation_are_those_of_finite_differences() -> None:
    for latent in (1, 2, 3):
        model = rough(4, latent)
        u = torch.randn(5, latent, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        step = 1e-5 * torch.eye(latent, dtype=torch.float64)
        with torch.no_grad():
            columns = (model.decode(u.unsqueeze(1) + step) - model.decode(u.unsqueeze(1) - step)) / 2e-5
            half = torch.linalg.slogdet(columns @ columns.mT).logabsdet / 2
            found = model.coordinate_law().log_prob(u) - model.log_prob_on_manifold(u=u)
        assert torch.allclose(found, half, atol=1e-7)


def test_samples_on_the_curve_follow_its_density(second: ManifoldFlow) -> None:
    """Counts between points that divide the curve into equal lengths, against the density times the length."""
    law, n, cells, fine = second.on_manifold(), 20_000, 20, 200
    x = law.sample((n,), torch.Generator().manual_seed(1))
    u = torch.linspace(-3, 3, 40_001, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        curve, at = second.decode(u), second.encode(x).squeeze(-1)
    length = torch.cat([torch.zeros(1).double(), (curve[1:] - curve[:-1]).norm(dim=-1).cumsum(0)])
    low, high = float(length[10_000]), float(length[-10_000])  # between u = -1.5 and 1.5
    edges = torch.linspace(low, high, cells * fine + 1, dtype=torch.float64)
    position = torch.searchsorted(length, edges).clamp_max(len(u) - 1)
    with torch.no_grad():
        density = law.log_prob(curve[position]).exp()
    mass = ((density[1:] + density[:-1]) / 2 * (edges[1:] - edges[:-1])).reshape(cells, fine).sum(1)
    reached = length[torch.searchsorted(u.squeeze(-1), at).clamp_max(len(u) - 1)]
    counts = torch.histogram(reached, edges[::fine]).hist
    expected = n * mass
    used = expected > 20
    chi2 = float(((counts - expected)[used].square() / expected[used]).sum())
    assert int(used.sum()) >= 5
    assert chi2 < int(used.sum()) + 4.5 * math.sqrt(2 * int(used.sum()))


def test_the_two_measures_are_told_apart(fitted: ManifoldFlow) -> None:
    ambient, law = fitted.freeze(), fitted.on_manifold()
    assert isinstance(law, mf.distributions.ManifoldDistribution)
    assert str(ambient.measure) == "riemannian measure on Euclidean" and law.manifold.dim == 1
    x = law.sample((5,), torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="Expected a measure on ChartManifold"):
        law.log_prob(x, ambient.measure)
    with pytest.raises((ValueError, NotImplementedError)):
        mf.log_ratio(law.measure, ambient.measure, x)
    with torch.no_grad():
        assert torch.allclose(law.log_prob(x, "chart"), fitted.coordinate_law().log_prob(fitted.encode(x)), atol=1e-6)
        assert torch.allclose(law.log_prob(x), fitted.log_prob_on_manifold(x), atol=1e-6)
    with pytest.raises(ValueError, match="are off it"):
        law.log_prob(x + 0.3)


def test_points_on_the_manifold_are_their_own_projections(fitted: ManifoldFlow) -> None:
    with torch.no_grad():
        x = fitted.sample_on_manifold((100,), torch.Generator().manual_seed(0))
        assert torch.allclose(fitted.project(x), x, atol=1e-7)
        z, log_det = fitted.to_latent(arc(20))
        assert torch.allclose(fitted.to_data(z), arc(20), atol=1e-8)
        assert torch.allclose(z[:, :1], fitted.encode(arc(20)))
        assert torch.allclose(log_det + standard(z), fitted.log_prob(arc(20)))


def standard(z: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)


def test_the_off_manifold_score_grows_with_the_distance(fitted: ManifoldFlow) -> None:
    with torch.no_grad():
        x = fitted.sample_on_manifold((200,), torch.Generator().manual_seed(0))
        v = fitted.to_latent(arc(50))[0][:, 1:]
        assert torch.allclose(fitted.off_manifold_score(arc(50)), -standard(v))
        assert float(fitted.off_manifold_score(x).max()) < math.log(2 * math.pi) + 1e-6  # v = 0
        shifted = x + 4 * NOISE * torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)
        assert float((fitted.off_manifold_score(shifted) > fitted.off_manifold_score(x)).double().mean()) == 1.0


def mmd(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of two samples, for a normal kernel of width 1/2."""

    def mean(p: Tensor, q: Tensor) -> float:
        return float((-2 * torch.cdist(p, q).square()).exp().mean())

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


def test_the_second_stage_improves_the_law_of_the_coordinates(fitted: ManifoldFlow, second: ManifoldFlow) -> None:
    x, generator = arc(2000, seed=1), torch.Generator().manual_seed(0)
    with torch.no_grad():
        u = fitted.encode(x)
        gain = second.coordinate_law().log_prob(u) - fitted.coordinate_law().log_prob(u)
        before, after = (mmd(model.coordinate_law().sample((2000,), generator), u) for model in (fitted, second))
    assert float(gain.mean()) > 4.3 * float(gain.std()) / math.sqrt(len(gain)) + 0.01
    assert after < before


def test_the_second_stage_holds_the_flow_fixed_and_replaces_the_law_everywhere(
    fitted: ManifoldFlow, second: ManifoldFlow
) -> None:
    assert all(torch.equal(a, second.flow.state_dict()[key]) for key, a in fitted.flow.state_dict().items())
    x = arc(100, seed=1)
    with torch.no_grad():
        z, log_det = second.to_latent(x)
        along = second.density.log_prob(z[:, :1])  # type: ignore[union-attr]
        assert torch.allclose(second.log_prob(x), along + standard(z[:, 1:]) + log_det)
        change = along - standard(z[:, :1])
        assert torch.allclose(second.log_prob_on_manifold(x) - fitted.log_prob_on_manifold(x), change, atol=1e-8)
        drawn = second.encode(second.sample((2000,), torch.Generator().manual_seed(0)))
        same = second.coordinate_law().sample((2000,), torch.Generator().manual_seed(0))
        assert torch.allclose(drawn, same, atol=1e-5)
    assert small().fit(x, max_steps=2, progress=False).density is None


def test_a_marginal_flow_serves_as_the_law_of_the_coordinates(fitted: ManifoldFlow, tmp_path: Path) -> None:
    model = copy.deepcopy(fitted)
    model.fit_density(arc(300), mf.MarginalFlow(SPACE, (1,), hidden=(16,), n_components=64), max_steps=20, progress=False)
    frozen = model.freeze(seed=1).log_prob(arc(10))
    model.save(tmp_path / "model")
    assert torch.equal(mf.load(tmp_path / "model").freeze(seed=1).log_prob(arc(10)), frozen)
    assert model.n_components == 64 and model.sample((3,)).shape == (3, 3)


def test_models_return_from_their_files_and_runs_resume(tmp_path: Path, second: ManifoldFlow) -> None:
    second.save(tmp_path / "second")
    back = mf.load(tmp_path / "second")
    with torch.no_grad():
        assert torch.equal(back.log_prob(arc(10)), second.log_prob(arc(10)))
        assert torch.equal(back.project(arc(10)), second.project(arc(10)))
    whole = small().fit(arc(100), max_steps=60, patience=99, progress=False)
    with pytest.raises(KeyboardInterrupt):
        small().fit(arc(100), max_steps=60, patience=99, progress=False, checkpoint=tmp_path / "run", objective=Interrupt(30))
    resumed = small().fit(
        arc(100),
        max_steps=60,
        patience=99,
        progress=False,
        checkpoint=tmp_path / "run",
        resume=True,
        objective=Interrupt(0),
    )
    assert torch.equal(resumed.noise, whole.noise)
    assert torch.equal(resumed.log_prob(arc(10)), whole.log_prob(arc(10)))


class Interrupt:
    """The objective of the model, until a share of the run, given as a percentage."""

    def __init__(self, percent: int) -> None:
        self.percent = percent

    def __call__(self, model: mf.estimator.LazyDistribution, batch: Batch) -> Tensor:
        if self.percent and 100 * batch.progress > 50 + self.percent and batch.progress < 1:
            raise KeyboardInterrupt
        return model.objective(batch)


def test_single_precision_is_enough(fitted: ManifoldFlow) -> None:
    single = copy.deepcopy(fitted).float()
    law = single.on_manifold()
    x = law.sample((50,), torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        assert law.log_prob(x).dtype == torch.float32
        assert torch.allclose(law.log_prob(x), single.log_prob_on_manifold(x), atol=1e-3)
        exact = fitted.log_prob_on_manifold(arc(50))
        assert torch.allclose(single.log_prob_on_manifold(arc(50).float()).double(), exact, atol=1e-3)


def test_chains_in_latent_space_take_it_for_a_flow(second: ManifoldFlow) -> None:
    """Of the law of the flow itself, whose squared length of v is 2 on average, and whose u the second stage has learned."""
    chains = latent_mala(second, 150, law="exact", chains=64, generator=torch.Generator().manual_seed(0), progress=False)
    assert chains.latents is not None
    v, u = chains.latents[..., 1:], chains.latents[..., :1]
    with torch.no_grad():
        exact = second.coordinate_law().sample((5000,), torch.Generator().manual_seed(1))
    for found, expected in ((v.square().sum(-1), 2.0), (u.abs().squeeze(-1), float(exact.abs().mean()))):
        means = found.double().mean(1)  # of independent chains
        assert abs(float(means.mean()) - expected) < 4.3 * float(means.std()) / 8 + 0.05


def test_reconstruction_alone_is_an_objective() -> None:
    x = arc(300)
    model = small().fit(x, objective=reconstruction, max_steps=100, progress=False)
    with torch.no_grad():
        error = (model.project(x) - x).square().sum(-1).mean()
        assert torch.allclose(reconstruction(model, batch(x)), error / model.noise**2)
        assert float(error.sqrt()) < 2 * NOISE * math.sqrt(2)
    with pytest.raises(ValueError, match="Expected data and a ManifoldFlow"):
        reconstruction(model, Batch(None, None, torch.Generator(), 1, 1.0))


def test_the_objective_of_charts_adds_the_penalty_of_each_at_its_own_points() -> None:
    x = arc(60)
    mixture = VariationalMixture([small(noise=0.1), small(noise=0.2)])
    with torch.no_grad():
        shares = mixture.encoder(x).exp()
        each = [part.penalty(x, part.encode(x)) / float(part.noise) ** 2 for part in mixture.parts]  # type: ignore[attr-defined]
        expected = mixture.objective(batch(x)) + (shares * torch.stack(each, -1)).sum(-1).mean()
        assert torch.allclose(charts(mixture, batch(x)), expected)
    with pytest.raises(ValueError, match="Expected data and a VariationalMixture of ManifoldFlows"):
        charts(small(), batch(x))


def test_three_charts_cover_a_circle() -> None:
    """Which one cannot, because its image has two ends or a fold."""
    turn = 2 * math.pi * torch.rand(800, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean = torch.stack([turn.cos(), turn.sin()], -1)
    x = clean + NOISE * torch.randn(800, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixture = VariationalMixture([small(2) for _ in range(3)])
    mixture.fit(x, objective=charts, max_steps=150, batch_size=200, progress=False)
    with torch.no_grad():
        found = torch.stack([part.project(x) for part in mixture.parts])  # type: ignore[operator]
        error = (found[mixture.predict(x), torch.arange(len(x))] - x).square().sum(-1).mean().sqrt()
    assert float(error) < 1.5 * NOISE


def test_data_without_noise_are_refused() -> None:
    line = torch.linspace(0, 1, 100).unsqueeze(1)
    copies = torch.cat([torch.zeros(60, 2), torch.randn(40, 2, generator=torch.Generator().manual_seed(0))])
    for x in (torch.cat([line, 2 * line], -1), copies):
        model = ManifoldFlow(SPACE, (2,), 1, transforms=2, hidden=(8,))
        with pytest.raises(ValueError, match="Expected data with noise around a manifold of dimension 1"):
            model.fit(x, max_steps=5, progress=False)


def test_wrong_use_is_explained() -> None:
    with pytest.raises(ValueError, match="Expected 1 <= latent_dim < D, got 3"):
        ManifoldFlow(SPACE, (3,), 3)
    with pytest.raises(ValueError, match="Expected weight >= 0"):
        ManifoldFlow(SPACE, (3,), 1, noise=0.0)
    with pytest.raises(ValueError, match="Expected R\\^d"):
        ManifoldFlow(geoopt.Sphere(), (3,), 1)
    with pytest.raises(ValueError, match="Expected a density on R\\^1"):
        small().fit_density(arc(20), Flow(SPACE, (2,)))
    with pytest.raises(ValueError, match="Expected either points x or coordinates u"):
        small().log_prob_on_manifold()
    with pytest.raises(ValueError, match="Expected no context"):
        small()(torch.zeros(1))
