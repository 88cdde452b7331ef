"""Kernel density: exact leave-one-out scores, recovery of known densities, life cycle."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch

import mf_manifold as mf
from mf_manifold import density

SPHERE = geoopt.Sphere()


def von_mises_fisher_sample(n: int, seed: int = 0) -> torch.Tensor:
    loc = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    target = mf.distribution(SPHERE, "von_mises_fisher", loc=loc, concentration=20.0)
    return target.sample((n,), generator=torch.Generator().manual_seed(seed))


def brute_force_loo(points: torch.Tensor, k: int, h: float) -> torch.Tensor:
    """Fit without each point in turn: neighbours, scales and components all anew."""
    scores = []
    for j in range(len(points)):
        rest = torch.cat([points[:j], points[j + 1 :]])
        distances = torch.cdist(rest, rest, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values
        kernel = mf.kernel_for(SPHERE, (3,), "von_mises_fisher")
        mixture = mf.Mixture(kernel, kernel.centered(rest, h * distances[:, k]))
        scores.append(mixture.log_prob(points[j]))
    return torch.stack(scores)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_leave_one_out_equals_refitting_without_each_point(k: int) -> None:
    points = von_mises_fisher_sample(40)
    kde = mf.KernelDensity(SPHERE, (3,), neighbors=(k,))
    kde.points = points
    search = density._Search(kde, 0, 1000, None, False, None)
    search.floor = 0.0
    scores = search._leave_one_out(k, search._scales(k, 0.7), search._scales(k + 1, 0.7))
    expected = brute_force_loo(points, k, 0.7)[search.scored]
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)


def test_leaving_only_the_component_out_would_score_higher() -> None:
    """The mutant of the check above: scales that still know the scored point."""
    points = von_mises_fisher_sample(40)
    kde = mf.KernelDensity(SPHERE, (3,), neighbors=(1,))
    kde.points = points
    search = density._Search(kde, 0, 1000, None, False, None)
    search.floor = 0.0
    leaky = search._leave_one_out(1, search._scales(1, 0.7), search._scales(1, 0.7))
    assert leaky.mean() > brute_force_loo(points, 1, 0.7).mean() + 0.05


def test_sphere_density_is_close_to_the_truth_on_new_data() -> None:
    kde = mf.KernelDensity(SPHERE, (3,)).fit(von_mises_fisher_sample(2000), progress=False)
    new = von_mises_fisher_sample(1000, seed=1)
    truth = mf.distribution(SPHERE, "von_mises_fisher", loc=torch.tensor([0.0, 0.6, 0.8]).double(), concentration=20.0)
    gap = (truth.log_prob(new) - kde.log_prob(new)).mean()
    assert 0 < gap < 0.1


def test_fixed_bandwidth_uses_one_scale() -> None:
    kde = mf.KernelDensity(SPHERE, (3,), neighbors=None).fit(von_mises_fisher_sample(300), progress=False)
    assert len(kde.scales.unique()) == 1
    assert kde.history[0].keys() == {"neighbor", "factor", "loo_nll", "seconds"}


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


def test_copies_do_not_make_the_scales_zero() -> None:
    points = von_mises_fisher_sample(100)
    kde = mf.KernelDensity(SPHERE, (3,)).fit(torch.cat([points, points, points]), progress=False)
    assert (kde.scales > 0).all()
    assert torch.isfinite(kde.log_prob(points)).all()


def test_save_and_load(tmp_path: object) -> None:
    kde = mf.KernelDensity(SPHERE, (3,)).fit(von_mises_fisher_sample(200), progress=False)
    kde.save(str(tmp_path))
    loaded = mf.load(str(tmp_path))
    new = von_mises_fisher_sample(50, seed=2)
    assert torch.equal(kde.log_prob(new), loaded.log_prob(new))
    assert loaded.history == kde.history
    assert math.isclose(float(loaded.scales[0]), float(kde.scales[0]))


def test_unfitted_and_too_few_points_say_what_to_do() -> None:
    kde = mf.KernelDensity(SPHERE, (3,))
    with pytest.raises(RuntimeError, match="Call fit"):
        kde.sample((3,))
    with pytest.raises(ValueError, match="at least 3 points"):
        kde.fit(von_mises_fisher_sample(2))
    with pytest.raises(ValueError, match="neighbors"):
        mf.KernelDensity(SPHERE, (3,), neighbors=())
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
