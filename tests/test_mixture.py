"""Finite mixtures: exactness, sampling, weights, measures, intervals, errors."""

from __future__ import annotations

import copy
import math

import geoopt
import pytest
import torch
from table import CASES
from table.common import F64, SPD, SPHERE, TORUS, covariance, real
from torch import Tensor

import mf_manifold as mf
from mf_manifold.testing import ConformanceError, check_distribution
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.integrals import critical_z
from mf_manifold.testing.structure import batch_with

KERNELS = {type(case.kernel).__name__ + case.kernel.manifold.name: case for case in CASES if case.params}


def fisher(n: int, concentration: float = 20.0, dtype: torch.dtype = F64) -> dict[str, Tensor]:
    """Components on S^2."""
    loc = torch.randn(n, 3, dtype=dtype, generator=generator_for(n))
    return {"loc": loc / loc.norm(dim=-1, keepdim=True), "concentration": torch.full((n,), concentration, dtype=dtype)}


def mixture(n: int = 5, log_weights: Tensor | None = None, **options: object) -> mf.Mixture:
    return mf.Mixture(mf.kernel_for(SPHERE, (3,), "von_mises_fisher"), fisher(n), log_weights, **options)


WEIGHTS = real([0.3, -1.0, 2.0, 0.0, -3.0])


@pytest.mark.parametrize("measure", ["riemannian", "normalized"])
def test_mixture_on_the_sphere_conforms(measure: str) -> None:
    check_distribution(mixture(5, WEIGHTS, measure=measure))


def test_mixtures_elsewhere_conform() -> None:
    torus = mf.kernel_for(TORUS, (2,), covariance="full")
    params = {"loc": real([[0.0, 0.0], [3.0, 1.0]]), "covariance_matrix": torch.stack([covariance(2, 0.4), covariance(2, 1.0)])}
    check_distribution(mf.Mixture(torus, params, real([0.2, -0.4])))
    wishart = mf.kernel_for(SPD, (2, 2), "wishart")
    matrices = torch.stack([torch.eye(2, dtype=F64), real([[3.0, 1.0], [1.0, 2.0]])])
    check_distribution(mf.Mixture(wishart, {"df": real([8.0, 15.0]), "covariance_matrix": matrices / 10}, measure="lebesgue"))


def test_check_distribution_catches_forgotten_weights() -> None:
    class Forgetful(mf.Mixture):
        def sample(self, *args: object, **kwargs: object) -> Tensor:
            return mf.Mixture(self.kernel, self.params).sample(*args, **kwargs)

    with pytest.raises(ConformanceError, match=r"over samples.*by the density"):
        check_distribution(Forgetful(mf.kernel_for(SPHERE, (3,)), fisher(5), WEIGHTS))


@pytest.mark.parametrize("name", KERNELS)
def test_log_prob_is_the_weighted_sum(name: str) -> None:
    kernel = KERNELS[name].kernel
    w = batch_with(kernel, KERNELS[name].params, 5, 0)
    mix = mf.Mixture(kernel, w, WEIGHTS)
    x = mix.sample((2, 3), generator=generator_for(0))
    assert x.shape == (2, 3, *kernel.point_shape)
    each = mf.KernelDistribution(kernel, w).log_prob(x.unsqueeze(2))
    torch.testing.assert_close(mix.log_prob(x), (each + WEIGHTS.log_softmax(0)).logsumexp(-1))
    flat = x.flatten(0, 1)
    torch.testing.assert_close(mix.component_log_prob(flat), (each + WEIGHTS.log_softmax(0)).flatten(0, 1))


def test_equal_weights_and_their_order() -> None:
    x = fisher(9)["loc"]
    torch.testing.assert_close(mixture(5).log_prob(x), mixture(5, torch.full((5,), 7.0, dtype=F64)).log_prob(x))
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = mf.Mixture(mixture().kernel, {k: v[order] for k, v in fisher(5).items()}, WEIGHTS[order])
    torch.testing.assert_close(turned.log_prob(x), mixture(5, WEIGHTS).log_prob(x))


def test_shared_parameters_take_part_once() -> None:
    kernel, x = mf.kernel_for(SPHERE, (3,), "von_mises_fisher"), fisher(7)["loc"]
    for shared in (real(20.0), real([20.0])):
        mix = mf.Mixture(kernel, {"loc": fisher(5)["loc"], "concentration": shared})
        assert mix.n_components == 5
        torch.testing.assert_close(mix.log_prob(x), mixture(5).log_prob(x))
        assert mix.sample((4,)).shape == (4, 3)


def test_samples_follow_the_weights() -> None:
    narrow = mf.Mixture(mixture().kernel, fisher(5, 1e5), WEIGHTS)
    n = 20000
    x = narrow.sample((n,), generator=generator_for(1))
    counts = torch.bincount(narrow.component_log_prob(x).argmax(1), minlength=5).double()
    expected = n * WEIGHTS.softmax(0)
    z = (counts - expected) / (expected * (1 - WEIGHTS.softmax(0))).sqrt()
    assert float(z.abs().max()) < critical_z(5)
    assert torch.equal(x, narrow.sample((n,), generator=generator_for(1)))


def test_a_component_without_weight_is_never_drawn() -> None:
    weights = real([0.0, -math.inf, 0.0, 0.0, 0.0])
    mix = mf.Mixture(mixture().kernel, fisher(5, 1e5), weights)
    x = mix.sample((2000,), generator=generator_for(1))
    assert not bool((mf.geometry.dist(SPHERE, x, fisher(5)["loc"][1]) < 0.05).any())
    assert torch.isfinite(mix.log_prob(x)).all()


def test_gradients_reach_every_parameter() -> None:
    w = {name: value.requires_grad_() for name, value in fisher(5).items()}
    weights = WEIGHTS.clone().requires_grad_()
    mix = mf.Mixture(mixture().kernel, w, weights)
    mix.log_prob(fisher(9)["loc"]).sum().backward()
    assert all(bool(torch.isfinite(value.grad).all() and value.grad.any()) for value in (*w.values(), weights))
    assert not any(value.requires_grad for value in mix.detach().params.values())
    assert not mix.detach().log_weights.requires_grad and not mix.sample((2,)).requires_grad
    torch.testing.assert_close(mix.detach().log_prob(w["loc"].detach()), mix.log_prob(w["loc"]).detach())


def test_wider_dtype_wins() -> None:
    single = mf.Mixture(mixture().kernel, fisher(5, dtype=torch.float32))
    x = fisher(3)["loc"]
    assert single.log_prob(x).dtype == F64 and single.log_prob(x.float()).dtype == torch.float32
    assert mixture().log_prob(x.float()).dtype == F64
    assert single.sample((2,)).dtype == torch.float32


def test_interval_has_the_stated_form() -> None:
    x, mix = fisher(9)["loc"], mixture(200)
    found = mix.log_prob_interval(x, z=2.0)
    q = mf.KernelDistribution(mix.kernel, mix.params).log_prob(x.unsqueeze(1)).exp()
    exact = q.sum(1).square() / q.square().sum(1)
    torch.testing.assert_close(found.n_effective, exact)
    variance = 1 / exact - 1 / 200
    torch.testing.assert_close((found.upper - found.lower) / 4, variance.sqrt())
    torch.testing.assert_close((found.upper + found.lower) / 2, mix.log_prob(x) + variance / 2)
    assert torch.equal(found.trustworthy, exact >= 20)
    shifted = mixture(200, measure="normalized").log_prob_interval(x, z=2.0)
    torch.testing.assert_close(shifted.lower - found.lower, torch.full((9,), math.log(4 * math.pi), dtype=F64))


def test_interval_covers_the_infinite_mixture() -> None:
    # components drawn from a von Mises-Fisher law around the pole: the density there is an integral over them
    kernel, pole = mf.kernel_for(SPHERE, (3,), "von_mises_fisher"), real([0.0, 0.0, 1.0])
    a = b = 5.0
    radius = math.sqrt(a * a + b * b + 2 * a * b)
    log_c = [math.log(k / (4 * math.pi * math.sinh(k))) for k in (a, b, radius)]
    exact = log_c[0] + log_c[1] - log_c[2]
    prior, covered = mf.distribution(SPHERE, "von_mises_fisher", loc=pole, concentration=real(a)), 0
    for seed in range(400):
        loc = prior.sample((256,), generator=generator_for(seed))
        mix = mf.Mixture(kernel, {"loc": loc, "concentration": real(b)})
        found = mix.log_prob_interval(pole)
        covered += int(found.lower <= exact <= found.upper)
        assert found.trustworthy
    assert abs(covered - 380) / math.sqrt(400 * 0.95 * 0.05) < critical_z()


@pytest.mark.parametrize("backend", ["dense", "chunked"])
def test_backends_by_name(backend: str) -> None:
    x = fisher(9)["loc"]
    torch.testing.assert_close(mixture(5, WEIGHTS, backend=backend).log_prob(x), mixture(5, WEIGHTS).log_prob(x))


def test_errors() -> None:
    kernel, good = mixture().kernel, fisher(5)
    with pytest.raises(ValueError, match=r"one leading dimension of components, got batch \(\)"):
        mf.Mixture(kernel, {"loc": good["loc"][0], "concentration": real(1.0)})
    with pytest.raises(ValueError, match=r"parameters loc, concentration .*got loc"):
        mf.Mixture(kernel, {"loc": good["loc"]})
    with pytest.raises(ValueError, match=r"batch shapes broadcast.*'concentration': \(2,\)"):
        mf.Mixture(kernel, {**good, "concentration": real([1.0, 2.0])})
    with pytest.raises(ValueError, match=r"Expected loc .*5 of 5 rows are off it"):
        mf.Mixture(kernel, {**good, "loc": 2 * good["loc"]})
    with pytest.raises(ValueError, match=r"concentration .*5 of 5 values do not"):
        mf.Mixture(kernel, {**good, "concentration": -good["concentration"]})
    with pytest.raises(ValueError, match=r"log_weights of shape \(5,\), got \(4,\)"):
        mf.Mixture(kernel, good, torch.zeros(4, dtype=F64))
    x = good["loc"].clone()
    x[2, 0] = math.nan
    with pytest.raises(ValueError, match=r"1 of 5 rows have NaN.*first row 2"):
        mixture().log_prob(x)
    with pytest.raises(ValueError, match="one of riemannian, normalized; got 'lebesgue'"):
        mixture(5, measure="lebesgue")
    with pytest.raises(ValueError, match="Unknown backend 'gpu'"):
        mixture(5, backend="gpu").log_prob(good["loc"])


def test_validation_can_be_switched_off_and_copies_agree() -> None:
    off = 2 * fisher(5)["loc"]
    assert mixture(5, validate_args=False).log_prob(off).shape == (5,)
    x = fisher(9)["loc"]
    torch.testing.assert_close(copy.deepcopy(mixture(5, WEIGHTS)).log_prob(x), mixture(5, WEIGHTS).log_prob(x))
    assert repr(mixture()) == "Mixture(5 x von_mises_fisher; riemannian measure on Sphere)"
    product = geoopt.ProductManifold((SPHERE, 3), (TORUS, 1))
    angles = {"loc_1": torch.zeros(2, 1, dtype=F64), "scale_1": torch.ones(2, 1, dtype=F64)}
    params = {"loc_0": fisher(2)["loc"], "concentration_0": real([1.0, 2.0]), **angles}
    assert mf.Mixture(mf.kernel_for(product, (4,)), params).sample((3,)).shape == (3, 4)
