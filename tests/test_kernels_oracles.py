"""Kernels against independent implementations (scipy, mpmath), closed-form moments, limits, and float32 against float64."""

from __future__ import annotations

import itertools
import math

import geoopt
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from table.common import F64, PLANE, SPD, SPD_LEM, SPHERE, TORUS, covariance, real, spd_matrix, unit_vector
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernels.sphere_wrapped_normal import windings
from mf_manifold.numerics.linalg import svec, sym_logm
from mf_manifold.testing.density import exp_coords, generator_for
from mf_manifold.testing.manifold import random_points
from mf_manifold.testing.rules import graded_nodes

G = mf.geometry


def close(value: Tensor, expected: np.ndarray | Tensor, tolerance: float = 1e-10) -> None:
    """Agreement to `tolerance`, relative to max(1, |expected|)."""
    expected = torch.as_tensor(expected, dtype=F64).reshape(value.shape)
    error = ((value - expected).abs() / expected.abs().clamp_min(1)).max()
    assert float(error) <= tolerance, f"off by {float(error):.2e}"


@pytest.mark.parametrize("p", [1, 2, 3, 5])
@pytest.mark.parametrize("excess", [1e-3, 0.5, 1.0, 7.3, 1e3])
def test_wishart_is_scipys(p: int, excess: float) -> None:
    df, scale = p - 1 + excess, spd_matrix(p)
    x = df * random_points(SPD, (p, p), 20, p)
    dist = mf.distribution(SPD, "wishart", df=real(df), covariance_matrix=scale, measure="lebesgue")
    expected = scipy.stats.wishart(df, scale.numpy()).logpdf(np.moveaxis(x.numpy(), 0, -1))
    close(dist.log_prob(x), expected)


def test_wishart_of_numbers_is_gamma_and_log_normal_is_lognorm() -> None:
    x = torch.linspace(0.1, 6, 30, dtype=F64)
    wishart = mf.distribution(SPD, "wishart", df=real(3.7), covariance_matrix=real([[0.6]]), measure="lebesgue")
    close(wishart.log_prob(x[:, None, None]), scipy.stats.gamma(3.7 / 2, scale=1.2).logpdf(x.numpy()))
    normal = mf.distribution(SPD, "log_normal", loc=real([[2.0]]), scale=real([0.7]), measure="lebesgue")
    close(normal.log_prob(x[:, None, None]), scipy.stats.lognorm(0.7, scale=2.0).logpdf(x.numpy()))


@pytest.mark.parametrize("size", [2, 3, 4, 16])
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 50.0, 1e4, 1e6])
def test_von_mises_fisher_is_scipys(size: int, kappa: float) -> None:
    loc = unit_vector(size)
    dist = mf.distribution(SPHERE, "von_mises_fisher", loc=loc, concentration=real(kappa))
    x = torch.cat([dist.sample((20,), generator=generator_for(0)), loc[None], -loc[None]])
    expected = scipy.stats.vonmises_fisher(loc.numpy(), kappa).logpdf(x.numpy())
    # scipy multiplies kappa x.loc out and so loses kappa eps
    close(dist.log_prob(x), expected, 1e-10 + 4e-16 * kappa)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_normal_is_scipys(size: int) -> None:
    loc, cov = torch.linspace(-1, 2, size, dtype=F64), covariance(size, 1.7)
    x = torch.randn(30, size, dtype=F64, generator=generator_for(0)) * 3
    full = mf.distribution(PLANE, "normal", loc=loc, covariance_matrix=cov)
    close(full.log_prob(x), scipy.stats.multivariate_normal(loc.numpy(), cov.numpy()).logpdf(x.numpy()))
    scale = torch.linspace(0.5, 2.0, size, dtype=F64)
    diagonal = mf.distribution(PLANE, "normal", loc=loc, scale=scale)
    expected = scipy.stats.multivariate_normal(loc.numpy(), np.diag(scale.numpy() ** 2)).logpdf(x.numpy())
    close(diagonal.log_prob(x), expected)


@pytest.mark.parametrize("p", [1, 2, 3, 5])
@pytest.mark.parametrize("metric", [SPD, SPD_LEM], ids=["AIM", "LEM"])
def test_log_normal_is_a_normal_of_the_logarithm(p: int, metric: geoopt.Manifold) -> None:
    dim, loc = p * (p + 1) // 2, spd_matrix(p)
    x, cov = random_points(metric, (p, p), 20, p), covariance(dim, 0.5)
    dist = mf.distribution(metric, "log_normal", loc=loc, covariance_matrix=cov, measure="log_euclidean")
    mean, values = svec(sym_logm(loc)).numpy(), svec(sym_logm(x)).numpy()
    close(dist.log_prob(x), scipy.stats.multivariate_normal(mean, cov.numpy()).logpdf(values))


def _mp_wrapped(theta: float, scale: float, dim: int) -> float:
    """sum_k N((theta + 2 pi k) u; 0, scale^2) |(theta + 2 pi k) / sin theta|^(dim - 1) with 40 digits."""
    with mpmath.workdps(40):
        t, s, total = mpmath.mpf(theta), mpmath.mpf(scale), mpmath.mpf(0)
        for k in range(-40, 41):
            r = t + 2 * mpmath.pi * k
            total += mpmath.exp(-r * r / (2 * s * s)) * abs(r / mpmath.sin(t)) ** (dim - 1)
        return float(mpmath.log(total) - dim * mpmath.log(s * mpmath.sqrt(2 * mpmath.pi)))


@pytest.mark.parametrize("dim", [1, 2, 3, 9])
@pytest.mark.parametrize("scale", [1e-3, 0.05, 0.5, 1.5, 5.0, 20.0])
def test_wrapped_normal_on_the_sphere_is_the_sum_of_all_windings(dim: int, scale: float) -> None:
    angles = [1e-6, 1e-3, 0.1, 1.0, 2.5, math.pi - 0.1, math.pi - 1e-3]
    loc, v = unit_vector(dim + 1), torch.nn.functional.normalize(torch.ones(dim, dtype=F64), dim=0)
    x = exp_coords(SPHERE, loc, real(angles).unsqueeze(-1) * v)
    exact = G.dist(SPHERE, loc, x)
    expected = [_mp_wrapped(float(theta), scale, dim) for theta in exact]
    close(mf.distribution(SPHERE, "wrapped_normal", loc=loc, scale=real(scale)).log_prob(x), real(expected))
    if scale <= 5:  # 20 radians are the limit for the root of a covariance's trace
        full = mf.distribution(SPHERE, "wrapped_normal", loc=loc, covariance_matrix=scale**2 * torch.eye(dim + 1, dtype=F64))
        close(full.log_prob(x), real(expected))


def _mp_torus(delta: list[float], cov: Tensor, reach: int) -> float:
    """Lattice sum of a wrapped normal on T^2 with 30 digits."""
    with mpmath.workdps(30):
        precision = mpmath.matrix(cov.tolist()) ** -1
        total = mpmath.mpf(0)
        for turns in itertools.product(range(-reach, reach + 1), repeat=2):
            v = mpmath.matrix([d + 2 * mpmath.pi * k for d, k in zip(delta, turns, strict=True)])
            total += mpmath.exp(-(v.T * precision * v)[0] / 2)
        return float(mpmath.log(total) - mpmath.log(2 * mpmath.pi) - mpmath.log(mpmath.det(mpmath.matrix(cov.tolist()))) / 2)


@pytest.mark.parametrize("scale", [0.1, 0.7, 2.0, 5.0])
@pytest.mark.parametrize("correlation", [0.0, 0.5, -0.95, 0.999])
def test_wrapped_normal_on_the_torus_is_the_lattice_sum(scale: float, correlation: float) -> None:
    cov = scale**2 * real([[1.0, 1.4 * correlation], [1.4 * correlation, 1.96]])
    loc, deltas = real([3.0, -1.0]), [[0.0, 0.0], [0.2, -0.1], [3.1, 3.1], [-3.0, 3.0], [1.5, -2.5]]
    dist = mf.distribution(TORUS, "wrapped_normal", loc=loc, covariance_matrix=cov)
    value = dist.log_prob(G.project(TORUS, loc + real(deltas)))
    close(value, real([_mp_torus(delta, cov, 14) for delta in deltas]))


def test_torus_log_prob_does_not_depend_on_the_rest_of_the_batch() -> None:
    narrow, wide = 1e-3 * real([[1.0, 0.95], [0.95, 1.0]]), 3.0 * torch.eye(2, dtype=F64)
    kernel = mf.kernel_for(TORUS, (2,), covariance="full")
    x, loc = real([[2.0, -3.0], [0.1, 0.1]]).unsqueeze(1), torch.zeros(2, 2, dtype=F64)
    together = kernel.log_prob(x, {"loc": loc, "covariance_matrix": torch.stack([narrow, wide])})
    for j, cov in enumerate((narrow, wide)):
        close(together[:, j], kernel.log_prob(x[:, 0], {"loc": loc[0], "covariance_matrix": cov}), 1e-13)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_circles_are_one_torus_and_one_sphere(scale: float) -> None:
    angle, loc = torch.linspace(-3.1, 3.1, 50, dtype=F64), real(0.7)
    on_sphere, center = torch.stack([angle.cos(), angle.sin()], -1), torch.stack([loc.cos(), loc.sin()])
    torus = mf.distribution(TORUS, "wrapped_normal", loc=loc.reshape(1), scale=real([scale])).log_prob(angle[:, None])
    close(mf.distribution(SPHERE, "wrapped_normal", loc=center, scale=real(scale)).log_prob(on_sphere), torus)
    full = mf.distribution(TORUS, "wrapped_normal", loc=loc.reshape(1), covariance_matrix=real([[scale**2]]))
    close(full.log_prob(angle[:, None]), torus)
    fisher = mf.distribution(SPHERE, "von_mises_fisher", loc=center, concentration=real(scale))
    close(fisher.log_prob(on_sphere), scipy.stats.vonmises(scale, 0.7).logpdf(angle.numpy()))


@pytest.mark.parametrize("scale", [0.3, 2.0, 3.0])
def test_full_covariances_contain_the_diagonal_ones(scale: float) -> None:
    loc, spread = real([1.0, -2.0, 0.5]), scale * real([0.8, 1.0, 1.3])
    x = random_points(TORUS, (3,), 30, 0)
    diagonal = mf.distribution(TORUS, "wrapped_normal", loc=loc, scale=spread).log_prob(x)
    full = mf.distribution(TORUS, "wrapped_normal", loc=loc, covariance_matrix=torch.diag(spread.square())).log_prob(x)
    close(full, diagonal)


def test_sphere_ignores_the_covariance_along_loc() -> None:
    loc, cov = unit_vector(4), covariance(4, 0.4)
    x = random_points(SPHERE, (4,), 30, 0)
    projector = torch.eye(4, dtype=F64) - torch.outer(loc, loc)
    changed = projector @ cov @ projector + 5.0 * torch.outer(loc, loc)
    values = [mf.distribution(SPHERE, "wrapped_normal", loc=loc, covariance_matrix=c).log_prob(x) for c in (cov, changed)]
    close(values[0], values[1], 1e-9)


@pytest.mark.parametrize("dim", [1, 2, 3, 10])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_wrapped_normal_mean_resultant(dim: int, scale: float) -> None:
    # E X = loc 1F1(d / 2; 1 / 2; -s^2 / 2), by quadrature in the angle
    tau, weights = graded_nodes(math.pi / 2, 30, 24)
    theta, weights = torch.cat([tau, math.pi - tau]), torch.cat([weights, weights])
    loc = unit_vector(dim + 1)
    v = torch.nn.functional.normalize(torch.ones(dim, dtype=F64), dim=0)
    dist = mf.distribution(SPHERE, "wrapped_normal", loc=loc, scale=real(scale))
    log_q = dist.log_prob(exp_coords(SPHERE, loc, theta[:, None] * v))
    area = math.exp(G.log_volume(SPHERE, (dim,))) if dim > 1 else 2.0
    mean = float((weights * area * theta.sin() ** (dim - 1) * log_q.exp() * theta.cos()).sum())
    assert math.isclose(mean, float(scipy.special.hyp1f1(dim / 2, 0.5, -(scale**2) / 2)), rel_tol=0, abs_tol=1e-9)


@pytest.mark.parametrize(("scale", "dim"), [(0.1, 1), (0.5, 2), (1.0, 2), (2.0, 9), (5.0, 3), (20.0, 2)])
def test_windings_left_out_carry_no_mass(scale: float, dim: int) -> None:
    for dtype in (torch.float32, torch.float64):
        last = windings(scale, dim, dtype)
        missing = scipy.special.gammaincc(dim / 2, ((2 * last + 2) * math.pi) ** 2 / (2 * scale**2))
        assert missing <= torch.finfo(dtype).eps


@pytest.mark.parametrize("df", [1.05, 1.5, 2.5, 7.5, 200.0])
def test_wishart_integrates_to_one_over_eigenvalues(df: float) -> None:
    # with the identity as scale the density depends on the eigenvalues e^(a + h), e^(a - h) alone, and
    # d vol = 4 sqrt 2 pi sinh(h) da dh after the integral over the angle of the eigenvectors
    scale = torch.eye(2, dtype=F64) / df
    dist = mf.distribution(SPD, "wishart", df=real(df), covariance_matrix=scale, validate_args=False)
    h, h_weights = graded_nodes(min(max(17.0 / (df - 1), 12.0), 340.0), 24, 20)
    half, half_weights = graded_nodes(25.0, 24, 20)
    top, top_weights = torch.cat([-half, half[half < 6]]), torch.cat([half_weights, half_weights[half < 6]])
    larger, smaller = torch.broadcast_tensors(top[:, None], top[:, None] - 2 * h)
    log_q = dist.log_prob(torch.diag_embed(torch.stack([larger.exp(), smaller.exp()], dim=-1)).flatten(0, 1))
    log_volume = math.log(4 * math.sqrt(2) * math.pi) + h + torch.log1p(-torch.exp(-2 * h)) - math.log(2)
    total = (log_q.reshape(larger.shape) + log_volume).exp() * top_weights[:, None] * h_weights
    assert math.isclose(float(total.sum()), 1.0, rel_tol=0, abs_tol=1e-6)
