"""Mixtures by expectation-maximisation: against scikit-learn and scipy, monotone, guarded against collapse."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import geoopt
import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import mf_manifold as mf
from mf_manifold import em, integral, kernel_mixture
from mf_manifold.clustering import frechet_mean, kmeans
from mf_manifold.kernel_mixture import KernelMixture

SPHERE, PLANE = geoopt.Sphere(), geoopt.Euclidean(ndim=1)
TRUTH = {
    "loc": torch.tensor([[0.0, 0, 1], [0, 0.8, -0.6], [1, 0, 0]], dtype=torch.float64),
    "concentration": torch.tensor([30.0, 60, 100], dtype=torch.float64),
}
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def three_bumps(n: int, seed: int = 0) -> torch.Tensor:
    mixture = mf.Mixture(mf.kernel_for(SPHERE, (3,), "von_mises_fisher"), TRUTH, SHARES.log())
    return mixture.sample((n,), torch.Generator().manual_seed(seed))


def blobs(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.tensor([[0.0, 0.0], [4.0, 1.0], [-1.0, 3.0]], dtype=torch.float64)
    turn = torch.tensor([[1.0, 0.6], [0.0, 0.5]], dtype=torch.float64)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return centers[torch.randint(3, (n,), generator=generator)] + noise @ turn


def example(manifold: geoopt.Manifold, shape: tuple[int, ...], n: int, seed: int = 0) -> torch.Tensor:
    raw = torch.randn(n, mf.geometry.raw_dim(manifold, shape), generator=torch.Generator().manual_seed(seed)).double()
    return mf.geometry.from_raw(manifold, 0.7 * raw, shape)


def likelihoods(model: KernelMixture) -> list[float]:
    return [step["log_likelihood"] for step in model.history if "log_likelihood" in step]


def started(x: torch.Tensor, covariance: str) -> tuple[mf.Mixture, GaussianMixture]:
    """The same start for this library and for scikit-learn."""
    means, kind = x[[0, 10, 20]], {"full": "full", "diagonal": "diag"}[covariance]
    kernel = mf.kernel_for(PLANE, (2,), covariance=covariance)
    start = mf.Mixture(kernel, kernel.centered(means, torch.full((3,), 0.8, dtype=torch.float64)))
    precision = np.full((3, 2), 1 / 0.64) if kind == "diag" else np.tile(np.eye(2) / 0.64, (3, 1, 1))
    options = {"weights_init": np.full(3, 1 / 3), "means_init": means.numpy(), "precisions_init": precision}
    return start, GaussianMixture(3, covariance_type=kind, reg_covar=0.0, tol=0.0, **options)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_steps_are_those_of_scikit_learn(covariance: str) -> None:
    x = blobs(400)
    start, other = started(x, covariance)
    model = KernelMixture(PLANE, (2,), 3, kernel_options={"covariance": covariance}, floor=False, min_scale=1e-3)
    for steps in (1, 60):
        model.fit(x, start=start, max_steps=steps, tolerance=0.0, progress=False)
        with pytest.warns(ConvergenceWarning):
            other.set_params(max_iter=steps).fit(x.numpy())
        frozen = model.freeze()
        np.testing.assert_allclose(frozen.params["loc"].numpy(), other.means_, rtol=0, atol=1e-8)
        np.testing.assert_allclose(frozen.log_weights.exp().numpy(), other.weights_, rtol=0, atol=1e-8)
        np.testing.assert_allclose(float(frozen.log_prob(x).mean()), other.score(x.numpy()), rtol=0, atol=1e-8)


def test_one_component_is_the_fit_of_scipy() -> None:
    law = mf.distribution(SPHERE, "von_mises_fisher", loc=TRUTH["loc"][1], concentration=20.0)
    x = law.sample((500,), torch.Generator().manual_seed(0))
    found = KernelMixture(SPHERE, (3,), 1, floor=False).fit(x, restarts=1, progress=False).freeze().params
    loc, kappa = scipy.stats.vonmises_fisher.fit(x.numpy())
    np.testing.assert_allclose(found["loc"][0].numpy(), loc, atol=1e-8)
    np.testing.assert_allclose(float(found["concentration"][0]), kappa, rtol=1e-6)


def test_bumps_on_the_sphere_are_recovered() -> None:
    model = KernelMixture(SPHERE, (3,), 3).fit(three_bumps(3000), restarts=1, progress=False)
    found = model.freeze()
    closest = (TRUTH["loc"] @ found.params["loc"].mT).max(1)
    assert (closest.values > 0.9995).all()
    order = closest.indices
    assert ((found.params["concentration"][order] / TRUTH["concentration"]).log().abs() < 0.2).all()
    assert (found.log_weights.exp()[order] - SHARES).abs().max() < 0.05
    assert float(model.floor_weight) < 0.01


SPACES = {
    "torus": (mf.manifolds.Torus(), (2,), "von_mises"),
    "spd": (geoopt.SymmetricPositiveDefinite(), (2, 2), None),
    "hyperbolic": (geoopt.Lorentz(), (3,), None),
    "product": (geoopt.ProductManifold((geoopt.Sphere(), 3), (mf.manifolds.Torus(), 1)), (4,), None),
    "line": (PLANE, (1,), None),
    "no fit": (geoopt.Sphere(), (3,), "wrapped_normal"),
    "no location": (geoopt.Sphere(), (3,), "bingham"),
    "no logarithm": (geoopt.Stiefel(), (3, 2), None),
    "scaled": (geoopt.Scaled(geoopt.Euclidean(ndim=1), 100.0), (2,), None),
}


@pytest.mark.parametrize("space", SPACES)
def test_no_step_lowers_the_likelihood(space: str) -> None:
    manifold, shape, kernel = SPACES[space]
    x = example(manifold, shape, 80)
    model = KernelMixture(manifold, shape, 3, kernel).fit(x, restarts=1, max_steps=6, progress=False)
    path = likelihoods(model)
    assert len(path) > 3
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(path))
    assert path[-1] > path[0] + 0.005
    assert abs(float(model.log_prob(x).mean()) - path[-1]) < 1e-9  # what is kept is what was scored


@pytest.mark.parametrize("space", ["torus", "spd", "line", "no fit"])
def test_fits_integrate_to_one(space: str) -> None:
    manifold, shape, kernel = SPACES[space]
    mixture = KernelMixture(manifold, shape, 4, kernel).fit(
        example(manifold, shape, 200), restarts=1, max_steps=10, progress=False
    )
    mixture = mixture.freeze()
    if space == "line":
        x = torch.linspace(-60, 60, 400_001, dtype=torch.float64).unsqueeze(-1)
        value, error = float(torch.trapezoid(mixture.log_prob(x).exp(), x[:, 0])), 1e-6
    else:
        value, error = integral.total_mass(mixture)[:2]
    assert abs(value - 1) < max(1e-4, 4.3 * error)


def test_a_step_that_need_not_gain_is_seen_to_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the check above: proposals of too few L-BFGS steps with the wrong sign are taken as they come."""
    monkeypatch.setattr(em, "_expected", lambda share, log_q: -(share * log_q).sum(0))
    model = KernelMixture(SPHERE, (3,), 3, "wrapped_normal").fit(three_bumps(200), restarts=1, max_steps=5, progress=False)
    path = likelihoods(model)
    assert any(later < earlier - 1e-6 for earlier, later in pairwise(path))


def with_copies(min_scale: float) -> KernelMixture:
    """A fit to bumps and twenty copies of a point, from a start with a component at that point."""
    x = torch.cat([three_bumps(200), three_bumps(1).expand(20, 3)])
    kernel = mf.kernel_for(SPHERE, (3,), "von_mises_fisher")
    start = mf.Mixture(kernel, kernel.centered(x[[0, 1, 2, 200]], torch.tensor([0.3, 0.3, 0.3, 0.02]).double()))
    return KernelMixture(SPHERE, (3,), 4, min_scale=min_scale).fit(x, start=start, max_steps=60, progress=False)


def test_a_component_on_copies_stops_at_the_smallest_scale() -> None:
    model = with_copies(0.01)
    assert math.isclose(float(model.freeze().params["concentration"].max()), 1e4, rel_tol=1e-6)
    assert model.history[-1]["capped"] == 1
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(likelihoods(model)))


def test_without_the_cap_the_component_on_copies_is_a_spike() -> None:
    """The mutant of the check above."""
    assert float(with_copies(1e-5).freeze().params["concentration"].max()) > 1e8


@pytest.mark.parametrize("enough", [True, False])
def test_covariances_of_few_data_do_not_follow_noise(monkeypatch: pytest.MonkeyPatch, enough: bool) -> None:
    """Ten covariances of 15 numbers and 100 data; without the rule, the mutant, fresh data are worse off by more than a nat."""
    if not enough:
        monkeypatch.setattr(em, "PER_NUMBER", 0)
    x, new = (torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (100, 2000))
    model = KernelMixture(PLANE, (5,), 10, kernel_options={"covariance": "full"}).fit(x, restarts=1, progress=False)
    lost = -float(model.log_prob(new).mean()) - 5 / 2 * (1 + math.log(2 * math.pi))
    assert (lost < 1) is enough


def test_held_out_data_choose_the_number_of_components() -> None:
    model = KernelMixture(SPHERE, (3,), (1, 3, 12)).fit(three_bumps(300), restarts=1, max_steps=25, progress=False)
    assert model.n_components == model.freeze().n_components == 3
    assert [step["n_components"] for step in model.history if "validation_nll" in step] == [1, 3, 12]


@pytest.mark.parametrize(("n", "parts"), [(50, 10), (1000, 2), (3000, 1)])
def test_few_data_are_all_held_out_in_turn(monkeypatch: pytest.MonkeyPatch, n: int, parts: int) -> None:
    x, seen = three_bumps(n), []
    monkeypatch.setattr(kernel_mixture._Fit, "run", lambda self, points, count, *rest: seen.append(points))
    monkeypatch.setattr(KernelMixture, "log_prob", lambda self, points: points[:, 0])
    bar = kernel_mixture.tqdm(disable=True)
    kernel_mixture._Fit(KernelMixture(SPHERE, (3,)), 1, 1, 0.0, math.inf, 0.0, bar).choose(x, [2], 0)
    missing = [~torch.isin(x[:, 0], kept[:, 0]) for kept in seen]
    assert [int(rows.sum()) for rows in missing] == [n // 10] * parts
    assert int(torch.stack(missing).any(0).sum()) == parts * n // 10


def test_save_and_load(tmp_path: Path) -> None:
    for name, (manifold, shape, kernel) in SPACES.items():
        x = example(manifold, shape, 60)
        model = KernelMixture(manifold, shape, 2, kernel).fit(x, restarts=1, max_steps=1, progress=False)
        model.save(tmp_path / name)
        loaded = mf.load(tmp_path / name)
        assert torch.equal(loaded.log_prob(x), model.log_prob(x))
        assert loaded.history == model.history


def test_single_precision_agrees_with_double() -> None:
    x = three_bumps(300)
    scores = []
    for points in (x.float(), x):
        model = KernelMixture(SPHERE, (3,), 3).fit(points, restarts=1, max_steps=50, progress=False)
        scores.append(float(model.log_prob(points).mean()))
    assert abs(scores[0] - scores[1]) < 1e-3


def test_flat_components_survive_single_precision() -> None:
    """Points that are nearly on a line have a covariance that rounding alone would make singular."""
    line = torch.tensor(
        [[20.0, 20.0], [21.0, 21.00001], [22.3, 22.3], [20.4, 20.4], [21.7, 21.7], [22.0, 22.0], [20.7, 20.7], [21.2, 21.2]]
    )
    x = torch.cat([blobs(40), line]).float()
    kernel = mf.kernel_for(PLANE, (2,), covariance="full")
    start = mf.Mixture(kernel, kernel.centered(x[[0, 10, 41]], torch.full((3,), 0.8)))
    model = KernelMixture(PLANE, (2,), 3, kernel_options={"covariance": "full"}, min_scale=1e-4)
    model.fit(x, start=start, max_steps=30, progress=False)
    assert bool(torch.isfinite(model.log_prob(x)).all())
    assert float(torch.linalg.cond(model.freeze().params["covariance_matrix"].double()).max()) > 1e5


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="Call fit"):
        KernelMixture(SPHERE, (3,), 2).freeze()
    with pytest.raises(ValueError, match="positive n_components"):
        KernelMixture(SPHERE, (3,), 0)
    with pytest.raises(ValueError, match="parameters to fit"):
        KernelMixture(SPHERE, (3,), 2, "uniform")
    with pytest.raises(ValueError, match="min_scale > 0"):
        KernelMixture(SPHERE, (3,), 2, min_scale=0.0)
    with pytest.raises(ValueError, match="at least 5 points"):
        KernelMixture(SPHERE, (3,), 5).fit(three_bumps(4))
    with pytest.raises(ValueError, match="not copies of each other"):
        KernelMixture(SPHERE, (3,), 1).fit(three_bumps(1).expand(5, 3), progress=False)
    other = KernelMixture(SPHERE, (3,), 1).fit(three_bumps(9), restarts=1, progress=False).freeze()
    with pytest.raises(ValueError, match="Expected a start of"):
        KernelMixture(SPHERE, (3,), 3, "power_spherical").fit(three_bumps(9), start=other)


def test_clusters_are_those_of_scikit_learn_on_the_plane() -> None:
    from sklearn.cluster import KMeans

    x = blobs(500)
    found = kmeans(PLANE, x, 3, restarts=5)
    assert math.isclose(found.inertia, KMeans(3, n_init=5, random_state=0).fit(x.numpy()).inertia_ / 500, rel_tol=1e-6)


@pytest.mark.parametrize("space", ["torus", "spd", "hyperbolic", "product"])
def test_frechet_mean_is_where_the_logarithms_cancel(space: str) -> None:
    manifold, shape, _ = SPACES[space]
    x, weights = example(manifold, shape, 100), torch.linspace(0.1, 1, 100, dtype=torch.float64)
    mean = frechet_mean(manifold, x, weights, tolerance=1e-14)
    logs = mf.geometry.logmap(manifold, mean.expand_as(x), x)
    residual = torch.tensordot(weights / weights.sum(), logs, dims=1)
    assert float(residual.norm()) < 1e-5


def test_more_clusters_than_distinct_points_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct points"):
        kmeans(SPHERE, three_bumps(1).expand(5, 3), 2)
    with pytest.raises(ValueError, match="from 1 to 5 clusters"):
        kmeans(SPHERE, three_bumps(5), 6)


def test_component_that_cannot_be_fitted_stays_beside_diagonal_ones() -> None:
    """It keeps its start, which has one scale, while the other has one for each coordinate."""
    x = torch.tensor([[0.0, 0.0], [1.0, 3.0], [2.0, 1.0], [9.0, 9.0]], dtype=torch.float64)
    kernel = mf.kernel_for(geoopt.Euclidean(ndim=1), (2,))
    start = kernel.centered(x[2:], torch.ones(2, dtype=torch.float64))
    state = em.State(start, None, torch.full((2,), 0.5, dtype=torch.float64), torch.zeros(2, dtype=torch.bool))
    share = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    steps = em.ExpectationMaximisation(kernel, x, background=None, floor_range=(0.0, 0.0), min_scale=0.01)
    found = steps._proposal(state, share).params
    torch.testing.assert_close(found["scale"], torch.stack([x[:3].std(0, correction=0), torch.ones(2, dtype=torch.float64)]))
    assert torch.equal(found["loc"], torch.stack([x[:3].mean(0), x[3]]))
