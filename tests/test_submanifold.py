"""Learned curves: distances between sets, the unfolding that orders a curve's points, and a spiral found by a flow."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from table.common import F64, SPD, SPHERE, TORUS
from torch import Tensor

import mf_manifold as mf
from mf_manifold import bases
from mf_manifold.submanifold import chamfer
from mf_manifold.testing.density import generator_for

PLANE = geoopt.Euclidean(ndim=1)


def spiral(u: Tensor) -> Tensor:
    t = math.pi * (1 + 3 * u)
    return torch.stack([t * t.cos(), t * t.sin()], -1) / (4 * math.pi)


def noisy_spiral(n: int, seed: int = 0) -> Tensor:
    g = generator_for(seed)
    return spiral(torch.rand(n, generator=g)) + 0.02 * torch.randn(n, 2, generator=g)


@pytest.mark.parametrize("shift", [0.05, 0.3])
def test_distance_of_circles_of_latitude(shift: float) -> None:
    """Both ways the distance is the difference of latitudes, along the sphere."""
    angle = 2 * math.pi * torch.arange(720, dtype=F64) / 720

    def circle(latitude: float) -> Tensor:
        flat = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], -1) * math.cos(latitude)
        return flat + torch.tensor([0.0, 0.0, math.sin(latitude)], dtype=F64)

    found = chamfer(SPHERE, circle(0.2 + shift), circle(0.2))
    assert found.to_reference == pytest.approx(shift, rel=1e-9)
    assert found.from_reference == pytest.approx(shift, rel=1e-9)
    assert found.mean == pytest.approx(shift, rel=1e-9)


def test_distance_goes_around_the_torus() -> None:
    near, far = torch.tensor([[math.pi - 0.1, 0.0]], dtype=F64), torch.tensor([[0.1 - math.pi, 0.0]], dtype=F64)
    assert chamfer(TORUS, near, far).mean == pytest.approx(0.2)


def test_distance_between_matrices() -> None:
    scales = torch.tensor([1.0, math.e], dtype=F64)
    found = chamfer(SPD, scales[:, None, None] * torch.eye(2, dtype=F64), torch.eye(2, dtype=F64).unsqueeze(0))
    assert found.to_reference == pytest.approx(math.sqrt(2) / 2)
    assert found.from_reference == pytest.approx(0.0, abs=1e-9)


def test_a_missing_half_shows_in_one_direction_only() -> None:
    whole = spiral(torch.linspace(0, 1, 1000))
    half = chamfer(PLANE, whole[:500], whole)
    assert half.to_reference == 0 and half.from_reference > 0.1


def test_blocks_do_not_change_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = noisy_spiral(300), noisy_spiral(200, 1)
    expected = chamfer(PLANE, a, b)
    monkeypatch.setattr("mf_manifold.submanifold.BLOCK", 1000)
    assert chamfer(PLANE, a, b) == pytest.approx(expected)


def test_errors() -> None:
    points = noisy_spiral(10)
    with pytest.raises(ValueError, match="Expected reference"):
        chamfer(PLANE, points, points[:0])
    with pytest.raises(ValueError, match="Expected points"):
        chamfer(PLANE, points[0], points)


def longest_jump(points: Tensor, features: Tensor) -> float:
    order = bases.match(features, 1, generator_for(1))[:, 0].argsort()
    return float(points[order].diff(dim=0).norm(dim=-1).max())


def test_unfolding_orders_a_spiral() -> None:
    """Halved as it lies, the order jumps between the arms; unfolded, it follows the curve."""
    x = noisy_spiral(1000)
    assert longest_jump(x, x) > 0.3
    assert longest_jump(x, bases.unfold(x, generator_for(0))) < 0.25  # half the way between arms


def test_unfolded_coordinates_keep_lengths_along_the_curve() -> None:
    u = torch.linspace(0, 1, 2000, dtype=F64)
    unfolded = bases.unfold(spiral(u), generator_for(0))
    lengths = spiral(u).diff(dim=0).norm(dim=-1).cumsum(0)
    along = unfolded[1:, 1] - unfolded[0, 1]
    assert float((along.abs() / lengths - 1)[10:].abs().max()) < 0.02
    assert float(unfolded[:, 0].std()) < 0.02 * float(unfolded[:, 1].std())


def test_unfolding_bridges_parts_and_bears_copies() -> None:
    far = torch.cat([noisy_spiral(100), noisy_spiral(100, 1) + 50, noisy_spiral(1).expand(40, 2)])
    unfolded = bases.unfold(far, generator_for(0))
    assert torch.isfinite(unfolded).all()
    assert float((unfolded[:100].mean(0) - unfolded[100:200].mean(0)).norm()) > 60


def test_flow_of_one_latent_dimension_finds_the_spiral() -> None:
    flow = mf.MarginalFlow(PLANE, (2,), latent_dim=1, n_components=256, hidden=(64, 64, 64), n_frequencies=32, bandwidth=0.5)
    flow.fit(noisy_spiral(1000), max_steps=200, progress=False)
    with torch.no_grad():
        curve = flow.decode(torch.linspace(-1, 1, 2000).unsqueeze(-1))
    found = chamfer(PLANE, curve, spiral(torch.linspace(0, 1, 2000)))
    assert found.to_reference < 0.02 and found.from_reference < 0.02
    test = noisy_spiral(2000, 7)
    assert float(flow.freeze(1024).log_prob(test).mean()) > 0.77 - 0.2  # the true law has 0.77


def test_density_of_a_learned_curve_is_with_respect_to_area() -> None:
    """It integrates to one over the plane, not along the curve."""
    flow = mf.MarginalFlow(PLANE, (2,), latent_dim=1, n_components=128, hidden=(32, 32))
    mixture = flow.fit(noisy_spiral(300), max_steps=20, progress=False).freeze(128)
    axis = torch.linspace(-2.0, 2.0, 500)
    mass = float(mixture.log_prob(torch.cartesian_prod(axis, axis)).exp().sum()) * (4.0 / 499) ** 2
    assert mass == pytest.approx(1.0, abs=2e-3)
