"""Variational mixtures: the bound, the exact density, labels, starts, files."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import geoopt
import numpy as np
import pytest
import scipy.special
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import mf_manifold as mf
from mf_manifold.losses import Batch, forward_kl
from mf_manifold.models import ComponentMixture, Flow, KernelModel, VariationalMixture
from mf_manifold.models.labelled import LabelledBound
from mf_manifold.models.variational import evidence_lower_bound
from mf_manifold.training import run

PLANE, SPHERE, TORUS = geoopt.Euclidean(ndim=1), geoopt.Sphere(), mf.manifolds.Torus()
needs_zuko = pytest.mark.skipif(not find_spec("zuko"), reason="needs zuko")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int, seed: int = 0, shares: tuple[float, ...] = (0.5, 0.3, 0.2)) -> tuple[Tensor, Tensor]:
    """Points around the corners of a triangle, and their corners; float64."""
    labels = torch.multinomial(torch.tensor(shares), n, replacement=True, generator=seeded(seed))
    corners = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    return corners[labels] + torch.randn(n, 2, generator=seeded(seed + 1), dtype=torch.float64), labels


def normals(count: int = 3, **options: Any) -> VariationalMixture:
    parts = [KernelModel(PLANE, (2,), kernel_options={"covariance": "full"}).double() for _ in range(count)]
    return VariationalMixture(parts, hidden=(16,), **options)


def flows(count: int, **options: Any) -> VariationalMixture:
    return VariationalMixture([Flow(PLANE, (2,), transforms=2, hidden=(8,)).double() for _ in range(count)], **options)


def marginal_flows(manifold: geoopt.Manifold, dim: int, count: int = 2) -> VariationalMixture:
    return VariationalMixture(
        [mf.MarginalFlow(manifold, (dim,), n_components=16, hidden=(16,)).double() for _ in range(count)], hidden=(16,)
    )


def fit(model: VariationalMixture, x: Tensor, labels: Tensor | None = None, **options: Any) -> VariationalMixture:
    return model.fit(x, labels, **{"max_steps": 100, "batch_size": 256, "progress": False, **options})


@pytest.fixture(scope="module")
def fitted() -> VariationalMixture:
    return fit(normals(), blobs(600)[0], max_steps=200, learning_rate=1e-2)


# ---------------------------------------------------------------------------------------------------------------- the bound


def test_the_bound_is_below_the_likelihood_on_every_batch(fitted: VariationalMixture) -> None:
    x = 4 * torch.randn(5000, 2, generator=seeded(3), dtype=torch.float64)
    law = fitted.freeze()
    for batch in x.split(100):
        exact = law.log_prob(batch)
        assert (fitted.elbo(batch) <= exact + 1e-12).all()
        for temperature in (0.05, 1.0, 20.0):
            bound = evidence_lower_bound(law.component_log_prob(batch), fitted.encoder(batch, temperature))
            assert (bound <= exact + 1e-12).all()


MUTANTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "no entropy": lambda joint, log_q, weights: (log_q.exp() * joint).sum(-1),
    "no weights": lambda joint, log_q, weights: evidence_lower_bound(joint - weights, log_q),
    "sign of the entropy": lambda joint, log_q, weights: (log_q.exp() * (joint + log_q)).sum(-1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_is_tight_at_the_true_responsibilities(fitted: VariationalMixture, dtype: torch.dtype) -> None:
    law, x = fitted.freeze(), blobs(500, seed=5)[0]
    joint, exact = law.component_log_prob(x).to(dtype), law.log_prob(x)
    assert float((evidence_lower_bound(joint, joint.log_softmax(-1)) - exact).abs().max()) < 1e-5


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_bounds_are_not_tight(fitted: VariationalMixture, name: str) -> None:
    law, x = fitted.freeze(), blobs(500, seed=5)[0]
    joint = law.component_log_prob(x)
    assert float((MUTANTS[name](joint, joint.log_softmax(-1), law.log_weights) - law.log_prob(x)).abs().max()) > 1e-2


def test_the_gap_is_the_divergence_of_the_encoder_and_shrinks_in_training(fitted: VariationalMixture) -> None:
    law, x = fitted.freeze(), blobs(500, seed=5)[0]
    q, p = fitted.encoder(x).exp(), law.responsibilities(x)
    divergence = (scipy.special.rel_entr(q.detach().numpy(), p.numpy())).sum(-1)
    assert np.abs(divergence - (law.log_prob(x) - fitted.elbo(x)).detach().numpy()).max() < 1e-9
    assert float(divergence.min()) >= 0
    random = fit(normals(start="random"), blobs(600)[0], max_steps=200, learning_rate=1e-2)
    for model in (fitted, random):
        gaps = [entry["gap"] for entry in model.history]
        assert min(gaps) >= 0
        assert min(gaps[-5:]) < max(gaps[:5]) / 3
        assert all(abs(e["log_likelihood"] - e["elbo"] - e["gap"]) < 1e-9 for e in model.history)


def test_rows_of_the_encoder_and_of_the_responsibilities_sum_to_one(fitted: VariationalMixture) -> None:
    x = 4 * torch.randn(7, 100, 2, generator=seeded(3), dtype=torch.float64)
    for encoder in (False, True):
        proba = fitted.predict_proba(x, encoder=encoder)
        assert proba.shape == (7, 100, 3) and proba.min() >= 0
        assert float((proba.sum(-1) - 1).abs().max()) < 1e-12
        assert torch.equal(fitted.predict(x, encoder=encoder), proba.argmax(-1))


def test_a_one_hot_encoder_leaves_no_nan(fitted: VariationalMixture) -> None:
    """The unguarded q log q is NaN here."""
    x = blobs(500)[0]
    log_q = fitted.encoder(x, 1e-4)
    assert bool((log_q.exp() == 0).any()) and bool((log_q.exp() * log_q.exp().log()).isnan().any())
    joint = fitted.freeze().component_log_prob(x)
    bound = evidence_lower_bound(joint.masked_fill(log_q.exp() == 0, -torch.inf), log_q)
    assert bool(bound.isfinite().all())
    gradients = torch.autograd.grad(bound.mean(), list(fitted.encoder.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_the_temperature_falls_to_its_floor() -> None:
    model = normals(temperature=8.0, floor=0.5, anneal=0.5)
    found = [model.temperature_at(progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([8.0, 2.0, 0.5, 0.5])
    x = blobs(50)[0]
    early, late = (Batch(x, None, seeded(), 1, progress) for progress in (0.0, 1.0))
    model.reset(x, 0.0)
    assert not torch.isclose(model.objective(early), model.objective(late), atol=1e-3)
    log_q = model.encoder(x, 8.0)
    by_hand = -evidence_lower_bound(model().component_log_prob(x), log_q).mean()
    assert torch.isclose(model.objective(early), by_hand)
    assert torch.isclose(model.elbo(x), evidence_lower_bound(model().component_log_prob(x), model.encoder(x, 0.5))).all()


# -------------------------------------------------------------------------------------------------------------- the density


def test_the_density_is_the_exact_mixture(fitted: VariationalMixture) -> None:
    law, x = fitted.freeze(), blobs(500, seed=5)[0]
    weights = fitted.logits.detach().softmax(0).numpy()
    logs = np.stack([
        torch.distributions.MultivariateNormal(c.params["loc"], c.params["covariance_matrix"]).log_prob(x).detach().numpy()
        for c in law.components  # type: ignore[attr-defined]
    ])  # fmt: skip
    assert np.abs(scipy.special.logsumexp(logs.T + np.log(weights), axis=-1) - law.log_prob(x).detach().numpy()).max() < 1e-9


def test_it_reaches_what_expectation_maximisation_reaches(fitted: VariationalMixture) -> None:
    x = blobs(600)[0]
    em = mf.KernelMixture(PLANE, (2,), 3, floor=False, kernel_options={"covariance": "full"}).fit(x, progress=False)
    difference = float((em.log_prob(x) - fitted.freeze().log_prob(x)).mean().detach())
    assert abs(difference) < 0.01  # a tenth of the data are held out, and the steps are stochastic


def plane_mass(law: torch.distributions.Distribution, half: float = 25.0, cells: int = 400) -> float:
    axis = torch.linspace(-half, half, cells, dtype=torch.float64)
    return float(law.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2)


def sphere_mass(law: torch.distributions.Distribution, heights: int = 120, angles: int = 240) -> float:
    at, weights = np.polynomial.legendre.leggauss(heights)
    z, w = torch.as_tensor(at), torch.as_tensor(weights)
    turn = 2 * math.pi / angles * torch.arange(angles, dtype=torch.float64)
    radius = (1 - z.square()).sqrt().unsqueeze(1)
    x = torch.stack([radius * turn.cos(), radius * turn.sin(), z.unsqueeze(1).expand(-1, angles)], -1)
    return float((law.log_prob(x).exp().sum(1) * w).sum()) * 2 * math.pi / angles


def torus_mass(law: torch.distributions.Distribution, cells: int = 200) -> float:
    axis = 2 * math.pi / cells * torch.arange(cells, dtype=torch.float64) - math.pi
    return float(law.log_prob(torch.cartesian_prod(axis, axis)).exp().sum()) * (2 * math.pi / cells) ** 2


def on_sphere(n: int) -> tuple[Tensor, Tensor]:
    poles = torch.tensor([[0.0, 0, 1], [0.0, 1, 0]], dtype=torch.float64)
    law = mf.distribution(SPHERE, "von_mises_fisher", loc=poles, concentration=torch.tensor([20.0, 20.0]).double())
    x = law.sample((n // 2,), generator=seeded())
    return x.flatten(0, 1), torch.arange(2).repeat(n // 2)


def on_torus(n: int) -> tuple[Tensor, Tensor]:
    loc = torch.tensor([[math.pi, 0.0], [0.0, math.pi]], dtype=torch.float64)
    law = mf.distribution(TORUS, "wrapped_normal", loc=loc, scale=torch.full((2, 2), 0.4, dtype=torch.float64))
    return law.sample((n // 2,), generator=seeded()).flatten(0, 1), torch.arange(2).repeat(n // 2)


@needs_zuko
def test_mixtures_of_flows_integrate_to_one() -> None:
    model = fit(flows(2), blobs(300)[0], max_steps=30)
    with torch.no_grad():
        assert abs(plane_mass(model.freeze()) - 1) < 2e-3


@pytest.mark.parametrize(("manifold", "data", "mass"), [(SPHERE, on_sphere, sphere_mass), (TORUS, on_torus, torus_mass)])
def test_mixtures_of_marginal_flows_integrate_to_one_and_tell_modes_apart(manifold: Any, data: Any, mass: Any) -> None:
    x, labels = data(300)
    model = fit(marginal_flows(manifold, x.shape[1]), x, max_steps=30)
    found = (model.predict(x) == labels).double().mean()
    assert max(float(found), 1 - float(found)) > 0.98
    with torch.no_grad():
        assert abs(mass(model.freeze()) - 1) < 1e-4


def test_weights_that_are_not_normalised_show_in_the_integral(fitted: VariationalMixture) -> None:
    law = fitted.freeze()
    with torch.no_grad():
        assert abs(plane_mass(law) - 1) < 1e-6
        law.log_weights = torch.zeros_like(law.log_weights)
        assert abs(plane_mass(law) - 1) > 1


def test_the_measure_converts() -> None:
    x = on_sphere(40)[0]
    model = marginal_flows(SPHERE, 3)
    model.reset(x, 1e-4)
    law = model.freeze()
    uniform = math.log(4 * math.pi)
    assert torch.allclose(law.log_prob(x, "normalized"), law.log_prob(x) + uniform)
    inherited = ComponentMixture(law.components, law.log_weights, measure="normalized")
    assert torch.allclose(inherited.log_prob(x), law.log_prob(x) + uniform)


def test_sampling_frequencies_match_the_weights(fitted: VariationalMixture) -> None:
    law, n = fitted.freeze(), 50_000
    points, labels = law.sample_labelled((n // 10, 10), seeded(1))
    expected = n * law.log_weights.exp()
    chi2 = float(((labels.flatten().bincount(minlength=3) - expected).square() / expected).sum())
    assert chi2 < 21.6  # 2e-5 of two degrees of freedom
    assert torch.equal(points, law.sample((n // 10, 10), seeded(1)))
    for k, component in enumerate(law.components):
        own, loc = points[labels == k], component.params["loc"]  # type: ignore[attr-defined]
        assert ((own.mean(0) - loc).abs() < 4.5 * own.std(0) / len(own) ** 0.5).all()
    assert law.sample((0,)).shape == (0, 2) and law.sample().shape == (2,)


def test_samples_are_where_the_components_are() -> None:
    """Also where the weights, equal by default, are on the CPU."""
    part = mf.distribution(PLANE, loc=torch.zeros(2, device="meta"), scale=torch.ones(1, device="meta"), validate_args=False)
    assert ComponentMixture([part, part]).sample((5,), seeded()).is_meta


@needs_zuko
def test_samples_follow_the_density() -> None:
    model = fit(flows(2), blobs(300)[0], max_steps=30)
    with torch.no_grad():
        drawn = model.sample((20_000,), seeded())
        axis = torch.linspace(-25, 25, 600, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        q = model.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
    for f in (lambda x: x, lambda x: x.abs().sqrt(), lambda x: (x[:, :1] > 0).double()):
        exact, found = q @ f(grid), f(drawn)
        assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / len(drawn) ** 0.5 + 5e-3).all()


# ------------------------------------------------------------------------------------------------- weights, starts, collapse


def test_weights_are_learned_or_equal() -> None:
    x, _ = blobs(600, shares=(0.8, 0.1, 0.1))
    learned, equal = fit(normals(), x), fit(normals(learn_weights=False), x)
    assert learned.freeze().log_weights.exp().sort().values.tolist() == pytest.approx([0.1, 0.1, 0.8], abs=0.05)
    assert equal.freeze().log_weights.exp().tolist() == pytest.approx([1 / 3] * 3)
    assert float(learned.freeze().log_prob(x).mean()) > float(equal.freeze().log_prob(x).mean()) + 0.2


def test_learned_weights_find_the_shares_from_equal_ones() -> None:
    """Without the start at the shares of clusters, the gradient of the bound has to find them."""
    x, _ = blobs(600, shares=(0.8, 0.1, 0.1))
    model = fit(normals(start="random"), x, labels=blobs(600, shares=(0.8, 0.1, 0.1))[1], max_steps=400, learning_rate=1e-2)
    assert model.freeze().log_weights.exp().tolist() == pytest.approx([0.8, 0.1, 0.1], abs=0.06)


def test_the_start_at_clusters_finds_the_blobs_and_random_starts_collapse() -> None:
    x, labels = blobs(600)
    accuracy = [float((table(fit(normals(start=start), x).predict(x), labels).max(1).values).sum()) / 600 for start in STARTS]
    assert accuracy[0] > 0.95
    assert accuracy[1] < 0.9


STARTS = ("clusters", "random")


def table(found: Tensor, labels: Tensor) -> Tensor:
    return torch.zeros(3, 3).index_put_((found, labels), torch.ones(len(labels)), accumulate=True)


def test_unused_components_are_recorded_and_reported() -> None:
    x = on_sphere(200)[0][::2]
    parts = [KernelModel(SPHERE, (3,)), KernelModel(SPHERE, (3,), "uniform")]
    model = VariationalMixture(parts, hidden=(8,), start="random").double()
    with pytest.warns(UserWarning, match=r"Components without data, and their shares: 1 \("):
        fit(model, x, learning_rate=3e-2)
    assert model.history[-1]["usage_entropy"] < 0.5
    assert model.history[-1]["least_share"] < 0.1
    assert float(model.usage(x)[1]) < 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        used = fit(normals(), blobs(300)[0])
    assert used.history[-1]["usage_entropy"] > 0.8


def test_clusters_of_few_points_begin_with_their_neighbours() -> None:
    x = torch.cat([blobs(100)[0], torch.tensor([[50.0, 50.0]], dtype=torch.float64)])
    model = normals(2)
    model.reset(x, 0.0)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert sorted(model.assigned.bincount().tolist()) == [1, 100]  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="Components without data"):
        assert torch.isfinite(fit(model, x, max_steps=5).log_prob(x)).all()


# -------------------------------------------------------------------------------------------------------------------- labels


def checkers(n: int, known: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Four blobs of which opposite ones belong together; labels, and labels of which few are known."""
    blob = torch.randint(4, (n,), generator=seeded(seed))
    corners = torch.tensor([[-3.0, -3.0], [3.0, 3.0], [-3.0, 3.0], [3.0, -3.0]], dtype=torch.float64)
    x, labels = corners[blob] + torch.randn(n, 2, generator=seeded(seed + 1), dtype=torch.float64), blob // 2
    return x, labels, torch.where(torch.arange(n) < known, labels, -1)


def test_few_labels_name_the_components() -> None:
    """Two circles, the experiment's case, are in docs/results; here opposite blobs, which no clustering joins."""
    x, labels, known = checkers(400, 16)
    without, given = fit(normals(2), x), fit(normals(2), x, known)
    rate = float((without.predict(x) == labels).double().mean())
    assert max(rate, 1 - rate) < 0.8
    assert float((given.predict(x) == labels).double().mean()) > 0.95
    assert float((given.predict(x, encoder=True) == labels).double().mean()) > 0.95


@pytest.mark.parametrize("name", [0, 1, 2])
def test_labels_of_one_component_name_it(name: int) -> None:
    x, labels = blobs(300)
    known = torch.where((labels == 1) & (torch.arange(300) < 60), name, -1)
    model = fit(normals(), x, known, max_steps=30)
    assert float((model.predict(x[labels == 1]) == name).double().mean()) > 0.9
    assert float((model.predict(x[labels != 1]) == name).double().mean()) < 0.1


def test_the_cross_entropy_has_the_right_sign() -> None:
    x, labels, _ = checkers(400, 400)
    encoder_loss = {}
    for weight in (1.0, -1.0):
        model = normals(2, start="random")
        objective = LabelledBound(x, labels, len(x))
        objective.weight = weight  # the published revision trains with -1
        fit(model, x, objective=objective, learning_rate=3e-2)
        encoder_loss[weight] = -float(model.encoder(x).gather(1, labels.unsqueeze(1)).mean().detach())
    assert encoder_loss[1.0] < 0.5 < math.log(2) < encoder_loss[-1.0]
    with pytest.raises(ValueError, match="positive weight of the labels"):
        LabelledBound(x, labels, len(x), -1.0)
    with pytest.raises(ValueError, match=r"some to train on, got 1\.0 and 0"):
        LabelledBound(x[:0], labels[:0], len(x))


def test_the_labelled_objective_is_its_formula() -> None:
    x, labels, _ = checkers(50, 50)
    model = normals(2)
    model.reset(x, 0.0)
    some, names = x[:10], labels[:10]
    found = LabelledBound(some, names, 40, 0.7)(model, Batch(x, None, seeded(), 1, 1.0))
    law = model()
    own = torch.stack([law.components[int(k)].log_prob(point) for point, k in zip(some, names, strict=True)])
    guess = torch.stack([model.encoder(point)[int(k)] for point, k in zip(some, names, strict=True)])
    assert torch.isclose(found, -model.elbo(x).mean() - 0.25 * own.mean() - 0.7 * guess.mean())


def test_labelled_data_are_trained_on_and_not_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, known = checkers(100, 20)
    seen: list[int] = []
    call = LabelledBound.__call__

    def spy(self: LabelledBound, model: Any, batch: Batch) -> Tensor:
        seen.append(len(self.x))
        return call(self, model, batch)

    monkeypatch.setattr(LabelledBound, "__call__", spy)
    fit(normals(2), x, known, max_steps=2)
    assert set(seen) == {20}
    seen.clear()
    fit(normals(2), x, known, max_steps=2, validation_fraction=0.9)
    assert set(seen) == {10}  # then some have to be


def test_more_labels_than_a_step_takes_are_drawn() -> None:
    x, labels, _ = checkers(3000, 3000)
    model = fit(normals(2), x, labels, max_steps=80, learning_rate=1e-2)
    assert float((model.predict(x) == labels).double().mean()) > 0.95


# --------------------------------------------------------------------------------------------------- soft EM, files, resuming


def test_the_exact_likelihood_is_an_objective_too() -> None:
    x, _ = blobs(300)
    model = fit(normals(), x, objective=forward_kl)
    assert model.history[-1]["validation_loss"] == pytest.approx(-model.history[-1]["log_likelihood"])


@needs_zuko
def test_nested_models_return_from_their_file(tmp_path: Path) -> None:
    base = mf.MarginalFlow(PLANE, (2,), hidden=(8,), n_components=16)
    inner = VariationalMixture([KernelModel(PLANE, (2,)), KernelModel(PLANE, (2,))], hidden=(4,))
    parts = [Flow(PLANE, (2,), transforms=2, hidden=(8,), base=base), mf.MarginalFlow(PLANE, (2,), hidden=(8,)), inner]
    x = blobs(300)[0].float()
    model = VariationalMixture(parts, hidden=(8,), temperature=2.0, floor=0.5)
    fit(model, x, max_steps=10, n_components=16, checkpoint=tmp_path / "run")
    model.save(tmp_path / "model")
    for folder in ("run", "model"):
        back = mf.load(tmp_path / folder)
        assert torch.equal(back.freeze(seed=1).log_prob(x), model.freeze(seed=1).log_prob(x))
        assert torch.equal(back.predict_proba(x, encoder=True), model.predict_proba(x, encoder=True))
        assert back.config() | {"history": 0} == model.config() | {"history": 0}
    assert back.history == model.history


def test_files_that_name_unknown_components_are_refused(tmp_path: Path) -> None:
    path = normals().save(tmp_path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["mf_manifold"])
    header["config"]["components"][1]["class"] = "os.system"
    save_file(load_file(path), path, metadata={"mf_manifold": json.dumps(header)})
    with pytest.raises(ValueError, match="its parts do not fit"):
        mf.load(tmp_path)


def test_a_stopped_run_with_labels_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, known = checkers(200, 20)
    options: dict[str, Any] = {"max_steps": 60, "patience": 100}
    whole = fit(normals(2), x, known, **options)
    save, calls = run.Run.save, []

    def stop(self: run.Run) -> None:
        save(self)
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.Run, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(normals(2), x, known, checkpoint=tmp_path, **options)
    monkeypatch.setattr(run.Run, "save", save)
    with pytest.raises(ValueError, match="objective differ"):
        fit(normals(2), x, torch.where(known >= 0, 1 - known, -1), checkpoint=tmp_path, resume=True, **options)
    with pytest.raises(ValueError, match="objective differ"):
        fit(normals(2), x, known, label_weight=2.0, checkpoint=tmp_path, resume=True, **options)
    resumed = fit(normals(2), x, known, checkpoint=tmp_path, resume=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_the_same_seed_gives_the_same_fit_on_float32_and_matrices() -> None:
    x = blobs(200)[0].float()
    models = [VariationalMixture([KernelModel(PLANE, (2,)) for _ in range(2)], hidden=(8,)) for _ in range(2)]
    a, b = (fit(model, x, max_steps=10).log_prob(x) for model in models)
    assert torch.equal(a, b) and a.dtype == torch.float32
    spd = geoopt.SymmetricPositiveDefinite()
    law = mf.distribution(spd, "wishart", df=8.0, covariance_matrix=torch.eye(2) / 8)
    matrices = law.sample((60,), generator=seeded())
    model = fit(VariationalMixture([KernelModel(spd, (2, 2)), KernelModel(spd, (2, 2))], hidden=(8,)), matrices, max_steps=5)
    assert model.log_prob(matrices.double()).dtype == torch.float64
    assert model.sample((3,), seeded()).shape == (3, 2, 2)


def test_components_track_their_averages_from_the_first_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(KernelModel, "track", lambda self, generator: calls.append(id(self)))
    model = fit(normals(2), blobs(50)[0], max_steps=7, patience=100)
    assert len(calls) == 2 * (7 + 7)  # of the warm start, and of the bound
    assert set(calls) == {id(part) for part in model.parts}


def test_components_keep_their_own_learning_rates() -> None:
    parts = [mf.MarginalFlow(SPHERE, (3,), hidden=(8,), shared_shape=shared) for shared in (True, False)]
    model = VariationalMixture(parts, hidden=(8,))
    groups = model.parameter_groups()
    assert [group.get("factor", 1.0) for group in groups] == [1.0, 1.0, 10.0, 1.0]
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.parameters()}


# ------------------------------------------------------------------------------------------------------------------- wrong use


def test_wrong_use_is_explained() -> None:
    part, other = KernelModel(PLANE, (2,)), KernelModel(PLANE, (3,))
    with pytest.raises(ValueError, match="at least one component"):
        VariationalMixture([])
    with pytest.raises(ValueError, match="got the same one twice"):
        VariationalMixture([part, part])
    with pytest.raises(ValueError, match="Expected components on one manifold"):
        VariationalMixture([part, other])
    with pytest.raises(ValueError, match="without contexts"):
        VariationalMixture([mf.MarginalFlow(PLANE, (2,), context_shape=(1,))])
    with pytest.raises(ValueError, match="positive temperature"):
        VariationalMixture([part], floor=0.0)
    with pytest.raises(ValueError, match="Expected start in clusters, random"):
        VariationalMixture([part], start="kmeans")
    with pytest.raises(ValueError, match="Expected no context"):
        VariationalMixture([part])(torch.zeros(1))
    with pytest.raises(ValueError, match="Expected data x for the bound"):
        VariationalMixture([part]).fit(progress=False)
    x = blobs(20)[0]
    for labels in (torch.full((20,), 3), torch.full((20,), -2), torch.full((20,), -1)):
        with pytest.raises(ValueError, match="Expected labels from 0 to 2"):
            fit(normals(), x, labels)
    with pytest.raises(ValueError, match="one whole number a point"):
        fit(normals(), x, torch.zeros(20))
    with pytest.raises(ValueError, match="no objective with the labels"):
        fit(normals(), x, torch.zeros(20, dtype=torch.long), objective=forward_kl)


def test_wrong_mixtures_are_explained() -> None:
    normal = KernelModel(PLANE, (2,)).freeze()
    batch = mf.distribution(PLANE, "normal", loc=torch.zeros(4, 2), scale=torch.ones(1))
    with pytest.raises(ValueError, match="at least one component"):
        ComponentMixture([])
    with pytest.raises(ValueError, match="without batch dimensions"):
        ComponentMixture([normal, batch])
    with pytest.raises(ValueError, match="Expected components on one manifold"):
        ComponentMixture([normal, KernelModel(PLANE, (3,)).freeze()])
    with pytest.raises(ValueError, match="Expected log_weights of shape"):
        ComponentMixture([normal, normal], torch.zeros(3))
    with pytest.raises(ValueError, match="Expected points of shape"):
        ComponentMixture([normal, normal]).log_prob(torch.zeros(5, 3))
