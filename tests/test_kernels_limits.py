"""Kernels in their limits, against one another, and in float32 against float64."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from table.common import F64, SPD, SPD_LEM, SPHERE, TORUS, covariance, real, spd_matrix, unit_vector
from test_kernels_oracles import close
from torch import Tensor

import mf_manifold as mf
from mf_manifold.testing.density import exp_coords, generator_for
from mf_manifold.testing.manifold import random_points
from mf_manifold.testing.rules import graded_nodes

G = mf.geometry


def _float32_error(params: dict[str, Tensor], name: str, manifold: geoopt.Manifold, x: Tensor) -> float:
    narrow = {key: value.float() for key, value in params.items()}
    wide = {key: value.double() for key, value in narrow.items()}
    single = mf.distribution(manifold, name, **narrow).log_prob(x.float())
    double = mf.distribution(manifold, name, **wide, validate_args=False).log_prob(x.float().double())
    return float((single.double() - double).abs().max())


@pytest.mark.parametrize("size", [2, 3, 4, 16])
@pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.1, 1.0])
def test_float32_on_the_sphere(size: int, scale: float) -> None:
    loc = unit_vector(size)
    # from a thousandth of the scale on: at loc itself a wide density is unbounded, and each dtype stops at its own eps
    radii = scale * torch.linspace(1e-3, 5, 40, dtype=F64).clamp_max(3.0 / scale)
    v = torch.nn.functional.normalize(torch.randn(40, size - 1, dtype=F64, generator=generator_for(1)), dim=-1)
    x = exp_coords(SPHERE, loc, radii.unsqueeze(-1) * v)
    assert _float32_error({"loc": loc, "scale": real(scale)}, "wrapped_normal", SPHERE, x) <= 1e-4
    assert _float32_error({"loc": loc, "concentration": real(scale**-2)}, "von_mises_fisher", SPHERE, x) <= 1e-4
    full = {"loc": loc, "covariance_matrix": covariance(size, scale)}
    assert _float32_error(full, "wrapped_normal", SPHERE, x) <= 1e-4


def test_geoopts_distance_would_not_do() -> None:
    x = unit_vector(3).float()
    assert float(geoopt.Sphere().dist(x, x)) > 0.01
    assert float(G.dist(SPHERE, x, x)) == 0.0


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
def test_float32_on_ill_conditioned_matrices(condition: float) -> None:
    values = torch.logspace(0, math.log10(condition), 3, dtype=F64)
    frame = torch.linalg.qr(torch.randn(3, 3, dtype=F64, generator=generator_for(5))).Q
    loc = frame @ torch.diag(values) @ frame.mT
    x = mf.distribution(SPD, "log_normal", loc=loc, scale=real([0.2])).sample((64,), generator=generator_for(6))
    wishart = {"df": real(20.0), "covariance_matrix": loc / 20}
    for manifold in (SPD, SPD_LEM):
        assert _float32_error({"loc": loc, "scale": real([0.2])}, "log_normal", manifold, x) <= 1e-4
        assert _float32_error(wishart, "wishart", manifold, x) <= 1e-4


@pytest.mark.parametrize("size", [2, 3, 16])
def test_no_concentration_is_uniform(size: int) -> None:
    x, loc = random_points(SPHERE, (size,), 10, 0), unit_vector(size)
    for kappa in (0.0, 1e-12):
        log_q = mf.distribution(SPHERE, "von_mises_fisher", loc=loc, concentration=real(kappa)).log_prob(x)
        close(log_q, torch.full((10,), -G.log_volume(SPHERE, (size,)), dtype=F64))


def test_narrow_laws_on_the_sphere_agree() -> None:
    # Kullback-Leibler divergence of 1e-5 at scale 0.1 on S^2, and a hundred times less at 0.03
    for scale, low, high in ((0.1, 5e-6, 2e-5), (0.03, 5e-8, 2e-7)):
        loc = unit_vector(3)
        wrapped = mf.distribution(SPHERE, "wrapped_normal", loc=loc, scale=real(scale))
        fisher = mf.distribution(SPHERE, "von_mises_fisher", loc=loc, concentration=real(scale**-2))
        theta, weights = graded_nodes(1.5, 20, 20)
        x = exp_coords(SPHERE, loc, torch.stack([theta, torch.zeros_like(theta)], dim=-1))
        p, q = wrapped.log_prob(x), fisher.log_prob(x)
        divergence = float((2 * math.pi * theta.sin() * weights * p.exp() * (p - q)).sum())
        assert low < divergence < high


@pytest.mark.parametrize("p", [1, 2, 3])
def test_wishart_of_many_degrees_of_freedom_is_normal(p: int) -> None:
    # both laws have standard deviation sqrt(2 / df) by the affine-invariant metric
    df, eye, dim = 1e8, torch.eye(p, dtype=F64), p * (p + 1) // 2
    scale = math.sqrt(2 / df)
    wishart = mf.distribution(SPD, "wishart", df=real(df), covariance_matrix=eye / df)
    normal = mf.distribution(SPD, "log_normal", loc=eye, scale=real([scale]))
    x = exp_coords(SPD, eye, scale * torch.randn(50, dim, dtype=F64, generator=generator_for(0)))
    close(wishart.log_prob(x), normal.log_prob(x), 2e-3)


def test_wishart_mode_is_its_mean_by_the_invariant_volume() -> None:
    x = spd_matrix(3).requires_grad_()
    dist = mf.distribution(SPD, "wishart", df=real(9.0), covariance_matrix=x.detach() / 9)
    (slope,) = torch.autograd.grad(dist.log_prob(x), x)
    assert float(slope.abs().max()) < 1e-12
    (slope,) = torch.autograd.grad(dist.log_prob(x, measure="lebesgue"), x)
    torch.testing.assert_close(slope, -2 * torch.linalg.inv(x.detach()))  # the textbook's mode is (df - p - 1) V


def test_series_too_long_is_an_error() -> None:
    x, cov = torch.zeros(8, dtype=F64), 9.0 * torch.eye(8, dtype=F64)
    torus = mf.distribution(TORUS, "wrapped_normal", loc=x, covariance_matrix=cov)
    with pytest.raises(ValueError, match=r"at most 100000 terms, got \d+ in 8 dimensions.*scale="):
        torus.log_prob(x)
    sphere = mf.distribution(SPHERE, "wrapped_normal", loc=unit_vector(3), scale=real(21.0))
    with pytest.raises(ValueError, match=r"scales up to 20\.0 radians"):
        sphere.log_prob(unit_vector(3))
