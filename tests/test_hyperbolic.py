"""Hyperbolic spaces and stereographic projections against geoopt, geomstats, integrals, limits and each other."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import geoopt
import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from table.common import F64, covariance, real
from table.hyperbolic import ball, lorentz_point
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import mf_manifold as mf
from mf_manifold import geometry
from mf_manifold.kernels.hyperbolic import frechet_mean
from mf_manifold.numerics import curved, radial
from mf_manifold.testing import check_kernel

LORENTZ = geoopt.Lorentz(2.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_points(manifold: geoopt.Manifold, shape: tuple[int, ...], count: int, seed: int, width: float = 0.7) -> Tensor:
    raw = width * torch.randn(count, geometry.raw_dim(manifold, shape), generator=generator(seed), dtype=F64)
    return geometry.from_raw(manifold, raw, shape)


SPACES = {
    "lorentz": (LORENTZ, (4,)),
    "ball": (ball(0.7), (3,)),
    "stereographic": (geoopt.Stereographic(torch.tensor(-0.3, dtype=F64)), (2,)),
    "flat": (geoopt.Stereographic(torch.tensor(0.0, dtype=F64)), (2,)),
    "projection": (geoopt.SphereProjection(torch.tensor(0.3, dtype=F64)), (2,)),
}


@pytest.mark.parametrize("name", SPACES)
def test_maps_agree_with_geoopt_at_moderate_radii(name: str) -> None:
    manifold, shape = SPACES[name]
    x, y = random_points(manifold, shape, 50, 0), random_points(manifold, shape, 50, 1)
    u = geometry.logmap(manifold, x, y)
    torch.testing.assert_close(geometry.dist(manifold, x, y), manifold.dist(x, y), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(geometry.expmap(manifold, x, u), y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(manifold.expmap(x, u), y, rtol=1e-5, atol=1e-5)


def test_maps_agree_with_geomstats(tmp_path: Path) -> None:
    script = (
        "import numpy as np\n"
        "from geomstats.geometry.hyperboloid import Hyperboloid\n"
        "from geomstats.geometry.poincare_ball import PoincareBall\n"
        "d = np.load('in.npz')\n"
        "a, b = Hyperboloid(dim=2).metric, PoincareBall(dim=2).metric\n"
        "np.savez('out.npz', dist=a.dist(d['x'], d['y']), log=a.log(d['y'], d['x']), ball=b.dist(d['p'], d['q']))\n"
    )
    manifold, poincare = geoopt.Lorentz(), ball(1.0)
    x, y = (random_points(manifold, (3,), 20, seed) for seed in (0, 1))
    p, q = (random_points(poincare, (2,), 20, seed) for seed in (0, 1))
    np.savez(tmp_path / "in.npz", x=x, y=y, p=p, q=q)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    found = {k: torch.from_numpy(v) for k, v in np.load(tmp_path / "out.npz").items()}
    torch.testing.assert_close(geometry.dist(manifold, x, y), found["dist"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(geometry.logmap(manifold, x, y), found["log"], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(geometry.dist(poincare, p, q), found["ball"], rtol=1e-9, atol=1e-9)


def exact_distance(x: Tensor, y: Tensor, k: float) -> mpmath.mpf:
    with mpmath.workdps(50):
        a, b = ([mpmath.mpf(v) for v in t[1:].tolist()] for t in (x, y))
        first = [mpmath.sqrt(k + sum(v * v for v in t)) for t in (a, b)]
        return mpmath.sqrt(k) * mpmath.acosh((first[0] * first[1] - sum(u * v for u, v in zip(a, b, strict=True))) / k)


@pytest.mark.parametrize("distance", [1e-9, 1e-4, 0.5, 8.0])
@pytest.mark.parametrize("radius", [0.0, 3.0, 9.0, 14.0])
def test_distances_keep_their_digits_far_out(radius: float, distance: float) -> None:
    manifold = geoopt.Lorentz()
    direction = torch.nn.functional.normalize(real([0.5, -0.7, 0.4]), dim=0)
    x = geometry.from_raw(manifold, radius * direction, (4,))
    for v in ([1.0, 0.0, 0.0], [0.5, -0.7, 0.4], [-0.5, 0.7, -0.4], [0.3, 0.2, -0.1]):
        coords = distance * torch.nn.functional.normalize(real(v), dim=0)
        y = geometry.expmap(manifold, x, geometry.from_coords(manifold, x, coords))
        exact = exact_distance(x, y, 1.0)
        assert abs(float((mpmath.mpf(float(geometry.dist(manifold, x, y))) - exact) / exact)) < 3e-16 * math.exp(radius) + 1e-14


def test_float32_distances_are_exact_for_their_coordinates() -> None:
    x = random_points(LORENTZ, (4,), 50, 0, width=2.0).float()
    y = (x + 1e-4 * torch.randn(x.shape, generator=generator())).float()
    for manifold, a, b in ((LORENTZ, x, y), (ball(1.0), x[:, 1:] / 40, y[:, 1:] / 40)):
        exact = geometry.dist(manifold, a.double(), b.double())
        torch.testing.assert_close(geometry.dist(manifold, a, b).double(), exact, rtol=1e-6, atol=0)


def test_lorentz_and_ball_are_one_space() -> None:
    poincare, lorentz = ball(0.4), geoopt.Lorentz(torch.tensor(2.5, dtype=F64))
    y, loc = random_points(poincare, (3,), 20, 0), random_points(poincare, (3,), 1, 1)[0]

    def on_lorentz(p: Tensor) -> Tensor:
        space = 2 * p / (1 - 0.4 * p.square().sum(-1, keepdim=True))
        return geometry.project(lorentz, torch.nn.functional.pad(space, (1, 0)))

    for shape in ({"scale": real([0.3])}, {"scale": real([0.3, 0.5, 1.0])}, {"covariance_matrix": covariance(3, 0.4)}):
        here = mf.distribution(poincare, "wrapped_normal", loc=loc, **shape).log_prob(y)
        there = mf.distribution(lorentz, "wrapped_normal", loc=on_lorentz(loc), **shape).log_prob(on_lorentz(y))
        torch.testing.assert_close(here, there, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(geometry.dist(poincare, y, loc), geometry.dist(lorentz, on_lorentz(y), on_lorentz(loc)))


def test_geometry_is_analytic_across_zero_curvature() -> None:
    x, y = real([0.3, -0.2]), real([-0.1, 0.4])
    around = [geometry.dist(geoopt.Stereographic(torch.tensor(k, dtype=F64)), x, y) for k in (-1e-6, 0.0, 1e-6)]
    assert abs(float(around[0] - 2 * around[1] + around[2])) < 1e-12 < abs(float(around[2] - around[0]))
    assert float(around[1]) == pytest.approx(2 * float((x - y).norm()), rel=1e-15)


@pytest.mark.parametrize(
    ("cls", "kernel"),
    [
        (geoopt.PoincareBall, "wrapped_normal"),
        (geoopt.PoincareBall, "riemannian_normal"),
        (geoopt.Lorentz, "wrapped_normal"),
        (geoopt.Lorentz, "riemannian_normal"),
        (geoopt.SphereProjection, "wrapped_normal"),
    ],
)
def test_curvature_can_be_learned(cls: type, kernel: str) -> None:
    manifold = cls(torch.tensor(0.8, dtype=F64), learnable=True)
    (parameter,) = manifold.parameters()
    space = real([[0.3, 0.1], [-0.2, 0.25]])
    scale = real(0.4) if cls is geoopt.SphereProjection or kernel == "riemannian_normal" else real([0.4])

    def value() -> Tensor:
        points = space
        if cls is geoopt.Lorentz:
            points = geometry.project(manifold, torch.nn.functional.pad(space, (1, 0))).detach()
        return mf.distribution(manifold, kernel, loc=points[0], scale=scale, validate_args=False).log_prob(points[1])

    (slope,) = torch.autograd.grad(value(), parameter)
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            parameter += step
        values.append(float(value().detach()))
    assert float(slope) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_a_kernel_follows_its_curvature_but_not_across_zero() -> None:
    manifold = geoopt.Stereographic(torch.tensor(-0.5, dtype=F64), learnable=True)
    kernel = mf.kernel_for(manifold, (2,), "wrapped_normal")
    w, x = {"loc": real([0.1, 0.2]), "scale": real([0.5])}, real([0.4, -0.3])
    with torch.no_grad():
        manifold.k.fill_(-0.8)
    fresh = mf.kernel_for(geoopt.Stereographic(torch.tensor(-0.8, dtype=F64)), (2,), "wrapped_normal")
    assert kernel.log_prob(x, w) == fresh.log_prob(x, w)
    with torch.no_grad():
        manifold.k.fill_(0.8)
    with pytest.raises(ValueError, match="keep its sign"):
        kernel.log_prob(x, w)


def test_normaliser_in_dimensions_two_and_three() -> None:
    for k, s in ((1.0, 0.01), (1.0, 1.0), (2.5, 0.7), (1.0, 4.0)):
        t, big = s / math.sqrt(k), math.sqrt(k)
        plane = 2 * math.pi * math.sqrt(math.pi / 2) * t * math.exp(t**2 / 2) * math.erf(t / math.sqrt(2)) * big**2
        space = 2 * math.pi * math.sqrt(math.pi / 2) * t * math.expm1(2 * t**2) * big**3
        for d, exact in ((2, plane), (3, space)):
            kernel = mf.kernel_for(geoopt.Lorentz(torch.tensor(k, dtype=F64)), (d + 1,), "riemannian_normal")
            assert float(kernel.log_normalizer(real(s))) == pytest.approx(math.log(exact), abs=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 8, 64])
@pytest.mark.parametrize("scale", [1e-4, 0.5, 3.0])
def test_radii_follow_their_law_and_move_with_the_scale(dim: int, scale: float) -> None:
    s = torch.full((20000,), scale, dtype=F64, requires_grad=True)
    r = radial.sample(s, dim, generator())
    square, count = radial.mean_square(real(scale), dim), len(r)
    error = r.detach().square().std() / math.sqrt(count)
    assert abs(float(r.detach().square().mean() - square)) < 4.5 * float(error)
    # the distribution function does not change along the path: compare with nodes of the law on either side
    for at in r.detach()[:3]:
        h = 1e-4 * scale
        low, high = (_quantile(radial_cdf(at, scale, dim), scale + step, dim, float(at)) for step in (-h, h))
        slope = float(radial.path_slope(at.unsqueeze(0), real([scale]), dim))
        assert slope == pytest.approx((high - low) / (2 * h), rel=2e-4)


def _density(scale: float, dim: int) -> tuple[Tensor, Tensor]:
    """A fine grid over the law, and its density there."""
    wide = math.sqrt(dim) * scale + (dim - 1) * scale**2 + 12 * scale
    r = torch.linspace(0, wide, 200001, dtype=F64)[1:]
    log_q = (dim - 1) * radial.log_sinh(r) - r.square() / (2 * scale**2)
    return r, (log_q - log_q.max()).exp()


def radial_cdf(at: Tensor, scale: float, dim: int) -> float:
    r, q = _density(scale, dim)
    total = torch.cumsum(q, 0) - q / 2
    return float(np.interp(float(at), r, total / q.sum()))


def _quantile(level: float, scale: float, dim: int, near: float) -> float:
    r, q = _density(scale, dim)
    total = (torch.cumsum(q, 0) - q / 2) / q.sum()
    return float(np.interp(level, total, r))


@pytest.mark.parametrize(("dim", "scale"), [(1, 0.5), (2, 0.1), (2, 10.0), (3, 3.0), (12, 0.7)])
def test_entropy_of_the_isotropic_wrapped_law(dim: int, scale: float) -> None:
    law = mf.distribution(geoopt.Lorentz(), loc=lorentz_point(geoopt.Lorentz(), dim), scale=real([scale]))
    log_chi = -(dim / 2 - 1) * math.log(2) - math.lgamma(dim / 2)

    def term(r: float) -> float:
        stretch = float(curved.log_sinc_sqrt(real(-((scale * r) ** 2))))
        return math.exp(log_chi + (dim - 1) * math.log(r) - r * r / 2) * stretch

    exact = dim * math.log(scale * math.sqrt(2 * math.pi * math.e)) + (dim - 1) * quad(term, 0, 14, epsabs=1e-12, limit=200)[0]
    assert float(law.entropy()) == pytest.approx(exact, abs=1e-9)


def test_divergences_at_one_location() -> None:
    loc, other = lorentz_point(LORENTZ, 3), random_points(LORENTZ, (4,), 1, 5)[0]
    a, b = covariance(3, 0.4), torch.diag(real([0.1, 0.2, 0.3]))
    p, q = (mf.distribution(LORENTZ, "wrapped_normal", loc=loc, covariance_matrix=c) for c in (a, b))
    flat = kl_divergence(*(MultivariateNormal(torch.zeros(3, dtype=F64), c) for c in (a, b)))
    assert float(kl_divergence(p, q)) == pytest.approx(float(flat), abs=1e-12)
    elsewhere = mf.distribution(LORENTZ, "wrapped_normal", loc=other, covariance_matrix=b)
    with pytest.raises(NotImplementedError, match=r"average p\.log_prob"):
        kl_divergence(p, elsewhere)
    narrow, wide = (mf.distribution(LORENTZ, "riemannian_normal", loc=loc, scale=real(s)) for s in (0.5, 1.2))
    x = narrow.sample((20000,), generator=generator())
    terms = narrow.log_prob(x) - wide.log_prob(x)
    assert abs(float(terms.mean() - kl_divergence(narrow, wide))) < 4.5 * float(terms.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("curvature", [1e-8, 1e-6])
def test_small_curvature_is_a_normal_law(curvature: float) -> None:
    manifold = geoopt.Lorentz(torch.tensor(1 / curvature, dtype=F64))
    loc, x = (geometry.from_raw(manifold, real(v), (3,)) for v in ([0.3, -0.2], [1.0, 0.4]))
    flat = torch.distributions.Normal(real([0.3, -0.2]), 0.7).log_prob(real([1.0, 0.4])).sum()
    for name, scale in (("wrapped_normal", real([0.7])), ("riemannian_normal", real(0.7))):
        law = mf.distribution(manifold, name, loc=loc, scale=scale)
        assert float(law.log_prob(x)) == pytest.approx(float(flat), abs=10 * curvature)


def test_frechet_mean_is_stationary_and_finds_its_way() -> None:
    for width in (0.01, 1.0, 4.0):
        x = random_points(LORENTZ, (4,), 100, 3, width)
        weights = torch.rand(100, generator=generator(), dtype=F64)
        mean = frechet_mean(LORENTZ, x, weights / weights.sum())
        force = (weights.unsqueeze(1) * geometry.logmap(LORENTZ, mean, x)).sum(0) / weights.sum()
        assert float(force.norm() / mean[0]) < 1e-8 * width


@pytest.mark.parametrize("manifold", [LORENTZ, ball(0.6)], ids=["lorentz", "ball"])
@pytest.mark.parametrize("name", ["wrapped_normal", "riemannian_normal"])
def test_fit_recovers_parameters_and_is_stationary(manifold: geoopt.Manifold, name: str) -> None:
    shape = (3,) if manifold is LORENTZ else (2,)
    loc = random_points(manifold, shape, 1, 2)[0]
    true = {"loc": loc, "scale": real([0.4, 0.8]) if name == "wrapped_normal" else real(0.8)}
    x = mf.distribution(manifold, name, **true).sample((2000,), generator=generator())
    law = mf.fit(manifold, name, x, **({"covariance": "diagonal"} if name == "wrapped_normal" else {}))
    assert float(geometry.dist(manifold, law.loc, loc)) < 0.1
    torch.testing.assert_close(law.scale, true["scale"], rtol=0.08, atol=0)
    move, ratio = torch.zeros(2, dtype=F64, requires_grad=True), torch.ones_like(law.scale, requires_grad=True)
    moved = geometry.expmap(manifold, law.loc, geometry.from_coords(manifold, law.loc, move))
    nll = -law.kernel.log_prob(x, {"loc": moved, "scale": ratio * law.scale}).mean()
    for slope in torch.autograd.grad(nll, [move, ratio]):
        assert float(slope.abs().max()) < 1e-6


def test_fit_of_a_full_covariance() -> None:
    loc, cov = lorentz_point(LORENTZ, 3), covariance(3, 0.5)
    x = mf.distribution(LORENTZ, loc=loc, covariance_matrix=cov).sample((4000,), generator=generator())
    law = mf.fit(LORENTZ, "wrapped_normal", x, covariance="full")
    assert float((law.covariance_matrix - cov).norm() / cov.norm()) < 0.1


def test_degenerate_data_are_named() -> None:
    x = random_points(LORENTZ, (4,), 1, 0).expand(5, 4)
    with pytest.raises(ValueError, match="not all the same"):
        mf.fit(LORENTZ, "riemannian_normal", x)
    with pytest.raises(ValueError, match="all 3 directions"):
        mf.fit(LORENTZ, "wrapped_normal", x)
    with pytest.raises(ValueError, match="all 3 directions"):
        mf.fit(LORENTZ, "wrapped_normal", random_points(LORENTZ, (4,), 3, 0), covariance="full")


def test_pairs_avoid_the_product_where_it_cancels() -> None:
    for manifold, shape in ((LORENTZ, (4,)), (ball(0.7), (3,))):
        points = random_points(manifold, shape, 30, 0)
        for name in ("wrapped_normal", "riemannian_normal"):
            kernel = mf.kernel_for(manifold, shape, name)
            for scale in (1e-6, 1e-3, 0.5):
                w = kernel.centered(points, torch.full((30,), scale, dtype=F64))
                pairs, one_by_one = kernel.pairwise_log_prob(points, w), kernel.log_prob(points.unsqueeze(1), w)
                torch.testing.assert_close(pairs, one_by_one, rtol=1e-9, atol=1e-9)
        for scale in (1e-6, 1e-3, 0.5):
            diagonal = {"scale": scale * real([1.0, 0.5, 0.3]).expand(30, 3)}
            for shape_of in (diagonal, {"covariance_matrix": covariance(3, scale)}):
                law = mf.distribution(manifold, "wrapped_normal", loc=points, **shape_of)
                pairs = law.kernel.pairwise_log_prob(points.float(), {k: v.float() for k, v in law.params.items()})
                wide = {k: v.float().double() for k, v in law.params.items()}
                exact = law.kernel.log_prob(points.float().double().unsqueeze(1), wide)
                torch.testing.assert_close(pairs.double(), exact, rtol=1e-6, atol=1e-4)


def test_wide_laws_in_high_dimensions_stay_finite() -> None:
    law = mf.distribution(geoopt.Lorentz(), "riemannian_normal", loc=torch.eye(65, dtype=F64)[0], scale=real(2.2))
    x = law.sample((1000,), generator=generator())
    assert bool(torch.isfinite(x).all())
    assert abs(float(geometry.dist(law.manifold, x, law.loc).mean()) - 63 * 2.2**2) < 1
    assert abs(float(law.log_prob(x).mean() + law.entropy())) < 5.0 * float(law.log_prob(x).std()) / math.sqrt(1000)


def test_samples_without_coordinates_are_an_error() -> None:
    law = mf.distribution(geoopt.Lorentz(), "riemannian_normal", loc=torch.eye(11)[0], scale=4.0)
    with pytest.raises(ValueError, match="or float64"):
        law.sample((10,))


def test_samples_stay_inside_the_ball() -> None:
    poincare = geoopt.PoincareBall(1.0)
    law = mf.distribution(poincare, loc=torch.tensor([0.5, 0.3]), scale=10.0)
    x = law.sample((5000,), generator=generator())
    geometry.check_points(poincare, x, (2,))
    assert bool(torch.isfinite(law.log_prob(x)).all())


def test_names_of_the_model_are_understood() -> None:
    sphere, poincare = geoopt.SphereProjection(1.0), geoopt.PoincareBall(1.0)
    assert mf.kernel_for(poincare, (2,)).base.name == "wrapped_normal"
    assert mf.kernel_for(sphere, (2,)).base.name == "von_mises_fisher"
    assert mf.kernel_for(poincare, (2,), "wrapped_normal", covariance="full").options["base_options"] == {"covariance": "full"}
    scaled = mf.distribution(geoopt.Scaled(poincare, 2.0), "riemannian_normal", loc=torch.zeros(2), scale=1.0)
    assert scaled.event_shape == (2,)
    with pytest.raises(ValueError, match=r"its kernels are .*riemannian_normal"):
        mf.kernel_for(poincare, (2,), "von_mises_fisher")
    assert mf.measure_kinds(sphere) == ("riemannian", "lebesgue", "normalized")
    assert mf.measure_kinds(poincare) == ("riemannian", "lebesgue")


def test_uniform_law_of_a_projected_sphere() -> None:
    sphere = geoopt.SphereProjection(torch.tensor(0.5, dtype=F64))
    law = mf.distribution(sphere, "uniform", point_shape=(2,))
    assert float(law.log_prob(real([0.7, 5.0]))) == pytest.approx(-math.log(8 * math.pi))
    fisher = mf.distribution(sphere, "von_mises_fisher", loc=real([0.7, 5.0]), concentration=0.0)
    assert float(fisher.log_prob(real([0.1, -0.3]), measure="normalized")) == pytest.approx(0.0, abs=1e-12)
    height = float(geometry.dist(sphere, real([[1e9, 0.0]]), real([[-1e9, 1.0]])))
    assert height < 1e-6


def test_messages_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="ten radii of curvature"):
        mf.distribution(LORENTZ, loc=lorentz_point(LORENTZ, 3), scale=20.0).log_prob(lorentz_point(LORENTZ, 3))
    with pytest.raises(ValueError, match=r"are off it by .*geometry\.project"):
        mf.distribution(geoopt.Lorentz(), loc=real([1.01, 0.0, 0.0]), scale=1.0)
    with pytest.raises(ValueError, match="not inside the ball"):
        mf.distribution(geoopt.PoincareBall(1.0), loc=real([0.8, 0.6000001]), scale=1.0)
    with pytest.raises(ValueError, match="D >= 2"):
        mf.kernel_for(LORENTZ, (1,))
    with pytest.raises(ValueError, match="positive k"):
        mf.kernel_for(geoopt.Lorentz(-1.0), (3,))
    with pytest.raises(NotImplementedError, match="sample_uniform"):
        geometry.sample_uniform(LORENTZ, (3,))


def test_estimators_take_the_ball(tmp_path: Path) -> None:
    poincare = geoopt.PoincareBall(0.7)
    x = mf.distribution(poincare, loc=torch.tensor([0.3, -0.2]), scale=0.3).sample((200,), generator=generator())
    kde = mf.KernelDensity(poincare, (2,)).fit(x, progress=False)
    kde.save(tmp_path / "ball")
    torch.testing.assert_close(mf.load(tmp_path / "ball").log_prob(x), kde.log_prob(x))


def test_networks_stay_within_the_scales_of_a_strongly_curved_space() -> None:
    poincare = geoopt.PoincareBall(torch.tensor(80.0))
    for manifold, shape in ((poincare, (2,)), (geoopt.Lorentz(1e-4), (3,))):
        for name in ("wrapped_normal", "riemannian_normal"):
            kernel = mf.kernel_for(manifold, shape, name)
            w = kernel.params(torch.tensor([[0.0, 0.0, 20.0]]))
            assert bool(torch.isfinite(kernel.log_prob(w["loc"], w)).all())


def test_scales_that_are_no_numbers_end_the_sampler() -> None:
    law = mf.distribution(geoopt.Lorentz(), "riemannian_normal", loc=torch.eye(3)[0], scale=math.nan, validate_args=False)
    with pytest.raises(ValueError, match="whose coordinates fit"):
        law.sample((3,))


def test_curvatures_that_geoopt_cannot_hold_are_named() -> None:
    for c in (-1.0, 1e4):
        with pytest.raises(ValueError, match="finite curvature"):
            mf.distribution(geoopt.PoincareBall(c), loc=torch.zeros(2), scale=1.0)


def test_uniform_laws_of_models_have_no_parameters_to_centre() -> None:
    for manifold, shape in ((geoopt.SphereProjection(0.5), (2,)), (geoopt.Scaled(geoopt.Sphere(), 2.0), (3,))):
        kernel = mf.kernel_for(manifold, shape, "uniform")
        point = geometry.sample_uniform(manifold, shape)
        assert kernel.centered(point, torch.tensor(0.1)) == {}


@pytest.mark.parametrize("concentration", [8.0, -8.0])
def test_antipodal_laws_on_a_projected_sphere(concentration: float) -> None:
    sphere, loc = geoopt.SphereProjection(torch.tensor(0.5, dtype=F64)), real([0.3, -0.4])
    kernel = mf.kernel_for(sphere, (2,), "watson")
    w = {"loc": loc, "concentration": real(concentration)}
    check_kernel(kernel, w, only=("normalisation", "sampler", "centered"))
    x, opposite = random_points(sphere, (2,), 20, 0), -loc / (0.5 * loc.square().sum())
    there = kernel.log_prob(x, {**w, "loc": opposite})
    torch.testing.assert_close(there, kernel.log_prob(x, w), rtol=1e-10, atol=1e-10)
