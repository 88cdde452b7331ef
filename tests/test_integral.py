"""The total mass of fitted mixtures: right where it is 1, and able to see where it is not."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.integral import total_mass
from mf_manifold.kernel import Params

SPD = geoopt.SymmetricPositiveDefinite()
COMPACT = {
    "circle": (geoopt.Sphere(), (2,)),
    "sphere": (geoopt.Sphere(), (3,)),
    "torus1": (mf.manifolds.Torus(), (1,)),
    "torus2": (mf.manifolds.Torus(), (2,)),
}


def _mixture(manifold: geoopt.Manifold, shape: tuple[int, ...], scales: Tensor, name: str | None = None) -> mf.Mixture:
    kernel = mf.kernel_for(manifold, shape, name)
    generator = torch.Generator().manual_seed(0)
    points = mf.geometry.sample_uniform(manifold, shape, scales.shape, generator=generator, dtype=torch.float64)
    return mf.Mixture(kernel, kernel.centered(points, scales))


def _matrices(p: int, scale: float) -> mf.Mixture:
    kernel, generator = mf.kernel_for(SPD, (p, p)), torch.Generator().manual_seed(0)
    half = torch.randn(20, p, 2 * p, generator=generator, dtype=torch.float64)
    scales = scale * (1 + torch.rand(20, kernel.dim, generator=generator, dtype=torch.float64))
    return mf.Mixture(kernel, {"loc": half @ half.mT, "scale": scales}, torch.linspace(0, 1, 20, dtype=torch.float64))


@pytest.mark.parametrize("name", COMPACT)
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.003])
def test_quadrature_of_normalised_densities(name: str, scale: float) -> None:
    manifold, shape = COMPACT[name]
    mass = total_mass(_mixture(manifold, shape, torch.full((30,), scale, dtype=torch.float64)))
    assert abs(mass.value - 1) < 2e-5
    assert abs(mass.value - 1) <= mass.error < 1e-3


def test_quadrature_with_wide_and_narrow_components_and_another_kernel() -> None:
    scales = torch.logspace(-2.5, 0, 40, dtype=torch.float64)
    mass = total_mass(_mixture(geoopt.Sphere(), (3,), scales, "wrapped_normal"))
    assert abs(mass.value - 1) < 1e-4


def test_a_peak_at_the_pole() -> None:
    kernel = mf.kernel_for(geoopt.Sphere(), (3,))
    pole = torch.tensor([[0.0, 0.0, -1.0]], dtype=torch.float64)
    mass = total_mass(mf.Mixture(kernel, kernel.centered(pole, torch.tensor([0.01], dtype=torch.float64))))
    assert abs(mass.value - 1) < 1e-4


@pytest.mark.parametrize(("p", "scale", "error"), [(2, 0.2, 0.01), (2, 1.0, 0.01), (3, 0.3, 0.01), (8, 0.1, 0.02)])
def test_sampling_on_matrices(p: int, scale: float, error: float) -> None:
    mass = total_mass(_matrices(p, scale))
    assert mass.error < error
    assert abs(mass.value - 1) < 5 * mass.error


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_wrong_constants_are_seen(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    mixtures = [_mixture(*COMPACT["sphere"], torch.full((9,), 0.1, dtype=torch.float64)), _matrices(2, 0.2)]
    reduce = mf.Mixture._reduce

    def wrong(self: mf.Mixture, x: Tensor, power: float = 1.0) -> Tensor:
        return reduce(self, x, power) + math.log(factor)

    monkeypatch.setattr(mf.Mixture, "_reduce", wrong)
    for mixture in mixtures:
        mass = total_mass(mixture)
        assert abs(mass.value - factor) < 1e-4 + 5 * mass.error
        assert abs(mass.value - 1) > 5 * mass.error


def test_a_missing_volume_factor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = _matrices(2, 0.2)
    monkeypatch.setattr(type(mixture.kernel), "base_measure", "affine_invariant")
    mass = total_mass(mixture)
    assert abs(mass.value - 1) > 5 * mass.error


def test_what_no_rule_covers_is_refused() -> None:
    normal = mf.kernel_for(geoopt.Euclidean(ndim=1), (2,))
    params: Params = {"loc": torch.zeros(1, 2), "scale": torch.ones(1, 2)}
    with pytest.raises(ValueError, match=r"Expected a mixture on S\^1"):
        total_mass(mf.Mixture(normal, params))
