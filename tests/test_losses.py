"""Objectives: values and gradients of the reverse divergence against quadrature, and mistakes that this must catch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold import evidence, losses
from mf_manifold.distributions import KernelDistribution

LINE = mf.kernel_for(geoopt.Euclidean(ndim=1), (1,))
CIRCLE = mf.kernel_for(mf.manifolds.Torus(), (1,), "von_mises")
GRID = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1].unsqueeze(
    -1
)  # a period, and nearly all of the line's mass

Start = dict[str, Tensor]
Gradients = dict[str, Tensor]


def batch(seed: int = 0, progress: float = 1.0, x: Tensor | None = None, context: Tensor | None = None) -> losses.Batch:
    return losses.Batch(x, context, torch.Generator().manual_seed(seed), 3, progress)


class Free:
    """A mixture of three components with free parameters, in the place of a flow."""

    def __init__(self, kernel: mf.Kernel, background: float = 0.0) -> None:
        loc, width = torch.tensor([[-1.0], [0.2], [1.1]]), torch.tensor([[0.3], [0.4], [0.25]])
        widths = {"scale": width} if kernel is LINE else {"concentration": width**-2}
        values = {"loc": loc, **widths, "log_weights": torch.tensor([0.3, -0.5, 0.1])}
        self.values = {name: value.double().requires_grad_() for name, value in values.items()}
        self.kernel, self.share = kernel, background

    def __call__(self, context: Tensor | None = None, n_components: int | None = None, generator: Any = None) -> mf.Mixture:
        params = {name: value for name, value in self.values.items() if name != "log_weights"}
        law, where = None, torch.zeros(1, dtype=torch.float64)
        if self.share:
            law = KernelDistribution(self.kernel, self.kernel.centered(where, torch.tensor(0.6, dtype=torch.float64)))
        return mf.Mixture(self.kernel, params, self.values["log_weights"], background=law, background_weight=self.share)

    def gradients(self, loss: Tensor) -> Gradients:
        return dict(
            zip(self.values, torch.autograd.grad(loss, list(self.values.values()), materialize_grads=True), strict=True)
        )


def target(x: Tensor) -> Tensor:
    return 2 * torch.cos(2 * x[..., 0] + 0.7) - x[..., 0].cos() + 4.0


def exact(flow: Free, temperature: float = 1.0) -> Tensor:
    """The objective by quadrature, whose gradient needs no sample."""
    log_q = flow().log_prob(GRID)
    return (log_q.exp() * (log_q - target(GRID) / temperature)).sum() * 2 * math.pi / len(GRID)


def worst_z(
    objective: Callable[[Any, losses.Batch], Tensor], flow: Free, progress: float = 1.0, temperature: float = 1.0
) -> float:
    """The largest deviation of value and gradients from the exact ones in standard errors, over 100 runs."""
    runs = []
    for seed in range(100):
        loss = objective(flow, batch(seed, progress))
        runs.append(torch.cat([loss.detach().reshape(1), *(g.flatten() for g in flow.gradients(loss).values())]))
    value = exact(flow, temperature)
    wanted = torch.cat([value.detach().reshape(1), *(g.flatten() for g in flow.gradients(value).values())])
    found = torch.stack(runs)
    return float(((found.mean(0) - wanted) / (found.std(0) / math.sqrt(len(runs)))).abs().max())


@pytest.mark.parametrize("kernel", [LINE, CIRCLE], ids=["line", "circle"])
@pytest.mark.parametrize("background", [0.0, 0.2])
def test_value_and_gradient_are_unbiased(kernel: mf.Kernel, background: float) -> None:
    assert worst_z(losses.ReverseKL(target, n_per_component=50), Free(kernel, background)) < 5.2


def test_tempered_objective_is_unbiased_for_the_tempered_target() -> None:
    objective = losses.ReverseKL(target, n_per_component=50, temperature=4.0)
    assert worst_z(objective, Free(LINE), progress=0.25, temperature=2.0) < 5.2
    assert worst_z(objective, Free(LINE), progress=0.25) > 20


def score_term_with_fixed_points(flow: Free, at: losses.Batch) -> Tensor:
    mixture = at.draw(flow)
    x, weights = mixture.rsample_stratified(50, at.generator)
    return (weights.detach() * (mixture.log_prob(x.detach()) - target(x.detach()))).sum()


def weights_forgotten(flow: Free, at: losses.Batch) -> Tensor:
    mixture = at.draw(flow)
    x, _ = mixture.rsample_stratified(50, at.generator)
    return (mixture.detach().log_prob(x) - target(x)).mean()


def gradient_of_weights_forgotten(flow: Free, at: losses.Batch) -> Tensor:
    mixture = at.draw(flow)
    x, weights = mixture.rsample_stratified(50, at.generator)
    return (weights.detach() * (mixture.detach().log_prob(x) - target(x))).sum()


@pytest.mark.parametrize("wrong", [score_term_with_fixed_points, weights_forgotten, gradient_of_weights_forgotten])
def test_mistakes_are_caught(wrong: Callable[[Any, losses.Batch], Tensor]) -> None:
    assert worst_z(wrong, Free(LINE)) > 10


def with_score_term(flow: Free, at: losses.Batch) -> Tensor:
    mixture = at.draw(flow)
    x, weights = mixture.rsample_stratified(1, at.generator)
    return (weights * (mixture.log_prob(x) - at_optimum(x))).sum()


def at_optimum(x: Tensor) -> Tensor:
    return Free(LINE)().detach().log_prob(x) + 2.5


def test_gradient_has_no_noise_where_the_mixture_is_the_target() -> None:
    """Each single gradient is zero, where with the score term it is noise."""
    flow = Free(LINE)
    own = flow.gradients(losses.ReverseKL(at_optimum)(flow, batch()))
    noisy = flow.gradients(with_score_term(flow, batch()))
    assert max(float(g.abs().max()) for g in own.values()) < 1e-12
    assert max(float(g.abs().max()) for g in noisy.values()) > 0.1


def test_dropping_the_score_lowers_the_variance_near_the_target() -> None:
    """Also where p is not q: half as wide components, a tenth away."""

    def near(x: Tensor) -> Tensor:
        params = {name: value.detach() for name, value in Free(LINE).values.items() if name != "log_weights"}
        moved = {"loc": params["loc"] + 0.05, "scale": 1.1 * params["scale"]}
        return mf.Mixture(LINE, moved, Free(LINE).values["log_weights"].detach()).log_prob(x)

    def full(flow: Free, at: losses.Batch) -> Tensor:
        mixture = at.draw(flow)
        x, weights = mixture.rsample_stratified(1, at.generator)
        return (weights * (mixture.log_prob(x) - near(x))).sum()

    flow = Free(LINE)
    variances = []
    for objective in (losses.ReverseKL(near), full):
        runs = [flow.gradients(objective(flow, batch(seed))) for seed in range(300)]
        variances.append(sum(float(torch.stack([run[name] for run in runs]).var(0).sum()) for name in flow.values))
    assert variances[0] < 0.25 * variances[1]


def test_stratified_points_of_batches_and_backgrounds() -> None:
    """Weights sum to one, and weighted means are those of samples: for a batch of mixtures with a background."""
    loc = torch.tensor([[[0.0], [2.0]], [[1.0], [-1.0]], [[5.0], [3.0]]], dtype=torch.float64)
    params = {"loc": loc, "scale": torch.full((1, 1), 0.1, dtype=torch.float64)}
    log_weights = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64))
    law = KernelDistribution(LINE, {"loc": torch.full((1,), 10.0).double(), "scale": torch.full((1,), 0.1).double()})
    mixture = mf.Mixture(LINE, params, log_weights, background=law, background_weight=0.2)
    x, weights = mixture.rsample_stratified(500, torch.Generator().manual_seed(0))
    assert x.shape == (1500, 3, 1)
    torch.testing.assert_close(weights.sum(0), torch.ones(3, dtype=torch.float64))
    mean = 0.8 * (log_weights.exp() * loc.squeeze(-1)).sum(-1) + 0.2 * 10
    torch.testing.assert_close((weights * x.squeeze(-1)).sum(0), mean, rtol=0, atol=0.02)


def test_contexts_reach_the_target() -> None:
    """With contexts the loss is the mean over them, each with a target of its own."""

    class Shifted:
        def __call__(self, context: Tensor, n_components: int | None = None, generator: Any = None) -> mf.Mixture:
            loc = context.unsqueeze(-2).expand(-1, 3, -1) + torch.tensor([[-0.5], [0.0], [0.5]], dtype=torch.float64)
            return mf.Mixture(LINE, {"loc": loc, "scale": torch.full((1, 1), 0.5, dtype=torch.float64)})

    def conditional(x: Tensor, context: Tensor) -> Tensor:
        return -((x - context)[..., 0] ** 2)

    contexts = torch.tensor([[0.0], [7.0]], dtype=torch.float64)
    both = losses.ReverseKL(conditional, n_per_component=2000)(Shifted(), batch(context=contexts))
    one = losses.ReverseKL(conditional, n_per_component=2000)(Shifted(), batch(context=contexts[:1]))
    assert float(both) == pytest.approx(float(one), abs=0.05)


def test_targets_by_other_measures() -> None:
    """The textbook Wishart density by Lebesgue measure is the same target as the one by the metric's volume."""
    spd, eye = geoopt.SymmetricPositiveDefinite(), torch.eye(3, dtype=torch.float64)
    law = mf.distribution(spd, "wishart", df=6.0, covariance_matrix=eye)
    flow = mf.MarginalFlow(spd, (3, 3), "wishart", n_components=8, hidden=(8,))
    values = []
    for measure in (None, "lebesgue"):
        objective = losses.ReverseKL(lambda x, m=measure: law.log_prob(x, m or "riemannian"), measure=measure)
        torch.manual_seed(0)
        values.append(float(objective(flow, batch()).detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-10)


def test_temperature_falls_to_one() -> None:
    objective = losses.ReverseKL(target, temperature=8.0, anneal=0.6)
    temperatures = [objective.temperature_at(p) for p in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert temperatures == pytest.approx([8.0, 4.0, 2.0, 1.0, 1.0])


def test_sums_weigh_their_terms() -> None:
    flow = Free(LINE)
    x = torch.zeros(5, 1, dtype=torch.float64)
    reverse = losses.ReverseKL(target)
    total = losses.Sum(losses.forward_kl, reverse, lambda flow, at: torch.tensor(3.0), weights=[1.0, 0.5, 2.0])(
        flow, batch(x=x)
    )
    expected = losses.forward_kl(flow, batch(x=x)) + 0.5 * reverse(flow, batch()) + 6.0
    torch.testing.assert_close(total, expected)
    with pytest.raises(ValueError, match="as many weights"):
        losses.Sum(reverse, weights=[1.0, 2.0])


def test_a_sum_starts_where_its_first_term_with_a_start_does() -> None:
    reverse = losses.ReverseKL(lambda x: 5 * x[..., 2])
    assert isinstance(losses.Sum(lambda flow, at: torch.tensor(0.0), reverse), losses.Starts)
    assert not isinstance(losses.Sum(losses.forward_kl), losses.Starts)


def test_errors_say_what_to_do() -> None:
    flow = Free(LINE)
    kent = mf.MarginalFlow(geoopt.Sphere(), (3,), "kent", n_components=4, hidden=(4,))
    with pytest.raises(NotImplementedError, match="pathwise samples, got kent"):
        losses.ReverseKL(lambda x: x[:, 0])(kent, batch())
    with pytest.raises(NotImplementedError, match="stratified samples, such as MarginalFlow, got Flow"):
        losses.ReverseKL(lambda x: x[:, 0])(mf.models.Flow(geoopt.Euclidean(ndim=1), (2,), transforms=1), batch())
    with pytest.raises(ValueError, match=r"one log density a point, shape \(3,\), got \(3, 1\)"):
        losses.ReverseKL(lambda x: x)(flow, batch())
    with pytest.raises(ValueError, match="3 of 3 values are not"):
        losses.ReverseKL(lambda x: x[..., 0] * math.nan)(flow, batch())
    with pytest.raises(ValueError, match="differentiable"):
        losses.ReverseKL(lambda x: x.detach()[..., 0])(flow, batch())
    with pytest.raises(ValueError, match="temperature >= 1"):
        losses.ReverseKL(target, temperature=0.5)
    with pytest.raises(ValueError, match="data x"):
        losses.forward_kl(flow, batch())


def test_a_fit_without_data_finds_all_modes() -> None:
    """Five bumps of the torus with 10 to 30 % of the mass, from the unnormalised density alone."""
    loc = torch.tensor([[0.0, 0.0], [2.0, 1.0], [-2.0, 2.5], [-1.5, -1.5], [1.5, -2.0]])
    weights = torch.tensor([0.1, 0.15, 0.2, 0.25, 0.3])

    def bumps(x: Tensor) -> Tensor:
        return (12 * torch.cos(x.unsqueeze(-2) - loc.to(x)).sum(-1) + weights.to(x).log()).logsumexp(-1)

    torus = mf.manifolds.Torus()
    flow = mf.MarginalFlow(torus, (2,), "von_mises", n_components=128, hidden=(32, 32), n_frequencies=16)
    flow.fit(objective=losses.ReverseKL(bumps), max_steps=150, progress=False)
    mixture = flow.freeze(512)
    x = mixture.sample((4000,), torch.Generator().manual_seed(0))
    nearest = mf.geometry.dist(torus, x.unsqueeze(1), loc).argmin(1)
    share = torch.bincount(nearest, minlength=5) / len(x)
    assert float((share - weights).abs().max()) < 0.07
    report = evidence.importance(mixture.to(torch.float64), bumps, n=4000)
    log_z = math.log(2 * math.pi) * 2 + 2 * math.log(float(torch.special.i0(torch.tensor(12.0, dtype=torch.float64))))
    assert report.efficiency > 0.6
    assert abs(report.log_normalizer - log_z) < 4.3 * report.standard_error + 0.01


@pytest.mark.gpu
def test_a_fit_without_data_on_an_accelerator(device: str) -> None:
    where = torch.tensor([0.0, 0.6, 0.8], device=device)  # the target's own tensors stay on the device
    flow = mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=64, hidden=(16,)).to(device)
    flow.fit(objective=losses.ReverseKL(lambda x: 5 * x @ where.to(x)), max_steps=20, progress=False)
    assert flow.history[-1]["validation_loss"] < flow.history[0]["validation_loss"] + 0.1
    bounds = evidence.reverse_kl_bounds(flow, lambda x: 5 * x @ where.to(x), n_draws=4)
    assert math.isfinite(bounds.lower) and bounds.upper > bounds.lower


def test_generators_follow_to_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """On its own kind of device a generator is itself; elsewhere one seed leads to one generator."""
    own = torch.Generator().manual_seed(3)
    assert mf.bases.on_device(own, torch.device("cpu")) is own
    assert mf.bases.on_device(None, torch.device("cuda")) is None
    made = []
    monkeypatch.setattr(torch, "Generator", lambda device: made.append(device) or own)
    mf.bases.on_device(own, torch.device("cuda"))
    assert made == [torch.device("cuda")]


@pytest.mark.gpu
def test_a_generator_of_either_device_serves_a_flow_on_an_accelerator(device: str) -> None:
    flow = mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=64, hidden=(16,)).to(device)
    for place in ("cpu", device):
        x = flow.sample((5,), torch.Generator(place).manual_seed(0))
        assert x.device.type == torch.device(device).type
        torch.testing.assert_close(x, flow.sample((5,), torch.Generator(place).manual_seed(0)))
        flow.freeze(8).sample((5,), torch.Generator(place).manual_seed(0))
