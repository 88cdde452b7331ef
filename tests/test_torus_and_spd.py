"""Laws on tori and Wishart kin on SPD matrices against scipy, torch, geomstats, quadrature, limits, their likelihoods."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import geoopt
import numpy as np
import pytest
import scipy.stats
import torch
from table.common import F64, PLANE, SPD, SPD_LEM, TORUS, covariance, real, spd_matrix
from torch import Tensor
from torch.distributions import kl_divergence

import mf_manifold as mf
from mf_manifold.kernels.circular_statistics import concentration_from_deficit
from mf_manifold.kernels.stein import exact_difference, stein_loss
from mf_manifold.kernels.torus_von_mises import _angle_slope, von_mises_angles
from mf_manifold.numerics import bessel, circular
from mf_manifold.numerics.linalg import congruence
from mf_manifold.numerics.special import digamma_minus_log, multivariate_digamma_minus_log, wishart_log_constant
from mf_manifold.quadrature import gauss_legendre
from mf_manifold.testing import check_measure, measure_coordinates
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.manifold import random_points
from mf_manifold.testing.symmetry import random_rotation

SINE = "sine_bivariate_von_mises"


def close(a: Tensor, b: object, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=tolerance, atol=tolerance)


def stationary(
    kernel: mf.Kernel, params: dict[str, Tensor], x: Tensor, tolerance: float, weights: Tensor | None = None
) -> None:
    """The slope of the mean log likelihood vanishes, in relative steps of the parameters."""
    w = {k: v.clone().requires_grad_() for k, v in params.items()}
    log_q = kernel.log_prob(x, w)
    value = log_q.mean() if weights is None else (weights * log_q).sum() / weights.sum()
    for name, slope in zip(w, torch.autograd.grad(value, list(w.values())), strict=True):
        assert float((slope * w[name].detach()).abs().max()) < tolerance, name


# tori


@pytest.mark.parametrize("kappa", [0.0, 0.3, 20.0, 500.0])
def test_von_mises_equals_scipy(kappa: float) -> None:
    law = mf.distribution(TORUS, "von_mises", loc=real([0.5]), concentration=kappa)
    x = torch.linspace(-3, 3, 7, dtype=F64).unsqueeze(-1)
    if kappa:
        oracle = scipy.stats.vonmises(kappa, loc=0.5)
        close(law.log_prob(x), oracle.logpdf(x.squeeze(-1).numpy()))
        close(law.entropy(), oracle.entropy(), 1e-9)
    else:
        close(law.entropy(), math.log(2 * math.pi))
        close(law.log_prob(x), [-math.log(2 * math.pi)] * 7)


def test_von_mises_at_large_concentrations_is_normal() -> None:
    law = mf.distribution(TORUS, "von_mises", loc=real([1.0]), concentration=1e8)
    normal = mf.distribution(PLANE, "normal", loc=real([1.0]), scale=1e-4)
    x = 1 + 1e-4 * torch.linspace(-3, 3, 7, dtype=F64).unsqueeze(-1)
    close(law.log_prob(x), normal.log_prob(x), 1e-7)
    close(law.entropy(), normal.entropy(), 1e-7)
    float32 = mf.distribution(TORUS, "von_mises", loc=torch.tensor([1.0]), concentration=1e8)
    draws = float32.sample((4000,), generator=generator_for(0))
    assert abs(float((draws - 1).square().mean()) / 1e-8 - 1) < 0.2


def test_von_mises_pathwise_slope_keeps_the_distribution_function() -> None:
    step = 1e-4
    for kappa in (1e-3, 0.5, 3.0, 40.0):
        for t in (0.05, 0.7, 2.0, 3.1):
            slope = float(_angle_slope(real(t), real(kappa)))
            ends = [scipy.stats.vonmises(kappa + s * step).cdf(t + s * step * slope) for s in (1, -1)]
            assert abs(ends[0] - ends[1]) < 1e-6 * 2 * step


def test_von_mises_pathwise_slope_at_large_concentrations() -> None:
    kappa, share = 1e6, torch.linspace(0.1, 6, 9, dtype=F64)  # angles scale with 1 / sqrt(concentration)
    close(_angle_slope(share / math.sqrt(kappa), real(kappa)) * kappa**1.5 / share, [-0.5] * 9, 1e-4)


def test_von_mises_pathwise_second_derivative() -> None:
    """The sample moves with its concentration, so the slope must be differentiated along it."""
    kappa, step = real([2.0, 40.0]).requires_grad_(), 1e-4
    angle = von_mises_angles(kappa, generator_for(0))
    (slope,) = torch.autograd.grad(angle.sum(), kappa, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), kappa)
    at, k, sign = angle.detach(), kappa.detach(), angle.detach().sign()
    ends = [sign * _angle_slope((at + s * step * slope.detach()).abs(), k + s * step) for s in (1, -1)]
    close(second, (ends[0] - ends[1]) / (2 * step), 1e-6)


def test_concentrations_from_mean_lengths() -> None:
    kappa = real([0.0, 1e-6, 1e-3, 0.5, 2.0, 10.0, 1e3, 1e6, 9e7])
    deficit = bessel.one_minus_bessel_ratio(2, kappa)
    torch.testing.assert_close(concentration_from_deficit(deficit, 1e8), kappa, rtol=1e-9, atol=1e-12)
    assert float(concentration_from_deficit(real(0.0), 1e8)) == 1e8


@pytest.mark.parametrize(("name", "w"), [
    ("von_mises", {"loc": real([3.1, -1.0]), "concentration": real([0.7, 300.0])}),
    (SINE, {"loc": real([3.1, -1.0]), "concentration": real([3.0, 8.0]), "correlation": real(3.0)}),
    (SINE, {"loc": real([3.1, -1.0]), "concentration": real([2.0, 3.0]), "correlation": real(-9.0)}),
    ("wrapped_normal", {"loc": real([3.1, -1.0]), "scale": real([0.2, 1.2])}),
    ("wrapped_normal", {"loc": real([3.1, -1.0]), "covariance_matrix": real([[0.5, 0.6], [0.6, 1.0]])}),
])  # fmt: skip
def test_torus_fits_recover_parameters(name: str, w: dict[str, Tensor]) -> None:
    law = mf.distribution(TORUS, name, **w)
    x = law.sample((6000,), generator=generator_for(1))
    fitted = law.fit(x)
    for key, value in w.items():
        error = mf.geometry.logmap(TORUS, fitted.params[key], value) if key == "loc" else fitted.params[key] / value - 1
        assert float(error.abs().max()) < 0.15, key
    stationary(law.kernel, fitted.params, x, 1e-5)
    weights = torch.rand(6000, dtype=F64, generator=generator_for(2))
    stationary(law.kernel, law.fit(x, weights).params, x, 1e-5, weights)


def test_fits_of_copies() -> None:
    copies = real([[0.5, -3.0]]).expand(5, 2)
    assert mf.fit(TORUS, "von_mises", copies).concentration.tolist() == [1e8, 1e8]
    with pytest.raises(ValueError, match=r"two angles that both spread by more than 0.002 radians"):
        mf.fit(TORUS, SINE, copies)
    with pytest.raises(ValueError, match=r"angles that spread in all 2 dimensions"):
        mf.fit(TORUS, "wrapped_normal", copies)
    same = spd_matrix(3).expand(4, 3, 3)
    assert float(mf.fit(SPD, "wishart", same).df) == 1e8
    close(mf.fit(SPD, "wishart", same).mean, spd_matrix(3))
    for name in ("log_normal", "log_cholesky_normal"):
        with pytest.raises(ValueError, match=f"Expected points that spread in every direction of the 6 coordinates of {name}"):
            mf.fit(SPD, name, same)
    with pytest.raises(ValueError, match="spread in every direction of the 2 coordinates of normal"):
        mf.fit(PLANE, "normal", real([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), covariance="full")


def test_normal_fits_of_coordinates_in_different_units() -> None:
    units = real([1e-9, 1e9])
    law = mf.distribution(PLANE, "normal", loc=units, scale=units)
    x = law.sample((500,), generator=generator_for(0))
    for options in ({}, {"covariance": "full"}):
        fitted = mf.fit(PLANE, "normal", x, **options)
        scale = fitted.scale if not options else fitted.covariance_matrix.diagonal().sqrt()
        close(scale / units, x.std(0, correction=0) / units)


@pytest.mark.parametrize("name", ["log_cholesky_normal", "log_normal"])
def test_wide_float32_samples_are_positive_definite(name: str) -> None:
    law = mf.distribution(SPD, name, loc=torch.eye(3), scale=2.5)
    x = law.sample((5000,), generator=generator_for(0))
    assert x.dtype == torch.float32
    assert not bool(torch.linalg.cholesky_ex(x.double()).info.any())


def test_pairs_without_components_are_empty() -> None:
    for name, scale in (("wishart", "covariance_matrix"), ("inverse_wishart", "scale_matrix")):
        w = {"df": real([]), scale: torch.zeros(0, 3, 3, dtype=F64)}
        assert mf.kernel_for(SPD, (3, 3), name).pairwise_log_prob(spd_matrix(3).expand(5, 3, 3), w).shape == (5, 0)


@pytest.mark.parametrize(("a", "b"), [(4.0, 6.0), (1e6, 2.1), (2.1, 1e6), (1e6, 1e6)])
def test_pairs_of_beta_primes_keep_digits_at_all_shapes(a: float, b: float) -> None:
    modes = random_points(SPD, (3, 3), 12, 0)
    w = {"a": real([a] * 12), "b": real([b] * 12), "scale_matrix": b / a * modes}
    kernel = mf.kernel_for(SPD, (3, 3), "matrix_beta_prime")
    for x in (modes, random_points(SPD, (3, 3), 9, 1)):
        close(kernel.pairwise_log_prob(x, w), kernel.log_prob(x.unsqueeze(1), w), 1e-7)


def test_pairs_of_wrapped_normals_have_shapes_without_values() -> None:
    w = {"loc": torch.zeros(4, 2, device="meta"), "scale": torch.ones(4, 1, device="meta")}
    x = torch.zeros(5, 2, device="meta")
    assert mf.kernel_for(TORUS, (2,), "wrapped_normal").pairwise_log_prob(x, w).shape == (5, 4)


SINES = [([0.0, 0.0], 0.0), ([1e-3, 2.0], 3.0), ([4.0, 9.0], 6.0), ([2.0, 1.0], -6.0), ([50.0, 20.0], 60.0)]


@pytest.mark.parametrize(("kappa", "correlation"), SINES)
def test_sine_model_against_a_grid(kappa: list[float], correlation: float) -> None:
    w = {"loc": real([0.4, -2.0]), "concentration": real(kappa), "correlation": real(correlation)}
    law, other = mf.distribution(TORUS, SINE, **w), mf.distribution(TORUS, SINE, **{**w, "loc": real([1.0, -1.5])})
    t = torch.arange(256, dtype=F64) * (2 * math.pi / 256) - math.pi
    grid, cell = torch.cartesian_prod(t, t), (2 * math.pi / 256) ** 2  # the trapezoidal rule: exponentially accurate
    log_q = law.log_prob(grid)
    close((log_q.exp() * cell).sum(), 1.0)
    close(-(log_q.exp() * log_q * cell).sum(), law.entropy())
    close((log_q.exp() * (log_q - other.log_prob(grid)) * cell).sum(), kl_divergence(law, other))


def test_sine_model_limits() -> None:
    loc, x = real([0.4, -2.0]), torch.randn(20, 2, dtype=F64, generator=generator_for(0))
    product = mf.distribution(TORUS, "von_mises", loc=loc, concentration=real([0.0, 1e5]))
    law = mf.distribution(TORUS, SINE, loc=loc, concentration=real([0.0, 1e5]), correlation=0.0)
    close(law.log_prob(x), product.log_prob(x))
    precision = real([[4e5, -1e5], [-1e5, 2e5]])
    narrow = mf.distribution(TORUS, SINE, loc=loc, concentration=real([4e5, 2e5]), correlation=1e5)
    normal = mf.distribution(PLANE, "normal", loc=loc, covariance_matrix=torch.linalg.inv(precision))
    y = normal.sample((20,), generator=generator_for(0))
    close(narrow.log_prob(y), normal.log_prob(y), 1e-3)
    opposite = mf.distribution(TORUS, SINE, loc=loc, concentration=real([4e5, 2e5]), correlation=-1e5)
    close(opposite.log_prob(loc + (y - loc) * real([1.0, -1.0])), narrow.log_prob(y))


def test_sine_model_gradients_at_zero_are_finite() -> None:
    w = {"loc": real([0.4, -2.0]), "concentration": real([0.0, 0.0]), "correlation": real(0.0)}
    leaves = {k: v.clone().requires_grad_() for k, v in w.items()}
    kernel = mf.kernel_for(TORUS, (2,), SINE)
    (kernel.log_prob(w["loc"], leaves) + kernel.entropy(leaves)).backward()
    close(leaves["concentration"].grad, [1.0, 1.0])  # E cos = 0 at the uniform law, which the entropy has as a maximum
    close(leaves["correlation"].grad, 0.0)


@pytest.mark.parametrize("scale", [0.05, 0.39, 0.41, 1.0, 2.5, 6.0])
def test_wrapped_normal_entropy_against_a_grid(scale: float) -> None:
    t = torch.arange(4096, dtype=F64) * (2 * math.pi / 4096) - math.pi
    log_q = circular.log_wrapped_normal_1d(t, scale)
    close(circular.wrapped_normal_entropy(real(scale)), -(log_q.exp() * log_q).mean() * 2 * math.pi)
    law = mf.distribution(TORUS, "wrapped_normal", loc=real([0.0, 1.0]), scale=scale)
    close(law.entropy("normalized"), 2 * circular.wrapped_normal_entropy(real(scale)) - 2 * math.log(2 * math.pi))


# SPD matrices


@pytest.mark.parametrize("p", [1, 2, 4])
def test_wishart_kin_equal_scipy_and_torch(p: int) -> None:
    df, scale, x = p + 1.7, spd_matrix(p), random_points(SPD, (p, p), 6, p)
    wishart = mf.distribution(SPD, "wishart", df=df, covariance_matrix=scale, measure="lebesgue")
    inverse = mf.distribution(SPD, "inverse_wishart", df=df + 4, scale_matrix=scale, measure="lebesgue")
    oracle, other = scipy.stats.wishart(df, scale.numpy()), scipy.stats.invwishart(df + 4, scale.numpy())
    close(wishart.log_prob(x), [oracle.logpdf(one.numpy()) for one in x])
    close(inverse.log_prob(x), [other.logpdf(one.numpy()) for one in x])
    close(wishart.entropy(), oracle.entropy())
    if p == 1:  # scipy 1.17 subtracts (p + 1)/2 log 2 where it should be p (p + 1)/2; samples tell in test_entropies
        close(inverse.entropy(), other.entropy())
    close(inverse.mean, np.asarray(other.mean()).reshape(p, p))
    theirs = torch.distributions.Wishart(real(df), scale, validate_args=False)
    close(wishart.log_prob(x), theirs.log_prob(x))
    close(wishart.mean, theirs.mean)


def test_one_by_one_matrices_are_gamma_and_beta_prime_numbers() -> None:
    x = real([[[0.3]], [[2.0]]])
    beta = mf.distribution(SPD, "matrix_beta_prime", a=2.5, b=4.0, scale_matrix=real([[1.5]]), measure="lebesgue")
    oracle = scipy.stats.betaprime(2.5, 4.0, scale=1.5)
    close(beta.log_prob(x), oracle.logpdf(x.flatten().numpy()))
    close(beta.entropy(), oracle.entropy(), 1e-7)
    close(beta.mean, [[oracle.mean()]])
    gamma = scipy.stats.gamma(2.5, scale=3.0)
    wishart = mf.distribution(SPD, "wishart", df=5.0, covariance_matrix=real([[1.5]]), measure="lebesgue")
    close(wishart.log_prob(x), gamma.logpdf(x.flatten().numpy()))


def test_beta_prime_mixes_wishart_over_inverse_wishart() -> None:
    """Many df of one factor leave the other: Wishart of df 2a for large b."""
    scale, x = spd_matrix(3), random_points(SPD, (3, 3), 6, 0)
    beta = mf.distribution(SPD, "matrix_beta_prime", a=4.0, b=1e9, scale_matrix=2e9 * scale, validate_args=False)
    close(beta.log_prob(x), mf.distribution(SPD, "wishart", df=8.0, covariance_matrix=scale).log_prob(x), 1e-6)
    flipped = mf.distribution(SPD, "matrix_beta_prime", a=3.0, b=5.0, scale_matrix=torch.linalg.inv(scale))
    same = mf.distribution(SPD, "matrix_beta_prime", a=5.0, b=3.0, scale_matrix=scale)
    close(flipped.log_prob(torch.linalg.inv(x)), same.log_prob(x))


def test_wishart_with_many_degrees_of_freedom_is_the_affine_invariant_normal() -> None:
    law = mf.distribution(SPD, "wishart", df=1e8, covariance_matrix=spd_matrix(2) / 1e8)
    normal = mf.distribution(SPD, "wrapped_normal", loc=spd_matrix(2), scale=math.sqrt(2 / 1e8))
    x = normal.sample((10,), generator=generator_for(0))
    close(law.log_prob(x), normal.log_prob(x), 2e-3)


WISHARTS = [
    ("wishart", {"df": real(4.5), "covariance_matrix": spd_matrix(3)}),
    ("inverse_wishart", {"df": real(8.5), "scale_matrix": spd_matrix(3)}),
    ("matrix_beta_prime", {"a": real(4.0), "b": real(6.0), "scale_matrix": spd_matrix(3)}),
    ("log_cholesky_normal", {"loc": spd_matrix(3), "scale": real([0.3])}),
    ("log_cholesky_normal", {"loc": spd_matrix(3), "covariance_matrix": covariance(6, 0.3)}),
    ("log_normal", {"loc": spd_matrix(3), "covariance_matrix": covariance(6, 0.3)}),
]


@pytest.mark.parametrize(("name", "w"), WISHARTS)
def test_spd_fits_recover_parameters(name: str, w: dict[str, Tensor]) -> None:
    law = mf.distribution(SPD, name, **w)
    x = law.sample((4000,), generator=generator_for(1))
    fitted = law.fit(x)
    for key, value in w.items():
        size = value.abs().amax()
        assert float((fitted.params[key] - value).abs().max() / size) < 0.12, key
    weights = torch.rand(4000, dtype=F64, generator=generator_for(2))
    for found, share in ((fitted, None), (law.fit(x, weights), weights)):
        stationary(law.kernel, found.params, x, 1e-5, share)


@pytest.mark.parametrize("kind", ["lebesgue", "frobenius", "affine_invariant", "log_cholesky"])
@pytest.mark.parametrize(("name", "w"), WISHARTS[:4])
def test_entropies_by_other_measures(name: str, w: dict[str, Tensor], kind: str) -> None:
    law = mf.distribution(SPD, name, **w)
    if kind == "log_cholesky" and name != "log_cholesky_normal":
        with pytest.raises(NotImplementedError, match="no entropy by the log_cholesky measure"):
            law.entropy(kind)
        return
    terms = -law.log_prob(law.sample((20000,), generator=generator_for(0)), measure=kind)
    assert abs(float(terms.mean() - law.entropy(kind))) < 5 * float(terms.std()) / 20000**0.5


def test_what_is_missing_says_so() -> None:
    for name, w in WISHARTS[:4]:
        with pytest.raises(NotImplementedError, match="entropy"):
            mf.distribution(SPD_LEM, name, **w).entropy()
    with pytest.raises(NotImplementedError, match="log_normal on SymmetricPositiveDefinite has no mean"):
        _ = mf.distribution(SPD, "log_normal", **WISHARTS[5][1]).mean
    with pytest.raises(NotImplementedError, match="from wishart to inverse_wishart has no closed form"):
        kl_divergence(*(mf.distribution(SPD, name, **w) for name, w in WISHARTS[:2]))
    with pytest.raises(NotImplementedError, match="no entropy in closed form"):
        mf.distribution(TORUS, "wrapped_normal", loc=real([0.0]), covariance_matrix=real([[1.0]])).entropy()


BAD = [
    (SPD, "inverse_wishart", {"df": 1.0, "scale_matrix": torch.eye(2)}, "parameter df of inverse_wishart"),
    (SPD, "matrix_beta_prime", {"a": 0.5, "b": 3.0, "scale_matrix": torch.eye(2)}, "parameter a of matrix_beta_prime"),
    (SPD, "matrix_beta_prime", {"a": 2.0, "b": 3.0, "scale_matrix": -torch.eye(2)}, "scale_matrix .*not positive definite"),
    (TORUS, "von_mises", {"loc": torch.zeros(2), "concentration": 2e8}, "parameter concentration of von_mises on Torus"),
    (TORUS, SINE, {"loc": torch.zeros(3), "concentration": 1.0, "correlation": 0.0}, "Expected two angles .* got 3"),
    (TORUS, SINE, {"loc": torch.zeros(2), "concentration": 1.0, "correlation": 2e6}, "parameter correlation"),
]


@pytest.mark.parametrize(("manifold", "name", "w", "message"), BAD)
def test_bad_parameters(manifold: geoopt.Manifold, name: str, w: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mf.distribution(manifold, name, **w)


def test_infinite_means_say_so() -> None:
    with pytest.raises(ValueError, match=r"df above p \+ 1 = 3 for the mean of inverse_wishart, got 2.5"):
        _ = mf.distribution(SPD, "inverse_wishart", df=2.5, scale_matrix=torch.eye(2)).mean
    with pytest.raises(ValueError, match=r"b above \(p \+ 1\)/2 = 1.5 for the mean of matrix_beta_prime, got 1"):
        _ = mf.distribution(SPD, "matrix_beta_prime", a=2.0, b=1.0, scale_matrix=torch.eye(2)).mean


@pytest.mark.parametrize("name", ["wishart", "inverse_wishart"])
@pytest.mark.parametrize(("p", "df"), [(2, 1.5), (5, 4.5), (20, 19.5)])
def test_float32_samples_of_few_degrees_of_freedom_are_positive_definite(name: str, p: int, df: float) -> None:
    matrix = {"wishart": "covariance_matrix", "inverse_wishart": "scale_matrix"}[name]
    law = mf.distribution(SPD, name, df=torch.tensor(df), **{matrix: torch.eye(p)})
    assert bool(torch.isfinite(law.log_prob(law.sample((1000,), generator=generator_for(0)))).all())


def test_wishart_samples_carry_gradients() -> None:
    w = {"df": real(4.5).requires_grad_(), "covariance_matrix": spd_matrix(3).requires_grad_()}
    x = mf.distribution(SPD, "wishart", **w).rsample((4000,), generator=generator_for(0))
    trace = x.diagonal(dim1=-2, dim2=-1).sum(-1).mean()
    slopes = torch.autograd.grad(trace, list(w.values()))  # E tr X = df tr V
    assert abs(float(slopes[0] / w["covariance_matrix"].detach().trace()) - 1) < 0.1
    torch.testing.assert_close(slopes[1], 4.5 * torch.eye(3, dtype=F64), atol=0.3, rtol=0.1)


@pytest.mark.parametrize("variant", ["diagonal", "full"])
def test_log_cholesky_normal_is_invariant_under_changes_of_units(variant: str) -> None:
    kernel, units = mf.kernel_for(SPD, (3, 3), "log_cholesky_normal", covariance=variant), torch.diag(real([2.0, 0.01, 300.0]))
    x, loc = random_points(SPD, (3, 3), 5, 0), spd_matrix(3)
    before = kernel.log_prob(x, kernel.centered(loc, real(0.7)))
    after = kernel.log_prob(congruence(units, x), kernel.centered(congruence(units, loc), real(0.7)))
    close(after, before)


def test_divergences_of_coordinate_normals_equal_torch() -> None:
    pairs = [(i * torch.ones(3, dtype=F64), c) for i, c in enumerate((covariance(3, 0.5), covariance(3, 0.7) + 0.1))]
    p, q = (mf.distribution(PLANE, "normal", loc=loc, covariance_matrix=c) for loc, c in pairs)
    theirs = [torch.distributions.MultivariateNormal(loc, c) for loc, c in pairs]
    close(kl_divergence(p, q), kl_divergence(*theirs))
    close(p.entropy("lebesgue"), theirs[0].entropy())
    diagonal = mf.distribution(PLANE, "normal", loc=torch.zeros(3, dtype=F64), scale=real([0.3, 0.5, 2.0]))
    full = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), torch.diag(real([0.09, 0.25, 4.0])))
    close(kl_divergence(diagonal, q), kl_divergence(full, theirs[1]))
    close(kl_divergence(q, diagonal), kl_divergence(theirs[1], full))


def test_stein_loss_keeps_its_digits() -> None:
    mean = congruence(random_rotation(4, generator_for(0)), torch.diag(real([1e-6, 1e-3, 0.1, 1.0])))
    mean = (mean + mean.mT) / 2
    close(stein_loss(mean * (1 + 1e-6), mean, mean * 1e-6) / (2 * 1e-12), 1.0, 1e-5)  # p h^2 / 2
    one = real(1.0)
    third = exact_difference(one, real([[1.0]]), one / 3, real([[3.0]]))
    assert 0 < abs(float(third)) < 1e-16  # 1/3 is rounded


def test_digamma_differences() -> None:
    z = real([1e-6, 0.3, 2.0, 50.0])
    close(digamma_minus_log(z), torch.digamma(z) - z.log(), 1e-12)
    a = real([3.0]).requires_grad_()
    (slope,) = torch.autograd.grad(wishart_log_constant(2 * a, 4), a)
    close(slope, -multivariate_digamma_minus_log(a.detach(), 4))
    nodes, weights = gauss_legendre(20, a)
    close(weights @ nodes.exp(), math.e - 1 / math.e)


# measures


@pytest.mark.parametrize("p", [1, 2, 3, 5])
@pytest.mark.parametrize("metric", [SPD, SPD_LEM], ids=["AIM", "LEM"])
@pytest.mark.parametrize("kind", ["log_cholesky", "bures_wasserstein"])
def test_new_measures_are_jacobians(p: int, metric: geoopt.Manifold, kind: str) -> None:
    check_measure(metric, kind, random_points(metric, (p, p), 16, p), measure_coordinates(metric)[kind])


def bures(x: Tensor, y: Tensor) -> Tensor:
    """Squared Bures-Wasserstein distance."""
    root = torch.linalg.eigh(x)
    half = root.eigenvectors @ torch.diag(root.eigenvalues.sqrt()) @ root.eigenvectors.mT
    return x.trace() + y.trace() - 2 * torch.linalg.eigvalsh(congruence(half, y)).sqrt().sum()


def log_cholesky_distance(x: Tensor, y: Tensor) -> Tensor:
    a, b = torch.linalg.cholesky(x), torch.linalg.cholesky(y)
    return (a - b).tril(-1).square().sum() + (a.diagonal().log() - b.diagonal().log()).square().sum()


@pytest.mark.parametrize(("kind", "distance"), [("bures_wasserstein", bures), ("log_cholesky", log_cholesky_distance)])
def test_measures_are_volumes_of_their_distances(kind: str, distance: object) -> None:
    """The Gram matrix of the free entries from second differences of the squared distance."""
    x, entries, step = spd_matrix(3), [(i, j) for i in range(3) for j in range(i + 1)], 1e-3
    moves = []
    for i, j in entries:
        e = torch.zeros(3, 3, dtype=F64)
        e[i, j] = e[j, i] = 1.0
        moves.append(e)

    def squared(u: Tensor) -> Tensor:
        return (distance(x, x + step * u) + distance(x, x - step * u)) / (2 * step**2)  # type: ignore[operator]

    gram = torch.stack([torch.stack([(squared(u + v) - squared(u) - squared(v)) / 2 for v in moves]) for u in moves])
    ratio = mf.log_ratio(mf.Measure(SPD, kind), mf.Measure(SPD, "lebesgue"), x)
    close(torch.linalg.slogdet(gram).logabsdet / 2, ratio, 1e-4)


GEOMSTATS = """
import sys, numpy as np
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
x = np.load(sys.argv[1]); p = x.shape[-1]; metric = SPDBuresWassersteinMetric(SPDMatrices(n=p, equip=False)); basis = []
for i in range(p):
    for j in range(i + 1):
        e = np.zeros((p, p)); e[i, j] = e[j, i] = 1.0; basis.append(e)
gram = np.array([[metric.inner_product(a, b, base_point=x) for a in basis] for b in basis])
print(repr(float(np.linalg.slogdet(gram)[1] / 2)))
"""


def test_bures_wasserstein_measure_equals_geomstats(tmp_path: Path) -> None:
    pytest.importorskip("geomstats", reason="geomstats is not installed", exc_type=ImportError)
    np.save(tmp_path / "x.npy", spd_matrix(3).numpy())
    command = [sys.executable, "-c", GEOMSTATS, str(tmp_path / "x.npy")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ratio = mf.log_ratio(mf.Measure(SPD, "bures_wasserstein"), mf.Measure(SPD, "lebesgue"), spd_matrix(3))
    close(ratio, float(found.splitlines()[-1]))
