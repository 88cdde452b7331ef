"""Reference measures: ratios against Jacobians and identities, errors, measures of one's own."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from table import MANIFOLDS
from table.common import F64, PLANE, SPD, SPD_LEM, SPHERE, TORUS, real, unit_vector
from torch import Tensor

import mf_manifold as mf
from mf_manifold import measure
from mf_manifold.numerics.linalg import congruence, log_det_spd, sum_log_sinhc_gaps, sym_eigvals
from mf_manifold.testing import ConformanceError, check_measure, check_measures, measure_coordinates
from mf_manifold.testing.manifold import random_points


def ratio(manifold: geoopt.Manifold, num: str, den: str, x: Tensor) -> Tensor:
    return mf.log_ratio(mf.Measure(manifold, num), mf.Measure(manifold, den), x)


@pytest.mark.parametrize("p", [1, 2, 3, 5])
@pytest.mark.parametrize("metric", [SPD, SPD_LEM], ids=["AIM", "LEM"])
@pytest.mark.parametrize("kind", ["lebesgue", "frobenius", "log_euclidean", "affine_invariant"])
def test_spd_measure_is_the_jacobian_of_its_coordinates(p: int, metric: geoopt.Manifold, kind: str) -> None:
    check_measure(metric, kind, random_points(metric, (p, p), 16, p), measure_coordinates(metric)[kind])


@pytest.mark.parametrize("p", [1, 2, 3, 5])
@pytest.mark.parametrize("metric", [SPD, SPD_LEM], ids=["AIM", "LEM"])
def test_spd_identities(p: int, metric: geoopt.Manifold) -> None:
    x = random_points(metric, (p, p), 16, p)
    log_eigenvalues, log_det = sym_eigvals(x).log(), log_det_spd(x)
    roots = p * (p - 1) / 4 * math.log(2)
    gaps = sum_log_sinhc_gaps(log_eigenvalues)
    torch.testing.assert_close(ratio(metric, "affine_invariant", "log_euclidean", x), gaps)
    torch.testing.assert_close(ratio(metric, "frobenius", "lebesgue", x), torch.full((16,), roots, dtype=F64))
    torch.testing.assert_close(ratio(metric, "affine_invariant", "lebesgue", x), roots - (p + 1) / 2 * log_det)
    own, other = ("affine_invariant", "log_euclidean") if metric is SPD else ("log_euclidean", "affine_invariant")
    assert not ratio(metric, "riemannian", own, x).any()
    assert p == 1 or bool(ratio(metric, "riemannian", other, x).any())


def test_affine_invariant_volume_is_invariant() -> None:
    x = random_points(SPD, (3, 3), 16, 0)
    change = torch.eye(3, dtype=F64) + 0.3 * torch.randn(3, 3, dtype=F64)
    moved = congruence(change, x)
    # dY = |det G|^(p+1) dX for Y = G X G^T, and |X|^(p+1) for the inverse
    jacobian = 4 * torch.linalg.slogdet(change).logabsdet
    before = ratio(SPD, "riemannian", "lebesgue", x)
    torch.testing.assert_close(ratio(SPD, "riemannian", "lebesgue", moved) + jacobian, before)
    torch.testing.assert_close(ratio(SPD, "riemannian", "lebesgue", torch.linalg.inv(x)) - 4 * log_det_spd(x), before)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_ratios_compose(name: str) -> None:
    manifold, point_shape = MANIFOLDS[name]
    x, kinds = random_points(manifold, point_shape, 4, 0), mf.measure_kinds(manifold)
    assert kinds[0] == "riemannian"
    for a in kinds:
        assert not ratio(manifold, a, a, x).any()
        for b in kinds:
            through = ratio(manifold, a, "riemannian", x) + ratio(manifold, "riemannian", b, x)
            torch.testing.assert_close(ratio(manifold, a, b, x), through)
            assert ratio(manifold, a, b, x).shape == (4,)


@pytest.mark.parametrize("name", ["sphere1", "sphere2", "sphere9", "torus2", "scaled_sphere2", "sphere2xtorus1"])
def test_normalized_measure_has_mass_one(name: str) -> None:
    manifold, point_shape = MANIFOLDS[name]
    x = random_points(manifold, point_shape, 4, 0)
    mass = ratio(manifold, "normalized", "riemannian", x) + mf.geometry.log_volume(manifold, point_shape)
    torch.testing.assert_close(mass, torch.zeros(4, dtype=F64))


def test_product_has_the_kinds_that_all_parts_have() -> None:
    assert mf.measure_kinds(geoopt.ProductManifold((SPHERE, 3), (TORUS, 2))) == ("riemannian", "normalized")
    assert mf.measure_kinds(geoopt.ProductManifold((SPD, (2, 2)), (PLANE, 2))) == ("riemannian", "lebesgue")
    assert mf.measure_kinds(geoopt.ProductManifold((SPHERE, 3), (PLANE, 2))) == ("riemannian",)
    assert mf.measure_kinds(geoopt.Scaled(SPD, 2.0)) == mf.measure_kinds(SPD)


def test_scaled_volume_carries_the_scale() -> None:
    x = random_points(SPD, (2, 2), 5, 0)
    shift = ratio(geoopt.Scaled(SPD, 2.0), "riemannian", "lebesgue", x) - ratio(SPD, "riemannian", "lebesgue", x)
    torch.testing.assert_close(shift, torch.full((5,), 3 * math.log(2), dtype=F64))


def test_errors() -> None:
    with pytest.raises(ValueError, match="one of riemannian, normalized; got 'haar'"):
        mf.Measure(SPHERE, "haar")
    with pytest.raises(ValueError, match="two measures on one manifold"):
        mf.log_ratio(mf.Measure(SPHERE), mf.Measure(TORUS), unit_vector(3))
    with pytest.raises(ValueError, match="two measures on one manifold"):
        mf.log_ratio(mf.Measure(SPD), mf.Measure(SPD_LEM), torch.eye(2))
    dist = mf.distribution(SPHERE, loc=unit_vector(3), concentration=real(2.0))
    with pytest.raises(ValueError, match="Expected a measure on Sphere, got the riemannian measure on Torus"):
        dist.log_prob(unit_vector(3), measure=mf.Measure(TORUS))


class WeightedSphere(geoopt.Sphere):
    """A sphere with one more measure, for users who bring their own."""


def test_measure_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_REGISTRY", dict(measure._REGISTRY))

    @mf.register_measure(WeightedSphere, "cylindrical")
    def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
        return -(1 - x[..., 2].square()).log() / 2  # d phi d theta = sin(theta)^-1 d area

    assert mf.measure_kinds(WeightedSphere()) == ("riemannian", "cylindrical", "normalized")
    assert mf.measure_kinds(SPHERE) == ("riemannian", "normalized")
    kernel = mf.kernel_for(WeightedSphere(), (3,))
    w = {"loc": unit_vector(3), "concentration": real(3.0)}

    def angles(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.atan2(y[:, 1], y[:, 0]), torch.arccos(y[:, 2])], dim=-1)

    check_measures(kernel, w, coordinates={"cylindrical": angles})
    with pytest.raises(ConformanceError, match="no coordinates are known in which cylindrical"):
        check_measures(kernel, w)
    with pytest.raises(ConformanceError, match="measure of Sphere: log d cylindrical"):
        check_measure(WeightedSphere(), "cylindrical", random_points(SPHERE, (3,), 8, 0), lambda x, y: 2 * angles(x, y))
