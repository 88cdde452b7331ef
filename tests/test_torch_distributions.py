"""Distributions of this library inside those of torch."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from table.common import F64, SPD, SPHERE, TORUS, real, spd_matrix, unit_vector
from torch.distributions import Categorical, Independent, MixtureSameFamily, kl_divergence

import mf_manifold as mf
from mf_manifold.testing.density import generator_for

LOCS = torch.eye(3, dtype=F64)
FAMILIES = {
    "sphere": mf.distribution(SPHERE, "von_mises_fisher", loc=LOCS, concentration=real([1.0, 10.0, 100.0])),
    "torus": mf.distribution(TORUS, "wrapped_normal", loc=torch.randn(3, 2, dtype=F64, generator=generator_for(0)), scale=0.5),
    "spd": mf.distribution(SPD, "wishart", df=real([3.0, 5.0, 9.0]), covariance_matrix=spd_matrix(2)),
    "euclidean": mf.distribution(geoopt.Euclidean(ndim=1), "normal", loc=torch.zeros(3, 2, dtype=F64), scale=real([[1.0]])),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_mixture_same_family(name: str) -> None:
    components, logits = FAMILIES[name], real([0.0, 1.0, -1.0])
    mixture = MixtureSameFamily(Categorical(logits=logits), components)
    x = mixture.sample((50,))
    assert x.shape == (50, *components.event_shape)
    own = mf.Mixture(components.kernel, components.kernel.expand(components.params, (3,)), logits.log_softmax(0))
    torch.testing.assert_close(mixture.log_prob(x), own.log_prob(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_independent(name: str) -> None:
    base = FAMILIES[name]
    joint = Independent(base, 1)
    assert joint.batch_shape == () and joint.event_shape == (3, *base.event_shape)
    x = joint.sample((5,))
    torch.testing.assert_close(joint.log_prob(x), base.log_prob(x).sum(-1))
    assert joint.expand((2,)).sample().shape == (2, 3, *base.event_shape)


def test_divergence_to_the_uniform_law_needs_the_same_manifold() -> None:
    sphere, circle = (mf.distribution(SPHERE, "uniform", point_shape=(n,)) for n in (3, 2))
    assert float(kl_divergence(sphere, sphere)) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="two distributions on one manifold"):
        kl_divergence(sphere, circle)
    assert float(circle.entropy("normalized")) == pytest.approx(0.0, abs=1e-6)
    assert float(circle.entropy()) == pytest.approx(math.log(2 * math.pi))


def test_uniform_has_batches_and_needs_a_shape() -> None:
    law = mf.distribution(geoopt.Scaled(TORUS, 2.0), "uniform", point_shape=(2,)).expand((4,))
    assert law.sample((3,)).shape == (3, 4, 2)
    assert law.log_prob(law.sample()).shape == (4,)
    assert float(law.log_prob(law.sample())[0]) == pytest.approx(-2 * math.log(4 * math.pi))
    with pytest.raises(ValueError, match=r"Expected point_shape= for the uniform law on Sphere"):
        mf.distribution(SPHERE, "uniform")


def test_what_does_not_exist_says_so() -> None:
    law = mf.distribution(SPHERE, "wrapped_normal", loc=unit_vector(3), scale=0.3)
    with pytest.raises(NotImplementedError, match=r"wrapped_normal on Sphere has no entropy .* average -log_prob"):
        law.entropy()
    with pytest.raises(NotImplementedError, match="no maximum-likelihood fit"):
        law.fit(LOCS)
    with pytest.raises(NotImplementedError, match="divergence from wrapped_normal to wrapped_normal has no closed form"):
        kl_divergence(law, law)


BAD_FITS = [
    (torch.zeros(3), None, "Expected a tensor of N points on Sphere, 2 dimensions, got shape"),
    ([[0.0, 1.0]], None, "got a list"),
    (LOCS * 2, None, "are off it"),
    (LOCS[:0], None, "N > 0"),
    (LOCS, torch.ones(2), "one weight for each of 3 points"),
    (LOCS, -torch.ones(3), "not negative and not all zero"),
    (LOCS, torch.zeros(3), "not negative and not all zero"),
]


@pytest.mark.parametrize(("x", "weights", "message"), BAD_FITS)
def test_fit_checks_its_input(x: object, weights: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mf.fit(SPHERE, "uniform", x, weights)  # type: ignore[arg-type]
