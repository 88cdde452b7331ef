"""Correlation matrices and their laws against torch and closed forms."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from table.common import F64, real
from table.correlation import CORRELATION, correlation_matrix
from torch import Tensor
from torch.distributions import LKJCholesky

import mf_manifold as mf
from mf_manifold.testing.density import generator_for


def lkj(p: int, eta: float | Tensor, measure: str = "lebesgue") -> mf.KernelDistribution:
    eta = eta if isinstance(eta, Tensor) else real(eta)
    return mf.distribution(CORRELATION, "lkj", point_shape=(p, p), concentration=eta, measure=measure)


@pytest.mark.parametrize("p", [2, 3, 6])
@pytest.mark.parametrize("eta", [0.6, 1.0, 20.0])
def test_lkj_is_torchs_law_of_the_factor(p: int, eta: float) -> None:
    x = correlation_matrix(p)
    factor = torch.linalg.cholesky(x)
    powers = p - torch.arange(1, p + 1, dtype=F64)
    jacobian = (powers * factor.diagonal().log())[1:].sum()  # dX = prod_{i >= 2} L_ii^(p - i) dL, i from 1
    theirs = LKJCholesky(p, real(eta)).log_prob(factor) - jacobian
    torch.testing.assert_close(lkj(p, eta).log_prob(x), theirs)


def test_uniform_lkj_is_one_over_the_volume() -> None:
    assert float(lkj(3, 1.0).log_prob(correlation_matrix(3)).exp()) == pytest.approx(2 / math.pi**2)
    assert float(lkj(3, 1.0).entropy("lebesgue")) == pytest.approx(math.log(math.pi**2 / 2))


def test_lkj_does_not_depend_on_the_order_of_variables() -> None:
    x, order = correlation_matrix(6), torch.tensor([3, 0, 5, 1, 4, 2])
    law = lkj(6, 3.0)
    torch.testing.assert_close(law.log_prob(x[order][:, order]), law.log_prob(x))
    draws = law.sample((20000,), generator=generator_for(0))
    # every entry is Beta(eta - 1 + p / 2) on (-1, 1): its variance is 1 / (2 eta + p - 1)
    rows, columns = torch.tril_indices(6, 6, -1)
    second = draws[:, rows, columns].square().mean(0)
    assert float((second * 11 - 1).abs().max()) < 0.05


def test_narrow_lkj_is_a_normal_law() -> None:
    eta, entries = 9e7, 3
    law = lkj(3, eta)
    expected = entries * 0.5 * math.log(2 * math.pi * math.e / (2 * eta))
    assert float(law.entropy("lebesgue")) == pytest.approx(expected, abs=1e-6)
    other = lkj(3, 1.1 * eta)
    by_normals = entries * 0.5 * (1.1 - 1 - math.log(1.1))
    assert float(torch.distributions.kl_divergence(law, other)) == pytest.approx(by_normals, abs=1e-6)


@pytest.mark.parametrize("eta", [0.7, 4.0, 1e5])
def test_lkj_fit_is_a_stationary_point(eta: float) -> None:
    x = lkj(4, eta).sample((4000,), generator=generator_for(1))
    fitted = lkj(4, eta).fit(x).concentration.requires_grad_()
    (slope,) = torch.autograd.grad(lkj(4, fitted).log_prob(x).mean(), fitted)
    assert abs(float(slope * fitted)) < 1e-7
    assert abs(float(fitted) / eta - 1) < 0.1


def test_lkj_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="point_shape="):
        mf.distribution(CORRELATION, "lkj", concentration=1.0)
    with pytest.raises(ValueError, match="concentration"):
        lkj(3, 0.0)
    torch.testing.assert_close(lkj(3, 2.0).mean, torch.eye(3, dtype=F64))


@pytest.mark.parametrize("eta", [0.1, 0.01])
def test_lkj_of_small_concentrations_has_a_density_and_says_that_it_has_no_samples(eta: float) -> None:
    law = lkj(2, eta)
    r = real(0.3)
    x = torch.stack([torch.stack([real(1.0), r]), torch.stack([r, real(1.0)])])
    beta = torch.distributions.Beta(real(eta), real(eta))
    torch.testing.assert_close(law.log_prob(x), beta.log_prob((1 + r) / 2) - math.log(2))
    with pytest.raises(ValueError, match="singular to rounding"):
        law.sample()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_wide_samples_and_far_locations_have_full_rank(dtype: torch.dtype) -> None:
    law = mf.distribution(CORRELATION, loc=torch.eye(6, dtype=dtype), scale=5.0)
    x = law.sample((500,), generator=generator_for(0))
    far = mf.geometry.from_raw(CORRELATION, torch.full((15,), 40.0, dtype=dtype), (6, 6))
    assert x.dtype == far.dtype == dtype
    for points in (x, far, lkj(6, real(0.5).to(dtype)).sample((2000,), generator=generator_for(1))):
        assert bool(torch.isfinite(law.log_prob(points)).all())


def test_singular_matrices_have_no_density() -> None:
    x = torch.ones(2, 2, dtype=F64).requires_grad_()
    value = lkj(2, 2.0).kernel.log_prob(x, {"concentration": real(2.0)})
    assert float(value.detach()) == -math.inf
    normal = mf.kernel_for(CORRELATION, (2, 2))
    w = {"loc": torch.eye(2, dtype=F64), "scale": real([1.0])}
    assert float(normal.log_prob(x.detach(), w)) == -math.inf
    assert bool(torch.isfinite(torch.autograd.grad(value, x)[0]).all())
    with pytest.raises(ValueError, match="not positive definite"):
        lkj(2, 2.0).log_prob(x.detach())
    with pytest.raises(ValueError, match="diagonal entries"):
        lkj(2, 2.0).log_prob(2 * torch.eye(2, dtype=F64))


def test_two_variables_are_fishers_z() -> None:
    loc, x = (torch.tensor([[1.0, r], [r, 1.0]], dtype=F64) for r in (0.5, -0.8))
    law = mf.distribution(CORRELATION, loc=loc, scale=0.7, measure="lebesgue")
    z = torch.distributions.Normal(math.atanh(0.5), 0.7).log_prob(real(math.atanh(-0.8)))
    torch.testing.assert_close(law.log_prob(x), z - math.log(1 - 0.64))


def test_coordinates_survive_nearly_singular_matrices() -> None:
    z = real([9.0, -8.0, 4.0])
    x = mf.geometry.from_raw(CORRELATION, z, (3, 3))
    assert float((mf.geometry.to_raw(CORRELATION, x) - z).abs().max()) < 1e-6  # the matrix holds no more digits


def test_fit_recovers_the_normal_law() -> None:
    law = mf.distribution(CORRELATION, loc=correlation_matrix(3), scale=real([0.1, 0.5, 1.0]))
    x = law.sample((20000,), generator=generator_for(2))
    fitted = law.fit(x)
    assert float((fitted.scale / law.scale - 1).abs().max()) < 0.03
    assert float(mf.geometry.dist(CORRELATION, fitted.loc, law.loc)) < 0.02
    with pytest.raises(ValueError, match="spread in every direction of the 3 coordinates"):
        law.fit(x[:1])


def test_manifold_methods_agree_with_each_other() -> None:
    x, y = correlation_matrix(3), correlation_matrix(4)[:3, :3]
    u, v = (mf.geometry.from_coords(CORRELATION, x, torch.randn(3, dtype=F64, generator=generator_for(s))) for s in (4, 5))
    moved = [CORRELATION.transp(x, y, t) for t in (u, v)]
    torch.testing.assert_close(CORRELATION.inner(y, *moved), CORRELATION.inner(x, u, v))
    slope = torch.randn(3, 3, dtype=F64, generator=generator_for(6))
    torch.testing.assert_close(CORRELATION.inner(x, CORRELATION.egrad2rgrad(x, slope), v), (slope * v).sum())
    assert CORRELATION.check_point_on_manifold(CORRELATION.random(7, 4, 4).double())
    assert CORRELATION.check_point_on_manifold(CORRELATION.origin(2, 5, 5))
    assert CORRELATION.check_vector_on_tangent(x, CORRELATION.proju(x, slope))
    assert not CORRELATION.check_point_on_manifold(2 * x)


def test_optimiser_finds_a_mean_of_correlations() -> None:
    data = mf.distribution(CORRELATION, loc=correlation_matrix(3), scale=0.4).sample((50,), generator=generator_for(7))
    point = geoopt.ManifoldParameter(torch.eye(3, dtype=F64), manifold=CORRELATION)
    optimiser = geoopt.optim.RiemannianSGD([point], lr=0.5)
    for _ in range(40):
        optimiser.zero_grad()
        (mf.geometry.dist(CORRELATION, point, data).square().mean() / 2).backward()
        optimiser.step()
    middle = mf.geometry.to_raw(CORRELATION, data).mean(0)
    torch.testing.assert_close(mf.geometry.to_raw(CORRELATION, point.detach().as_subclass(Tensor)), middle)
