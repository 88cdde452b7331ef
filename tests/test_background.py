"""Backgrounds of mixtures and batches of mixtures: exactness, sampling, devices of gradients."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from table.common import F64, SPD, SPHERE, TORUS, real
from torch import Tensor

import mf_manifold as mf
from mf_manifold.background import background_for
from mf_manifold.integral import total_mass
from mf_manifold.testing import check_distribution
from mf_manifold.testing.density import generator_for

SPACES = {
    "sphere": (SPHERE, (3,)),
    "torus": (TORUS, (2,)),
    "spd": (SPD, (2, 2)),
    "euclidean": (geoopt.Euclidean(ndim=1), (2,)),
    "lorentz": (geoopt.Lorentz(), (3,)),
    "product": (geoopt.ProductManifold((SPHERE, 3), (geoopt.Euclidean(ndim=1), 1)), (4,)),
}


def points(space: str, n: int = 60) -> Tensor:
    manifold, shape = SPACES[space]
    raw = torch.randn(n, mf.geometry.raw_dim(manifold, shape), generator=generator_for(n), dtype=F64)
    return mf.geometry.from_raw(manifold, 0.4 * raw, shape)


def covered(space: str, share: float = 0.3) -> mf.Mixture:
    manifold, shape = SPACES[space]
    x, kernel = points(space), mf.kernel_for(*SPACES[space])
    bumps = kernel.centered(x[:4], torch.full((4,), 0.5, dtype=F64))
    background = background_for(manifold, shape, x)
    return mf.Mixture(kernel, bumps, real([0.1, -0.4, 0.9, 0.0]), background=background, background_weight=share)


@pytest.mark.parametrize("space", ["sphere", "torus", "spd"])
def test_mass_with_a_background_is_one(space: str) -> None:
    mass = total_mass(covered(space))
    assert abs(mass.value - 1) < max(1e-6, 5 * mass.error)


def test_a_forgotten_share_of_the_components_is_seen() -> None:
    class Forgetful(mf.Mixture):
        def _with_background(self, log_q: Tensor, x: Tensor) -> Tensor:
            return torch.logaddexp(log_q, self.background.log_prob(x) + self.background_weight.log())

    mix = covered("sphere")
    wrong = Forgetful(mix.kernel, mix.params, background=mix.background, background_weight=0.3)
    assert abs(total_mass(wrong).value - 1) > 0.1


@pytest.mark.parametrize("space", SPACES)
def test_covered_mixtures_conform(space: str) -> None:
    check_distribution(covered(space))


@pytest.mark.parametrize("space", SPACES)
def test_far_points_have_a_finite_density_and_gradient(space: str) -> None:
    manifold, shape = SPACES[space]
    kernel, x = mf.kernel_for(manifold, shape), points(space)
    scale = torch.full((1,), 1e-4, dtype=F64, requires_grad=True)
    background = background_for(manifold, shape, x)
    mix = mf.Mixture(kernel, kernel.centered(x[:1], scale), background=background, background_weight=1e-4)
    log_q = mix.log_prob(x[1:])
    assert torch.isfinite(log_q).all()
    assert torch.isfinite(torch.autograd.grad(log_q.sum(), scale)[0]).all()


def test_background_errors() -> None:
    mix = covered("sphere")
    with pytest.raises(ValueError, match=r"background_weight in \[0, 1\)"):
        mf.Mixture(mix.kernel, mix.params, background=mix.background, background_weight=1.0)
    with pytest.raises(ValueError, match="background on Sphere"):
        mf.Mixture(mix.kernel, mix.params, background=covered("torus").background, background_weight=0.1)


def test_to_changes_every_tensor_of_a_mixture() -> None:
    mix = covered("spd").to(torch.float32)
    assert mix.log_prob(points("spd").float()).dtype == torch.float32
    assert mix.background_weight.dtype == torch.float32
    assert mix.background.params["loc"].dtype == torch.float32


def batch(log_weights: bool) -> mf.Mixture:
    kernel = mf.kernel_for(SPHERE, (3,))
    loc = torch.nn.functional.normalize(torch.randn(2, 5, 3, dtype=F64, generator=generator_for(0)), dim=-1)
    weights = torch.randn(2, 5, dtype=F64, generator=generator_for(1)) if log_weights else None
    return mf.Mixture(kernel, {"loc": loc, "concentration": torch.full((5,), 30.0, dtype=F64)}, weights)


@pytest.mark.parametrize("log_weights", [False, True])
def test_a_batch_of_mixtures_is_each_of_them(log_weights: bool) -> None:
    mix = batch(log_weights)
    x = mf.geometry.sample_uniform(SPHERE, (3,), (7, 2), dtype=F64, generator=generator_for(2))
    for b in range(2):
        weights = None if mix.log_weights is None else mix.log_weights[b]
        one = mf.Mixture(mix.kernel, {"loc": mix.params["loc"][b], "concentration": mix.params["concentration"]}, weights)
        torch.testing.assert_close(mix.log_prob(x)[:, b], one.log_prob(x[:, b]))
    assert mix.batch_shape == (2,)


def test_samples_of_a_batch_follow_their_own_mixture() -> None:
    mix = batch(True)
    x = mix.sample((20_000,), generator_for(3))
    assert x.shape == (20_000, 2, 3)
    coth = 1 / math.tanh(30.0) - 1 / 30.0
    wanted = coth * (mix.log_weights.exp().unsqueeze(-1) * mix.params["loc"]).sum(1)
    assert ((x.mean(0) - wanted).abs() < 5 * x.std(0) / math.sqrt(20_000)).all()
