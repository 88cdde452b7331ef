"""The simplex and its laws against torch, scipy and closed forms."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from table.common import F64, real
from table.simplex import SIMPLEX, composition
from torch import Tensor
from torch.distributions import Dirichlet, LogisticNormal, MultivariateNormal, Normal

import mf_manifold as mf
from mf_manifold.testing.density import generator_for

ALPHA = real([0.7, 3.0, 12.0, 0.2])
X = real([0.1, 0.2, 0.65, 0.05])


def dirichlet(alpha: Tensor, measure: str = "lebesgue") -> mf.KernelDistribution:
    return mf.distribution(SIMPLEX, "dirichlet", concentration=alpha, measure=measure)


def test_dirichlet_is_torchs() -> None:
    ours, theirs = dirichlet(ALPHA), Dirichlet(ALPHA)
    torch.testing.assert_close(ours.log_prob(X), theirs.log_prob(X))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(
        ours.entropy("hausdorff"), theirs.entropy() + math.log(2), msg="sqrt K = 2 times Lebesgue measure"
    )
    other = real([5.0, 0.4, 2.0, 1.0])
    divergence = torch.distributions.kl_divergence(ours, dirichlet(other))
    torch.testing.assert_close(divergence, torch.distributions.kl_divergence(theirs, Dirichlet(other)))


def test_uniform_dirichlet_is_a_factorial() -> None:
    assert float(dirichlet(torch.ones(5, dtype=F64)).log_prob(composition(5)).exp()) == pytest.approx(24)


def test_dirichlet_keeps_digits_where_torch_loses_them() -> None:
    alpha, mean = real([2e8, 3e8, 5e8]), real([0.2, 0.3, 0.5])
    value = float(dirichlet(alpha.float()).log_prob(mean.float()))
    # at the mean: a normal law with covariance diag(m) - m m' over the total
    expected = -math.log(2 * math.pi) - 0.5 * math.log(0.2 * 0.3 * 0.5 / 1e9**2)
    assert abs(value - expected) < 1e-4
    assert abs(float(Dirichlet(alpha.float()).log_prob(mean.float())) - expected) > 1


def test_pairs_of_large_concentrations_keep_their_digits() -> None:
    w = {"concentration": 1e12 * real([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])}
    kernel = dirichlet(w["concentration"]).kernel
    x = kernel.rsample(w, (5,), generator_for(0)).flatten(0, 1)
    torch.testing.assert_close(kernel.pairwise_log_prob(x, w), kernel.log_prob(x.unsqueeze(1), w))


def test_narrow_bumps_next_to_a_corner_keep_their_location() -> None:
    corner = real([1 - 1e-12, 1e-12])
    w = mf.kernel_for(SIMPLEX, (2,), "dirichlet").centered(corner, real(0.01))
    assert float(w["concentration"].max()) <= 1e12
    torch.testing.assert_close(w["concentration"][1] - 0.5, corner[1] * w["concentration"][0], rtol=1e-6, atol=0.0)


def test_dirichlet_of_large_concentrations_has_its_entropy_and_divergence() -> None:
    alpha = 1e9 * real([0.2, 0.3, 0.5])
    law, other = dirichlet(alpha), dirichlet(alpha * (1 + 1e-4 * real([1.0, -1.0, 0.5])))
    normal = math.log(2 * math.pi * math.e) + 0.5 * math.log(0.2 * 0.3 * 0.5 / 1e9**2)
    assert float(law.entropy()) == pytest.approx(normal, abs=1e-7)
    shift = alpha / alpha.sum() - other.concentration / other.concentration.sum()
    by_means = 0.5 * 1e9 * float((shift.square() / real([0.2, 0.3, 0.5])).sum())
    assert float(torch.distributions.kl_divergence(law, other)) == pytest.approx(by_means, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_samples_of_tiny_concentrations_stay_positive(dtype: torch.dtype) -> None:
    alpha = torch.tensor([1e-3, 2e-3, 0.5], dtype=dtype)
    x = dirichlet(alpha).sample((4000,), generator=generator_for(0))
    assert bool((x > 0).all()) and x.dtype == dtype
    assert abs(float((x[:, 2] > 0.5).double().mean()) - 0.994) < 0.01


def test_logarithms_of_small_parts_have_their_moments() -> None:
    alpha = real([0.05, 0.3, 1.0])
    logs = dirichlet(alpha).sample((40000,), generator=generator_for(1)).log()
    expected = torch.digamma(alpha) - torch.digamma(alpha.sum())
    error = logs.std(0) / 200
    assert bool(((logs.mean(0) - expected).abs() < 5 * error).all())


def test_dirichlet_vanishes_at_the_boundary_with_a_finite_gradient() -> None:
    x = real([0.0, 0.4, 0.6]).requires_grad_()
    kernel = dirichlet(real([0.5, 2.0, 3.0])).kernel
    value = kernel.log_prob(x, {"concentration": real([0.5, 2.0, 3.0])})
    assert float(value.detach()) == -math.inf
    (slope,) = torch.autograd.grad(value, x)
    assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("alpha", [[0.05, 0.3], [1.0, 5.0, 30.0], [1e6, 3e6, 2e6, 4e6]])
def test_dirichlet_fit_is_a_stationary_point(alpha: list[float]) -> None:
    x = dirichlet(real(alpha)).sample((4000,), generator=generator_for(2))
    fitted = dirichlet(real(alpha)).fit(x).concentration.requires_grad_()
    (slope,) = torch.autograd.grad(dirichlet(fitted).log_prob(x).mean(), fitted)
    assert bool(((slope * fitted.detach()).abs() < 1e-6).all())
    assert bool((fitted / real(alpha) - 1).abs().max() < 0.15)


def test_fits_of_equal_points_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="points that differ"):
        mf.fit(SIMPLEX, "dirichlet", X.expand(5, 4))
    with pytest.raises(ValueError, match="spread in every direction of the 3 coordinates"):
        mf.fit(SIMPLEX, "logistic_normal", X.expand(5, 4))


def test_logistic_normal_is_the_additive_one_in_other_coordinates() -> None:
    loc, cov = composition(4), torch.diag(real([0.3, 0.5, 0.9])) + 0.1
    contrasts = mf.manifolds.simplex.helmert(4, loc)
    change = torch.cat([torch.eye(3, dtype=F64), -torch.ones(3, 1, dtype=F64)], dim=1) @ contrasts.mT  # alr of ilr
    additive = MultivariateNormal(change @ (contrasts @ loc.log()), change @ cov @ change.mT)
    alr = (X[:3] / X[3]).log()
    law = mf.distribution(SIMPLEX, loc=loc, covariance_matrix=cov, measure="lebesgue")
    torch.testing.assert_close(law.log_prob(X), additive.log_prob(alr) - X.log().sum())


def test_logistic_normal_of_two_parts_is_the_logit_normal() -> None:
    law = mf.distribution(SIMPLEX, loc=real([0.5, 0.5]), scale=0.8, measure="lebesgue")
    x = real([0.3, 0.7])
    logit = Normal(real(0.0), 0.8 * math.sqrt(2)).log_prob((x[0] / x[1]).log())
    torch.testing.assert_close(law.log_prob(x), logit - x.log().sum())


def test_torchs_logistic_normal_is_another_law() -> None:
    x = real([0.2, 0.3, 0.5])
    theirs = LogisticNormal(torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)).log_prob(x)
    ours = mf.distribution(SIMPLEX, loc=torch.full((3,), 1 / 3, dtype=F64), scale=1.0, measure="lebesgue").log_prob(x)
    assert abs(float(theirs - ours)) > 0.1


def test_fit_of_a_logistic_normal_is_the_moments_of_log_ratios() -> None:
    law = mf.distribution(SIMPLEX, loc=X, scale=real([0.3, 1.0, 2.0]))
    x = law.sample((20000,), generator=generator_for(3))
    fitted = law.fit(x)
    assert float((fitted.scale / law.scale - 1).abs().max()) < 0.03
    full = mf.fit(SIMPLEX, "logistic_normal", x, covariance="full")
    assert float(full.log_prob(x).mean()) >= float(fitted.log_prob(x).mean()) >= float(law.log_prob(x).mean())


def test_divergence_of_logistic_normals_is_that_of_the_normals() -> None:
    a = mf.distribution(SIMPLEX, loc=X, covariance_matrix=torch.diag(real([0.3, 0.5, 0.9])) + 0.1)
    b = mf.distribution(SIMPLEX, loc=composition(4), covariance_matrix=torch.diag(real([1.0, 0.2, 0.4])) + 0.05)
    normals = [MultivariateNormal(d.kernel.coordinates(d.loc), d.covariance_matrix) for d in (a, b)]
    torch.testing.assert_close(torch.distributions.kl_divergence(a, b), torch.distributions.kl_divergence(*normals))
    torch.testing.assert_close(a.entropy(), normals[0].entropy())


def test_points_off_the_simplex_are_named() -> None:
    law = dirichlet(ALPHA)
    with pytest.raises(ValueError, match="zero or negative"):
        law.log_prob(real([0.0, 0.5, 0.3, 0.2]))
    with pytest.raises(ValueError, match="sum to one"):
        law.log_prob(real([0.3, 0.5, 0.3, 0.2]))
    with pytest.raises(ValueError, match="concentration"):
        dirichlet(real([0.0, 1.0]))


def test_manifold_methods_agree_with_each_other() -> None:
    x, y = composition(5), composition(6)[:5] / composition(6)[:5].sum()
    u, v = (mf.geometry.from_coords(SIMPLEX, x, torch.randn(4, dtype=F64, generator=generator_for(s))) for s in (4, 5))
    torch.testing.assert_close(SIMPLEX.transp(x, y, u).sum(), real(0.0))
    torch.testing.assert_close(SIMPLEX.inner(y, SIMPLEX.transp(x, y, u), SIMPLEX.transp(x, y, v)), SIMPLEX.inner(x, u, v))
    slope = torch.randn(5, dtype=F64, generator=generator_for(6))
    torch.testing.assert_close(SIMPLEX.inner(x, SIMPLEX.egrad2rgrad(x, slope), v), (slope * v).sum())
    assert SIMPLEX.check_point_on_manifold(SIMPLEX.random(7, 5)) and SIMPLEX.check_point_on_manifold(SIMPLEX.origin(5))
    assert SIMPLEX.check_vector_on_tangent(x, SIMPLEX.proju(x, slope))
    assert not SIMPLEX.check_point_on_manifold(2 * x)


def test_optimiser_finds_a_mean_on_the_simplex() -> None:
    data = dirichlet(real([3.0, 4.0, 5.0])).sample((200,), generator=generator_for(7))
    point = geoopt.ManifoldParameter(torch.full((3,), 1 / 3, dtype=F64), manifold=SIMPLEX)
    optimiser = geoopt.optim.RiemannianSGD([point], lr=0.5)
    for _ in range(30):
        optimiser.zero_grad()
        (mf.geometry.dist(SIMPLEX, point, data).square().mean() / 2).backward()
        optimiser.step()
    torch.testing.assert_close(point.detach().as_subclass(Tensor), torch.softmax(data.log().mean(0), -1))
