"""Projected normal, angular central Gaussian, Bingham and Watson laws: special functions, limits, fits, errors."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import scipy.special
import scipy.stats
import torch
from table.common import F64, SPHERE, covariance, real, spd_matrix, unit_vector
from torch import Tensor
from torch.distributions import kl_divergence

import mf_manifold as mf
from mf_manifold.distributions import KernelDistribution
from mf_manifold.numerics.concave import maximise
from mf_manifold.numerics.contour import (
    log_quadratic_normalizer,
    mean_log_quadratic_form,
    quadratic_moments,
    second_moment_matrix,
)
from mf_manifold.numerics.half_line import log_moment
from mf_manifold.testing.density import generator_for


def law(name: str, **params: Tensor | float) -> KernelDistribution:
    return mf.distribution(SPHERE, name, **params)


def uniform_points(count: int, size: int) -> Tensor:
    return mf.geometry.sample_uniform(SPHERE, (size,), (count,), generator=generator_for(size), dtype=F64)


def circle(count: int) -> tuple[Tensor, Tensor]:
    angle = torch.arange(count, dtype=F64) * (2 * math.pi / count)
    return angle, torch.stack([angle.cos(), angle.sin()], -1)


def axis(size: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(size - 1), size).to(F64)


# special functions


@pytest.mark.parametrize("k", [0, 1, 2, 15, 63, 255])
def test_half_line_moments_are_parabolic_cylinder_functions(k: int) -> None:
    for t in (-1e4, -50.0, -5.5, -0.3, 0.0, 0.4, 3.3, 20.0, 1e5):
        with mp.workdps(40):
            value = mp.log(mp.factorial(k)) - mp.mpf(t) ** 2 / 4 + mp.log(mp.pcfu(k + mp.mpf(1) / 2, -t))
            error = mp.mpf(log_moment(k, real(t)).item()) - value
        assert abs(error) <= 1e-12 * max(1, abs(value))


@pytest.mark.parametrize("k", [0, 1, 2, 9])
def test_half_line_moments_have_derivatives(k: int) -> None:
    t = real([-30.0, -2.0, 0.0, 1.5, 12.0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: log_moment(k, u), t)
    assert torch.autograd.gradgradcheck(lambda u: log_moment(k, u), t)
    far = real([-1e4, -50.0, 50.0, 1e4]).requires_grad_()
    (slope,) = torch.autograd.grad(log_moment(k, far).sum(), far, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), far)
    assert bool(((curvature > -1 - 1e-6) & (curvature <= 0)).all())


def test_half_line_moments_in_float32() -> None:
    t = torch.linspace(-60, 60, 999, dtype=torch.float32)
    for k in (1, 2, 15):
        exact = log_moment(k, t.double())
        assert ((log_moment(k, t, torch.float32) - exact).abs() / exact.abs().clamp_min(1)).max() < 5e-6
        assert ((log_moment(k, t) - exact).abs() / exact.abs().clamp_min(1)).max() < 1e-7


def test_half_line_moments_refuse_other_orders() -> None:
    with pytest.raises(ValueError, match="whole number"):
        log_moment(-1, real(0.0))


def test_quadratic_normalizer_and_its_gradient() -> None:
    for size, kappa in ((2, 7.0), (3, -1e6), (10, 1e3), (32, 40.0), (64, 48.0), (64, 64.0), (64, 1e6), (64, -3.0)):
        a = torch.cat([real([kappa]), torch.zeros(size - 1, dtype=F64)]).requires_grad_()
        half = mp.mpf(size) / 2
        exact = mp.log(mp.hyp1f1(0.5, half, kappa)) + mp.log(2) + half * mp.log(mp.pi) - mp.loggamma(half)
        value = log_quadratic_normalizer(a)
        assert abs(value.item() - float(exact)) <= 1e-12 * max(1.0, abs(float(exact)))
        assert abs(log_quadratic_normalizer(a[:2].detach(), (1, size - 1)) - value) <= 1e-12 * abs(value)
        (gradient,) = torch.autograd.grad(value, a)
        second = quadratic_moments(a.detach()).second
        assert torch.allclose(gradient, second, rtol=1e-10, atol=0) and abs(float(second.sum()) - 1) < 1e-11


def test_bingham_law_is_twice_differentiable_at_repeated_eigenvalues() -> None:
    x = uniform_points(4, 3)
    for values in ([0.0, 0.0, 0.0], [1.0, 1.0, -4.0], [2.0, 1.0, -4.0]):

        def log_prob(a: Tensor) -> Tensor:
            return mf.kernel_for(SPHERE, (3,), "bingham").log_prob(x, {"concentration_matrix": (a + a.mT) / 2})

        a = torch.diag(real(values)).requires_grad_()
        assert torch.autograd.gradcheck(log_prob, a) and torch.autograd.gradgradcheck(log_prob, a)


def test_fourth_moments_are_second_derivatives() -> None:
    a = real([-7.0, -2.0, -2.0, 1.0])
    m = quadratic_moments(a)
    covariance = m.fourth + 2 * torch.diag(m.fourth.diagonal()) - torch.outer(m.second, m.second)
    hessian = torch.autograd.functional.hessian(log_quadratic_normalizer, a)
    assert torch.allclose(covariance, hessian, atol=1e-12)


def test_second_moments_are_smooth_at_repeated_eigenvalues() -> None:
    a = torch.diag(real([1.0, 1.0, -4.0])).requires_grad_()
    moments = second_moment_matrix(a)
    expected = quadratic_moments(real([1.0, 1.0, -4.0])).second
    assert torch.allclose(moments, torch.diag(expected), atol=1e-13)
    assert torch.autograd.gradcheck(lambda m: second_moment_matrix((m + m.mT) / 2), a)


def test_mean_log_quadratic_form() -> None:
    for small in (1.0, 0.3, 1e-6, 1e-12):
        exact = 2 * math.log((1 + math.sqrt(small)) / 2)
        assert abs(float(mean_log_quadratic_form(real([1.0, small]))) - exact) < 1e-13
    wide = torch.logspace(0, 6, 64, dtype=F64)
    draws = uniform_points(20000, 64).square() @ wide
    value = mean_log_quadratic_form(wide)
    assert abs(float(draws.log().mean() - value)) < 5 * float(draws.log().std()) / 20000**0.5


def test_maximise_stops_at_a_flat_top() -> None:
    def quartic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return -(x**4).sum() - x.square().sum(), -4 * x**3 - 2 * x, -torch.diag(12 * x.square() + 2)

    assert maximise(quartic, real([100.0, -3.0])).abs().max() < 1e-9


# closed forms and limits


def test_projected_normal_without_mean_is_angular_central_gaussian() -> None:
    for size in (2, 3, 7):
        x, cov = uniform_points(20, size), covariance(size, 2.0)
        projected = law("projected_normal", mean_vector=torch.zeros(size, dtype=F64), covariance_matrix=cov)
        assert torch.allclose(
            projected.log_prob(x), law("angular_central_gaussian", covariance_matrix=cov).log_prob(x), atol=1e-12
        )


def test_projected_normal_on_the_circle() -> None:
    """Mardia and Jupp (2000), Directional Statistics, section 3.5.6, for unit covariance."""
    angle, x = circle(50)
    for length in (0.5, 4.0):
        t = length * angle.cos()
        ratio = torch.from_numpy(scipy.stats.norm.cdf(t) / scipy.stats.norm.pdf(t))
        expected = torch.log(math.exp(-(length**2) / 2) / (2 * math.pi) * (1 + t * ratio))
        assert torch.allclose(law("projected_normal", mean_vector=real([length, 0.0])).log_prob(x), expected, atol=1e-12)


def test_projected_normal_variants_and_scaling() -> None:
    x, mean, eye = uniform_points(20, 4), 3 * unit_vector(4), torch.eye(4, dtype=F64)
    plain = law("projected_normal", mean_vector=mean).log_prob(x)
    for factor in (1.0, 50.0):
        full = law("projected_normal", mean_vector=factor * mean, covariance_matrix=factor**2 * eye)
        assert torch.allclose(full.log_prob(x), plain, atol=1e-12)


def test_narrow_projected_normal_is_a_tangent_normal() -> None:
    scale, loc = 1e-4, unit_vector(3)
    d = law("projected_normal", mean_vector=loc / scale)
    v = mf.geometry.from_coords(SPHERE, loc, scale * torch.randn(9, 2, dtype=F64, generator=generator_for(0)))
    expected = -v.square().sum(-1) / (2 * scale**2) - math.log(2 * math.pi * scale**2)
    assert torch.allclose(d.log_prob(mf.geometry.expmap(SPHERE, loc, v)), expected, atol=1e-6)


def test_bingham_on_the_circle_is_von_mises_of_the_doubled_angle() -> None:
    angle, x = circle(40)
    for kappa in (0.0, 1.5, 300.0):
        d = law("bingham", concentration_matrix=torch.diag(real([kappa, -kappa])) + 7 * torch.eye(2, dtype=F64))
        expected = scipy.stats.vonmises.logpdf(2 * angle.numpy(), kappa) if kappa else math.log(1 / (2 * math.pi))
        assert torch.allclose(d.log_prob(x), torch.as_tensor(expected, dtype=F64).expand(40), atol=1e-10)


def test_watson_is_a_bingham_law() -> None:
    for size, kappa in ((2, 3.0), (3, -40.0), (5, 200.0)):
        x, loc = uniform_points(10, size), unit_vector(size)
        watson = law("watson", loc=loc, concentration=real(kappa))
        bingham = law("bingham", concentration_matrix=kappa * torch.outer(loc, loc))
        area = 2 * math.pi ** (size / 2) / math.gamma(size / 2)
        scipys = kappa * (x @ loc).square() - math.log(area * scipy.special.hyp1f1(0.5, size / 2, kappa))
        assert torch.allclose(watson.log_prob(x), bingham.log_prob(x), atol=1e-10)
        assert torch.allclose(watson.log_prob(x), scipys, atol=1e-9)
        assert abs(float(watson.entropy() - bingham.entropy())) < 1e-11
        other = unit_vector(size + 1)[:size] / unit_vector(size + 1)[:size].norm()
        ours = kl_divergence(watson, law("watson", loc=other, concentration=real(-2.0)))
        theirs = kl_divergence(bingham, law("bingham", concentration_matrix=-2.0 * torch.outer(other, other)))
        assert abs(float(ours - theirs)) < 1e-10


def test_entropies_of_uniform_members() -> None:
    area, zero = math.log(4 * math.pi), torch.zeros(3, 3, dtype=F64)
    assert abs(float(law("bingham", concentration_matrix=zero).entropy()) - area) < 1e-12
    assert abs(float(law("watson", loc=axis(3), concentration=0.0).entropy()) - area) < 1e-12
    eye = 5 * torch.eye(3, dtype=F64)
    assert abs(float(law("angular_central_gaussian", covariance_matrix=eye).entropy()) - area) < 1e-12


def test_entropy_of_an_angular_central_gaussian_on_the_circle() -> None:
    _, x = circle(4000)
    d = law("angular_central_gaussian", covariance_matrix=covariance(2, 1.0))
    log_q = d.log_prob(x)
    assert abs(float(d.entropy() + (log_q.exp() * log_q).mean() * 2 * math.pi)) < 1e-12


def test_entropy_of_narrow_laws_is_that_of_two_normal_laws() -> None:
    for size in (2, 3, 16):
        d, kappa = size - 1, 1e6
        normal = d / 2 * math.log(math.pi * math.e / kappa) + math.log(2)
        assert abs(float(law("watson", loc=axis(size), concentration=real(kappa)).entropy()) - normal) < 1e-4
        matrix = kappa * torch.diag(axis(size))
        assert abs(float(law("bingham", concentration_matrix=matrix).entropy()) - normal) < 1e-4


def test_divergences_by_quadrature_on_the_circle() -> None:
    _, x = circle(3000)
    pairs = [
        ("bingham", {"concentration_matrix": 4 * spd_matrix(2)}, {"concentration_matrix": -covariance(2, 2.0)}),
        ("angular_central_gaussian", {"covariance_matrix": spd_matrix(2)}, {"covariance_matrix": covariance(2, 1.0)}),
        (
            "watson",
            {"loc": unit_vector(2), "concentration": real(5.0)},
            {"loc": axis(2), "concentration": real(9.0)},
        ),
    ]
    for name, one, two in pairs:
        p, q = law(name, **one), law(name, **two)
        exact = (p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x))).mean() * 2 * math.pi
        assert abs(float(kl_divergence(p, q) - exact)) < 1e-11
        uniform = mf.distribution(SPHERE, "uniform", point_shape=(2,))
        assert abs(float(kl_divergence(p, uniform) - (math.log(2 * math.pi) - p.entropy()))) < 1e-12


def test_derivatives_of_entropy_and_divergence() -> None:
    loc = unit_vector(3)
    for kappa in (-3.0, 0.0, 2.0):
        k = real(kappa).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: law("watson", loc=loc, concentration=v).entropy(), k)
        assert torch.autograd.gradcheck(lambda v: law("watson", loc=loc, concentration=v).log_prob(axis(3)), k)
    a = torch.diag(real([2.0, 2.0, -1.0])).requires_grad_()
    fixed = law("bingham", concentration_matrix=covariance(3, 1.0))

    def divergence(m: Tensor) -> Tensor:
        return kl_divergence(
            mf.distribution(SPHERE, "bingham", validate_args=False, concentration_matrix=(m + m.mT) / 2), fixed
        )

    assert torch.autograd.gradcheck(divergence, a)


def test_what_has_no_closed_form_says_so() -> None:
    for params in ({"mean_vector": axis(3)}, {"mean_vector": axis(3), "covariance_matrix": torch.eye(3, dtype=F64)}):
        with pytest.raises(NotImplementedError, match="projected_normal"):
            law("projected_normal", **params).entropy()
    with pytest.raises(NotImplementedError, match="mean"):
        _ = law("watson", loc=axis(3), concentration=2.0).mean


# pairs, samples


@pytest.mark.parametrize("size", [3, 20])
def test_pairs_in_float32_equal_broadcasting(size: int) -> None:
    x, loc, matrix = uniform_points(40, size).float(), uniform_points(6, size).float(), covariance(size, 0.1).float()
    matrices, kappas = (
        torch.stack([matrix, 3 * torch.eye(size)]).repeat(3, 1, 1),
        torch.tensor([-1e3, -1.0, 0.0, 2.0, 50.0, 1e6]),
    )
    params = {
        "projected_normal": [{"mean_vector": 300 * loc}, {"mean_vector": loc, "covariance_matrix": matrices}],
        "angular_central_gaussian": [{"covariance_matrix": matrices}],
        "bingham": [{"concentration_matrix": 1e4 * matrices}],
        "watson": [{"loc": loc, "concentration": kappas}],
    }
    for name, variants in params.items():
        for w in variants:
            d = law(name, **w)
            exact = mf.kernel.kernel_for(SPHERE, (size,), name, **d.kernel.options).log_prob(
                x.double().unsqueeze(1), {k: v.double() for k, v in w.items()}
            )
            error = (d.kernel.pairwise_log_prob(x, w) - exact).abs()
            assert bool((error <= 1e-4 + 5e-7 * exact.abs()).all()), name


def test_pairs_of_narrow_projected_normal_laws_keep_their_digits() -> None:
    for size in (3, 16):
        loc = uniform_points(3, size)
        x = mf.geometry.project(SPHERE, loc + 1e-6 * uniform_points(5, size)[:3])
        kernel, w = mf.kernel_for(SPHERE, (size,), "projected_normal"), {"mean_vector": 1e6 * loc}
        pairs = kernel.pairwise_log_prob(x, w)
        exact = kernel.log_prob(x.unsqueeze(1), w)
        assert ((pairs - exact).abs() / exact.abs().clamp_min(1)).max() < 1e-12


def test_samples_of_many_components_at_once() -> None:
    matrices = torch.stack([-covariance(4, s) for s in (0.5, 3.0, 30.0)])
    x = law("bingham", concentration_matrix=matrices).sample((20000,), generator=generator_for(1))
    for i, matrix in enumerate(matrices):
        mean = x[:, i].mT @ x[:, i] / len(x)
        assert (mean - second_moment_matrix(matrix)).abs().max() < 0.015


def test_narrow_samples_in_float32() -> None:
    kappa = 1e6
    x = law("watson", loc=axis(3).float(), concentration=torch.tensor(kappa)).sample((20000,), generator=generator_for(2))
    assert x.dtype == torch.float32
    assert abs(float(x[:, :2].double().square().sum(-1).mean()) * kappa - 1) < 0.03
    cov = torch.diag(torch.tensor([1.0, 1e-6, 1e-3]))
    assert bool(torch.isfinite(law("angular_central_gaussian", covariance_matrix=cov).rsample((100,))).all())


# fits


def test_projected_normal_fit() -> None:
    for length in (0.0, 2.0, 1e4):
        true = law("projected_normal", mean_vector=length * unit_vector(3))
        x, w = true.sample((2000,), generator=generator_for(3)), torch.linspace(0.5, 1.5, 2000, dtype=F64)
        fitted = mf.fit(SPHERE, "projected_normal", x, w).mean_vector.requires_grad_()
        (slope,) = torch.autograd.grad((w / w.sum()) @ law("projected_normal", mean_vector=fitted).log_prob(x), fitted)
        assert slope.norm() * (1 + length) < 1e-5
        assert (fitted - true.mean_vector).norm() < 0.1 * (1 + length)


def test_angular_central_gaussian_fit_solves_tylers_equation() -> None:
    for size, condition in ((2, 10.0), (3, 1e6), (8, 100.0)):
        cov = torch.diag(torch.logspace(0, math.log10(condition), size, dtype=F64))
        x = law("angular_central_gaussian", covariance_matrix=cov).sample((1000,), generator=generator_for(4))
        fitted = mf.fit(SPHERE, "angular_central_gaussian", x).covariance_matrix
        forms = (x * torch.linalg.solve(fitted, x.mT).mT).sum(-1)
        again = size * (x.mT / forms) @ x / len(x)
        root = torch.linalg.cholesky(fitted)
        white = torch.linalg.solve_triangular(root, torch.linalg.solve_triangular(root, again, upper=False).mT, upper=False)
        assert (white - torch.eye(size)).abs().max() < 1e-9
        assert abs(float(fitted.trace()) - size) < 1e-9


def test_bingham_fit_matches_the_second_moments() -> None:
    for size, spread in ((2, 5.0), (3, 0.0), (3, 1e6), (7, 30.0)):
        values = -spread * torch.linspace(0, 1, size, dtype=F64)
        x = law("bingham", concentration_matrix=torch.diag(values)).sample((1500,), generator=generator_for(5))
        fitted = mf.fit(SPHERE, "bingham", x).concentration_matrix
        second = x.mT @ x / len(x)
        root = torch.linalg.cholesky(torch.linalg.inv(second))
        assert (root.mT @ (second_moment_matrix(fitted) - second) @ root).abs().max() < 1e-8
        assert abs(float(torch.linalg.eigvalsh(fitted)[-1])) < 1e-6 * (1 + spread)


def test_watson_fit_finds_poles_and_girdles() -> None:
    for kappa in (-1e6, -30.0, -1.0, 3.0, 1e6):
        true = law("watson", loc=unit_vector(4), concentration=real(kappa))
        x = true.sample((3000,), generator=generator_for(6))
        fitted = mf.fit(SPHERE, "watson", x)
        square, k = (x @ fitted.loc).square().mean(), fitted.concentration
        m = quadratic_moments(torch.stack([k, 0 * k]), (1, 3)).second
        gap = (3 * m[1] - (1 - square)) / (1 - square) if kappa > 0 else (m[0] - square) / square
        assert abs(float(gap)) < 1e-6
        assert abs(float(k) / kappa - 1) < 0.5 and abs(float(fitted.loc @ true.loc)) > 0.9


def test_fits_refuse_degenerate_points() -> None:
    copies = unit_vector(3).expand(10, 3)
    flat = torch.nn.functional.pad(uniform_points(30, 2), (0, 1))
    for name, message in (("projected_normal", "copies"), ("angular_central_gaussian", "general position")):
        with pytest.raises(ValueError, match=message):
            mf.fit(SPHERE, name, copies)
    with pytest.raises(ValueError, match="general position"):
        mf.fit(SPHERE, "angular_central_gaussian", flat)
    for name, x, message in (("bingham", flat, "span"), ("watson", flat, "great subsphere"), ("watson", copies, "copies")):
        with pytest.raises(ValueError, match=message):
            mf.fit(SPHERE, name, x)
    with pytest.raises(NotImplementedError, match="fit"):
        mf.fit(SPHERE, "projected_normal", flat, covariance="full")


# parameters


def test_parameters_outside_the_range() -> None:
    with pytest.raises(ValueError, match="apart, got 2e"):
        law("bingham", concentration_matrix=torch.diag(real([2e8, 0.0, 0.0]))).log_prob(axis(3))
    with pytest.raises(ValueError, match="Symmetric"):
        law("bingham", concentration_matrix=torch.ones(3, 3, dtype=F64).triu())
    with pytest.raises(ValueError, match="Interval"):
        law("watson", loc=axis(3), concentration=2e8)
    with pytest.raises(ValueError, match="PositiveDefinite"):
        law("angular_central_gaussian", covariance_matrix=-torch.eye(3, dtype=F64))


def test_multiples_of_the_identity_do_not_count() -> None:
    x, a = uniform_points(5, 3), covariance(3, 3.0)
    shifted = law("bingham", concentration_matrix=a - 100 * torch.eye(3, dtype=F64))
    assert torch.allclose(shifted.log_prob(x), law("bingham", concentration_matrix=a).log_prob(x), atol=1e-11)
    scaled = law("angular_central_gaussian", covariance_matrix=1e-20 * a)
    assert torch.allclose(scaled.log_prob(x), law("angular_central_gaussian", covariance_matrix=a).log_prob(x), atol=1e-11)


def test_bumps_of_networks_have_their_mode_at_the_location() -> None:
    kernel = mf.kernel_for(SPHERE, (4,), "bingham")
    raw = torch.randn(6, kernel.num_raw, dtype=F64, generator=generator_for(7))
    w, loc = kernel.params(raw), mf.geometry.project(SPHERE, raw[:, :4])
    values, vectors = torch.linalg.eigh(w["concentration_matrix"])
    assert values[:, -1].abs().max() < 1e-6 * values.abs().max()
    assert bool((values[:, -2] < 0).all())
    assert torch.allclose((vectors[:, :, -1] * loc).sum(-1).abs(), torch.ones(6, dtype=F64), atol=1e-9)
