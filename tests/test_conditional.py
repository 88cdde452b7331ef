"""Conditional marginal flows: exactness for each context, batches, missing contexts, every way of conditioning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor

import mf_manifold as mf

LINE, SPHERE = geoopt.Euclidean(ndim=1), geoopt.Sphere()
SMALL: dict[str, Any] = {"n_components": 32, "hidden": (32, 32), "n_frequencies": 8, "bandwidth": 0.5}
WAYS = ("film", "concat", "hyper", "readout")


def make(conditioning: str = "film", context_shape: tuple[int, ...] = (2,), **options: Any) -> mf.MarginalFlow:
    torch.manual_seed(0)
    return mf.MarginalFlow(LINE, (1,), context_shape=context_shape, conditioning=conditioning, **{**SMALL, **options})


def linear_gaussian(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """y standard normal in two dimensions, x = y1 + y2 / 2 + noise of standard deviation 0.3."""
    y = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    x = y @ torch.tensor([[1.0], [0.5]]) + 0.3 * torch.randn(n, 1, generator=torch.Generator().manual_seed(seed + 1))
    return x, y


@pytest.fixture(scope="module")
def fitted() -> mf.MarginalFlow:
    x, y = linear_gaussian(4000, 0)
    return make().fit(x, y, max_steps=600, context_dropout=0.3, progress=False)


@pytest.mark.parametrize("conditioning", WAYS)
@pytest.mark.parametrize("hidden", [(32, 32), (16,), (24, 16, 8)])
def test_a_batch_of_contexts_is_each_context(conditioning: str, hidden: tuple[int, ...]) -> None:
    flow, contexts = make(conditioning, hidden=hidden), torch.randn(5, 2)
    both, x = flow.freeze(context=contexts), torch.randn(7, 5, 1)
    assert both.batch_shape == (5,)
    for i, context in enumerate(contexts):
        torch.testing.assert_close(both.log_prob(x)[:, i], flow.freeze(context=context).log_prob(x[:, i]))


@pytest.mark.parametrize("conditioning", WAYS)
def test_every_weight_gets_a_gradient(conditioning: str) -> None:
    flow = make(conditioning)
    flow(torch.randn(6, 2)).log_prob(torch.randn(6, 1)).mean().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in flow.parameters())


@pytest.mark.parametrize("conditioning", WAYS)
def test_conditional_density_integrates_to_one_and_depends_on_its_context(conditioning: str) -> None:
    flow, grid = make(conditioning), torch.linspace(-30, 30, 60001).unsqueeze(-1)
    densities = [flow.freeze(context=c).log_prob(grid).exp() for c in (torch.zeros(2), torch.ones(2))]
    for density in densities:
        assert abs(float(torch.trapezoid(density, grid.squeeze(-1))) - 1) < 1e-4
    assert (densities[0] - densities[1]).abs().max() > 1e-3


def test_fit_finds_the_conditional_law(fitted: mf.MarginalFlow) -> None:
    x, y = linear_gaussian(2000, 10)
    score = float(fitted.freeze(256, context=y).log_prob(x).mean())
    exact = -0.5 * math.log(2 * math.pi * math.e * 0.09)
    assert exact - 0.06 < score < exact + 0.06


def test_missing_contexts_give_the_marginal(fitted: mf.MarginalFlow) -> None:
    """Without y2: normal around y1 with variance 0.25 + 0.09; without both: variance 1.34."""
    x, y = linear_gaussian(2000, 20)
    half = y.clone()
    half[:, 1] = math.nan
    for context, variance in ((half, 0.34), (torch.full_like(y, math.nan), 1.34)):
        score = float(fitted.freeze(256, context=context).log_prob(x).mean())
        assert abs(score + 0.5 * math.log(2 * math.pi * math.e * variance)) < 0.08
    whole = fitted.freeze(256)
    torch.testing.assert_close(whole.log_prob(x), fitted.freeze(256, context=torch.full((2,), math.nan)).log_prob(x))


def test_average_over_contexts_is_the_marginal_of_the_data(fitted: mf.MarginalFlow) -> None:
    x, y = linear_gaussian(1000, 30)
    average = fitted.marginal(y[:50], 8, seed=0)
    grid = torch.linspace(-20, 20, 40001).unsqueeze(-1)
    assert abs(float(torch.trapezoid(average.log_prob(grid).exp(), grid.squeeze(-1))) - 1) < 1e-4
    z = mf.bases.draw("sobol", 8, 1, torch.Generator().manual_seed(0))
    each = fitted.components(z, y[:50]).log_prob(x.unsqueeze(1))
    torch.testing.assert_close(average.log_prob(x), each.logsumexp(1) - math.log(50))
    assert abs(float(fitted.marginal(y).log_prob(x).mean()) + 0.5 * math.log(2 * math.pi * math.e * 1.34)) < 0.08


def test_samples_follow_their_contexts(fitted: mf.MarginalFlow) -> None:
    y = torch.tensor([[1.0, 1.0], [-2.0, 0.0]])
    x = fitted.sample((4000,), torch.Generator().manual_seed(0), y)
    assert x.shape == (4000, 2, 1)
    assert (x.mean(0).squeeze(-1) - torch.tensor([1.5, -2.0])).abs().max() < 0.12


def test_contexts_of_any_shape_on_a_manifold_survive_a_checkpoint(tmp_path: Path) -> None:
    images = torch.randn(60, 4, 3, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.normalize(images[:, 0], dim=-1)
    flow = mf.MarginalFlow(SPHERE, (3,), context_shape=(4, 3), conditioning="hyper", **SMALL)
    flow.fit(x, images, max_steps=10, progress=False, checkpoint=tmp_path)
    loaded = mf.load(tmp_path)
    torch.testing.assert_close(loaded.freeze(16, 1, images).log_prob(x), flow.freeze(16, 1, images).log_prob(x))
    assert flow.decode(torch.zeros(5, 2), images[:3]).shape == (3, 5, 3)


@pytest.mark.parametrize("conditioning", WAYS)
def test_a_context_may_be_one_number(conditioning: str, tmp_path: Path) -> None:
    x, y = linear_gaussian(60, 0)
    flow = make(conditioning, context_shape=()).fit(x, y[:, 0], max_steps=3, progress=False, checkpoint=tmp_path)
    both = mf.load(tmp_path).freeze(16, 0, y[:5, 0])
    assert both.batch_shape == (5,)
    torch.testing.assert_close(both.log_prob(x[:5])[2], flow.freeze(16, 0, y[2, 0]).log_prob(x[2]))


def test_contexts_are_standardised_for_every_kernel() -> None:
    flow = mf.MarginalFlow(SPHERE, (3,), "angular_central_gaussian", context_shape=(2,), **SMALL)
    x = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    flow.fit(x, 100 + torch.randn(50, 2), max_steps=2, progress=False)
    assert (flow.network.context_shift - 100).abs().max() < 2


def test_errors() -> None:
    x, y = linear_gaussian(50, 0)
    flow = make()
    with pytest.raises(ValueError, match="a context for every point"):
        flow.fit(x, progress=False)
    with pytest.raises(ValueError, match=r"contexts of shape \(50, 2\), got \(50, 1\)"):
        flow.fit(x, y[:, :1], progress=False)
    with pytest.raises(ValueError, match="Expected points x and contexts"):
        flow.fit(objective=mf.losses.ReverseKL(lambda x, y: -(x[..., 0] ** 2)), progress=False)
    with pytest.raises(ValueError, match=r"with contexts at least one, got \(\)"):
        make(hidden=())
    with pytest.raises(ValueError, match="no contexts"):
        mf.MarginalFlow(LINE, (1,)).fit(x, y, progress=False)
    with pytest.raises(ValueError, match="made without context_shape"):
        mf.MarginalFlow(LINE, (1,)).freeze(context=y)
    with pytest.raises(ValueError, match=r"contexts of shape \(\.\.\., \(2,\)\), got \(3,\)"):
        flow.freeze(context=torch.zeros(3))
    with pytest.raises(ValueError, match="conditioning in film, concat, hyper, readout, got 'sobol' and 'magic'"):
        make("magic")
    for wrong in (y / 0, 1e300 * y.double()):
        with pytest.raises(ValueError, match=r"contexts that are finite in torch\.float32"):
            flow.fit(x, wrong, progress=False)
        with pytest.raises(ValueError, match=r"contexts that are finite in torch\.float32"):
            flow.log_prob(x, context=wrong)
    with pytest.raises(ValueError, match=r"points that torch\.float32, the model's dtype, can hold"):
        flow.fit(1e300 * x.double(), y, progress=False)
    with pytest.raises(ValueError, match="at least one component, got n_components=0"):
        flow.marginal(y, n_components=0)
    with pytest.raises(ValueError, match=r"contexts of shape \(n, \(2,\)\)"):
        flow.marginal(torch.zeros(2))


def test_contexts_of_any_size_count() -> None:
    """Squares of these overflow in single precision."""
    x, y = linear_gaussian(50, 0)
    flow = make().fit(x, 1e25 * y, max_steps=2, progress=False)
    frozen = [flow.freeze(context=1e25 * row).params["loc"] for row in y[:2]]
    assert torch.isfinite(flow.network.context_spread).all()
    assert not torch.equal(*frozen)


def test_validation_hides_what_training_hides() -> None:
    seen: dict[bool, list[Tensor]] = {True: [], False: []}

    def objective(flow: mf.MarginalFlow, batch: mf.losses.Batch) -> Tensor:
        assert batch.context is not None
        seen[torch.is_grad_enabled()].append(batch.context)
        return mf.losses.forward_kl(flow, batch)

    x, y = linear_gaussian(400, 0)
    make().fit(x, y, objective=objective, max_steps=3, validation_fraction=0.5, context_dropout=0.3, progress=False)
    first, *others = seen[False]
    assert all(torch.allclose(first, other, rtol=0, atol=0, equal_nan=True) for other in others)
    for contexts in seen.values():
        assert abs(float(contexts[0].isnan().double().mean()) - 0.3) < 0.12


@pytest.mark.parametrize("conditioning", ["film", "concat", "hyper", "readout"])
def test_components_of_all_contexts_begin_at_one_scale(conditioning: str) -> None:
    flow = mf.MarginalFlow(geoopt.Sphere(), (3,), context_shape=(2,), conditioning=conditioning, n_components=8)
    flow.set_scale(0.3)
    mixture = flow(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    assert mixture.params["concentration"].std() < 1e-5 * mixture.params["concentration"].mean()
    assert mixture.log_weights.std() < 1e-5
