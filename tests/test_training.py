"""The training loop: resuming to the bit, what is kept when it stops, batches of data and components, the record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold import losses
from mf_manifold.losses import Batch
from mf_manifold.training import warm_start
from mf_manifold.training.run import Run

SPHERE = geoopt.Sphere()
SMALL: dict[str, Any] = {"n_components": 64, "hidden": (16, 16), "n_frequencies": 4}
SCRIPT = """
import sys, geoopt, torch, mf_manifold as mf
torch.set_num_threads(1)
x = torch.nn.functional.normalize(torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) + 1.0, dim=-1)
flow = mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=64, hidden=(16, 16), n_frequencies=4)
flow.fit(x, max_steps=200, patience=1000, batch_size=128, progress=False, checkpoint=sys.argv[1], resume=True)
"""


def points(n: int = 400, seed: int = 0) -> Tensor:
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(noise + 1.0, dim=-1)


def flow(**options: Any) -> mf.MarginalFlow:
    return mf.MarginalFlow(SPHERE, (3,), **{**SMALL, **options})


def fit(model: mf.MarginalFlow, **options: Any) -> mf.MarginalFlow:
    return model.fit(points(), **{"max_steps": 40, "batch_size": 128, "patience": 100, "progress": False, **options})


def assert_same_weights(a: mf.MarginalFlow, b: mf.MarginalFlow) -> None:
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


@pytest.mark.parametrize(("base", "stop"), [("sobol", 1), ("uniform", 7), ("gaussian", 20), ("sobol", 39)])
def test_a_stopped_run_resumes_to_the_bit(base: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, original = fit(flow(base=base)), Run.advance

    def stopping(self: Run) -> float:
        if self.step == stop:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Run, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(flow(base=base), checkpoint=tmp_path)
    monkeypatch.setattr(Run, "advance", original)
    resumed = fit(flow(base=base), checkpoint=tmp_path, resume=True)
    assert_same_weights(resumed, whole)
    assert_same_weights(mf.load(tmp_path), whole)
    without_time = [[{**e, "seconds": 0} for e in history] for history in (resumed.history, whole.history)]
    assert without_time[0] == without_time[1]
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == resumed.history


def test_a_killed_process_resumes_to_the_bit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment)
    state = tmp_path / "killed" / "training.safetensors"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, str(tmp_path / "killed")], check=True, env=environment)
    whole = flow().fit(points(), max_steps=200, patience=1000, batch_size=128, progress=False)
    assert_same_weights(mf.load(tmp_path / "killed"), whole)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = fit(flow(), checkpoint=tmp_path)
    assert_same_weights(fit(flow(), checkpoint=tmp_path, resume=True), first)


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(flow(), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="batch_size differ"):
        fit(flow(), checkpoint=tmp_path, resume=True, batch_size=64)
    with pytest.raises(ValueError, match="background differ"):
        fit(flow(), checkpoint=tmp_path, resume=True, background=0.5)
    for other in ({"base": "gaussian"}, {"bandwidth": 9.0}, {"kernel": "power_spherical"}):
        with pytest.raises(ValueError, match="model differ"):
            fit(flow(**other), checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="dtype differ"):
        fit(flow().double(), checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="the data differ"):
        flow().fit(points(seed=1), checkpoint=tmp_path, resume=True, max_steps=40, batch_size=128, patience=100, progress=False)
    with pytest.raises(ValueError, match="checkpoint= of the run to resume"):
        fit(flow(), resume=True)
    state = tmp_path / "training.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"damaged.*Delete it"):
        fit(flow(), checkpoint=tmp_path, resume=True)


def test_another_objective_of_the_same_kind_is_refused(tmp_path: Path) -> None:
    def run(temperature: float, weight: float, **options: Any) -> None:
        reverse = losses.ReverseKL(lambda x: 5 * x[..., 2], temperature=temperature)
        objective = losses.Sum(losses.forward_kl, reverse, weights=[1.0, weight])
        fit(flow(), objective=objective, checkpoint=tmp_path, max_steps=3, **options)

    run(2.0, 0.1)
    run(2.0, 0.1, resume=True)
    for temperature, weight in ((3.0, 0.1), (2.0, 0.2)):
        with pytest.raises(ValueError, match="objective differ"):
            run(temperature, weight, resume=True)


def test_a_loss_that_is_not_finite_names_parameter_and_rows_and_keeps_the_best(tmp_path: Path) -> None:
    def breaks(model: mf.MarginalFlow, batch: Batch) -> Tensor:
        loss = losses.forward_kl(model, batch)
        return loss if batch.progress < 0.5 or batch.progress == 1 else loss * (model.network[1].weight.sum() * torch.nan)

    model = flow()
    message = r"at step 20.*gradient of network\.1\.weight.*128 points, whose first rows are"
    with pytest.raises(FloatingPointError, match=message):
        fit(model, objective=breaks, checkpoint=tmp_path)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert_same_weights(mf.load(tmp_path), model)
    assert torch.isfinite(model.freeze(64).log_prob(points())).all()


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    def breaks(model: mf.MarginalFlow, batch: Batch) -> Tensor:
        zero = model.network[1].bias.sum() * 0
        return losses.forward_kl(model, batch) + torch.where(zero == 0, 0.0, zero.sqrt() / zero)

    with pytest.raises(FloatingPointError, match=r"got loss .*gradient of network"):
        fit(flow(), objective=breaks)


def test_only_the_broken_gradient_is_named() -> None:
    """A gradient that is not finite in the last layer alone: clipping must not spread it to the first."""
    model = flow()

    def breaks(model: mf.MarginalFlow, batch: Batch) -> Tensor:
        zero = model.network.head.bias.sum() * 0
        return losses.forward_kl(model, batch) + torch.where(zero == 0, 0.0, zero.sqrt() / zero)

    with pytest.raises(FloatingPointError, match=r"in the gradient of network\.5\.bias on a batch"):
        fit(model, objective=breaks)


def test_points_that_no_component_covers_have_a_finite_loss() -> None:
    model = flow(learn_weights=False)
    fit(model, max_steps=1)
    model.set_scale(1e-3)
    batch = Batch(-points(), None, torch.Generator().manual_seed(0), 64, 0.0)
    loss = losses.forward_kl(model, batch)
    loss.backward()
    assert 5 < float(loss.detach()) < 20
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    covered = model.cover(batch, 20)
    assert covered["few_components"] == 1.0
    assert covered["uncovered"] > 0.95


def test_points_without_any_density_are_reported() -> None:
    model = mf.MarginalFlow(geoopt.Euclidean(ndim=1), (2,), **SMALL)
    far = torch.full((5, 2), 1e22)  # whose squares are infinite in single precision
    for background in (1e-4, 0.0):
        model.fit(points()[:, :2], max_steps=1, background=background, progress=False)
        log_q, effective = model.freeze(64).components_log_prob(far)
        assert (log_q == -torch.inf).all() and (effective == 1).all()
        covered = model.cover(Batch(far, None, torch.Generator().manual_seed(0), 64, 0.0), 20)
        assert covered == {"few_components": 1.0, "uncovered": 1.0}


def test_many_data_are_matched_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    matched: list[int] = []
    original = warm_start.bases.match

    def match(features: Tensor, dim: int, generator: torch.Generator) -> Tensor:
        matched.append(len(features))
        return original(features, dim, generator)

    monkeypatch.setattr(warm_start.bases, "match", match)
    monkeypatch.setattr(warm_start, "MATCHED", 100)
    for options, context in (({}, None), ({"latent_dim": 1}, None), ({"context_shape": (1,)}, torch.randn(400, 1))):
        model = flow(**options).fit(points(), context, max_steps=2, progress=False)
        assert torch.isfinite(model.freeze(256).log_prob(points())).all()
    assert matched == [100, 100, 100]


def test_without_a_background_a_point_may_have_no_density() -> None:
    model = fit(flow(), max_steps=1, background=0.0)
    assert model.freeze(8).background is None


def test_a_fit_without_data_forgets_the_background_of_an_earlier_fit() -> None:
    model = fit(flow(), max_steps=1)
    assert model.freeze(8).background is not None
    model.fit(objective=losses.ReverseKL(lambda x: 5 * x[..., 2]), max_steps=1, progress=False)
    assert model.freeze(8).background is None


def test_matched_noise_on_a_face_of_the_cube_is_finite_for_the_normal_base() -> None:
    assert torch.isfinite(warm_start._as_base("gaussian", torch.tensor([-1.0, 1.0]))).all()


def test_a_model_is_kept_where_no_validation_is_finite(tmp_path: Path) -> None:
    """Validation losses that are not finite: with data the start is kept, without data the last finite average."""

    def blind(model: mf.MarginalFlow, batch: Batch) -> Tensor:
        return losses.forward_kl(model, batch) + (torch.nan if batch.progress == 1 and not torch.is_grad_enabled() else 0.0)

    fit(flow(), objective=blind, max_steps=5, checkpoint=tmp_path)
    assert torch.isfinite(mf.load(tmp_path).freeze(8).log_prob(points())).all()
    validations: list[int] = []

    def later(model: mf.MarginalFlow, batch: Batch) -> Tensor:
        validations.extend([] if torch.is_grad_enabled() else [0])
        return sum((p.square().sum() for p in model.parameters()), torch.tensor(0.0 if len(validations) < 2 else torch.inf))

    with pytest.raises(FloatingPointError):
        flow().fit(objective=later, max_steps=5, progress=False, checkpoint=tmp_path)
    assert mf.load(tmp_path).history[-1]["step"] == 0


def test_objectives_that_are_no_scalar_with_gradients() -> None:
    for objective, message in (
        (lambda model, at: -at.draw(model).log_prob(at.x), r"scalar tensor, got shape \(40,\)"),
        (lambda model, at: 1.0, "scalar tensor, got float"),
        (lambda model, at: torch.tensor(1.0), "loss has gradients"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(flow(), objective=objective, max_steps=2)


def test_a_time_limit_far_below_the_steps_still_validates() -> None:
    model = fit(flow(), max_steps=10**9, max_seconds=4.0)
    assert len(model.history) >= 5


def test_own_objectives_and_validation_data() -> None:
    seen = []

    def objective(model: mf.MarginalFlow, batch: Batch) -> Tensor:
        seen.append((batch.n_components, batch.progress))
        return losses.forward_kl(model, batch) + 1e-3 * sum(p.square().sum() for p in model.parameters())

    model = fit(flow(), objective=objective, n_components=32, validation=points(50, seed=3))
    assert {count for count, progress in seen if progress < 1} == {32}
    assert model.history[0]["validation_loss"] > model.history[-1]["validation_loss"]


def test_components_grow_while_points_have_few() -> None:
    angle = 2 * torch.pi * torch.rand(400, generator=torch.Generator().manual_seed(0))
    circle = torch.stack([angle.cos(), angle.sin(), torch.zeros(400)], dim=-1)
    model = flow(n_components=256).fit(circle, max_steps=40, progress=False, grow_components=True)
    counts = [entry["components"] for entry in model.history]
    assert counts[0] == 16
    assert counts == sorted(counts)
    assert counts[-1] > 16
    assert max(counts) <= 256


def test_components_grow_without_data_too() -> None:
    model = flow(n_components=256)
    objective = losses.ReverseKL(lambda x: 50 * x[..., 2])
    model.fit(objective=objective, max_steps=20, progress=False, grow_components=True)
    counts = [entry["components"] for entry in model.history]
    assert counts[:2] == [16, 32]
    assert counts == sorted(counts)
    assert max(counts) <= 256


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_data_that_are_all_the_same_have_a_finite_fit(latent_dim: int) -> None:
    for x in (torch.zeros(20, 2), torch.ones(20, 2)):
        model = mf.MarginalFlow(geoopt.Euclidean(ndim=1), (2,), latent_dim=latent_dim, **SMALL)
        model.fit(x, max_steps=2, progress=False)
        assert torch.isfinite(model.freeze(8).log_prob(x)).all()


def test_the_record_reaches_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for options in ({}, {"resume": True}):
        fit(flow(), checkpoint=tmp_path, max_steps=5, **options)
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("validation_loss")
    assert [event.step for event in shown] == [0, 1, 2, 3, 4, 5]


def test_options_out_of_range() -> None:
    for options, message in (
        ({"learning_rate": 0.0}, "positive learning_rate"),
        ({"n_components": 0}, "positive n_components"),
        ({"context_dropout": 1.0}, r"context_dropout in \[0, 1\)"),
        ({"background": 1.0}, r"background in \[0, 1\)"),
        ({"validation": points(5) * 2}, "5 of 5 rows are off it"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(flow(), **options)
    with pytest.raises(ValueError, match="Expected data x for the forward"):
        flow().fit(progress=False)


def test_a_shared_shape_learns_faster_than_the_network() -> None:
    spd, p, df = geoopt.SymmetricPositiveDefinite(), 8, 40.0
    scale = torch.eye(p, dtype=torch.float64) / df
    x = mf.distribution(spd, "wishart", df=df, covariance_matrix=scale).sample((400,), torch.Generator().manual_seed(0))
    options = {"n_components": 8, "latent_dim": 1, "hidden": (16,), "n_frequencies": 4, "bandwidth": 0.25}
    model = mf.MarginalFlow(spd, (p, p), "wishart", shared_shape=True, **options)  # type: ignore[arg-type]
    groups = model.parameter_groups()
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    model.fit(x, max_steps=150, background=0.0, progress=False)
    assert 0.6 * df < float(model.freeze(8).params["df"].max()) < 1.1 * df  # 17 at the network's own rate


def test_refused_options_leave_a_fitted_model_as_it_was() -> None:
    model = fit(flow(), max_steps=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="positive learning_rate"):
        fit(model, learning_rate=-1.0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
