"""The rivals of the experiments are densities: their integrals are 1 by rules that know nothing of how they were made."""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec

import geoopt
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import mf_manifold as mf

if not (find_spec("zuko") and find_spec("torchdiffeq")):  # importing them here would switch torch's validation off
    pytest.skip("needs zuko and torchdiffeq", allow_module_level=True)

from benchmarks.rivals import CholeskyFlow, FlowMatching, SplineFlow
from benchmarks.rivals.training import Check, Rival

SPHERE, TORUS, PLANE = geoopt.Sphere(), mf.manifolds.Torus(), geoopt.Euclidean(ndim=1)
SPD = geoopt.SymmetricPositiveDefinite()


def cells(low: float, high: float, n: int) -> Tensor:
    """Midpoints of n equal cells."""
    return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n


def grid(space: str, n: int) -> tuple[Tensor, float]:
    """Midpoints of cells of equal volume, and that volume."""
    if space == "sphere":
        height, longitude = torch.cartesian_prod(cells(-1, 1, n), cells(-math.pi, math.pi, 2 * n)).unbind(-1)
        radius = (1 - height.square()).sqrt()
        return torch.stack([radius * longitude.cos(), radius * longitude.sin(), height], -1), 2 * math.pi / n**2
    half = math.pi if space == "torus" else 7.0
    line = cells(-half, half, 2 * n)
    return torch.cartesian_prod(line, line), (half / n) ** 2


def data(space: str, n: int = 600) -> Tensor:
    """Two clusters, one of them across the seam of the angles."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64) * torch.tensor([0.3, 0.6])
    x = noise + torch.tensor([[3.1, 0.3], [0.2, -0.4]], dtype=torch.float64)[torch.arange(n) % 2]
    if space == "plane":
        return x
    if space == "torus":
        return torch.remainder(x + math.pi, 2 * math.pi) - math.pi
    longitude, height = x[:, 0], x[:, 1].tanh()
    radius = (1 - height.square()).sqrt()
    return torch.stack([radius * longitude.cos(), radius * longitude.sin(), height], -1)


def make(kind: str, space: str) -> Rival:
    manifold, shape = {"sphere": (SPHERE, (3,)), "torus": (TORUS, (2,)), "plane": (PLANE, (2,))}[space]
    if kind == "spline":
        return SplineFlow(manifold, shape, transforms=3, bins=5, hidden=(32, 32))
    return FlowMatching(manifold, shape, hidden=(48, 48))


def test_validation_of_torch_distributions_stays_on() -> None:
    assert Distribution._validate_args is __debug__


@pytest.mark.parametrize("space", ["sphere", "torus", "plane"])
@pytest.mark.parametrize("kind", ["spline", "matching"])
def test_integral_and_samples(kind: str, space: str) -> None:
    x = data(space)
    model = make(kind, space).fit(x, seed=0, max_seconds=30, max_steps=150)
    points, volume = grid(space, 60)
    density = model.log_prob(points).exp()
    assert abs(float(density.sum()) * volume - 1) < 4e-3
    feature = torch.cos(points[:, 0]) + 0.5 * torch.sin(points[:, 1])
    mean = float((density * feature).sum() * volume)
    spread = math.sqrt(float((density * feature.square()).sum() * volume) - mean**2)
    drawn = model.sample(2000, seed=1).double()
    found = float((torch.cos(drawn[:, 0]) + 0.5 * torch.sin(drawn[:, 1])).mean())
    assert abs(found - mean) < 4.3 * spread / math.sqrt(2000) + 2e-3


@pytest.mark.parametrize("kind", ["spline", "matching"])
def test_density_is_continuous_across_the_seam(kind: str) -> None:
    model = make(kind, "torus").fit(data("torus"), seed=0, max_seconds=30, max_steps=100)
    edge = math.pi - 1e-4
    pairs = torch.tensor([[edge, 0.3], [-edge, 0.3], [0.7, edge], [0.7, -edge]], dtype=torch.float64)
    a, b, c, d = model.log_prob(pairs).tolist()
    assert abs(a - b) < 0.02
    assert abs(c - d) < 0.02


def test_a_forgotten_jacobian_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("spline", "sphere").fit(data("sphere"), seed=0, max_seconds=30, max_steps=20)
    monkeypatch.setattr(model.chart, "log_volume", lambda x: torch.zeros_like(x[:, 0]))
    points, volume = grid("sphere", 60)
    assert abs(float(model.log_prob(points).exp().sum()) * volume - 1) > 0.5


@pytest.mark.parametrize("dim", [3, 17, 20])
def test_euclidean_density_agrees_with_the_jacobian_of_its_samples(dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.eye(dim) + 0.3 * torch.randn(dim, dim, generator=generator)
    x = torch.randn(500, dim, generator=generator) @ factor.T
    model = SplineFlow(PLANE, (dim,), transforms=2, hidden=(32,)).fit(x, max_seconds=30, max_steps=20)
    start = model.flow.noise(1, generator)
    jacobian = torch.autograd.functional.jacobian(lambda z: model.chart.points(model.flow.inverse(z)), start)[0, :, 0]
    log_base = -0.5 * start.square().sum() - dim / 2 * math.log(2 * math.pi)
    wanted = log_base - torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(model.log_prob(model.chart.points(model.flow.inverse(start))).float(), wanted.float(), atol=2e-3)


def test_matching_in_the_plane_agrees_with_the_jacobian_of_its_flow() -> None:
    model = make("matching", "plane").fit(data("plane"), max_seconds=30, max_steps=50)
    start = torch.tensor([[0.3, -0.8]])

    def end(x: Tensor) -> Tensor:
        return model._solve(lambda t, y: model.field(t.expand(1, 1), y), x, 1.0)[-1] * model.spread + model.center

    jacobian = torch.autograd.functional.jacobian(end, start)[0, :, 0]
    wanted = model.log_base(start) - torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(model.log_prob(end(start).detach()), wanted, atol=2e-3)


def spd_data(p: int, n: int = 400) -> Tensor:
    law = mf.distribution(SPD, "wishart", df=2.0 * p + 2, covariance_matrix=torch.eye(p, dtype=torch.float64))
    return law.sample((n,))


def test_spline_flow_on_spd_matrices() -> None:
    model = SplineFlow(SPD, (2, 2), transforms=2, hidden=(32,)).fit(spd_data(2), max_seconds=30, max_steps=100)
    wide = mf.distribution(SPD, "log_normal", loc=torch.eye(2, dtype=torch.float64) * 4, scale=torch.tensor(1.2).double())
    points = wide.sample((20_000,))
    ratio = (model.log_prob(points) - wide.log_prob(points)).exp()
    assert abs(float(ratio.mean()) - 1) < 4.3 * float(ratio.std()) / math.sqrt(20_000)
    assert float(ratio.std()) < 10


@pytest.mark.parametrize("splines", [True, False])
def test_cholesky_flow(splines: bool) -> None:
    torch.manual_seed(1)
    flow = CholeskyFlow(2, splines=splines, transforms=2, hidden=(16,))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        flow.shift.copy_(torch.tensor([0.5, 0.3, 0.2]))
        x, log_q = flow.rsample_and_log_prob(20_000, generator)
        assert torch.allclose(flow.log_prob(x[:200]), log_q[:200], atol=1e-6)
        wishart = torch.distributions.Wishart(torch.tensor(5.0).double(), torch.eye(2).double() / 2)
        ratio = (wishart.log_prob(x) - log_q).exp()
        assert abs(float(ratio.mean()) - 1) < 4.3 * float(ratio.std()) / math.sqrt(len(x))


def test_cholesky_flow_learns_a_wishart_law() -> None:
    torch.manual_seed(0)
    flow, target = CholeskyFlow(2), torch.distributions.Wishart(torch.tensor(5.0).double(), torch.eye(2).double())
    optimizer, generator = torch.optim.Adam(flow.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    for _ in range(300):
        x, log_q = flow.rsample_and_log_prob(256, generator)
        loss = (log_q - target.log_prob(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        x, log_q = flow.rsample_and_log_prob(2000, generator)
    assert abs(float((log_q - target.log_prob(x)).mean())) < 0.05


def test_fit_is_reproducible_and_keeps_the_best() -> None:
    x = data("plane")
    seen: list[Check] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make("spline", "plane").fit(x, seed=3, max_seconds=60, max_steps=40, checks=8, on_check=seen.append)
        again = make("spline", "plane").fit(x, seed=3, max_seconds=60, max_steps=40, checks=8)
    assert [c.step for c in seen] == [c.step for c in model.history]
    assert torch.equal(model.log_prob(x), again.log_prob(x))
    assert model.parameter_count == sum(p.numel() for p in model.parameters())
