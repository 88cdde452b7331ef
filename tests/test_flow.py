"""Normalizing flows: exact, invertible, trained by the common loop, saved whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import geoopt
import pytest
import torch

import mf_manifold as mf
from mf_manifold.models import Flow

PLANE = geoopt.Euclidean(ndim=1)


def crescent(n: int, seed: int = 0) -> torch.Tensor:
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.stack([2 * z[:, 0], z[:, 0] ** 2 + 0.3 * z[:, 1]], dim=1) + 5.0


def mass(model: torch.distributions.Distribution, low: float, high: float, cells: int = 500) -> float:
    axis = torch.linspace(low, high, cells, dtype=torch.float64)
    with torch.no_grad():
        return float(model.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2)


@pytest.mark.parametrize("layers", ["affine", "additive", "spline"])
def test_a_fitted_flow_integrates_to_one_and_inverts(layers: str) -> None:
    flow = Flow(PLANE, (2,), layers=layers, transforms=4, hidden=(16,)).double()
    flow.fit(crescent(500), max_steps=60, progress=False)
    with torch.no_grad():
        assert abs(mass(flow.freeze(), -25.0, 35.0) - 1) < 2e-3
        x = crescent(100, seed=1)
        z, log_det = flow.to_latent(x)
        assert torch.allclose(flow.to_data(z), x, atol=1e-8)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda y: flow.to_latent(y)[0], row) for row in x[:5]])
    assert torch.allclose(jacobian.det().abs().log(), log_det[:5], atol=1e-9)


def test_training_gains_what_a_normal_law_cannot_have() -> None:
    x, new = crescent(2000), crescent(2000, seed=1)
    normal = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    flow = Flow(PLANE, (2,), layers="spline", transforms=4, hidden=(32,)).double().fit(x, max_steps=300, progress=False)
    assert float(flow.freeze().log_prob(new).detach().mean() - normal.log_prob(new).mean()) > 0.5


def test_samples_follow_the_density() -> None:
    flow = Flow(PLANE, (2,), layers="spline", transforms=4, hidden=(16,)).double()
    flow.fit(crescent(500), max_steps=60, progress=False)
    with torch.no_grad():
        drawn = flow.sample((20_000,), torch.Generator().manual_seed(0))
        axis = torch.linspace(-25.0, 35.0, 600, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        q = flow.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
    for f in (lambda x: x, lambda x: (x - 5).abs().sqrt()):
        exact, found = q @ f(grid), f(drawn)
        assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / len(drawn) ** 0.5 + 2e-3).all()


def test_a_marginal_flow_as_base_trains_and_returns_from_its_file(tmp_path: Path) -> None:
    flow = Flow(PLANE, (2,), transforms=2, hidden=(16,), base=mf.MarginalFlow(PLANE, (2,), hidden=(16,), n_components=64))
    x = crescent(300).float()
    flow.fit(x, max_steps=30, progress=False, checkpoint=tmp_path / "run")
    frozen = flow.freeze(seed=1)
    flow.save(tmp_path / "model")
    back = mf.load(tmp_path / "model")
    assert torch.equal(back.freeze(seed=1).log_prob(x), frozen.log_prob(x))
    assert abs(mass(back.double().freeze(seed=1), -25.0, 35.0) - 1) < 2e-3


def test_a_frozen_flow_stays_what_it_was() -> None:
    x = crescent(300).float()
    flow = Flow(PLANE, (2,), transforms=2, hidden=(16,)).fit(x, max_steps=3, progress=False)
    frozen = flow.freeze()
    before = frozen.log_prob(x)
    assert not before.requires_grad
    flow.fit(x - 5, max_steps=3, progress=False)
    assert torch.equal(frozen.log_prob(x), before)
    assert all(p.requires_grad for p in flow.parameters())


@pytest.mark.parametrize("layers", ["affine", "spline"])
def test_a_constant_coordinate_can_be_trained(layers: str) -> None:
    x = torch.cat([crescent(300).float()[:, :1], torch.full((300, 1), 0.1)], dim=1)
    flow = Flow(PLANE, (2,), layers=layers, transforms=2, hidden=(16,)).fit(x, max_steps=20, progress=False)
    assert float(flow.freeze().log_prob(x).mean()) > 0


def test_importing_flow_layers_leaves_the_validation_of_torch_alone() -> None:
    code = (
        "import sys; from torch.distributions import Distribution; before = Distribution._validate_args;"
        "from mf_manifold.models import layers; assert 'zuko' not in sys.modules; layers.import_zuko();"
        "assert 'zuko' in sys.modules and Distribution._validate_args == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_use_is_explained() -> None:
    with pytest.raises(ValueError, match="Expected R\\^d"):
        Flow(geoopt.Sphere(), (3,))
    with pytest.raises(ValueError, match="Expected layers in affine, additive, spline, got 'nsf'"):
        Flow(PLANE, (2,), layers="nsf")
    with pytest.raises(ValueError, match="Expected a base with points"):
        Flow(PLANE, (2,), base=mf.MarginalFlow(PLANE, (3,)))
    with pytest.raises(ValueError, match="Expected no context"):
        Flow(PLANE, (2,))(torch.zeros(1))
