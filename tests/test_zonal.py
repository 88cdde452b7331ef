"""Zonal laws on spheres and their relatives: other implementations, limits, entropies, fits, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from table.common import F64, SPHERE, covariance, real, unit_vector
from torch import Tensor
from torch.distributions import kl_divergence

import mf_manifold as mf
from mf_manifold import geometry
from mf_manifold.distributions import KernelDistribution
from mf_manifold.kernels.sphere_kent import _log_normalizer, _Shape
from mf_manifold.kernels.sphere_von_mises_fisher import _inverse_cdf, _wood
from mf_manifold.kernels.zonal import around
from mf_manifold.numerics.bessel import one_minus_bessel_ratio
from mf_manifold.numerics.incomplete_gamma import log_gammainc
from mf_manifold.numerics.quadratic_forms import log_ball_probability, mean_cosine, stereographic_means
from mf_manifold.numerics.special import digamma_difference, log_gamma_ratio
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.manifold import random_points
from mf_manifold.testing.perturb import derivatives, perturbed, zero_deltas
from mf_manifold.testing.rules import graded_nodes
from mf_manifold.testing.spaces.sphere import polar_rule

Law = KernelDistribution


def law(name: str, size: int, **params: float | Tensor) -> Law:
    """A law around the usual location."""
    tensors = {k: v if isinstance(v, Tensor) else real(v) for k, v in params.items()}
    return mf.distribution(SPHERE, name, **{"loc": unit_vector(size), **tensors})


def close(value: Tensor, expected: Tensor | np.ndarray | float, tolerance: float = 1e-10) -> None:
    """Agreement to `tolerance`, relative to max(1, |expected|)."""
    expected = torch.as_tensor(expected, dtype=F64).detach().reshape(value.shape)
    error = ((value.detach() - expected).abs() / expected.abs().clamp_min(1)).max()
    assert float(error) <= tolerance, f"off by {float(error):.2e}"


def at_angles(loc: Tensor, theta: Tensor) -> Tensor:
    """Points on one great circle through loc, at the given angles from it."""
    direction = geometry.from_coords(SPHERE, loc, torch.eye(len(loc) - 1, dtype=F64)[0])
    return theta.cos().unsqueeze(-1) * loc + theta.sin().unsqueeze(-1) * direction


def mean_under(p: Law, other: Law | None = None) -> float:
    """E_p[-log p] or, with another law, E_p[log p - log other], by quadrature."""
    rule = polar_rule(p.loc)
    log_p = p.log_prob(rule.points)
    terms = -log_p if other is None else log_p - other.log_prob(rule.points)
    weight = torch.exp(log_p + rule.log_weights)
    return float(torch.where(weight > 0, weight * terms, torch.zeros_like(weight)).sum())


# ---- special functions


def test_ratios_of_gamma_functions_match_scipy() -> None:
    a = real([0.5, 1.0, 3.3, 40.0, 1e3])
    for b in (0.5, 1.0, 7.5, 31.5):
        close(log_gamma_ratio(a, b), scipy.special.gammaln(a.numpy() + b) - scipy.special.gammaln(a.numpy()), 1e-12)
        close(digamma_difference(a, b), scipy.special.psi(a.numpy() + b) - scipy.special.psi(a.numpy()), 1e-13)
    # log Gamma(a + 2) - log Gamma(a) = log(a (a + 1)), of which log-gammas of 1e10 keep no digit
    close(log_gamma_ratio(real(1e10), 2.0), math.log(1e10) + math.log1p(1e10), 1e-15)
    point = real([0.7, 30.0]).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: log_gamma_ratio(z, 1.5), point)


@pytest.mark.parametrize("a", [0.5, 1.0, 2.5, 10.0, 31.5])
def test_log_gammainc_matches_scipy(a: float) -> None:
    x = torch.logspace(-6, 4, 60, dtype=F64)
    expected = scipy.special.gammainc(a, x.numpy())
    close(log_gammainc(a, x[expected > 1e-290]), np.log(expected[expected > 1e-290]), 1e-12)
    point = real([0.1, a, 5 * a]).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: log_gammainc(a, z), point)
    assert torch.autograd.gradgradcheck(lambda z: log_gammainc(a, z), point)


@pytest.mark.parametrize("dim", [1, 2, 3, 9, 63])
def test_ball_probability_is_the_incomplete_gamma_function_for_equal_variances(dim: int) -> None:
    variance = torch.logspace(-8, math.log10(400), 40, dtype=F64).unsqueeze(-1)
    close(
        log_ball_probability(variance.expand(-1, dim), math.pi**2),
        log_gammainc(dim / 2, math.pi**2 / 2 / variance.squeeze(-1)),
        1e-11,
    )


def test_ball_probability_of_unequal_variances_by_integration() -> None:
    for small, large in ((1e-6, 1.0), (0.3, 4.0), (2.0, 400.0)):
        s, t = math.sqrt(small), math.sqrt(large)

        def slice_mass(z: float, s: float = s, t: float = t) -> float:
            chord = math.sqrt(max(math.pi**2 - (s * z) ** 2, 0.0))
            return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * math.erf(chord / t / math.sqrt(2))

        end = min(12.0, math.pi / s)
        mass = 2 * scipy.integrate.quad(slice_mass, 0, end, epsabs=1e-14, epsrel=1e-13, limit=200)[0]
        close(log_ball_probability(real([small, large, 0.0]), math.pi**2), math.log(mass), 1e-11)
    variances = real([0.4, 2.0, 3.0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: log_ball_probability(v, math.pi**2), variances)


def test_means_of_functions_of_the_length() -> None:
    for s in (0.1, 1.0, 3.0):
        v = torch.full((3,), s * s, dtype=F64)
        close(mean_cosine(v), (1 - s * s) * math.exp(-s * s / 2), 1e-11)
    # |V|^2 / 4 is exponential with mean m in the plane
    for m in (1e-6, 0.3, 50.0):
        reciprocal, logarithm = stereographic_means(torch.full((2,), 2 * m, dtype=F64))
        exact = scipy.special.exp1(1 / m) * math.exp(1 / m) if m > 0.01 else m - m * m + 2 * m**3
        close(logarithm, exact, 1e-12)
        close(reciprocal, exact / m if m > 0.01 else 1 - m + 2 * m * m, 1e-11)


# ---- other implementations and limits


@pytest.mark.parametrize("scale", [1e-3, 0.2, 1.0])
def test_spherical_cauchy_on_the_circle_is_scipys_wrapped_cauchy(scale: float) -> None:
    theta = torch.linspace(0, 3.14, 30, dtype=F64)
    dist = law("spherical_cauchy", 2, scale=scale)
    rho = (1 - scale) / (1 + scale)
    expected = scipy.stats.wrapcauchy.logpdf(theta.numpy(), rho) if rho > 0 else np.full(30, -math.log(2 * math.pi))
    close(dist.log_prob(at_angles(dist.loc, theta)), expected, 1e-9)


def test_half_of_a_spherical_cauchy_law_lies_within_its_stated_angle() -> None:
    dist = law("spherical_cauchy", 5, scale=0.05)
    x = dist.sample((20000,), generator=generator_for(0))
    share = (geometry.dist(SPHERE, x, dist.loc) < 2 * math.atan(0.05)).double().mean()
    assert abs(float(share) - 0.5) < 0.015


@pytest.mark.parametrize("size", [2, 3, 10])
def test_power_spherical_cosine_is_scipys_beta(size: int) -> None:
    theta, d = torch.linspace(0.01, 3.13, 30, dtype=F64), size - 1
    dist = law("power_spherical", size, concentration=7.0)
    # density of (1 + cos) / 2 over that of a uniform point, times the uniform density
    z = (1 + theta.cos().numpy()) / 2
    ratio = scipy.stats.beta(7 + d / 2, d / 2).logpdf(z) - scipy.stats.beta(d / 2, d / 2).logpdf(z)
    close(dist.log_prob(at_angles(dist.loc, theta)), ratio - geometry.log_volume(SPHERE, (size,)))


@pytest.mark.parametrize("size", [2, 3, 64])
def test_uniform_limits(size: int) -> None:
    x, level = random_points(SPHERE, (size,), 10, 0), torch.full((10,), -geometry.log_volume(SPHERE, (size,)), dtype=F64)
    close(law("power_spherical", size, concentration=0.0).log_prob(x), level)
    close(law("spherical_cauchy", size, scale=1.0).log_prob(x), level)
    if size == 3:
        close(law("kent", 3, covariance_matrix=1e12 * covariance(3, 1.0)).log_prob(x), level)


@pytest.mark.parametrize("kappa", [1e-6, 0.5, 30.0, 1e3, 1e6])
def test_round_kent_law_is_von_mises_fisher(kappa: float) -> None:
    x = torch.cat([random_points(SPHERE, (3,), 20, 0), at_angles(unit_vector(3), real([0.0, kappa**-0.5, math.pi]))])
    fisher = law("von_mises_fisher", 3, concentration=kappa)
    close(law("kent", 3, covariance_matrix=torch.eye(3, dtype=F64) / kappa).log_prob(x), fisher.log_prob(x))


def test_narrow_kent_law_is_a_tangent_normal() -> None:
    matrix = covariance(3, 1e-3)
    kent, normal = (law(name, 3, covariance_matrix=matrix) for name in ("kent", "wrapped_normal"))
    x = kent.sample((200,), generator=generator_for(1))
    close(kent.log_prob(x), normal.log_prob(x), 1e-5)


def test_kent_normaliser_is_smooth_where_the_axes_become_equal() -> None:
    # the two formulas meet at beta = 1e-3 (kappa + 1)
    for kappa in (0.1, 50.0, 1e5):
        betas = real([0.0, 0.999e-3, 1.001e-3]) * (kappa + 1)
        beta2 = betas.square().requires_grad_()
        value = _log_normalizer(_Shape(torch.full_like(beta2, kappa), beta2))
        (slope,) = torch.autograd.grad(value.sum(), beta2, create_graph=True)
        (second,) = torch.autograd.grad(slope.sum(), beta2)
        # log C is concave and almost linear in beta^2 there
        close(value[2] - value[1], slope[1] * (beta2[2] - beta2[1]), 1e-10)
        assert torch.isfinite(second).all()
        assert abs(float((slope[1] / slope[2]).detach()) - 1) < 1e-5


def test_divergences_from_the_wrapped_normal() -> None:
    # computed independently for the laws of equal width; they fall as the fourth power of the scale
    theta, weights = graded_nodes(2.8, 20, 20)  # at the antipode itself, where the one density is 0, they are infinite
    for scale, power, stereographic in ((0.1, 2e-5, 5e-5), (0.5, 0.015, 0.041)):
        wrapped = law("wrapped_normal", 3, scale=scale)
        near = law("power_spherical", 3, concentration=2 / scale**2), law("stereographic_normal", 3, scale=scale)
        for other, expected in zip(near, (power, stereographic), strict=True):
            p, q = (dist.log_prob(at_angles(dist.loc, theta)) for dist in (wrapped, other))
            divergence = float((2 * math.pi * theta.sin() * weights * p.exp() * (p - q)).sum())
            assert abs(divergence / expected - 1) < 0.3


def test_truncated_normal_is_the_wrapped_normal_as_long_as_nothing_wraps() -> None:
    x = random_points(SPHERE, (3,), 20, 0)
    close(law("truncated_normal", 3, scale=0.3).log_prob(x), law("wrapped_normal", 3, scale=0.3).log_prob(x), 1e-7)
    full = law("truncated_normal", 3, covariance_matrix=2.25 * torch.eye(3, dtype=F64))
    close(full.log_prob(x), law("truncated_normal", 3, scale=1.5).log_prob(x), 1e-11)


# ---- samplers


@pytest.mark.parametrize(("dim", "scale"), [(1, 20.0), (2, 1.5), (9, 0.8), (63, 0.3), (63, 20.0)])
def test_lengths_of_truncated_normal_vectors(dim: int, scale: float) -> None:
    dist = law("truncated_normal", dim + 1, scale=scale)
    radius = geometry.dist(SPHERE, dist.sample((4000,), generator=generator_for(2)), dist.loc)
    log_cdf = log_gammainc(dim / 2, (radius / scale).square() / 2) - log_gammainc(dim / 2, real((math.pi / scale) ** 2 / 2))
    assert scipy.stats.kstest(log_cdf.exp().numpy(), "uniform").pvalue > 1e-4


def test_derivative_of_truncated_lengths_keeps_the_distribution_function() -> None:
    scale = real(2.0).requires_grad_()
    dist = law("truncated_normal", 6, scale=scale)
    radius = geometry.dist(SPHERE, dist.rsample((5,), generator=generator_for(3)), dist.loc)
    for r in radius:
        (slope,) = torch.autograd.grad(r, scale, retain_graph=True)
        s = real(2.0).requires_grad_()
        fixed = r.detach().requires_grad_()
        cdf = log_gammainc(2.5, (fixed / s).square() / 2) - log_gammainc(2.5, (math.pi / s).square() / 2)
        by_scale, by_radius = torch.autograd.grad(cdf, (s, fixed))
        close(slope, -by_scale / by_radius, 1e-9)


@pytest.mark.parametrize("kappa", [10.0, 1e6, 1e10])
def test_float32_samples_of_von_mises_fisher_have_the_right_width(kappa: float) -> None:
    dist = mf.distribution(SPHERE, "von_mises_fisher", loc=unit_vector(10).float(), concentration=torch.tensor(kappa))
    depth = _wood(dist.concentration.expand(20000), 9, generator_for(10)).double()
    # rejection that multiplies kappa by rounded cosines accepts at random beyond 1e6
    mean = one_minus_bessel_ratio(10, real(kappa))
    assert abs(float(depth.mean() - mean)) < 5 * float(depth.std()) / math.sqrt(20000)
    assert scipy.stats.kstest((depth * kappa).numpy(), "gamma", args=(4.5,)).pvalue > 1e-4 or kappa < 1e3


def test_wide_full_covariance_is_sampled_in_few_rounds() -> None:
    dist = law("truncated_normal", 20, covariance_matrix=covariance(20, 15.0))
    x = dist.sample((2000,), generator=generator_for(4))  # plain rejection would accept one in 1e22
    assert geometry.dist(SPHERE, x, dist.loc).mean() > 2.5


@pytest.mark.parametrize("variances", [(1e6, 1e5), (1.0, 1e-6), (1e-6, 1e-8), (0.5, 0.1)])
def test_kent_samples_have_the_moments_of_the_law(variances: tuple[float, float]) -> None:
    loc, (a, b) = real([0.0, 0.0, 1.0]), variances
    dist = mf.distribution(SPHERE, "kent", loc=loc, covariance_matrix=torch.diag(real([a, b, 1.0])))
    x = dist.sample((40000,), generator=generator_for(5))
    kappa, beta = (1 / a + 1 / b) / 2, (1 / b - 1 / a) / 4
    numbers = real([kappa, beta**2]).requires_grad_()
    log_c = _log_normalizer(_Shape(numbers[0], numbers[1]))
    by_kappa, by_beta2 = torch.autograd.grad(log_c, numbers)[0]
    depth, oval = (x - loc).square().sum(-1) / 2, x[:, 0] ** 2 - x[:, 1] ** 2
    for value, mean in ((depth, -by_kappa), (oval, 2 * beta * by_beta2)):
        assert abs(float(value.mean() - mean.detach())) < 5 * float(value.std()) / 200


def test_a_uniform_variate_of_zero_gives_a_finite_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    # float32 has one in 2^24 of them
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.zeros(shape))
    assert torch.isfinite(_inverse_cdf(torch.tensor([0.0, 1.0, 10.0, 1e6]), None)).all()


def test_float32_samples_do_not_pile_up_at_the_antipode() -> None:
    loc = unit_vector(2).float().expand(1000, 2)
    x = around(SPHERE, loc, torch.full((1000,), 2.0), torch.full((1000,), 1e-10), generator_for(12))
    close((x + loc).norm(dim=-1).double() * 1e5, torch.full((1000,), math.sqrt(2)), 0.03)
    wide = mf.distribution(SPHERE, "power_spherical", loc=loc[0], concentration=torch.tensor(0.01))
    assert torch.isfinite(wide.log_prob(wide.sample((100_000,), generator=generator_for(13)))).all()
    wide = mf.distribution(SPHERE, "truncated_normal", loc=unit_vector(3).float(), scale=torch.tensor(5.0))
    x = wide.sample((100_000,), generator=generator_for(14))
    assert int(((x + wide.loc).norm(dim=-1) < 1e-6).sum()) < 4  # 0.03 are expected


@pytest.mark.parametrize("name", ["von_mises_fisher", "truncated_normal"])
def test_samplers_return_when_a_parameter_is_nan(name: str) -> None:
    width = "scale" if name == "truncated_normal" else "concentration"
    dist = mf.distribution(SPHERE, name, validate_args=False, **{"loc": unit_vector(4), width: real([math.nan, 1.0])})
    x = dist.sample((3,), generator=generator_for(15))
    assert torch.isnan(x[:, 0]).all()
    assert torch.isfinite(x[:, 1]).all()


# ---- means, entropies, divergences


@pytest.mark.parametrize("scale", [0.5, 1.5, 3.0])
def test_mean_of_wide_laws_changes_sides(scale: float) -> None:
    for name in ("wrapped_normal", "stereographic_normal"):
        dist = law(name, 3, scale=scale)
        x = dist.sample((40000,), generator=generator_for(6))
        cosine = (x @ dist.loc).mean()
        assert abs(float(cosine)) > 0.03
        close(dist.mean, torch.sign(cosine) * dist.loc)


@pytest.mark.parametrize("size", [2, 4, 6])
def test_mean_of_a_law_that_is_uniform_to_rounding_is_its_location(size: int) -> None:
    for scale in (10.0, 12.0, 20.0):
        assert torch.equal(law("wrapped_normal", size, scale=scale).mean, unit_vector(size))


def entropic_laws() -> list[Law]:
    return [
        *(law("von_mises_fisher", n, concentration=k) for n, k in ((2, 0.0), (3, 5.0), (3, 1e6), (16, 50.0))),
        *(law("power_spherical", n, concentration=k) for n, k in ((2, 0.0), (3, 5.0), (3, 1e8), (16, 50.0))),
        *(law("spherical_cauchy", n, scale=s) for n, s in ((2, 1e-4), (3, 1.0), (3, 1e-6), (16, 0.3))),
        *(law("stereographic_normal", n, scale=s) for n, s in ((2, 5.0), (3, 1e-3), (3, 2.0), (16, 0.3))),
        law("stereographic_normal", 3, covariance_matrix=covariance(3, 0.8)),
        *(law("kent", 3, covariance_matrix=covariance(3, s)) for s in (1e-3, 0.3, 3.0)),
    ]


@pytest.mark.parametrize("p", entropic_laws(), ids=lambda p: p.kernel.name)
def test_entropy_is_an_integral(p: Law) -> None:
    # the rule has 64 azimuths, exact for zonal laws and for ellipses that are not too long
    close(p.entropy(), mean_under(p), 1e-8)


def test_entropies_of_von_mises_fisher_are_scipys() -> None:
    for size, kappa in ((2, 0.5), (3, 20.0), (8, 100.0)):
        expected = scipy.stats.vonmises_fisher(unit_vector(size).numpy(), kappa).entropy()
        close(law("von_mises_fisher", size, concentration=kappa).entropy(), expected, 1e-9)


def test_divergences_are_integrals() -> None:
    other = torch.nn.functional.normalize(unit_vector(3) + real([0.1, -0.2, 0.3]), dim=0)
    pairs = [
        (law("von_mises_fisher", 3, concentration=5.0), law("von_mises_fisher", 3, loc=other, concentration=3.0)),
        (law("spherical_cauchy", 3, scale=0.3), law("spherical_cauchy", 3, loc=other, scale=0.6)),
        (law("spherical_cauchy", 3, scale=0.01), law("spherical_cauchy", 3, scale=0.3)),
        (law("kent", 3, covariance_matrix=covariance(3, 0.4)), law("kent", 3, loc=other, covariance_matrix=covariance(3, 0.6))),
    ]
    for p, q in pairs:
        close(kl_divergence(p, q), mean_under(p, other=q), 1e-8)
        close(kl_divergence(p, p), 0.0, 1e-12)
        uniform = mf.distribution(SPHERE, "uniform", point_shape=(3,))
        close(kl_divergence(p, uniform), math.log(4 * math.pi) - p.entropy())
    narrow = law("von_mises_fisher", 3, concentration=1e8), law("von_mises_fisher", 3, concentration=2e8)
    close(kl_divergence(*narrow), 1 - math.log(2), 1e-8)


# ---- fits


def slope_at(dist: Law, x: Tensor) -> float:
    """Largest derivative of the mean log likelihood by the parameters, in units of the law's width."""
    deltas = {k: v[:1] for k, v in zero_deltas(dist.kernel, dist.params, 1).items()}
    unit = float(geometry.dist(SPHERE, x, dist.loc).square().mean().sqrt()) + 1e-12
    w = perturbed(dist.kernel, dist.params, deltas, unit)
    value = dist.kernel.log_prob(x, w).mean()
    return max(float(s.abs().max()) for s in derivatives(value, deltas).values())


def fitted_laws() -> list[Law]:
    return [
        *(law("von_mises_fisher", n, concentration=k) for n, k in ((2, 1.0), (3, 1e8), (8, 1e-2), (8, 1e3))),
        *(law("power_spherical", n, concentration=k) for n, k in ((2, 1.0), (3, 1e8), (8, 30.0))),
        *(law("spherical_cauchy", n, scale=s) for n, s in ((2, 0.4), (3, 1e-6), (8, 0.3))),
        *(law("stereographic_normal", n, scale=s) for n, s in ((2, 0.4), (3, 1e-4), (8, 0.3))),
        *(law("stereographic_normal", n, covariance_matrix=covariance(n, s)) for n, s in ((3, 1e-3), (4, 0.4))),
        *(law("kent", 3, covariance_matrix=covariance(3, s)) for s in (1e-3, 0.2)),
    ]


@pytest.mark.parametrize("dist", fitted_laws(), ids=lambda p: p.kernel.name)
def test_fit_is_stationary_and_near_the_truth(dist: Law) -> None:
    x = dist.sample((1000,), generator=generator_for(7))
    fitted = dist.fit(x)
    assert slope_at(fitted, x) < 1e-6
    gain = float((fitted.log_prob(x) - dist.log_prob(x)).sum())
    count = dist.kernel.dim + (1 if "covariance_matrix" not in dist.params else dist.kernel.dim * (dist.kernel.dim + 1) // 2)
    assert 0 <= gain < 0.5 * scipy.stats.chi2.isf(1e-6, count)  # twice the gain is chi-square


def test_fit_of_von_mises_fisher_is_scipys() -> None:
    x = law("von_mises_fisher", 4, concentration=12.0).sample((500,), generator=generator_for(8))
    loc, kappa = scipy.stats.vonmises_fisher.fit(x.numpy())
    fitted = mf.fit(SPHERE, "von_mises_fisher", x)
    close(fitted.loc, loc, 1e-12)
    close(fitted.concentration / kappa, 1.0, 1e-6)


def test_fit_of_degenerate_data() -> None:
    same = unit_vector(3).expand(5, 3)
    assert float(mf.fit(SPHERE, "von_mises_fisher", same).concentration) == pytest.approx(1e10)
    assert float(mf.fit(SPHERE, "power_spherical", same).concentration) == pytest.approx(1e10)
    opposite = torch.stack([unit_vector(3), -unit_vector(3)])
    assert float(mf.fit(SPHERE, "von_mises_fisher", opposite).concentration) < 1e-9
    with pytest.raises(ValueError, match="half of the weight"):
        mf.fit(SPHERE, "spherical_cauchy", torch.cat([same, random_points(SPHERE, (3,), 3, 0)]))
    with pytest.raises(ValueError, match="determine a covariance"):
        mf.fit(SPHERE, "stereographic_normal", same)
    with pytest.raises(ValueError, match="determine a covariance"):
        mf.fit(SPHERE, "stereographic_normal", same[:2], covariance="full")
    circle = torch.stack([*random_points(SPHERE, (3,), 2, 0), *-random_points(SPHERE, (3,), 2, 0)])
    with pytest.raises(ValueError, match="determine a covariance"):
        mf.fit(SPHERE, "stereographic_normal", circle, covariance="full")
    mf.fit(SPHERE, "stereographic_normal", circle)
    with pytest.raises(ValueError, match="lie on a circle"):
        mf.fit(SPHERE, "kent", at_angles(unit_vector(3), real([0.1, 0.2, 0.4])))
    for name in ("wrapped_normal", "truncated_normal"):
        with pytest.raises(NotImplementedError, match="no maximum-likelihood fit"):
            mf.fit(SPHERE, name, random_points(SPHERE, (3,), 30, 0))


def test_fit_of_two_modes_caps_the_kent_law() -> None:
    x = random_points(SPHERE, (3,), 200, 0) * real([1.0, 0.1, 0.3])
    fitted = mf.fit(SPHERE, "kent", torch.nn.functional.normalize(x, dim=-1))
    tangent = torch.linalg.eigvalsh(fitted.kernel._spread(fitted.params).tangent)
    assert 1e4 < float(tangent[2] / tangent[1]) < 1.01e6


# ---- edges


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "params"),
    [("power_spherical", {"concentration": 5.0}), ("stereographic_normal", {"scale": 0.4}), ("stereographic_normal", {})],
)
def test_density_vanishes_at_the_antipode_without_a_gradient(name: str, params: dict[str, float], dtype: torch.dtype) -> None:
    loc = real([0.0, 0.6, 0.8]).to(dtype)
    numbers = {k: torch.tensor([v], dtype=dtype) for k, v in params.items()}
    w = {"loc": loc[None], **(numbers or {"covariance_matrix": torch.eye(3, dtype=dtype)[None]})}
    leaves = {k: v.clone().requires_grad_() for k, v in w.items()}
    x = torch.stack([-loc, loc]).requires_grad_()
    kernel = mf.distribution(SPHERE, name, **w).kernel
    for log_q in (kernel.log_prob(x, leaves), kernel.pairwise_log_prob(x, leaves).squeeze(1)):
        assert log_q[0] == -math.inf
        assert torch.isfinite(log_q[1])
        for slope in torch.autograd.grad(log_q.sum(), [x, *leaves.values()], retain_graph=True):
            assert torch.isfinite(slope).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_of_pairs_keep_the_digits_of_very_narrow_laws(dtype: torch.dtype) -> None:
    laws = (
        ("power_spherical", "concentration", 1e10),
        ("spherical_cauchy", "scale", 1e-8),
        ("truncated_normal", "scale", 1e-4),
    )
    for name, parameter, value in laws:
        loc = unit_vector(3).to(dtype)
        dist = mf.distribution(SPHERE, name, **{"loc": loc, parameter: torch.tensor(value, dtype=dtype)})
        x = dist.sample((50,), generator=generator_for(11))
        exact = dist.kernel.log_prob(x.double(), {k: v.double() for k, v in dist.params.items()})
        pairs = dist.kernel.pairwise_log_prob(x, {k: v[None] for k, v in dist.params.items()}).squeeze(1)
        assert float((pairs - exact).abs().max()) < (1e-4 if dtype == torch.float32 else 1e-9)


def test_float32_products_of_narrow_full_covariances_keep_their_digits() -> None:
    for name in ("wrapped_normal", "stereographic_normal", "truncated_normal", "kent"):
        for scale in (1e-4, 0.3):
            matrix = covariance(3, scale).float()
            dist = mf.distribution(SPHERE, name, loc=unit_vector(3).float(), covariance_matrix=matrix)
            x = dist.sample((50,), generator=generator_for(9))
            wide = {k: v.double() for k, v in dist.params.items()}
            exact = dist.kernel.log_prob(x.double(), wide)
            pairs = dist.kernel.pairwise_log_prob(x, {k: v[None] for k, v in dist.params.items()}).squeeze(1)
            assert float((pairs - exact).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["wrapped_normal", "stereographic_normal", "truncated_normal", "kent"])
@pytest.mark.parametrize("scale", [1e-3, 0.2, 1.5])
def test_matrices_of_pairs_at_the_locations_themselves(name: str, scale: float) -> None:
    # the product leaves noise of either sign for the quadratic form and the chord of equal points
    loc = random_points(SPHERE, (3,), 40, 1)
    w = {"loc": loc, "covariance_matrix": covariance(3, scale).expand(40, 3, 3)}
    dist = mf.distribution(SPHERE, name, **w)
    near = dist.kernel.log_prob(geometry.project(SPHERE, loc + 1e-5 * scale * random_points(SPHERE, (3,), 40, 2)), w)
    for values, tolerance in ((w, 1e-8), ({k: v.float() for k, v in w.items()}, 1e-4)):
        pairs = dist.kernel.pairwise_log_prob(values["loc"], values).diagonal().double()
        exact = dist.kernel.log_prob(values["loc"].double(), {k: v.double() for k, v in values.items()})
        close(pairs, exact, tolerance)
        if name != "wrapped_normal":  # whose windings have a pole there
            close(pairs, near, 1e-4)


@pytest.mark.parametrize("name", ["wrapped_normal", "truncated_normal", "stereographic_normal", "kent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tangent_covariances_are_valid_parameters(name: str, dtype: torch.dtype) -> None:
    loc = random_points(SPHERE, (3,), 50, 3).to(dtype)
    projector = torch.eye(3, dtype=dtype) - loc.unsqueeze(-1) * loc.unsqueeze(-2)
    matrix = projector @ covariance(3, 0.5).to(dtype) @ projector  # singular, with an eigenvalue of about -eps half of the time
    dist = mf.distribution(SPHERE, name, loc=loc, covariance_matrix=(matrix + matrix.mT) / 2, validate_args=True)
    assert torch.isfinite(dist.log_prob(loc)).all()
    with pytest.raises(ValueError, match="parameter covariance_matrix"):
        mf.distribution(SPHERE, name, loc=loc, covariance_matrix=matrix - 1e-3 * torch.eye(3, dtype=dtype), validate_args=True)


@pytest.mark.parametrize("size", [3, 16])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 5.0])
def test_second_derivatives_of_the_wrapped_normal_are_finite(size: int, scale: float) -> None:
    # the sum of windings has terms that are thousands of nats apart
    leaves = [at_angles(unit_vector(size), real([1e-3, 0.5, 3.1])), unit_vector(size).clone(), real(scale)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    value = law("wrapped_normal", size, loc=leaves[1], scale=leaves[2]).log_prob(leaves[0]).sum()
    slopes = torch.autograd.grad(value, leaves, create_graph=True)
    for second in torch.autograd.grad(sum(s.sum() for s in slopes), leaves):
        assert torch.isfinite(second).all()


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"Expected points of S\^2, of shape \(3,\)"):
        mf.kernel_for(SPHERE, (4,), "kent")
    with pytest.raises(ValueError, match=r"scales up to 20\.0 radians"):
        law("truncated_normal", 3, scale=25.0).log_prob(unit_vector(3))
    singular = unit_vector(3).unsqueeze(-1) * unit_vector(3)
    dist = mf.distribution(SPHERE, "kent", loc=unit_vector(3), covariance_matrix=singular, validate_args=False)
    with pytest.raises(ValueError, match="tangent to the sphere at loc is positive definite"):
        dist.log_prob(unit_vector(3))
    with pytest.raises(ValueError, match="parameter scale of spherical_cauchy"):
        mf.distribution(SPHERE, "spherical_cauchy", loc=unit_vector(3), scale=real(1.5), validate_args=True)
    with pytest.raises(ValueError, match="parameter concentration of power_spherical"):
        mf.distribution(SPHERE, "power_spherical", loc=unit_vector(3), concentration=real(-1.0), validate_args=True)


@pytest.mark.parametrize("name", ["wrapped_normal", "truncated_normal", "stereographic_normal", "kent"])
def test_no_values_are_read_from_meta_tensors(name: str) -> None:
    loc, matrix = torch.zeros(2, 3, device="meta"), torch.zeros(2, 3, 3, device="meta")
    kernel = mf.distribution(SPHERE, name, loc=loc, covariance_matrix=matrix, validate_args=False).kernel
    assert kernel.pairwise_log_prob(torch.zeros(5, 3, device="meta"), {"loc": loc, "covariance_matrix": matrix}).shape == (5, 2)
    empty = {"loc": torch.zeros(0, 3), "covariance_matrix": torch.zeros(0, 3, 3)}
    assert kernel.pairwise_log_prob(unit_vector(3).float()[None], empty).shape == (1, 0)
