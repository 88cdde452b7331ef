"""Frames, subspaces and their laws against geoopt, geomstats, quadrature and limits."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from table.common import F64, SPHERE, real, spd_matrix
from table.frames import EUCLIDEAN_STIEFEL, GRASSMANN, STIEFEL, frame
from torch import Tensor

import mf_manifold as mf
from mf_manifold.numerics.langevin import log_normalizer
from mf_manifold.testing.density import generator_for


def central(manifold: geoopt.Manifold, cov: Tensor, shape: tuple[int, int]) -> mf.KernelDistribution:
    return mf.distribution(
        manifold, "matrix_angular_central_gaussian", point_shape=shape, covariance_matrix=cov, measure="normalized"
    )


def langevin(loc: Tensor, kappa: float | Tensor, measure: str = "normalized") -> mf.KernelDistribution:
    return mf.distribution(STIEFEL, "matrix_langevin", loc=loc, concentration=kappa, measure=measure)


def uniform_frames(n: int, k: int, count: int) -> Tensor:
    return mf.geometry.sample_uniform(STIEFEL, (n, k), (count,), generator=generator_for(0), dtype=F64)


def test_uniform_frames_are_haar() -> None:
    x = uniform_frames(4, 2, 40000)
    assert float(x.mean(0).abs().max()) < 5 / math.sqrt(4 * 40000)  # geoopt's random() has mean -0.4 here
    assert float((x[:, 0, 0].square() * x[:, 1, 1].square()).mean()) == pytest.approx(5 / 72, rel=0.03)


def test_euclidean_geodesics_are_geoopts() -> None:
    x = frame(5, 3)
    u = mf.geometry.from_coords(EUCLIDEAN_STIEFEL, x, torch.randn(9, dtype=F64, generator=generator_for(1)))
    ours, theirs = mf.geometry.expmap(EUCLIDEAN_STIEFEL, x, u), geoopt.EuclideanStiefelExact().expmap(x, u)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("manifold", [STIEFEL, EUCLIDEAN_STIEFEL], ids=["canonical", "euclidean"])
def test_tangent_coordinates_are_isometric_for_geoopts_metric(manifold: geoopt.Stiefel) -> None:
    x = frame(5, 3)
    basis = mf.geometry.from_coords(manifold, x, torch.eye(9, dtype=F64))
    gram = torch.stack([torch.stack([manifold.inner(x, a, b) for a in basis]) for b in basis]).squeeze()
    torch.testing.assert_close(gram, torch.eye(9, dtype=F64))


def test_volumes_of_frames_of_three_dimensions() -> None:
    # SO(3): the canonical metric is half the Frobenius one, in which a rotation by t has length t, as on a sphere of radius 2
    assert mf.geometry.log_volume(STIEFEL, (3, 2)) == pytest.approx(math.log(8 * math.pi**2))
    assert mf.geometry.log_volume(EUCLIDEAN_STIEFEL, (3, 2)) == pytest.approx(math.log(8 * math.pi**2 * math.sqrt(2)))
    assert mf.geometry.log_volume(GRASSMANN, (3, 2)) == pytest.approx(math.log(2 * math.pi))  # half a sphere


def test_there_is_no_logarithm_of_frames() -> None:
    x = frame(4, 2)
    for function in (mf.geometry.logmap, mf.geometry.dist):
        with pytest.raises(NotImplementedError, match="no closed form"):
            function(STIEFEL, x, x)
    with pytest.raises(ValueError, match="1 <= k < n"):
        mf.geometry.check_manifold(STIEFEL, (3, 3))


def test_distances_of_subspaces_are_geomstats() -> None:
    geomstats = pytest.importorskip("geomstats.geometry.grassmannian")
    space = geomstats.Grassmannian(5, 2)
    x, y = frame(5, 2), mf.geometry.project(GRASSMANN, frame(5, 3)[:, 1:])
    theirs = float(space.metric.dist((x @ x.T).numpy(), (y @ y.T).numpy()))
    ours = float(mf.geometry.dist(GRASSMANN, x, y))
    assert ours == pytest.approx(theirs / math.sqrt(2))  # its metric is that of the projectors, twice ours


def test_distance_of_subspaces_is_accurate_at_both_ends() -> None:
    x = torch.eye(4, 2, dtype=F64)
    for angle in (1e-9, 1e-3, math.pi / 2 - 1e-9):
        y = x.clone()
        y[:, 0] = math.cos(angle) * x[:, 0] + math.sin(angle) * torch.eye(4, dtype=F64)[2]
        assert float(mf.geometry.dist(GRASSMANN, x, y)) == pytest.approx(angle, rel=1e-9)


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-7, 1e-12])
def test_logarithm_of_subspaces_is_accurate_next_to_right_angles(gap: float) -> None:
    square, angles = frame(7, 6), real([0.5, math.pi / 2 - gap, 1.0])
    x, across = square[:, :3], square[:, 3:]
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=F64, generator=generator_for(2))).Q
    y = (x * angles.cos() + across * angles.sin()) @ turn
    u = mf.geometry.logmap(GRASSMANN, x, y)
    assert float(u.square().sum()) == pytest.approx(float(angles.square().sum()), abs=1e-7)
    if gap > 1e-8:
        torch.testing.assert_close(u, across * angles)
        torch.testing.assert_close(mf.geometry.logmap(GRASSMANN, x.float(), y.float()).double(), u, rtol=0, atol=1e-6)


def test_logarithm_of_subspaces_at_right_angles_is_a_shortest_one_with_derivatives() -> None:
    axes = torch.eye(4, dtype=F64)
    x, y = axes[:, :2], axes[:, 2:].clone().requires_grad_()
    u = mf.geometry.logmap(GRASSMANN, x, y)
    assert float(u.norm()) == pytest.approx(math.pi / math.sqrt(2), abs=1e-7)
    assert bool(torch.isfinite(torch.autograd.grad(u.sum(), y)[0]).all())


def test_optimiser_finds_a_leading_subspace() -> None:
    matrix = spd_matrix(5)
    point = geoopt.ManifoldParameter(frame(5, 2), manifold=GRASSMANN)
    optimiser = geoopt.optim.RiemannianSGD([point], lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        (-(matrix @ point * point).sum()).backward()
        optimiser.step()
    leading = torch.linalg.eigh(matrix).eigenvectors[:, -2:]
    assert float(mf.geometry.dist(GRASSMANN, point.detach().as_subclass(Tensor), leading)) < 1e-6
    assert GRASSMANN.check_point_on_manifold(GRASSMANN.random(3, 5, 2))
    assert GRASSMANN.check_point_on_manifold(GRASSMANN.origin(5, 2))


@pytest.mark.parametrize(("n", "k"), [(3, 1), (4, 2), (5, 3)])
def test_central_gaussian_integrates_to_one_over_uniform_frames(n: int, k: int) -> None:
    values = central(STIEFEL, spd_matrix(n), (n, k)).log_prob(uniform_frames(n, k, 40000)).exp()
    assert abs(float(values.mean()) - 1) < 5 * float(values.std()) / 200


def test_central_gaussian_of_one_column_is_tylers() -> None:
    cov, x = spd_matrix(4), frame(4, 1)
    tyler = -0.5 * torch.logdet(cov) - 2 * torch.log(x.T @ torch.linalg.inv(cov) @ x).squeeze()
    torch.testing.assert_close(central(STIEFEL, cov, (4, 1)).log_prob(x), tyler)


def test_central_gaussian_sees_the_span_alone() -> None:
    x, turn = frame(5, 2), torch.linalg.qr(torch.randn(2, 2, dtype=F64, generator=generator_for(3))).Q
    for manifold in (STIEFEL, GRASSMANN):
        law = central(manifold, spd_matrix(5), (5, 2))
        torch.testing.assert_close(law.log_prob(x @ turn), law.log_prob(x))
        torch.testing.assert_close(law.log_prob(x), central(manifold, 7 * spd_matrix(5), (5, 2)).log_prob(x))


def test_centered_central_gaussian_has_the_curvature_of_a_normal_law() -> None:
    kernel = mf.kernel_for(GRASSMANN, (5, 2), "matrix_angular_central_gaussian")
    x, scale = frame(5, 2), real(0.3)
    w = kernel.centered(x, scale)
    u = mf.geometry.from_coords(GRASSMANN, x, torch.nn.functional.normalize(torch.ones(6, dtype=F64), dim=0))
    step = 1e-4
    moved = kernel.log_prob(mf.geometry.expmap(GRASSMANN, x, step * u), w) - kernel.log_prob(x, w)
    assert float(moved) == pytest.approx(-(step**2) / (2 * 0.3**2), rel=1e-4)


def test_narrow_bumps_of_the_central_gaussian_stay_positive_definite_in_float32() -> None:
    x = mf.geometry.sample_uniform(GRASSMANN, (5, 2), (50,), generator=generator_for(0))
    kernel = mf.kernel_for(GRASSMANN, (5, 2), "matrix_angular_central_gaussian")
    assert bool(torch.isfinite(kernel.log_prob(x, kernel.centered(x, torch.full((50,), 1e-4)))).all())


@pytest.mark.parametrize("manifold", [STIEFEL, GRASSMANN], ids=["stiefel", "grassmann"])
def test_flow_of_central_gaussians_trains(manifold: geoopt.Manifold) -> None:
    x = mf.geometry.sample_uniform(manifold, (4, 2), (50,), generator=generator_for(0), dtype=F64)
    options = {"kernel": "matrix_angular_central_gaussian", "n_components": 8, "hidden": (8,)}
    flow = mf.MarginalFlow(manifold, (4, 2), **options).fit(x, max_steps=3, progress=False)
    assert bool(torch.isfinite(flow.freeze(8).log_prob(x)).all())


@pytest.mark.parametrize(("n", "k"), [(3, 1), (5, 2)])
def test_central_gaussian_fit_is_a_stationary_point(n: int, k: int) -> None:
    cov = spd_matrix(n)
    law = central(GRASSMANN, cov, (n, k))
    x = law.sample((5000,), generator=generator_for(4))
    fitted = law.fit(x).covariance_matrix
    assert float(fitted.trace()) == pytest.approx(n)
    torch.testing.assert_close(fitted, cov * n / cov.trace(), rtol=0.15, atol=0.08)
    leaf = fitted.clone().requires_grad_()
    (slope,) = torch.autograd.grad(central(GRASSMANN, leaf, (n, k)).log_prob(x).mean(), leaf)
    assert float(slope.abs().max()) < 1e-8
    with pytest.raises(ValueError, match="Give more points"):
        law.fit(x[:1])


def test_product_of_minors_equals_the_loop_and_gives_way_to_it() -> None:
    kernel = mf.kernel_for(STIEFEL, (5, 2), "matrix_angular_central_gaussian")
    x = uniform_frames(5, 2, 20)
    for condition in (10.0, 1e8):
        cov = torch.diag(torch.logspace(0, math.log10(condition), 5, dtype=F64)).expand(3, 5, 5)
        w = {"covariance_matrix": cov}
        torch.testing.assert_close(kernel.pairwise_log_prob(x, w), kernel.log_prob(x.unsqueeze(1), w), rtol=1e-9, atol=1e-9)


def test_gnomonic_normal_of_axes_is_a_normal_law_of_the_tangent() -> None:
    loc, x = torch.eye(2, 1, dtype=F64), real([[math.cos(1.1)], [math.sin(1.1)]])
    law = mf.distribution(GRASSMANN, "gnomonic_normal", loc=loc, scale=0.8)
    expected = torch.distributions.Normal(0.0, 0.8).log_prob(torch.tensor(math.tan(1.1))) - 2 * math.log(math.cos(1.1))
    assert float(law.log_prob(x)) == pytest.approx(float(expected), abs=1e-6)
    across = torch.tensor([[0.0], [1.0]], dtype=F64).requires_grad_()
    value = law.log_prob(across)
    assert float(value.detach()) == -math.inf
    assert bool(torch.isfinite(torch.autograd.grad(value, across)[0]).all())


@pytest.mark.parametrize(("n", "k"), [(3, 2), (5, 3)])
def test_widest_gnomonic_samples_are_frames(n: int, k: int) -> None:
    law = mf.distribution(GRASSMANN, loc=torch.eye(n, k, dtype=F64), scale=1e6)
    x = law.sample((500,), generator=generator_for(0))
    torch.testing.assert_close(x.mT @ x, torch.eye(k, dtype=F64).expand(500, k, k))
    with pytest.raises(ValueError, match="scale"):
        mf.distribution(GRASSMANN, loc=torch.eye(n, k), scale=1e7)


def test_gnomonic_normal_sees_spans_alone_and_has_its_mean_at_loc() -> None:
    loc, turn = frame(5, 2), torch.linalg.qr(torch.randn(2, 2, dtype=F64, generator=generator_for(3))).Q
    law, same = (mf.distribution(GRASSMANN, loc=b, scale=0.4) for b in (loc, loc @ turn))
    x = law.sample((1000,), generator=generator_for(8))
    torch.testing.assert_close(same.log_prob(x @ turn), law.log_prob(x))
    pairs = law.kernel.pairwise_log_prob(x, {"loc": loc.unsqueeze(0), "scale": real([0.4])})
    torch.testing.assert_close(pairs.squeeze(1), law.log_prob(x))


def test_langevin_normaliser_is_the_average_over_uniform_frames() -> None:
    x, s = uniform_frames(4, 2, 200000), real([2.0, 1.0])
    values = torch.exp(x[:, 0, 0] * s[0] + x[:, 1, 1] * s[1])
    expected = torch.exp(log_normalizer(4, s)[0] + s.sum())
    assert abs(float(values.mean() - expected)) < 5 * float(values.std()) / math.sqrt(200000)


@pytest.mark.parametrize("n", [3, 10])
def test_langevin_normaliser_has_its_limits_and_slopes(n: int) -> None:
    small = real([1e-3, 2e-3])
    assert float(log_normalizer(n, small)[0] + small.sum()) == pytest.approx(5e-6 / (2 * n), rel=1e-5)
    # a vanishing second concentration leaves the law of the first column
    alone = mf.distribution(SPHERE, "von_mises_fisher", loc=torch.eye(n, dtype=F64)[0], concentration=7.0, measure="normalized")
    expected = 7.0 - float(alone.log_prob(torch.eye(n, dtype=F64)[0]))
    assert float(log_normalizer(n, real([7.0, 0.0]))[0] + 7.0) == pytest.approx(expected, abs=1e-12)
    s = real([3.0, 40.0]).requires_grad_()
    value, slope = log_normalizer(n, s)
    torch.testing.assert_close(torch.autograd.grad(value, s)[0], slope.detach(), rtol=1e-9, atol=1e-12)


def test_narrow_langevin_is_a_normal_law() -> None:
    loc, kappa = frame(6, 2), 1e8
    dim = 6 * 2 - 3
    law = mf.distribution(EUCLIDEAN_STIEFEL, "matrix_langevin", loc=loc, concentration=kappa)
    normal = dim / 2 * math.log(2 * math.pi * math.e / kappa)
    assert float(law.entropy()) == pytest.approx(normal, abs=1e-6)
    assert float(law.log_prob(loc)) == pytest.approx(dim / 2 * math.log(kappa / (2 * math.pi)), abs=1e-6)


def test_one_column_is_von_mises_fisher() -> None:
    loc, x = frame(4, 1), uniform_frames(4, 1, 5)
    sphere = mf.distribution(SPHERE, "von_mises_fisher", loc=loc[:, 0], concentration=3.0)
    torch.testing.assert_close(langevin(loc, 3.0, "riemannian").log_prob(x), sphere.log_prob(x[..., 0]))


def test_langevin_divergence_is_an_average() -> None:
    p = mf.distribution(STIEFEL, "matrix_langevin", loc=frame(4, 2), concentration_matrix=5 * spd_matrix(2))
    other = {"loc": uniform_frames(4, 2, 1)[0], "concentration_matrix": torch.diag(real([2.0, 0.5]))}
    q = mf.distribution(STIEFEL, "matrix_langevin", **other)
    x = p.sample((50000,), generator=generator_for(5))
    terms = p.log_prob(x) - q.log_prob(x)
    divergence = float(torch.distributions.kl_divergence(p, q))
    assert abs(float(terms.mean()) - divergence) < 5 * float(terms.std()) / math.sqrt(50000)


@pytest.mark.parametrize(("n", "k", "kappa"), [(3, 1, 4.0), (3, 2, 1.0), (5, 2, 200.0), (4, 2, 1e6)])
def test_langevin_fit_is_a_stationary_point(n: int, k: int, kappa: float) -> None:
    x = langevin(frame(n, k), kappa).sample((3000,), generator=generator_for(6))
    law = langevin(frame(n, k), kappa).fit(x)
    leaf = law.concentration.clone().requires_grad_()
    (slope,) = torch.autograd.grad(langevin(law.loc, leaf).log_prob(x).mean(), leaf)
    assert abs(float(slope.detach() * law.concentration)) < 1e-7
    full = mf.fit(STIEFEL, "matrix_langevin", x, concentration="full")
    assert float(full.log_prob(x).mean()) >= float(law.log_prob(x, measure="riemannian").mean()) - 1e-9
    with pytest.raises(ValueError, match="points that differ"):
        law.fit(x[:1].expand(3, n, k))


def test_cayley_normal_of_one_column_is_the_stereographic_normal() -> None:
    loc, x = torch.eye(3, 1, dtype=F64), frame(3, 1)
    v = 2 * x[1:, 0] / (1 + x[0, 0])
    normal = torch.distributions.Normal(real(0.0), 0.7).log_prob(v).sum()
    expected = normal + 2 * torch.log(1 + v.square().sum() / 4)
    torch.testing.assert_close(mf.distribution(STIEFEL, loc=loc, scale=0.7).log_prob(x), expected)


def test_cayley_normal_vanishes_opposite_with_a_finite_gradient() -> None:
    loc = torch.eye(4, 2, dtype=F64)
    x = (-loc).requires_grad_()
    value = mf.distribution(STIEFEL, loc=loc, scale=0.7).log_prob(x)
    assert -math.inf < float(value.detach()) < -1e12
    assert bool(torch.isfinite(torch.autograd.grad(value, x)[0]).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_langevin_takes_concentrations_of_rank_one(dtype: torch.dtype) -> None:
    for seed in range(20):  # the smaller eigenvalue of some is -1e-17
        v = torch.randn(2, 1, dtype=dtype, generator=generator_for(seed))
        law = mf.distribution(STIEFEL, "matrix_langevin", loc=torch.eye(3, 2, dtype=dtype), concentration_matrix=v @ v.T)
        assert bool(torch.isfinite(law.log_prob(law.sample((3,), generator=generator_for(0)))).all())
    for wrong in (torch.diag(real([1.0, -0.1])), real([[1.0, 0.5], [0.2, 1.0]]), 1e9 * torch.eye(2, dtype=F64)):
        with pytest.raises(ValueError, match="eigenvalues from 0"):
            mf.distribution(STIEFEL, "matrix_langevin", loc=torch.eye(3, 2, dtype=F64), concentration_matrix=wrong)


def test_langevin_refuses_three_columns() -> None:
    with pytest.raises(ValueError, match="one or two columns"):
        langevin(frame(5, 3), 1.0)
    with pytest.raises(ValueError, match="concentration"):
        langevin(frame(5, 2), -1.0)
