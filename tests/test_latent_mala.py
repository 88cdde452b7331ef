"""Chains in latent space: the law that they target, against quadrature; what they leave alone; mistakes that must show."""

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
from mf_manifold.mcmc import latent_mala
from mf_manifold.mcmc.langevin import Langevin, proposal_kernel
from mf_manifold.mcmc.latent import latent_target, metric_of

LINE = geoopt.Euclidean(ndim=1)
CHANCE, CERTAIN = 2e-5, 1e-9
needs_zuko = pytest.mark.skipif(not __import__("importlib").util.find_spec("zuko"), reason="needs zuko")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(dim: int) -> mf.KernelDistribution:
    return mf.distribution(LINE, loc=torch.zeros(dim, dtype=torch.float64), scale=1.0)


class Stretched:
    """f(z) = z + 4 tanh 3z, which is steep at 0: two modes near -4 and 4."""

    def to_data(self, z: Tensor) -> Tensor:
        return z + 4 * torch.tanh(3 * z)

    @staticmethod
    def log_det(z: Tensor) -> Tensor:
        return torch.log1p(12 / torch.cosh(3 * z[:, 0]) ** 2)


AXIS = torch.linspace(-9, 9, 40_001, dtype=torch.float64)


def quantiles(log_density: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """The distribution function of an unnormalised density at the nodes."""
    density = log_density.exp()
    between = torch.cat([density.new_zeros(1), ((density[1:] + density[:-1]) / 2).cumsum(0)])
    return lambda z: np.interp(z, AXIS.numpy(), (between / between[-1]).numpy())


def tempered(b: float) -> Tensor:
    return -AXIS.square() / 2 - b * Stretched.log_det(AXIS.unsqueeze(1))


def last(m: int = 4000, n: int = 50, **options: object) -> mf.mcmc.Chains:
    """Chains so many that their last draws, which are independent, show the law."""
    settings = {"base": normal(1), "log_det": Stretched.log_det, "chains": m, "start": "base", "warmup": 50}
    return latent_mala(Stretched(), n, generator=seeded(), progress=False, **settings | options)


def p_value(chains: mf.mcmc.Chains, b: float) -> float:
    assert chains.latents is not None
    return float(stats.kstest(chains.latents[:, -1, 0].numpy(), quantiles(tempered(b))).pvalue)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("jump_share", [0.0, 0.3])
def test_in_one_dimension_chains_follow_the_tempered_law(metric: bool, jump_share: float) -> None:
    chains = last(metric=metric, jump_share=jump_share)
    assert p_value(chains, 1.0) > CHANCE and p_value(chains, 0.0) < CERTAIN
    assert 0.4 < float(chains.acceptance.mean()) < 0.9
    assert "not q_X" in chains.law


def test_the_image_follows_the_squared_density_over_that_of_the_noise() -> None:
    """q_X^2 / q_Z(f^-1 x) by quadrature in data space, and a fall of the mass between the modes from 0.131 to 0.020."""
    chains = last()
    x = Stretched().to_data(AXIS)
    log_q_x = -AXIS.square() / 2 - Stretched.log_det(AXIS.unsqueeze(1))
    density = (2 * log_q_x + AXIS.square() / 2).exp()
    steps = torch.diff(x) * (density[1:] + density[:-1]) / 2
    below = torch.cat([steps.new_zeros(1), steps.cumsum(0)]) / steps.sum()
    found = chains.samples[:, -1, 0]
    assert stats.kstest(found.numpy(), lambda y: np.interp(y, x.numpy(), below.numpy())).pvalue > CHANCE

    def between(points: Tensor) -> float:
        return float((points.abs() < 2).double().mean())

    plain, thinned = between(Stretched().to_data(normal(1).sample((100_000,), seeded()))), between(chains.points)
    assert plain == pytest.approx(0.131, abs=0.005) and thinned == pytest.approx(0.020, abs=0.004)
    assert plain / thinned > 5


def test_powers_and_the_exact_law() -> None:
    half, exact = last(power=0.5), last(law="exact")
    assert p_value(half, 0.5) > CHANCE and p_value(half, 1.0) < CERTAIN
    assert p_value(exact, 0.0) > CHANCE and exact.law == "the flow's own law q_X"
    assert float(exact.jump_acceptance.min()) == pytest.approx(1)


class NoNormaliser(Langevin):
    """Wrong: the proposals' determinant, which changes from point to point with a metric, is left out."""

    def log_ratio(self, old, new, forward, backward):  # type: ignore[no-untyped-def]
        def exponent(law: mf.KernelDistribution, x: Tensor) -> Tensor:
            return law.log_prob(x) - law.log_prob(law.params["loc"])

        return new.log_prob - old.log_prob + exponent(backward, old.x) - exponent(forward, new.x)


class NoProposalRatio(Langevin):
    """Wrong: the proposals are taken for symmetric."""

    def log_ratio(self, old, new, forward, backward):  # type: ignore[no-untyped-def]
        return new.log_prob - old.log_prob


@pytest.mark.parametrize("mistake", ["no Jacobian", "Jacobian upside down", "no metric normaliser", "no proposal ratio"])
def test_mistakes_show(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, object] = {"metric": mistake == "no metric normaliser", "jump_share": 0.0}
    if mistake == "no Jacobian":
        options["log_det"] = lambda z: 0 * z[:, 0]
    elif mistake == "Jacobian upside down":
        options["log_det"] = lambda z: -Stretched.log_det(z)
    else:
        wrong = NoNormaliser if mistake == "no metric normaliser" else NoProposalRatio
        monkeypatch.setattr("mf_manifold.mcmc.latent.Langevin", wrong)
    assert p_value(last(**options), 1.0) < CERTAIN


def flow(layers: str, spread: float = 1.5, base: object = None) -> mf.models.Flow:
    """A flow of random weights, larger than fresh ones are, so that it bends."""
    torch.manual_seed(1)
    made = mf.models.Flow(LINE, (2,), layers=layers, transforms=2, hidden=(8,), base=base).double()
    with torch.no_grad():
        for weight in made.couplings.parameters():
            weight.mul_(spread)
    made.shift += 0.5
    made.spread *= 2.0
    return made


def on_grid(target: Callable[[Tensor], Tensor], cells: int = 240, half: float = 6.0) -> tuple[Tensor, Tensor]:
    """Middles of the cells of a square, and the mass of each under an unnormalised log density."""
    side = (2 * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells - 1) * half
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        return grid, torch.softmax(target(grid), 0)


def boxes(z: Tensor) -> Tensor:
    """A number of the 8 x 8 boxes of the square [-2, 2]^2, whose border extends to infinity."""
    index = ((z + 2) * 2).floor().clamp(0, 7).long()
    return 8 * index[:, 0] + index[:, 1]


def chi_square(z: Tensor, grid: Tensor, mass: Tensor) -> float:
    """p-value of the counts of points in boxes against their masses."""
    expected = torch.zeros(64, dtype=torch.float64).index_add(0, boxes(grid), mass) * len(z)
    counts = torch.bincount(boxes(z), minlength=64).double()
    many = expected > 5
    observed = torch.cat([counts[many], counts[~many].sum(0, keepdim=True)])
    wanted = torch.cat([expected[many], expected[~many].sum(0, keepdim=True)])
    return float(stats.chi2.sf(((observed - wanted).square() / wanted.clamp_min(1e-9)).sum(), len(wanted) - 1))


@needs_zuko
@pytest.mark.parametrize(
    ("layers", "spread", "metric"), [("affine", 1.5, False), ("affine", 1.5, True), ("spline", 1.0, False)]
)
def test_in_two_dimensions_chains_of_a_flow_follow_the_tempered_law(layers: str, spread: float, metric: bool) -> None:
    model = flow(layers, spread)
    found = latent_mala(model, 30, chains=2000, start="base", warmup=40, metric=metric, generator=seeded(), progress=False)
    assert found.latents is not None
    target = latent_target(model, normal(2), None, 1.0)
    assert chi_square(found.latents[:, -1], *on_grid(target)) > CHANCE
    assert chi_square(found.latents[:, -1], *on_grid(normal(2).log_prob)) < CERTAIN
    assert torch.allclose(model.to_data(found.latents), found.samples)


@needs_zuko
@pytest.mark.parametrize("layers", ["linear", "additive"])
def test_maps_that_stretch_alike_everywhere_return_the_law_of_the_noise(layers: str) -> None:
    model = flow("affine", 0.0) if layers == "linear" else flow("additive")
    target = latent_target(model, normal(2), None, 1.0)
    z = normal(2).sample((200,), seeded())
    difference = (target(z) - normal(2).log_prob(z)).detach()
    assert float(difference.std()) < 1e-10
    found = latent_mala(model, 20, chains=2000, start="base", warmup=30, generator=seeded(), progress=False)
    assert found.latents is not None
    assert chi_square(found.latents[:, -1], *on_grid(normal(2).log_prob)) > CHANCE
    assert float(found.jump_acceptance.min()) > 1 - 1e-9


@needs_zuko
def test_gradients_of_the_latent_target_equal_finite_differences() -> None:
    for layers in ("affine", "spline"):
        model = flow(layers)
        target = latent_target(model, normal(2), None, 1.0)
        local = Langevin(target, proposal_kernel(LINE, (2,)))
        z = normal(2).sample((50,), seeded())
        _, gradient = local.value_and_gradient(z)
        for i, axis in enumerate(1e-5 * torch.eye(2, dtype=z.dtype)):
            slope = (target(z + axis) - target(z - axis)) / 2e-5
            close = torch.isclose(slope, gradient[:, i], atol=1e-5, rtol=1e-5)
            assert close.double().mean() > 0.95  # splines have kinks in their second derivative


@needs_zuko
@pytest.mark.parametrize("wrong", [None, NoNormaliser, NoProposalRatio])
def test_detailed_balance_in_the_metric_on_a_grid(wrong: type[Langevin] | None) -> None:
    """Against proposals and target of a coupling written down by hand: x = (z1, z2 exp(sin z1) + z1^2)."""

    class Coupling:
        def to_data(self, z: Tensor) -> Tensor:
            return torch.stack([z[:, 0], z[:, 1] * z[:, 0].sin().exp() + z[:, 0] ** 2], -1)

    def log_pi(z: np.ndarray) -> np.ndarray:
        return -(z**2).sum(-1) / 2 - np.sin(z[:, 0])

    def log_proposal(z: np.ndarray, y: np.ndarray, h: float) -> float:
        s, j21 = math.exp(math.sin(z[0])), z[1] * math.exp(math.sin(z[0])) * math.cos(z[0]) + 2 * z[0]
        jacobian = np.array([[1.0, 0.0], [j21, s]])
        inverse = np.linalg.inv(jacobian.T @ jacobian)
        gradient = np.array([-z[0] - math.cos(z[0]), -z[1]])
        return stats.multivariate_normal(z + h**2 / 2 * inverse @ gradient, h**2 * inverse).logpdf(y)

    maps, h = Coupling(), 0.9
    target = latent_target(maps, normal(2), lambda z: z[:, 0].sin(), 1.0)
    kernel = proposal_kernel(LINE, (2,), covariance="full")
    local = (wrong or Langevin)(target, kernel, lambda z: metric_of(maps, z))
    side = torch.linspace(-1.5, 1.5, 5, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    a, b = (index.flatten() for index in torch.meshgrid(torch.arange(25), torch.arange(25), indexing="ij"))
    old, new = local.at(grid[a]), local.at(grid[b])
    forward, backward = local.law(old, h), local.law(new, h)
    accept = local.log_ratio(old, new, forward, backward).clamp_max(0).numpy()
    back = local.log_ratio(new, old, backward, forward).clamp_max(0).numpy()
    points = grid.numpy()
    there = np.array([log_proposal(points[i], points[j], h) for i, j in zip(a, b, strict=True)])
    home = np.array([log_proposal(points[j], points[i], h) for i, j in zip(a, b, strict=True)])
    difference = abs(log_pi(points[a]) + there + accept - log_pi(points[b]) - home - back).max()
    assert difference < 1e-8 if wrong is None else difference > 0.1


@needs_zuko
def test_global_moves_are_accepted_by_the_ratio_of_the_jacobians() -> None:
    model = flow("affine")
    local = Langevin(latent_target(model, normal(2), None, 0.7), proposal_kernel(LINE, (2,)))
    old = local.at(normal(2).sample((100,), seeded()))
    new, log_ratio = local.jump(old, normal(2), seeded(1))
    stretch = [-model.to_latent(model.to_data(state.x))[1] for state in (old, new)]
    assert torch.allclose(log_ratio, 0.7 * (stretch[0] - stretch[1]), atol=1e-10)


@needs_zuko
def test_the_flow_is_not_changed() -> None:
    model = flow("affine")
    frozen = next(model.couplings.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [p.requires_grad for p in model.parameters()]
    for options in ({}, {"step": -1.0}):
        if options:
            with pytest.raises(ValueError, match="step > 0"):
                latent_mala(model, 5, chains=5, warmup=5, progress=False, **options)
        else:
            latent_mala(model, 5, chains=5, warmup=5, progress=False)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert [p.requires_grad for p in model.parameters()] == wanted and not frozen.requires_grad
        assert all(p.grad is None for p in model.parameters())


@needs_zuko
@pytest.mark.parametrize("kind", ["marginal flow", "resampled"])
def test_a_base_that_is_learned_is_frozen_once(kind: str) -> None:
    torch.manual_seed(0)
    base = mf.MarginalFlow(LINE, (2,), hidden=(8,), n_components=32).double()
    if kind == "resampled":
        base = mf.models.ResampledBase(LINE, (2,), hidden=(8,)).double()
    base.fit(torch.randn(300, 2, generator=seeded(), dtype=torch.float64), max_steps=20, progress=False)
    model = flow("affine", base=base)
    law = model.freeze(seed=0)
    found = latent_mala(model, 20, chains=2000, start="base", warmup=30, generator=seeded(), progress=False)
    again = latent_mala(law, 20, chains=2000, start="base", warmup=30, generator=seeded(), progress=False)
    assert torch.equal(found.samples, again.samples)
    assert found.latents is not None
    grid = on_grid(latent_target(model, law.base, None, 1.0))
    assert chi_square(found.latents[:, -1], *grid) > CHANCE
    assert chi_square(found.latents[:, -1], *on_grid(law.base.log_prob)) < CERTAIN


@pytest.mark.parametrize("metric", [False, True])
def test_images_of_fewer_dimensions(metric: bool) -> None:
    """A spiral in R^3: with the half log determinant of J^T J the law thins where the curve is fast."""

    class Spiral:
        def to_data(self, z: Tensor) -> Tensor:
            t = z[:, 0] ** 2 / 2 + 2 * z[:, 0]
            return torch.stack([t.cos(), t.sin(), z[:, 0]], -1)

    def speed(z: Tensor) -> Tensor:
        return torch.log((z[:, 0] + 2).square() + 1) / 2

    assert torch.allclose(metric_of(Spiral(), AXIS[:5, None]).squeeze().log() / 2, speed(AXIS[:5, None]))
    found = latent_mala(
        Spiral(), 40, base=normal(1), log_det=speed, chains=2000, start="base", metric=metric, warmup=60,
        generator=seeded(), progress=False,
    )  # fmt: skip
    assert found.samples.shape == (2000, 40, 3) and found.latents is not None
    exact = quantiles(-AXIS.square() / 2 - speed(AXIS.unsqueeze(1)))
    assert stats.kstest(found.latents[:, -1, 0].numpy(), exact).pvalue > CHANCE


def test_starts_in_all_modes_tell_chains_that_do_not_mix_from_those_that_do() -> None:
    """Draws of the noise hide it: their weights of the modes are those of the flow from the start."""
    options = {"m": 32, "n": 200, "warmup": 100}
    spread = last(start="spread", jump_share=0.0, step=0.2, **options | {"warmup": 0})
    helped = last(start="spread", jump_share=0.3, **options)
    assert spread.latents is not None and 8 <= int((spread.latents[:, 0, 0] > 0).sum()) <= 24
    assert float(spread.rhat().max()) > 1.2 and float(helped.rhat().max()) < 1.03
    assert float(helped.ess().min()) > 5 * float(spread.ess().min())
    given = last(start=torch.full((7, 1), -1.0, dtype=torch.float64), **{**options, "n": 5})
    assert given.samples.shape == (7, 5, 1)
    assert "largest R-hat" in repr(given) and "R-hat" not in repr(last(m=5, n=2))


def test_a_seed_gives_the_latent_chains_again() -> None:
    a, b = last(m=20), last(m=20)
    assert torch.equal(a.samples, b.samples)
    assert len(a.steps[50:].unique()) == 1 < len(a.steps[:50].unique())


def test_wrong_use_is_explained() -> None:
    with pytest.raises(ValueError, match="Expected law in tempered, exact"):
        last(law="warm")
    with pytest.raises(ValueError, match="a power for the tempered one only"):
        last(law="exact", power=2.0)
    with pytest.raises(ValueError, match="Pass base="):
        last(base=None)
    with pytest.raises(ValueError, match="Pass log_det="):
        last(log_det=None)
    with pytest.raises(ValueError, match="start='spread', 'base' or latent points"):
        last(start="modes")
