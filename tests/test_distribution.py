"""The one-liner ``mf.distribution`` and what it returns: a torch Distribution with a measure and clear errors."""

from __future__ import annotations

import copy
import math
from typing import Any

import geoopt
import pytest
import torch
from table.common import F64, PLANE, SPD, SPD_LEM, SPHERE, TORUS, real, spd_matrix, unit_vector
from torch.distributions import Distribution

import mf_manifold as mf
from mf_manifold.testing import ConformanceError, check_distribution

EYE = torch.eye(2, dtype=F64)


@pytest.mark.parametrize(
    ("manifold", "name", "params"),
    [
        (SPHERE, "wrapped_normal", {"loc": unit_vector(3), "scale": 0.4}),
        (SPHERE, "von_mises_fisher", {"loc": unit_vector(2), "concentration": 3.0}),
        (TORUS, None, {"loc": real([1.0, -2.0]), "scale": real([0.5, 2.0])}),
        (SPD, None, {"loc": spd_matrix(2), "scale": 0.3}),
        (SPD_LEM, "wishart", {"df": 8.0, "covariance_matrix": EYE}),
        (PLANE, None, {"loc": real([1.0, 5.0]), "covariance_matrix": 0.3 * EYE}),
    ],
    ids=["sphere2", "sphere1", "torus2", "spd2", "spd2_lem", "plane"],
)
@pytest.mark.parametrize("default", [True, False], ids=["riemannian", "last"])
def test_check_distribution(manifold: geoopt.Manifold, name: str | None, params: dict[str, Any], default: bool) -> None:
    measure = None if default else mf.measure_kinds(manifold)[-1]
    check_distribution(mf.distribution(manifold, name, measure=measure, **params))


class Doubled(mf.KernelDistribution):
    """A density twice too high."""

    def log_prob(self, value: torch.Tensor, measure: Any = None) -> torch.Tensor:
        return super().log_prob(value, measure) + math.log(2)


class Unchecked(mf.KernelDistribution):
    """A distribution that takes any point."""

    def _check(self, x: torch.Tensor) -> None:
        return None


class Shifted(mf.KernelDistribution):
    """Samples of another place."""

    def sample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> torch.Tensor:
        return super().sample(sample_shape, generator) + 0.1


@pytest.mark.parametrize(
    ("wrong", "message"), [(Doubled, "integral 2.0000"), (Unchecked, "accepted a NaN"), (Shifted, "mean of coordinate")]
)
def test_check_distribution_has_teeth(wrong: type[mf.KernelDistribution], message: str) -> None:
    right = mf.distribution(TORUS, loc=real([0.3, 0.1]), scale=real([0.5, 0.2]))
    with pytest.raises(ConformanceError, match=message):
        check_distribution(wrong(right.kernel, right.params))


def test_check_distribution_refuses_batches() -> None:
    with pytest.raises(ConformanceError, match="without batch dimensions, got \\(2,\\)"):
        check_distribution(mf.distribution(TORUS, loc=torch.zeros(2, 1), scale=1.0))


def test_it_is_a_torch_distribution() -> None:
    loc = torch.stack([unit_vector(3), -unit_vector(3)])
    dist = mf.distribution(SPHERE, "wrapped_normal", loc=loc, scale=real([0.2, 0.4]))
    assert isinstance(dist, Distribution)
    assert (dist.batch_shape, dist.event_shape, dist.has_rsample) == ((2,), (3,), True)
    assert dist.sample((4, 5)).shape == (4, 5, 2, 3)
    assert dist.log_prob(dist.sample((4, 5))).shape == (4, 5, 2)
    assert dist.loc is dist.params["loc"] and dist.scale is dist.params["scale"]
    assert set(dist.arg_constraints) == {"loc", "scale"}
    assert dist.support.event_dim == 1 and "Sphere" in repr(dist.support)
    assert bool(dist.support.check(dist.sample()).all()) and not bool(dist.support.check(2 * loc).any())
    assert repr(dist) == "wrapped_normal(loc: (2, 3), scale: (2,); riemannian measure on Sphere)"
    with pytest.raises(AttributeError, match="no attribute 'concentration'"):
        _ = dist.concentration
    wide = dist.expand((3, 2))
    assert wide.batch_shape == (3, 2) and wide.log_prob(loc).shape == (3, 2)
    torch.testing.assert_close(copy.deepcopy(dist).log_prob(loc), dist.log_prob(loc))


def test_numbers_broadcast_and_take_the_dtype() -> None:
    for dtype in (torch.float32, torch.float64):
        loc = torch.zeros(5, 2, dtype=dtype)
        dist = mf.distribution(TORUS, loc=loc, scale=0.5)
        assert dist.batch_shape == (5,) and dist.scale.dtype == dtype and dist.log_prob(loc).dtype == dtype
        assert mf.distribution(TORUS, loc=loc, scale=1).sample().dtype == dtype
    point = geoopt.ManifoldTensor(unit_vector(3), manifold=SPHERE)
    value = mf.distribution(SPHERE, loc=point, concentration=2.0).log_prob(point)
    assert type(value) is torch.Tensor


def test_samples_without_a_pathwise_sampler() -> None:
    dist = mf.distribution(SPHERE, "von_mises_fisher", loc=unit_vector(4), concentration=5.0)
    assert not dist.has_rsample
    with pytest.raises(NotImplementedError, match="call sample"):
        dist.rsample((2,))
    loc = unit_vector(4).requires_grad_()
    assert not mf.distribution(SPHERE, "von_mises_fisher", loc=loc, concentration=5.0).sample((2,)).requires_grad
    assert mf.distribution(SPHERE, "wrapped_normal", loc=loc, scale=0.5).rsample((2,)).requires_grad


def test_measures() -> None:
    x = spd_matrix(2)
    by_name = mf.distribution(SPD, "wishart", df=5.0, covariance_matrix=EYE, measure="lebesgue")
    by_object = mf.distribution(SPD, "wishart", df=5.0, covariance_matrix=EYE, measure=mf.Measure(SPD, "lebesgue"))
    plain = mf.distribution(SPD, "wishart", df=5.0, covariance_matrix=EYE)
    assert str(by_name.measure) == "lebesgue measure on SymmetricPositiveDefinite"
    torch.testing.assert_close(by_name.log_prob(x), by_object.log_prob(x))
    torch.testing.assert_close(by_name.log_prob(x), plain.log_prob(x, measure="lebesgue"))
    torch.testing.assert_close(by_name.log_prob(x, measure="riemannian"), plain.log_prob(x))
    torch.testing.assert_close(by_name.expand((2,)).log_prob(x), by_name.log_prob(x).expand(2))


E3 = torch.tensor([0.0, 0.0, 1.0])
WRONG: list[tuple[geoopt.Manifold, str | None, dict[str, Any], str]] = [
    (SPHERE, "kant", {"loc": E3}, r"registered kernel, got 'kant' on Sphere: its kernels are .*uniform, von_mises_f"),
    (geoopt.BirkhoffPolytope(), None, {"loc": E3}, "kernels exist for .*Euclidean.*Torus"),
    (geoopt.Scaled(SPHERE, 2.0), "kant", {"loc": E3}, "got 'kant' on Sphere"),
    (SPHERE, "von_mises_fisher", {"loc": E3}, "parameters loc, concentration of von_mises_fisher on Sphere, got loc"),
    (SPHERE, "von_mises_fisher", {"loc": E3, "concentration": 1.0, "scale": 1.0}, "got loc, concentration, scale"),
    (SPHERE, "von_mises_fisher", {"concentration": 1.0}, r"tensor loc of at least 1 dimension\(s\), got concentration"),
    (SPHERE, "von_mises_fisher", {"loc": 2 * E3, "concentration": 1.0}, r"Expected loc .* 1 of 1 rows are off it.*1\.0e\+00"),
    (SPHERE, "von_mises_fisher", {"loc": E3, "concentration": -1.0}, r"concentration .*1 of 1 values do not, such as -1\.0"),
    (SPHERE, "von_mises_fisher", {"loc": E3, "concentration": math.nan}, "such as nan"),
    (SPHERE, "von_mises_fisher", {"loc": E3, "concentration": math.inf}, "to be finite.*such as inf"),
    (SPHERE, "wrapped_normal", {"loc": E3, "scale": torch.tensor([1.0, -2.0, 0.0])}, r"2 of 3 values do not, such as -2\.0"),
    (SPHERE, "wrapped_normal", {"loc": E3, "covariance_matrix": torch.eye(2)}, r"end in the dimensions \(3, 3\), got shape"),
    (TORUS, None, {"loc": torch.zeros(2), "scale": torch.tensor([1.0, 0.0])}, r"such as \[1\.0, 0\.0\]"),
    (TORUS, None, {"loc": torch.zeros(2), "scale": torch.ones(3)}, r"end in the dimensions \(2,\), got shape \(3,\)"),
    (TORUS, None, {"loc": torch.tensor([90.0, 0.0]), "scale": 1.0}, "Expected loc .*deg2rad"),
    (TORUS, None, {"loc": torch.zeros(2), "covariance_matrix": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "PositiveDefinite"),
    (TORUS, None, {"loc": torch.zeros(2, dtype=torch.long), "scale": 1.0}, "floating dtype, got torch.int64"),
    (TORUS, None, {"loc": torch.zeros(3, 2), "scale": torch.ones(4, 2)}, r"batch shapes broadcast.*\(3,\).*\(4,\)"),
    (SPD, "wishart", {"df": 1.0, "covariance_matrix": torch.eye(2)}, r"GreaterThan\(lower_bound=1\).*such as 1\.0"),
    (SPD, "wishart", {"df": 4.0, "covariance_matrix": -torch.eye(2)}, "covariance_matrix .*not positive definite"),
    (SPD, "wishart", {"df": 4.0, "covariance_matrix": torch.ones(2, 3)}, r"point shape \(p, p\)"),
    (SPHERE, None, {"loc": E3, "concentration": 1.0, "measure": "lebesgue"}, "one of riemannian, normalized; got 'lebesgue'"),
]


@pytest.mark.parametrize(("manifold", "name", "params", "message"), WRONG, ids=[row[-1][:40] for row in WRONG])
def test_wrong_parameters(manifold: geoopt.Manifold, name: str | None, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mf.distribution(manifold, name, **params)


def test_degenerate_tangent_covariance() -> None:
    dist = mf.distribution(SPHERE, "wrapped_normal", loc=E3, covariance_matrix=torch.diag(torch.tensor([1.0, 0.0, 1.0])))
    with pytest.raises(ValueError, match="tangent to the sphere at loc is positive definite; 1 of 1 are not"):
        dist.log_prob(E3)


def test_unknown_options() -> None:
    with pytest.raises(ValueError, match="covariance to be one of isotropic, full, got 'diag'"):
        mf.kernel_for(SPHERE, (3,), "wrapped_normal", covariance="diag")
    product = geoopt.ProductManifold((SPHERE, 3), (TORUS, 1))
    with pytest.raises(ValueError, match="kernels and part_options for 2 parts, got 1 and 2"):
        mf.kernel_for(product, (4,), kernels=("von_mises_fisher",))


def test_points_are_validated_unless_switched_off() -> None:
    off = 1.1 * E3.expand(4, 3)
    dist = mf.distribution(SPHERE, loc=E3, concentration=1.0)
    with pytest.raises(ValueError, match="4 of 4 rows are off it"):
        dist.log_prob(off)
    assert mf.distribution(SPHERE, loc=E3, concentration=1.0, validate_args=False).log_prob(off).shape == (4,)
    Distribution.set_default_validate_args(False)
    try:
        assert mf.distribution(SPHERE, loc=E3, concentration=1.0).log_prob(off).shape == (4,)
    finally:
        Distribution.set_default_validate_args(True)
    assert mf.distribution(SPHERE, loc=E3, concentration=-1.0, validate_args=False).concentration == -1


def test_empty_batches_of_components() -> None:
    for manifold, params, shape in (
        (SPHERE, {"loc": torch.zeros(0, 3), "concentration": torch.zeros(0)}, (3,)),
        (TORUS, {"loc": torch.zeros(0, 2), "scale": torch.zeros(0, 1)}, (2,)),
        (TORUS, {"loc": torch.zeros(0, 2), "covariance_matrix": torch.zeros(0, 2, 2)}, (2,)),
        (SPD, {"loc": torch.zeros(0, 2, 2), "scale": torch.zeros(0, 1)}, (2, 2)),
    ):
        assert mf.distribution(manifold, **params).log_prob(torch.zeros(0, *shape)).shape == (0,)


def test_registry() -> None:
    rows = {(row.manifold, row.name): row for row in mf.registered_kernels()}
    assert rows["Sphere", "von_mises_fisher"].default and not rows["Sphere", "wrapped_normal"].default
    assert rows["SymmetricPositiveDefinite", "wishart"].measure == "affine_invariant"
    kernel = mf.kernel_for(geoopt.SphereExact(), (3,), "wrapped_normal", covariance="full")
    assert repr(kernel).startswith("SphereWrappedNormal(\n  wrapped_normal, point_shape=(3,), covariance='full'")
    scaled = mf.kernel_for(geoopt.Scaled(SPHERE, 2.0), (3,), "wrapped_normal", covariance="full")
    assert scaled.options == {"base": "wrapped_normal", "base_options": {"covariance": "full"}}
