"""Submanifolds of R^D: closest points, volumes, limits that other laws give, searched coordinates, descriptions, errors."""

from __future__ import annotations

import math
from pathlib import Path

import geoopt
import mpmath as mp
import pytest
import scipy.special
import torch
from table.common import F64, SPHERE, TORUS, covariance, real, unit_vector
from table.submanifolds import BOWL, CAP, CIRCLE, CYLINDER, ELLIPSE, ELLIPSOID, HOOP, PEAR, RING, ROLL, SHEET
from torch import Tensor

import mf_manifold as mf
from mf_manifold.numerics.truncated_moments import log_truncated_moment
from mf_manifold.testing import check_kernel
from mf_manifold.testing.density import generator_for

G = mf.geometry
UNIT = mf.manifolds.Ellipsoid([1.0, 1.0, 1.0])


def ambient(count: int, size: int, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(count, size, dtype=F64, generator=generator_for(size))


@pytest.mark.parametrize("axes", [[2.0, 1.0], [1.5, 0.8, 1.0], [3.0, 1.0, 1.0], [3.0, 3.0, 1.0], [1000.0, 1.0, 30.0]], ids=str)
def test_closest_points_of_ellipsoids_beat_all_others(axes: list[float]) -> None:
    manifold = mf.manifolds.Ellipsoid(axes)
    y = torch.cat([ambient(200, len(axes)), 0.1 * ambient(50, len(axes)), torch.diag(real(axes)) / 2])
    x = G.project(manifold, y)
    torch.testing.assert_close(manifold.gauge(x), torch.ones(len(y), dtype=F64), rtol=0, atol=1e-12)
    rivals = G.sample_uniform(manifold, (len(axes),), (20000,), generator=generator_for(1), dtype=F64)
    assert bool(((y - x).norm(dim=-1) <= torch.cdist(y, rivals).amin(1) + 1e-12).all())
    across = y - x
    along = across - (across * manifold.normal(x)).sum(-1, keepdim=True) * manifold.normal(x)
    assert float(along[:250].norm(dim=-1).max()) < 1e-9 * max(axes)


def test_closest_points_have_the_derivative_of_differences() -> None:
    for manifold in (ELLIPSOID, RING):
        y = G.project(manifold, ambient(20, 3)) * 1.02
        step = 1e-6 * ambient(20, 3)
        (slope,) = torch.func.jvp(lambda t: G.project(manifold, t), (y,), (step / 1e-6,))[1:]  # noqa: B023
        between = (G.project(manifold, y + step) - G.project(manifold, y - step)) / 2e-6
        torch.testing.assert_close(slope, between, rtol=1e-6, atol=1e-7)


def test_volumes() -> None:
    perimeter = 8 * scipy.special.ellipe(1 - 0.25)
    assert math.isclose(G.log_volume(ELLIPSE, (2,)), math.log(perimeter), rel_tol=1e-13)
    a, b, c = (s**2 for s in ELLIPSOID.semi_axes)
    area = 4 * math.pi * math.sqrt(a * b * c) * scipy.special.elliprg(1 / a, 1 / b, 1 / c)
    assert math.isclose(G.log_volume(ELLIPSOID, (3,)), math.log(area), rel_tol=1e-13)
    assert math.isclose(G.log_volume(mf.manifolds.Ellipsoid([1.0] * 9), (9,)), G.log_volume(SPHERE, (9,)), rel_tol=1e-13)
    ball = mf.manifolds.StarShaped(lambda u: 2 + 0 * u[..., 0], 3)
    assert math.isclose(G.log_volume(ball, (3,)), math.log(16 * math.pi), rel_tol=1e-12)
    assert math.isclose(G.log_volume(HOOP, (3,)), math.log(_length_of_hoop()), rel_tol=1e-12)
    assert G.log_volume(ROLL, (3,)) == G.log_volume(SHEET, (3,)) == math.inf


def _length_of_hoop() -> float:
    t = 2 * math.pi * torch.arange(4096, dtype=F64).unsqueeze(1) / 4096
    return float(HOOP.half_logdet(t).exp().mean()) * 2 * math.pi


@pytest.mark.parametrize("center", [-1e3, -30.0, -1.0, 0.3, 2.0, 40.0, 1e3])
def test_truncated_moments_in_both_tails(center: float) -> None:
    with mp.workdps(30):
        upper = mp.mpf(2)
        rate = abs(mp.mpf(center)) + 1
        steps = sorted({mp.mpf(0), upper, *(min(upper, k / rate) for k in (1, 4, 15, 40))})
        steps = sorted({*steps, *(upper - s for s in steps)})
        top = -((min(max(mp.mpf(center), 0), upper) - center) ** 2) / 2
        exact = mp.log(mp.quad(lambda t: t * (2 - t) * mp.exp(-((t - center) ** 2) / 2 - top), steps)) + top
    value = log_truncated_moment(real([0.0, 2.0, -1.0]), real(center), real(1.0), real(2.0))
    assert abs(float(value) - float(exact)) <= 1e-11 * max(1.0, abs(float(exact)))


def test_radial_and_closest_point_projection_agree_on_the_sphere() -> None:
    x, loc = torch.nn.functional.normalize(ambient(50, 3), dim=-1), real([0.5, -1.0, 0.3])
    spread = torch.diag(real([0.3, 1.0, 2.0])) + 0.2
    for params in ({"scale": real(0.4)}, {"covariance_matrix": spread}):
        near = mf.distribution(UNIT, "projected_normal", loc=loc, **params).log_prob(x)
        ray = mf.distribution(UNIT, "radial_normal", loc=loc, **params).log_prob(x)
        if "scale" in params:
            torch.testing.assert_close(near, ray, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(near, ray)


def test_restriction_to_the_sphere_is_von_mises_fisher() -> None:
    direction, x = unit_vector(3), torch.nn.functional.normalize(ambient(50, 3), dim=-1)
    law = mf.distribution(UNIT, "restricted_normal", loc=1.7 * direction, scale=0.4)
    fisher = mf.distribution(SPHERE, "von_mises_fisher", loc=direction, concentration=real(1.7 / 0.16))
    torch.testing.assert_close(law.log_prob(x), fisher.log_prob(x), rtol=1e-10, atol=1e-10)


def test_narrow_projection_is_normal_on_the_tangent_plane() -> None:
    loc = G.project(RING, real([-1.0, 0.8, 0.3]))
    for manifold, name in ((RING, "projected_normal"), (RING, "restricted_normal")):
        scale = 1e-4 if name == "projected_normal" else 0.02
        value = mf.distribution(manifold, name, loc=loc, scale=real(scale)).log_prob(loc)
        assert abs(float(value) + math.log(2 * math.pi * scale**2)) < 20 * scale


def test_restriction_is_not_conditioning() -> None:
    """Given |g| < eps with g the gauge, the density has the further factor 1 / |grad g|."""
    law = mf.distribution(ELLIPSE, "restricted_normal", loc=torch.zeros(2, dtype=F64), scale=1.0)
    y = ambient(2**20, 2, 1.0)
    shell = y[(ELLIPSE.gauge(y) - 1).abs() < 0.01]
    x = ELLIPSE.on_ray(shell)
    mean = float(x[:, 0].square().mean())
    conditional = -ELLIPSE.gauge_gradient(x).norm(dim=-1).log()
    weights = torch.softmax(-conditional, 0)  # undoes the factor
    draws = law.sample((2**16,), generator=generator_for(2))[:, 0].square().mean()
    assert abs(float((weights * x[:, 0].square()).sum()) - float(draws)) < 0.04
    assert abs(mean - float(draws)) > 0.1


def _double_cover() -> mf.manifolds.ChartManifold:
    """The circle by half the angle: every point has the coordinates u and u + pi in a period, as preimages."""

    def embedding(u: Tensor) -> Tensor:
        return torch.cat([(2 * u).cos(), (2 * u).sin()], dim=-1)

    def coordinates(x: Tensor) -> Tensor:
        return torch.atan2(x[..., 1:], x[..., :1]) / 2

    def preimages(u: Tensor) -> Tensor:
        return torch.stack([u, u + torch.pi], dim=-2)

    return mf.manifolds.ChartManifold(embedding, 1, coordinates=coordinates, periods=[2 * torch.pi], preimages=preimages)


def test_a_circle_covered_twice_integrates_to_one() -> None:
    twice = _double_cover()
    angles = 2 * torch.pi * torch.arange(2000, dtype=F64).unsqueeze(1) / 2000
    x = CIRCLE.embedding(angles)
    for scale in (0.2, 1.0, 5.0):
        law = mf.distribution(twice, loc=real([0.6, 0.8]), scale=real([scale]))
        assert abs(float(law.log_prob(x).exp().mean()) * 2 * math.pi - 1) < 1e-12
        single = mf.distribution(CIRCLE, loc=real([0.6, 0.8]), scale=real([2 * scale]))
        torch.testing.assert_close(law.log_prob(x), single.log_prob(x), rtol=1e-9, atol=1e-9)


def test_correlated_periods_agree_with_the_flat_torus() -> None:
    clifford = mf.manifolds.ChartManifold(
        lambda u: torch.cat([u.cos(), u.sin()], dim=-1),
        2,
        coordinates=lambda x: torch.atan2(x[..., 2:], x[..., :2]),
        periods=[2 * torch.pi] * 2,
    )
    u, center = 3 * ambient(30, 2), real([1.0, -2.5])
    for spread in (real([[0.5, 0.3], [0.3, 0.4]]), 4 * real([[1.0, 0.99], [0.99, 1.0]])):
        law = mf.distribution(clifford, loc=clifford.embedding(center), covariance_matrix=spread)
        flat = mf.distribution(TORUS, "wrapped_normal", loc=center, covariance_matrix=spread)
        wrapped = G.project(TORUS, u)
        torch.testing.assert_close(law.log_prob(clifford.embedding(u)), flat.log_prob(wrapped), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ill_conditioned_embeddings_keep_their_digits(dtype: torch.dtype) -> None:
    """Two columns 1e-6 apart in angle: J^T J has a condition number of 4e12."""
    tilt = 1e-6
    matrix = real([[1.0, 1.0], [0.0, tilt], [1.0, 1.0]])
    inverse = torch.linalg.pinv(matrix)
    sheet = mf.manifolds.ChartManifold(lambda u: u @ matrix.mT.to(u), 2, coordinates=lambda x: x @ inverse.mT.to(x))
    exact = math.log(tilt * math.sqrt(2))
    assert abs(float(sheet.half_logdet(torch.zeros(2, dtype=F64))) - exact) < 1e-9
    loc = torch.zeros(3, dtype=dtype)
    law = mf.distribution(sheet, loc=loc, scale=torch.ones(2, dtype=dtype))
    assert abs(float(law.log_prob(loc)) + math.log(2 * math.pi) + exact) < (1e-9 if dtype == F64 else 1e-6)


def test_searched_coordinates() -> None:
    chart = RING.parametrisation()
    found = mf.manifolds.ChartManifold(chart.embed, 2, periods=[2 * torch.pi] * 2)
    u = 2 * torch.pi * torch.rand(200, 2, dtype=F64, generator=generator_for(0))
    torch.testing.assert_close(found.coordinates(chart.embed(u)), u, rtol=0, atol=1e-9)
    moved = torch.func.jvp(lambda v: found.coordinates(chart.embed(v)), (u,), (torch.ones_like(u),))[1]
    torch.testing.assert_close(moved, torch.ones_like(u), rtol=0, atol=1e-9)
    far = chart.embed(u) + 0.2 * RING.normal(chart.embed(u))
    torch.testing.assert_close(G.project(found, far), G.project(RING, far), rtol=0, atol=1e-6)


def test_products_with_surfaces() -> None:
    product = geoopt.ProductManifold((RING, 3), (TORUS, 1))
    law = mf.distribution(product, loc_0=G.project(RING, real([2.0, 1.0, 0.4])), scale_0=0.3, loc_1=real([1.0]), scale_1=0.5)
    checks = ["shapes", "life cycle", "dtypes", "gradients", "measures", "pathwise", "centered", "invariance", "backends"]
    check_kernel(law.kernel, law.params, only=checks)


def test_estimators_and_checkpoints(tmp_path: Path) -> None:
    for manifold in (ELLIPSOID, ROLL):
        loc = manifold.embedding(real([1.5, 0.0])) if manifold is ROLL else G.project(manifold, real([1.0, 1.0, 0.5]))
        data = mf.distribution(manifold, loc=loc, scale=real([0.2, 0.2]) if manifold is ROLL else real(0.2)).sample((150,))
        kde = mf.KernelDensity(manifold, (3,)).fit(data, progress=False)
        kde.save(tmp_path / manifold.name)
        loaded = mf.load(tmp_path / manifold.name)
        torch.testing.assert_close(loaded.log_prob(data[:5]), kde.log_prob(data[:5]))


def test_geoopt_optimises_on_surfaces() -> None:
    target = G.project(ELLIPSOID, real([1.0, 0.5, -0.4]))
    start = G.project(ELLIPSOID, real([[-1.0, 0.5, 0.4], [0.3, 1.0, 1.0]]))
    point = geoopt.ManifoldParameter(start, manifold=ELLIPSOID)
    optimiser = geoopt.optim.RiemannianAdam([point], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        (point - target).square().sum().backward()
        optimiser.step()
    assert float((point - target).norm(dim=-1).max().detach()) < 1e-2
    assert ELLIPSOID.check_point_on_manifold(point.detach())
    assert not ELLIPSOID.check_point_on_manifold(2 * point.detach())
    tangent = ELLIPSOID.proju(start, start)
    assert ELLIPSOID.check_vector_on_tangent(start, tangent) and not ELLIPSOID.check_vector_on_tangent(start, start)


def test_paths_are_offered_where_the_closest_point_is_continuous() -> None:
    offered = {m: mf.kernel_for(m, (m.ambient_dim,), "projected_normal").has_rsample for m in (ELLIPSE, UNIT, RING, SHEET)}
    assert list(offered.values()) == [False, True, True, True]


@pytest.mark.parametrize("function", [G.dist, G.logmap, G.expmap, G.logdet_expmap])
def test_geodesics_are_refused_with_a_sentence(function: object) -> None:
    x = real([2.0, 0.0])
    with pytest.raises(NotImplementedError, match=r"geodesics of Ellipsoid have no closed form.*manifold\.retr"):
        function(ELLIPSE, x, x)  # type: ignore[operator]


def test_messages() -> None:
    plain = mf.manifolds.ChartManifold(lambda u: torch.cat([u, u], -1), 1, coordinates=lambda x: x[..., :1])
    with pytest.raises(ValueError, match=r"made from functions without a name.*register_surface\('name'\)"):
        G.to_config(plain)
    with pytest.raises(ValueError, match=r"out of circle, cylinder.*got 'klein bottle'"):
        mf.manifolds.surface("klein bottle")
    with pytest.raises(ValueError, match="2 positive semi-axes, got"):
        mf.manifolds.Ellipsoid([1.0, -1.0])
    with pytest.raises(ValueError, match="major > minor > 0"):
        mf.manifolds.TorusOfRevolution(1.0, 2.0)
    for radius in (lambda u: 1 + 0.1 * u[..., :1], lambda u: u[..., 0]):
        with pytest.raises(ValueError, match=r"radius that maps unit vectors \(6, 3\) to positive numbers \(6,\)"):
            mf.manifolds.StarShaped(radius, 3)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        mf.manifolds.StarShaped(lambda u: u[..., 0], 1)
    with pytest.raises(ValueError, match="linearly independent"):
        mf.manifolds.AffineSubspace([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="basis of D rows"):
        mf.manifolds.AffineSubspace([[1.0, 2.0]])
    with pytest.raises(ValueError, match="offset of 2 numbers"):
        mf.manifolds.AffineSubspace([[1.0], [2.0]], offset=[1.0])
    with pytest.raises(ValueError, match=r"points \(1, D\) with D >= 2.*torch\.stack"):
        mf.manifolds.ChartManifold(lambda u: u[..., 0], 2)
    with pytest.raises(ValueError, match="periods of 2 coordinates"):
        mf.manifolds.ChartManifold(lambda u: u, 2, periods=[1.0])
    with pytest.raises(ValueError, match="one period long where periodic"):
        mf.manifolds.ChartManifold(lambda u: u, 1, periods=[1.0], box=[(0.0, 2.0)])
    with pytest.raises(ValueError, match="box of 2 pairs"):
        mf.manifolds.ChartManifold(lambda u: u, 2, box=[None])
    with pytest.raises(ValueError, match=r"number 0 ends at \(0\.0, 1\.0\).*torch\.sigmoid"):
        mf.kernel_for(mf.manifolds.ChartManifold(lambda u: u, 1, box=[(0.0, 1.0)]), (1,), "pushforward_normal")
    with pytest.raises(ValueError, match=r"point shape \(2,\) of ambient coordinates on Ellipsoid, got \(3,\)"):
        mf.kernel_for(ELLIPSE, (3,), "projected_normal")
    with pytest.raises(ValueError, match=r"at most 1048576 nodes.*projected_normal"):
        mf.distribution(ELLIPSOID, "restricted_normal", loc=real([1.0, 0.0, 0.0]), scale=1e-4).log_prob(real([1.5, 0.0, 0.0]))
    with pytest.raises(NotImplementedError, match="no coordinates in a bounded box"):
        mf.kernel_for(CYLINDER, (3,), "restricted_normal")
    with pytest.raises(NotImplementedError, match="has dimension 3"):
        mf.kernel_for(mf.manifolds.Ellipsoid([1.0, 2.0, 3.0, 4.0]), (4,), "restricted_normal")
    with pytest.raises(NotImplementedError, match="in 2 and 3 dimensions"):
        G.log_volume(mf.manifolds.StarShaped(lambda u: 1 + 0 * u[..., 0], 4), (4,))
    with pytest.raises(ValueError, match="are off it by their distance"):
        mf.distribution(BOWL, loc=real([1.0, 0.0, 0.0]), scale=1.0)
    wide = mf.distribution(CYLINDER, loc=real([1.0, 0.0, 0.0]), covariance_matrix=1e10 * torch.eye(2, dtype=F64))
    with pytest.raises(ValueError, match=r"at most 10000 images.*scale="):
        wide.log_prob(real([1.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="spread in every direction"):
        mf.fit(BOWL, "pushforward_normal", torch.zeros(5, 3, dtype=F64))


def test_coordinates_that_are_not_the_only_ones_are_noticed() -> None:
    def twice(u: Tensor) -> Tensor:
        return torch.cat([(2 * u).cos(), (2 * u).sin()], dim=-1)

    def half_angle(x: Tensor) -> Tensor:
        return torch.atan2(x[..., 1:], x[..., :1]) / 2

    for options in (
        {"coordinates": half_angle},
        {"coordinates": half_angle, "periods": [2 * torch.pi]},
        {"periods": [2 * torch.pi]},
    ):
        with pytest.raises(ValueError, match=r"each point once.*State periods= or preimages="):
            mf.manifolds.ChartManifold(twice, 1, **options)
    with pytest.raises(ValueError, match=r"embedding\(coordinates\(x\)\) = x"):
        mf.manifolds.ChartManifold(twice, 1, coordinates=lambda x: half_angle(x) + 1, periods=[torch.pi])
    many = mf.manifolds.ChartManifold(lambda u: torch.cat([u.cos(), u.sin()], dim=-1), 12, periods=[2 * torch.pi] * 12)
    assert len(many._starts) <= 2**16


def test_points_a_chart_does_not_reach() -> None:
    cap = mf.distribution(CAP, loc=real([0.0, 0.0, 1.0]), scale=1.0)
    for outside in ([1.0, 0.0, 0.0], [0.6, 0.0, -0.8]):  # the first has infinite coordinates
        with pytest.raises(ValueError, match="are off it"):
            cap.log_prob(real(outside))
    arc = mf.manifolds.ChartManifold(
        lambda u: torch.cat([u, u**2], dim=-1), 1, coordinates=lambda x: x[..., :1], box=[(0.0, 1.0)]
    )
    assert G.project(arc, real([3.0, 9.0])).tolist() == [1.0, 1.0]
    law = mf.distribution(arc, "restricted_normal", loc=real([0.5, 0.25]), scale=0.3)
    with pytest.raises(ValueError, match="are off it"):
        law.log_prob(real([2.0, 4.0]))
    with pytest.raises(ValueError, match="2048 a side between walls"):
        mf.distribution(arc, "restricted_normal", loc=real([0.5, 0.25]), scale=1e-5).log_prob(real([0.5, 0.25]))
    wavy = mf.manifolds.ChartManifold(lambda u: torch.cat([u, 3 * (3 * u).sin()], dim=-1), 1)
    with pytest.raises(ValueError, match="their coordinates were not found"):
        mf.distribution(wavy, loc=wavy.embedding(real([3.0])), scale=1.0)


def test_uniform_laws_of_charts() -> None:
    arc = mf.manifolds.ChartManifold(lambda u: torch.cat([u, 2 * u], dim=-1), 1, box=[(0.0, 1.0)])
    law = mf.distribution(arc, "uniform", point_shape=(2,))
    assert abs(float(law.log_prob(real([0.5, 1.0]))) + math.log(5) / 2) < 1e-12
    with pytest.raises(ValueError, match="finite volume for the uniform law"):
        mf.distribution(ROLL, "uniform", point_shape=(3,)).entropy()
    box = mf.manifolds.ChartManifold(lambda u: u, 4, box=[(0.0, 1.0)] * 4)
    with pytest.raises(NotImplementedError, match="up to 3 dimensions"):
        G.sample_uniform(box, (4,), (5,))


def test_projection_from_the_medial_axis_of_a_torus_is_on_it() -> None:
    y = real([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1e-300]])
    assert float(RING.offset(G.project(RING, y)).max()) < 1e-12
    assert float(RING.offset(G.from_raw(RING, torch.zeros(4, dtype=F64), (3,)))) < 1e-12


def test_scales_far_from_one() -> None:
    for a in (1e-6, 1e6):
        assert abs(G.log_volume(mf.manifolds.Ellipsoid([a] * 3), (3,)) - math.log(4 * math.pi * a * a)) < 1e-13
    axes = [1.0 + i % 3 for i in range(64)]
    x = G.sample_uniform(mf.manifolds.Ellipsoid(axes), (64,), (3,), generator=generator_for(0), dtype=F64)
    values = []
    for size in (1e-7, 1.0, 1e6):
        manifold = mf.manifolds.Ellipsoid([size * a for a in axes])
        law = mf.distribution(manifold, "radial_normal", loc=size * x[0], scale=0.5 * size, validate_args=False)
        values.append(law.log_prob(size * x) + 63 * math.log(size))
    torch.testing.assert_close(torch.stack(values), values[1].expand(3, -1), rtol=0, atol=1e-9)
    thin = mf.manifolds.Ellipsoid([1.0, 0.01, 10.0])
    with pytest.raises(ValueError, match="1048576 nodes resolve"):
        mf.distribution(thin, "restricted_normal", loc=real([1.0, 0.0, 0.0]), scale=3.0)


def test_mixtures_of_restricted_laws_have_the_right_components() -> None:
    locs = G.project(ELLIPSOID, ambient(40, 3))
    full = {"loc": locs, "covariance_matrix": covariance(3, 0.1).expand(40, 3, 3)}
    for params in ({"loc": locs, "scale": torch.full((40,), 0.15, dtype=F64)}, full):
        kernel = mf.kernel_for(ELLIPSOID, (3,), "restricted_normal", covariance="isotropic" if "scale" in params else "full")
        law = mf.distribution(ELLIPSOID, "restricted_normal", **params)
        draws, again = (law.sample((2000,), generator=generator_for(seed)) for seed in (3, 4))
        own, other = kernel.log_prob(draws, params).mean(0), kernel.log_prob(draws.roll(1, 1), params).mean(0)
        assert float((own - kernel.log_prob(again, params).mean(0)).abs().max()) < 0.15
        assert bool((own > other).all())
    mixture = mf.Mixture(mf.kernel_for(ELLIPSOID, (3,), "restricted_normal"), {"loc": locs, "scale": real([0.15])})
    assert mixture.sample((2000,), generator=generator_for(5)).shape == (2000, 3)


def test_affine_laws_keep_their_dtype_and_compare_by_geometry() -> None:
    first, second = (
        mf.distribution(mf.manifolds.AffineSubspace([[1.0], [0.0]]), loc=torch.zeros(2), scale=s) for s in (1.0, 2.0)
    )
    divergence = torch.distributions.kl_divergence(first, second)
    assert first.entropy().dtype == divergence.dtype == torch.float32
    assert abs(float(divergence) - (math.log(2) - 3 / 8)) < 1e-6
    bowls = [mf.distribution(mf.manifolds.surface("paraboloid"), loc=torch.zeros(3), scale=s) for s in (1.0, 2.0)]
    assert abs(float(torch.distributions.kl_divergence(*bowls)) - 2 * (math.log(2) - 3 / 8)) < 1e-6


def test_a_surface_rougher_than_its_grid_is_noticed() -> None:
    spiky = mf.manifolds.StarShaped(lambda u: 1 + 0.2 * (4096 * torch.atan2(u[..., 1], u[..., 0])).cos(), 2)
    with pytest.raises(RuntimeError, match="rougher than the grid"):
        G.sample_uniform(spiky, (2,), (4000,), generator=generator_for(0), dtype=F64)


def test_the_pear_is_where_its_radius_says() -> None:
    u = torch.nn.functional.normalize(ambient(20, 3), dim=-1)
    torch.testing.assert_close(PEAR.on_ray(u).norm(dim=-1), PEAR.radius(u))
