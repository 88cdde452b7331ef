"""Kernel density: exact leave-one-out scores, recovery of known densities, life cycle."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import geoopt
import pytest
import torch
from safetensors.torch import save_file

import mf_manifold as mf
from mf_manifold import bandwidth, checkpoint, integral
from mf_manifold.leave_one_out import LeaveOneOut, Level, Scales
from mf_manifold.local_covariance import Covariances, covariance_params, neighbor_logs
from mf_manifold.neighbors import nearest
from mf_manifold.weights import log_mixed, mixing_weights

SPHERE = geoopt.Sphere()


def von_mises_fisher_sample(n: int, seed: int = 0) -> torch.Tensor:
    loc = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    target = mf.distribution(SPHERE, "von_mises_fisher", loc=loc, concentration=20.0)
    return target.sample((n,), generator=torch.Generator().manual_seed(seed))


def searching(kde: mf.KernelDensity, points: torch.Tensor) -> bandwidth.Search:
    """The search of a fit to all points, without the floor of its scales, which depends on all data."""
    kde.points = points
    search = bandwidth.Search(
        kde.kernel, points, kde.bandwidth, neighbors=kde.neighbors, scales=None, background=None, keep=kde._keep, n_scored=1000
    )
    search.floor = 0.0
    return search


def some_levels(search: bandwidth.Search) -> tuple[list[Level], torch.Tensor]:
    """Levels of the search's mode with fixed numbers, and weights."""
    if search.mode == "local":
        logs = neighbor_logs(search.kernel, search.points, search.near)
        return [Covariances(4, 0.7, 0.01, logs)], torch.ones(1, dtype=torch.float64)
    numbers = {
        "single": [(0, 0.3)],
        "adaptive": [(3, 0.7)],
        "multiscale": [(0, 1.0), (0, 0.3), (0, 0.05)],
        "combined": [(0, 0.3), (1, 0.5), (3, 0.7)],
    }[search.mode]
    weights = torch.arange(1.0, len(numbers) + 1, dtype=torch.float64)
    return [search.scales(k, h) for k, h in numbers], weights / weights.sum()


def mean_loo(search: bandwidth.Search) -> torch.Tensor:
    levels, weights = some_levels(search)
    return log_mixed(torch.stack([search.loo.scores(level) for level in levels], 1), weights)


def brute_force(kde: mf.KernelDensity, points: torch.Tensor) -> torch.Tensor:
    """Scores of each point under a density that was made without it: neighbours, widths and components all anew."""
    scores = []
    for j in range(len(points)):
        levels, weights = some_levels(searching(kde, torch.cat([points[:j], points[j + 1 :]])))
        kde._keep(bandwidth.Bandwidths(levels, weights, 0.0, 0.0))
        scores.append(kde.log_prob(points[j]))
    return torch.stack(scores)


def example(manifold: geoopt.Manifold, shape: tuple[int, ...], n: int, seed: int = 0) -> torch.Tensor:
    raw = torch.randn(n, mf.geometry.raw_dim(manifold, shape), generator=torch.Generator().manual_seed(seed)).double()
    return mf.geometry.from_raw(manifold, 0.7 * raw, shape)


SPACES = {
    "sphere": (SPHERE, (3,)),
    "torus": (mf.manifolds.Torus(), (2,)),
    "spd": (geoopt.SymmetricPositiveDefinite(), (2, 2)),
    "hyperbolic": (geoopt.Lorentz(), (3,)),
    "line": (geoopt.Euclidean(ndim=1), (1,)),
}
MODES = ["single", "adaptive", "multiscale", "combined", "local"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("space", SPACES)
def test_leave_one_out_equals_refitting_without_each_point(space: str, mode: str) -> None:
    manifold, shape = SPACES[space]
    points, kde = example(manifold, shape, 12), mf.KernelDensity(manifold, shape, bandwidth=mode, neighbors=(5,), floor=False)
    search = searching(kde, points)
    torch.testing.assert_close(mean_loo(search), brute_force(kde, points)[search.loo.scored], rtol=1e-9, atol=1e-9)


def test_adaptive_widths_are_distances_between_the_other_points() -> None:
    """The scores once more, by distances that share no code with the library."""
    points = von_mises_fisher_sample(40)
    search = searching(mf.KernelDensity(SPHERE, (3,), neighbors=(3,)), points)
    scores, kernel = search.loo.scores(search.scales(3, 0.7)), mf.kernel_for(SPHERE, (3,), "von_mises_fisher")
    for j, score in zip(search.loo.scored.tolist(), scores, strict=True):
        rest = torch.cat([points[:j], points[j + 1 :]])
        angles = (rest @ rest.mT).clamp(-1, 1).arccos().fill_diagonal_(0).sort(1).values
        expected = mf.Mixture(kernel, kernel.centered(rest, 0.7 * angles[:, 3])).log_prob(points[j])
        torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-6)


def test_local_covariances_are_second_moments_of_differences() -> None:
    points = example(geoopt.Euclidean(ndim=1), (2,), 30)
    search = searching(mf.KernelDensity(geoopt.Euclidean(ndim=1), (2,), bandwidth="local", neighbors=(5,)), points)
    found = Covariances(5, 2.0, 0.1, neighbor_logs(search.kernel, points, search.near)).covariance()
    near = (points[0] - points).norm(dim=1).argsort()[1:6]
    apart = points[near] - points[0]
    torch.testing.assert_close(found[0], 2 * apart.mT @ apart / 5 + 0.1 * torch.eye(2).double())


@pytest.mark.parametrize("mode", ["adaptive", "local"])
def test_leaving_only_the_component_out_would_score_higher(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the checks above: widths that still know the scored point."""
    points, kde = von_mises_fisher_sample(40), mf.KernelDensity(SPHERE, (3,), bandwidth=mode, floor=False)
    exact = mean_loo(searching(kde, points)).mean()
    monkeypatch.setattr(Scales, "without", lambda self, kernel, x, i, slot: kernel.centered(x[i], self.scales()[i]))
    monkeypatch.setattr(
        Covariances, "without", lambda self, kernel, x, i, slot: covariance_params(kernel, x[i], self.covariance()[i])
    )
    assert mean_loo(searching(kde, points)).mean() > exact + 0.01


def optimism(mode: str) -> float:
    """How much the leave-one-out score of a fit promises above the score of new data."""
    kde = mf.KernelDensity(SPHERE, (3,), bandwidth=mode, neighbors=(16,) if mode == "local" else None)
    kde.fit(von_mises_fisher_sample(300), progress=False)
    return -min(step["loo_nll"] for step in kde.history) - float(kde.log_prob(von_mises_fisher_sample(2000, seed=1)).mean())


@pytest.mark.parametrize("mode", MODES)
def test_leave_one_out_scores_promise_what_new_data_score(mode: str) -> None:
    assert abs(optimism(mode)) < 0.2  # a standard error of the mean over 300 points is 0.06


@pytest.mark.parametrize("mode", ["single", "multiscale"])
def test_a_score_that_counts_the_point_itself_promises_too_much(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the check above."""

    def leaky(self: LeaveOneOut, level: Level) -> torch.Tensor:
        log_q = self.kernel.pairwise_log_prob(self.points[self.scored], level.params(self.kernel, self.points))
        return log_q.logsumexp(1) - math.log(len(self.points))

    monkeypatch.setattr(LeaveOneOut, "scores", leaky)
    assert optimism(mode) > 0.5


def test_sphere_density_is_close_to_the_truth_on_new_data() -> None:
    kde = mf.KernelDensity(SPHERE, (3,)).fit(von_mises_fisher_sample(1000), progress=False)
    new = von_mises_fisher_sample(1000, seed=1)
    truth = mf.distribution(SPHERE, "von_mises_fisher", loc=torch.tensor([0.0, 0.6, 0.8]).double(), concentration=20.0)
    gap = (truth.log_prob(new) - kde.log_prob(new)).mean()
    assert 0 < gap < 0.1


def test_one_bandwidth_is_one_scale() -> None:
    kde = mf.KernelDensity(SPHERE, (3,), bandwidth="single").fit(von_mises_fisher_sample(300), progress=False)
    assert kde.scales.shape == (1, 1)
    assert kde.history[0].keys() == {"neighbor", "factor", "floor", "loo_nll", "seconds"}


def log_mass(kde: mf.KernelDensity, count: int = 5_000) -> tuple[float, float]:
    """Integral by importance sampling from a wide mixture of the default kernel around the data, and its standard error."""
    kernel = mf.kernel_for(kde.manifold, kde.point_shape)
    widths = torch.tensor([0.05, 0.2, 0.6, 1.2], dtype=torch.float64).repeat_interleave(len(kde.points))
    wide = mf.Mixture(kernel, kernel.centered(kde.points.repeat(4, *[1] * len(kde.point_shape)), widths))
    x = wide.sample((count,), generator=torch.Generator().manual_seed(5))
    ratio = (kde.log_prob(x) - wide.log_prob(x)).exp()
    return float(ratio.mean()), float(ratio.std()) / math.sqrt(count)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("space", SPACES)
def test_every_mode_integrates_to_one(space: str, mode: str) -> None:
    manifold, shape = SPACES[space]
    kde = mf.KernelDensity(manifold, shape, bandwidth=mode).fit(example(manifold, shape, 25), progress=False)
    assert float(kde.floor_weight) > 0
    if space in ("sphere", "torus"):
        value, error = integral.total_mass(kde.mixture)[:2]
        assert abs(value - 1) < max(1e-4, 3 * error)
    else:
        value, error = log_mass(kde)
        assert abs(value - 1) < 4.3 * error
        assert error < 0.04


@pytest.mark.parametrize(
    ("manifold", "shape", "kernel"),
    [
        (mf.manifolds.Torus(), (2,), "wrapped_normal"),
        (geoopt.SymmetricPositiveDefinite(), (2, 2), "log_normal"),
        (geoopt.SymmetricPositiveDefinite(), (2, 2), "wishart"),
        (geoopt.Euclidean(ndim=1), (2,), "normal"),
        (geoopt.ProductManifold((geoopt.Sphere(), 3), (mf.manifolds.Torus(), 1)), (4,), None),
        (geoopt.Scaled(geoopt.Sphere(), 2.0), (3,), None),
    ],
    ids=["torus", "spd-log_normal", "spd-wishart", "euclidean", "product", "scaled"],
)
def test_every_manifold_fits_scores_and_samples(manifold: geoopt.Manifold, shape: tuple[int, ...], kernel: str | None) -> None:
    raw = torch.randn(300, mf.geometry.raw_dim(manifold, shape), generator=torch.Generator().manual_seed(0))
    x = mf.geometry.from_raw(manifold, raw.double(), shape)
    kde = mf.KernelDensity(manifold, shape, kernel).fit(x[:250], progress=False)
    samples = kde.sample((100,), generator=torch.Generator().manual_seed(1))
    mf.geometry.check_points(manifold, samples, shape)
    assert torch.isfinite(kde.log_prob(x[250:])).all()
    assert torch.isfinite(kde.log_prob(samples)).all()


@pytest.mark.parametrize("mode", MODES)
def test_copies_do_not_make_the_widths_zero(mode: str) -> None:
    points = von_mises_fisher_sample(60)
    kde = mf.KernelDensity(SPHERE, (3,), bandwidth=mode).fit(torch.cat([points, points, points]), progress=False)
    assert (kde.scales > 0).all()
    assert torch.isfinite(kde.log_prob(points)).all()


@pytest.mark.parametrize("mode", MODES)
def test_three_points_suffice(mode: str) -> None:
    kde = mf.KernelDensity(SPHERE, (3,), bandwidth=mode).fit(von_mises_fisher_sample(3), progress=False)
    assert torch.isfinite(kde.log_prob(von_mises_fisher_sample(10, seed=1))).all()


@pytest.mark.parametrize("mode", MODES)
def test_single_precision_agrees_with_double(mode: str) -> None:
    points, new = von_mises_fisher_sample(100), von_mises_fisher_sample(50, seed=2)
    scores = [
        mf.KernelDensity(SPHERE, (3,), bandwidth=mode).fit(points.to(dtype), progress=False).log_prob(new.to(dtype)).double()
        for dtype in (torch.float32, torch.float64)
    ]
    assert (scores[0] - scores[1]).mean().abs() < 0.02


@pytest.mark.parametrize("mode", MODES)
def test_save_and_load(mode: str, tmp_path: object) -> None:
    kde = mf.KernelDensity(SPHERE, (3,), bandwidth=mode).fit(von_mises_fisher_sample(100), progress=False)
    kde.save(str(tmp_path))
    loaded = mf.load(str(tmp_path))
    new = von_mises_fisher_sample(50, seed=2)
    assert torch.equal(kde.log_prob(new), loaded.log_prob(new))
    assert (loaded.history, loaded.bandwidth, loaded.neighbors) == (kde.history, kde.bandwidth, kde.neighbors)


def test_files_of_before_the_bandwidths_are_read(tmp_path: object) -> None:
    points, scales = von_mises_fisher_sample(20), torch.linspace(0.1, 0.3, 20, dtype=torch.float64)
    config = {
        "manifold": mf.geometry.to_config(SPHERE),
        "point_shape": [3],
        "kernel": "von_mises_fisher",
        "kernel_options": {},
        "neighbors": [2, 4],
        "history": [],
    }
    header = {"format": 1, "class": "KernelDensity", "config": config}
    path = f"{tmp_path}/{checkpoint.FILE_NAME}"
    save_file({"points": points, "scales": scales}, path, metadata={"mf_manifold": json.dumps(header)})
    kernel = mf.kernel_for(SPHERE, (3,), "von_mises_fisher")
    expected = mf.Mixture(kernel, kernel.centered(points, scales)).log_prob(points)
    torch.testing.assert_close(mf.load(str(tmp_path)).log_prob(points), expected)


def test_unfitted_and_too_few_points_say_what_to_do() -> None:
    kde = mf.KernelDensity(SPHERE, (3,))
    with pytest.raises(RuntimeError, match="Call fit"):
        kde.sample((3,))
    with pytest.raises(ValueError, match="at least 3 points"):
        kde.fit(von_mises_fisher_sample(2))
    with pytest.raises(ValueError, match="neighbors"):
        mf.KernelDensity(SPHERE, (3,), neighbors=())
    with pytest.raises(ValueError, match="bandwidth to be one of"):
        mf.KernelDensity(SPHERE, (3,), bandwidth="wide")
    with pytest.raises(ValueError, match="positive scales"):
        mf.KernelDensity(SPHERE, (3,), bandwidth="multiscale", scales=(0.1, 0.0))
    with pytest.raises(ValueError, match="covariance='full'"):
        mf.KernelDensity(mf.manifolds.Grassmann(), (4, 2), bandwidth="local")
    with pytest.raises(ValueError, match="not copies of each other"):
        kde.fit(von_mises_fisher_sample(1).expand(5, 3))
    with pytest.raises(ValueError, match="n_scored"):
        kde.fit(von_mises_fisher_sample(20), n_scored=0)
    with pytest.raises(ValueError, match="2 of 10 rows are off it"):
        kde.fit(torch.cat([von_mises_fisher_sample(8), 1.5 * von_mises_fisher_sample(2)]))


def test_a_handful_of_scattered_points_fits_with_any_kernel() -> None:
    x = mf.geometry.sample_uniform(SPHERE, (3,), (5,), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for kernel in ("wrapped_normal", "von_mises_fisher"):
        assert torch.isfinite(mf.KernelDensity(SPHERE, (3,), kernel).fit(x, progress=False).log_prob(x)).all()


def test_fitting_again_forgets_the_first_data() -> None:
    kde = mf.KernelDensity(SPHERE, (3,)).fit(von_mises_fisher_sample(300), progress=False)
    kde.fit(von_mises_fisher_sample(50, seed=4), progress=False, max_seconds=0.0)
    assert kde.mixture.n_components == 50


def test_kernels_without_bumps_are_refused() -> None:
    with pytest.raises(ValueError, match="a bump around each datum, got uniform"):
        mf.KernelDensity(geoopt.Sphere(), (3,), "uniform")


def test_given_scales_bound_a_multiscale_density() -> None:
    points = von_mises_fisher_sample(100)
    kde = mf.KernelDensity(SPHERE, (3,), bandwidth="multiscale", scales=(0.5, 0.1)).fit(
        torch.cat([points, points]), progress=False
    )
    assert set(kde.scales.flatten().tolist()) <= {0.5, 0.1}


def test_a_distant_point_falls_to_the_background() -> None:
    points = von_mises_fisher_sample(200)
    with_floor, without = (mf.KernelDensity(SPHERE, (3,), floor=floor).fit(points, progress=False) for floor in (True, False))
    far = -points[:1]
    assert float(with_floor.log_prob(far)) > math.log(0.1 / 200 / (4 * math.pi)) - 1e-6
    assert float(without.log_prob(far)) < float(with_floor.log_prob(far)) - 1


def test_weights_climb_to_the_maximum() -> None:
    generator = torch.Generator().manual_seed(0)
    log_density = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    found = mixing_weights(log_density, tolerance=1e-13)
    assert all(later >= earlier for earlier, later in pairwise(found.path))
    # at the maximum no other direction gains: the derivative is one where a weight is positive, and less elsewhere
    slopes = (log_density.exp() / (log_density.exp() @ found.weights).unsqueeze(1)).mean(0)
    assert (slopes < 1 + 1e-4).all()
    assert ((slopes - 1).abs() < 1e-4)[found.weights > 1e-3].all()
    bounded = mixing_weights(log_density - torch.tensor([0.0, 0, 0, 9]), last_within=(0.1, 1.0)).weights
    torch.testing.assert_close(bounded[-1], torch.tensor(0.1, dtype=torch.float64))


def test_neighbours_are_geodesic_where_coordinates_mislead() -> None:
    """Far from the origin of the hyperbolic plane the logarithms at the origin shorten distances across."""
    manifold = geoopt.Lorentz()
    polar = torch.rand(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([3.0, 1.0])
    x = mf.geometry.from_raw(manifold, polar[:, :1] * torch.stack([polar[:, 1].cos(), polar[:, 1].sin()], 1), (3,))
    found = nearest(manifold, x, 5)
    exact = mf.geometry.dist(manifold, x.unsqueeze(1), x.unsqueeze(0)).fill_diagonal_(math.inf).sort(1)
    flat = mf.geometry.to_raw(manifold, x)
    in_coordinates = torch.cdist(flat, flat).fill_diagonal_(math.inf).sort(1).indices[:, :5]
    assert (found.indices != exact.indices[:, :5]).double().mean() < 0.01
    assert (in_coordinates != exact.indices[:, :5]).double().mean() > 0.2
