"""The anchored flow: normalised everywhere, honest in its fit, the same after a round trip."""

from __future__ import annotations

import math
from pathlib import Path

import geoopt
import pytest
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold import geometry, manifolds
from mf_manifold.anchors import AnchoredFlow, training
from mf_manifold.anchors.components import rounded
from mf_manifold.anchors.crossfit import Scoring, log_density
from mf_manifold.anchors.kernels import anchor_kernel
from mf_manifold.anchors.neighbours import Neighbours
from mf_manifold.integral import total_mass
from mf_manifold.kernel import Kernel
from mf_manifold.mixture import Mixture
from mf_manifold.quadrature import integrate_cube

F64 = torch.float64
SPHERE, TORUS, SPD = geoopt.Sphere(), manifolds.Torus(), geoopt.SymmetricPositiveDefinite()
LINE, HYPERBOLIC = geoopt.Euclidean(ndim=1), geoopt.Lorentz()
CYLINDER = geoopt.ProductManifold((TORUS, 1), (LINE, 1))
SPACES: dict[str, tuple[geoopt.Manifold, tuple[int, ...]]] = {
    "sphere": (SPHERE, (3,)),
    "sphere4": (SPHERE, (5,)),
    "torus": (TORUS, (2,)),
    "torus3": (TORUS, (3,)),
    "plane": (LINE, (2,)),
    "spd": (SPD, (2, 2)),
    "hyperbolic": (HYPERBOLIC, (3,)),
    "ball": (geoopt.PoincareBall(c=1.5), (2,)),
    "projected sphere": (geoopt.SphereProjection(k=1.0), (2,)),
    "globe": (geoopt.Scaled(SPHERE, 3.0), (3,)),
    "rotations": (manifolds.SpecialOrthogonal(), (3, 3)),
    "quaternions": (manifolds.UnitQuaternions(), (4,)),
    "correlations": (manifolds.Correlation(), (3, 3)),
    "simplex": (manifolds.Simplex(), (3,)),
    "subspaces": (manifolds.Grassmann(), (4, 2)),
    "plane in space": (manifolds.AffineSubspace([[3.0, 0], [4.0, 0], [0, 1.0]]), (3,)),
    "cylinder": (CYLINDER, (2,)),
}
EVERYWHERE = pytest.mark.parametrize("space", SPACES)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SHARED_STEPS", 40)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scattered(space: str, n: int, spread: float = 0.5, seed: int = 0) -> Tensor:
    """Points in two groups, from normal raw coordinates."""
    manifold, shape = SPACES[space]
    draws = generator(seed)
    raw = torch.randn(n, geometry.raw_dim(manifold, shape), generator=draws, dtype=F64)
    centers = torch.randn(2, raw.shape[1], generator=generator(7), dtype=F64)
    side = torch.randint(2, (n,), generator=draws)
    return geometry.project(manifold, geometry.from_raw(manifold, centers[side] + spread * raw, shape))


def small(space: str, networks: int = 1) -> AnchoredFlow:
    return AnchoredFlow(*SPACES[space], neighbors=(3, 6), hidden=(16,), networks=networks)


@EVERYWHERE
def test_coordinates_are_the_inverse_of_vectors(space: str) -> None:
    manifold, shape = SPACES[space]
    x = scattered(space, 5)
    v = torch.randn(5, geometry.intrinsic_dim(manifold, shape), generator=generator(), dtype=F64)
    back = geometry.to_coords(manifold, x, geometry.from_coords(manifold, x, v))
    torch.testing.assert_close(back, v, rtol=1e-9, atol=1e-9)


def asked_and_found(kernel: Kernel, space: str) -> tuple[Tensor, Tensor]:
    """A narrow covariance, and the second moments of the logarithms of samples of the kernel around a point."""
    manifold, _ = SPACES[space]
    root = torch.randn(kernel.dim, kernel.dim, generator=generator(1), dtype=F64)
    asked = 1e-4 * (root @ root.mT / kernel.dim + 0.2 * torch.eye(kernel.dim, dtype=F64))
    at = scattered(space, 1)
    w = kernel.expand(kernel.around(at, asked.unsqueeze(0)), (20_000,))
    x = kernel.rsample(w, (), generator(2))
    v = geometry.to_coords(manifold, at.expand_as(x), geometry.logmap(manifold, at.expand_as(x), x))
    return asked, v.mT @ v / len(v)


@EVERYWHERE
def test_bumps_have_the_covariance_that_is_asked_for(space: str) -> None:
    kernel = anchor_kernel(*SPACES[space], None, None)
    asked, found = asked_and_found(kernel, space)
    if space == "subspaces":  # this family has one variance for all directions
        asked = asked.trace() / kernel.dim * torch.eye(kernel.dim, dtype=F64)
    if space == "cylinder":  # the parts of a product are independent
        asked = torch.diag(asked.diagonal())
    assert float((found - asked).norm() / asked.norm()) < 0.07


@EVERYWHERE
def test_covariances_of_flat_bumps_survive_rounding_to_single_precision(space: str) -> None:
    kernel, x = anchor_kernel(*SPACES[space], None, None), scattered(space, 20)
    turn = torch.linalg.qr(torch.randn(20, kernel.dim, kernel.dim, generator=generator(), dtype=F64)).Q
    variances = 1e-3 * torch.logspace(0, -8, kernel.dim, dtype=F64)
    w = rounded(kernel, kernel.around(x, (turn * variances) @ turn.mT), x.float())
    assert all(value.dtype == torch.float32 for value in w.values())
    assert bool(torch.isfinite(kernel.log_prob(geometry.project(kernel.manifold, x.float()), w)).all())


@EVERYWHERE
def test_fits_everywhere(space: str) -> None:
    x = scattered(space, 60)
    flow = small(space).fit(x, max_steps=20, progress=False)
    mixture = flow.freeze()
    assert mixture.n_components == 120
    fresh = scattered(space, 200, seed=1)
    one = flow.kernel.around(x[:1], torch.eye(flow.kernel.dim, dtype=F64).unsqueeze(0))
    assert float(mixture.log_prob(fresh).mean()) > float(Mixture(flow.kernel, one).log_prob(fresh).mean())
    geometry.check_points(*SPACES[space][:1], mixture.sample((50,), generator()), SPACES[space][1])


@pytest.mark.parametrize("space", ["sphere", "torus", "spd"])
def test_integrates_to_one(space: str) -> None:
    flow = small(space).fit(scattered(space, 60), max_steps=20, progress=False)
    mass = total_mass(flow.freeze())
    assert abs(mass.value - 1) < max(1e-3, 4.3 * mass.error)


def hyperbolic_points(u: Tensor) -> tuple[Tensor, Tensor]:
    """Points in a disc of radius 14 of the hyperboloid by polar coordinates, and the volume of these."""
    r, angle = 14 * u[:, 0], 2 * math.pi * u[:, 1]
    x = torch.stack([r.cosh(), r.sinh() * angle.cos(), r.sinh() * angle.sin()], dim=-1)
    return x, r.sinh() * 14 * 2 * math.pi


def cylinder_points(u: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack([2 * math.pi * u[:, 0] - math.pi, 80 * u[:, 1] - 40], dim=-1), torch.full_like(u[:, 0], 160 * math.pi)


def to_disc(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0].acosh() / 14, torch.remainder(torch.atan2(x[:, 2], x[:, 1]) / (2 * math.pi), 1)], dim=-1)


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("space", ["hyperbolic", "cylinder"])
def test_integrates_to_one_on_spaces_without_end(space: str, forgotten: bool) -> None:
    flow = small(space).fit(scattered(space, 60), max_steps=20, progress=False)
    assert flow.shapes is not None
    flow.shapes.background.data.fill_(-4.0)
    mixture = flow.freeze()
    assert mixture.background is not None

    def density(u: Tensor) -> Tensor:
        x, volume = hyperbolic_points(u) if space == "hyperbolic" else cylinder_points(u)
        log_q = mixture.log_prob(x)
        if forgotten:  # that the components make room for the background
            covering = mixture.background.log_prob(x) + mixture.background_weight.log()
            log_q = torch.logaddexp(mixture._reduce(x), covering)
        return log_q.exp() * volume

    x = mixture.sample((5000,), generator())
    scouts = to_disc(x) if space == "hyperbolic" else torch.stack([x[:, 0] / (2 * math.pi) + 0.5, x[:, 1] / 80 + 0.5], dim=-1)
    value, error = integrate_cube(density, scouts.clamp(0, 1 - 1e-9))
    assert (abs(value - 1) < 1e-3 + error) != forgotten


def parts_of(x: Tensor) -> tuple[AnchoredFlow, Neighbours, Scoring]:
    flow = small("sphere", networks=0).fit(x, progress=False)
    neighbours = Neighbours(SPHERE, x, flow.sizes, torch.arange(len(x)) % 10)
    return flow, neighbours, Scoring(SPHERE, x, 50, flow._background_log_prob)


def test_scored_points_leave_no_trace_in_cross_fitted_statistics() -> None:
    x = scattered("sphere", 100)
    moved = x.clone()
    moved[::10] = scattered("sphere", 10, seed=5)
    kept = torch.arange(100) % 10 != 0
    fold = torch.arange(100) % 10
    before, after = (Neighbours(SPHERE, points, (3, 6), fold).local(0) for points in (x, moved))
    for a, b in zip(before[:4], after[:4], strict=True):
        if a.shape != before.vectors.shape:  # eigenvectors have signs
            torch.testing.assert_close(a[kept], b[kept])
    whole = Neighbours(SPHERE, x, (3, 6), fold).local()
    assert not torch.allclose(whole.values[kept], before.values[kept])


def test_naive_leave_one_out_promises_what_fresh_points_do_not_keep() -> None:
    x = scattered("sphere", 400)
    flow, neighbours, scoring = parts_of(x)
    shapes, everything = flow.shapes, torch.arange(400)
    assert shapes is not None
    with torch.no_grad():
        # the neighbours' covariance and little else, as a fit to naive scores would have it
        for name, value in {"log_factor": -0.5, "roundness": -3.0, "log_width": -4.0, "shift": 0.0}.items():
            getattr(shapes, name).fill_(value)
        held_out = torch.cat([log_density(shapes, scoring.held_out(neighbours, f, 400), 9.0) for f in range(10)])
        local = neighbours.local()
        naive = torch.cat(
            [log_density(shapes, scoring.part(local, x[i, None], everything[everything != i]), 9.0) for i in range(0, 400, 10)]
        )
        fresh = log_density(shapes, scoring.part(local, scattered("sphere", 4000, seed=3), everything), 9.0)
    noise = float(held_out.std()) / math.sqrt(len(held_out))
    assert abs(float(held_out.mean() - fresh.mean())) < 4.3 * noise
    gain = naive - held_out[:40]  # the first part of the data has every tenth
    assert float(gain.mean()) > 4.3 * float(gain.std()) / math.sqrt(len(gain))


def test_samples_follow_the_density() -> None:
    mixture = small("sphere").fit(scattered("sphere", 80, spread=1.0), max_steps=20, progress=False).freeze()
    count = 1200
    samples, draws = mixture.sample((count,), generator(1)), generator(2)
    proposals = geometry.sample_uniform(SPHERE, (3,), (40_000,), generator=draws, dtype=F64)
    log_q = mixture.log_prob(proposals)
    # the few places above this level are rejected from the samples as well
    level = log_q.sort()[0][-40]
    accepted = proposals[(torch.rand(len(proposals), generator=draws) < (log_q - level).exp()) & (log_q <= level)]
    samples = samples[mixture.log_prob(samples) <= level]
    size = min(len(samples), len(accepted))
    assert size > 600
    both = torch.cat([samples[:size], accepted[:size]])
    nearest = torch.cdist(both, both).fill_diagonal_(9.0).argmin(1)
    label = torch.arange(2 * size) < size
    share = float((label == label[nearest]).double().mean())
    assert abs(share - 0.5) < 4.3 * 0.5 / math.sqrt(size)


def test_round_trip_and_new_anchors(tmp_path: Path) -> None:
    x = scattered("sphere", 100)
    flow = small("sphere").fit(x[:80], validation=x[80:], max_steps=20, progress=False, checkpoint=tmp_path)
    loaded = mf.load(tmp_path)
    fresh = scattered("sphere", 20, seed=1)
    torch.testing.assert_close(loaded.log_prob(fresh), flow.log_prob(fresh), rtol=0, atol=0)
    assert loaded.history == flow.history
    torch.testing.assert_close(loaded.anchor(x).log_prob(fresh), flow.anchor(x).log_prob(fresh), rtol=1e-6, atol=1e-6)
    assert flow.freeze().n_components == 200


def test_same_seed_same_flow() -> None:
    x = scattered("torus", 60)
    one, two, other = (small("torus").fit(x, seed=s, max_steps=20, progress=False).log_prob(x) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("space", ["sphere", "torus", "spd"])
def test_single_precision(space: str) -> None:
    x = scattered(space, 60)
    flow = small(space, networks=0).fit(x.float(), progress=False)
    wide = small(space, networks=0).fit(x, progress=False)
    fresh = scattered(space, 20, seed=1)
    assert flow.log_prob(fresh.float()).dtype == torch.float32
    assert float((flow.log_prob(fresh.float()) - wide.log_prob(fresh)).abs().median()) < 0.05


def test_few_points_and_more_neighbours_than_points() -> None:
    flow = AnchoredFlow(SPHERE, (3,)).fit(scattered("sphere", 10), max_steps=20, progress=False)
    assert flow.freeze().n_components == 10 * 12
    assert abs(total_mass(flow.freeze()).value - 1) < 1e-3


def test_copies_and_far_points_have_finite_densities() -> None:
    x = scattered("sphere", 40)
    flow = small("sphere").fit(torch.cat([x, x[:20], x[:20]]), max_steps=20, progress=False)
    assert bool(torch.isfinite(flow.log_prob(torch.cat([x, -x]))).all())
    assert all(math.isfinite(entry["selection_nll"]) for entry in flow.history)
    far = torch.tensor([[1e6, 0.0]], dtype=F64)
    assert bool(torch.isfinite(small("plane").fit(scattered("plane", 40), max_steps=20, progress=False).log_prob(far)).all())


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_data_that_are_mostly_copies(dtype: torch.dtype) -> None:
    """The fourth neighbour of every point is a copy of it: the first that is none gives the unit of length."""
    x = scattered("sphere", 12).repeat(5, 1).to(dtype)
    flow = AnchoredFlow(SPHERE, (3,), neighbors=(4, 8), networks=1).fit(x, max_steps=5, progress=False)
    assert bool(torch.isfinite(flow.log_prob(torch.cat([x, -x]))).all())
    with pytest.raises(ValueError, match="no copies of 8 others, got 120 that all are"):
        flow.fit(x[:12].repeat(10, 1), progress=False)


class Ticking:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("max_seconds", [1e-9, 10.0, 100.0])
def test_time_limit(monkeypatch: pytest.MonkeyPatch, max_seconds: float) -> None:
    """Any limit leaves a valid density, and a fit ends at nine tenths of it or with the next step."""
    monkeypatch.setattr(training, "time", Ticking())
    flow = AnchoredFlow(SPHERE, (3,), neighbors=(3, 6), hidden=(16,), networks=2)
    flow.fit(scattered("sphere", 60), max_seconds=max_seconds, max_steps=100_000, progress=False)
    assert flow.history[-1]["seconds"] < max(0.9 * max_seconds, 8.0) + 10.0
    if max_seconds == 100.0:
        assert flow.history[-1]["seconds"] > 80.0
        assert max(entry["step"] for entry in flow.history) > 40
    assert abs(total_mass(flow.freeze()).value - 1) < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": (8, 4)}, "increasing order"),
        ({"neighbors": (0, 4)}, "positive numbers"),
        ({"kernel": "uniform"}, "has none"),
        ({"kernel": "nothing"}, "registered kernel"),
    ],
)
def test_what_it_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnchoredFlow(SPHERE, (3,), **options)  # type: ignore[arg-type]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_it_cannot_fit() -> None:
    flow, x = AnchoredFlow(SPHERE, (3,)), scattered("sphere", 20)
    with pytest.raises(ValueError, match="at least 10 points, got 9"):
        flow.fit(x[:9])
    with pytest.raises(ValueError, match="validation of shape"):
        flow.fit(x, validation=x[:, :2])
    with pytest.raises(ValueError, match="points of shape"):
        flow.fit(x.unsqueeze(0))
    with pytest.raises(ValueError, match="positive max_seconds"):
        flow.fit(x, max_seconds=0.0)
    with pytest.raises(RuntimeError, match="Call fit"):
        flow.freeze()
    with pytest.raises(RuntimeError, match="Call fit"):
        flow.anchor(x)
    with pytest.raises(NotImplementedError, match="logarithm of the Stiefel"):
        AnchoredFlow(geoopt.CanonicalStiefel(), (4, 2)).fit(
            geometry.sample_uniform(geoopt.CanonicalStiefel(), (4, 2), (20,), dtype=F64), progress=False
        )
    fitted = small("sphere").fit(x, max_steps=1, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Training, "prepare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitted.fit(x, progress=False)
    with pytest.raises(RuntimeError, match="Call fit"):  # not the old components with new weights
        fitted.freeze()
    fitted.fit(x, max_steps=1, progress=False)
    with pytest.raises(ValueError, match="more than 6 points"):
        fitted.anchor(x[:6])
