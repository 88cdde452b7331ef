"""The geometry of each manifold against geomstats, closed forms and its own limits; error messages."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import geoopt
import numpy as np
import pytest
import torch
from table import MANIFOLDS
from table.common import F64, PLANE, SPD, SPD_LEM, SPHERE, TORUS, real, unit_vector
from torch import Tensor

import mf_manifold as mf
from mf_manifold.testing.manifold import random_points

G = mf.geometry
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    STEIN = geoopt.SymmetricPositiveDefinite(default_metric="SM")
ORACLES = {name: MANIFOLDS[name] for name in ("sphere1", "sphere2", "sphere9", "spd1", "spd2", "spd3", "spd5")}
ORACLES |= {name: MANIFOLDS[name] for name in ("spd1_lem", "spd2_lem", "spd3_lem", "spd5_lem", "so3", "so4", "so5")}


def _question(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Base points, other points and tangent vectors."""
    manifold, point_shape = ORACLES[name]
    x, y = random_points(manifold, point_shape, 16, 1), random_points(manifold, point_shape, 16, 2)
    v = torch.randn(16, G.intrinsic_dim(manifold, point_shape), dtype=F64, generator=torch.Generator().manual_seed(3))
    return x, y, G.from_coords(manifold, x, 0.7 * v / v.norm(dim=-1, keepdim=True))


@pytest.fixture(scope="module")
def geomstats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Everything that geomstats says, asked once."""
    folder = tmp_path_factory.mktemp("geomstats")
    arrays = {f"{name}/{key}": t.numpy() for name in ORACLES for key, t in zip("xyu", _question(name), strict=True)}
    np.savez(folder / "questions.npz", **arrays)
    script = Path(__file__).with_name("geomstats_oracle.py")
    command = [sys.executable, str(script), str(folder / "questions.npz"), str(folder / "answers.npz")]
    subprocess.run(command, check=True, env={**os.environ, "GEOMSTATS_BACKEND": "numpy"}, timeout=300)
    answers = np.load(folder / "answers.npz")
    return {key: torch.from_numpy(np.asarray(answers[key])) for key in answers.files}


@pytest.mark.parametrize("name", ORACLES)
def test_maps_agree_with_geomstats(name: str, geomstats: dict[str, Tensor]) -> None:
    manifold, _ = ORACLES[name]
    x, y, u = _question(name)
    torch.testing.assert_close(geomstats[f"{name}/length"].reshape(-1), torch.full((16,), 0.7, dtype=F64))
    for key, value in (
        ("exp", G.expmap(manifold, x, u)),
        ("log", G.logmap(manifold, x, y)),
        ("dist", G.dist(manifold, x, y)),
    ):
        torch.testing.assert_close(value, geomstats[f"{name}/{key}"].reshape(value.shape), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in ORACLES if name.startswith("spd")])
def test_volume_element_is_the_gram_determinant_of_geomstats(name: str, geomstats: dict[str, Tensor]) -> None:
    manifold, _ = ORACLES[name]
    volume = mf.log_ratio(mf.Measure(manifold), mf.Measure(manifold, "lebesgue"), _question(name)[0])
    torch.testing.assert_close(volume, geomstats[f"{name}/log_volume"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "area"), [(2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2), (5, 8 * math.pi**2 / 3)])
def test_sphere_areas(size: int, area: float) -> None:
    assert math.isclose(G.log_volume(SPHERE, (size,)), math.log(area), rel_tol=1e-14)
    assert math.isclose(G.log_volume(geoopt.Scaled(SPHERE, 3.0), (size,)), math.log(area * 3 ** (size - 1)), rel_tol=1e-6)


def test_other_volumes() -> None:
    assert math.isclose(G.log_volume(TORUS, (3,)), 3 * math.log(2 * math.pi))
    assert G.log_volume(SPD, (2, 2)) == G.log_volume(PLANE, (2,)) == math.inf
    product = geoopt.ProductManifold((SPHERE, 3), (TORUS, 1))
    assert math.isclose(G.log_volume(product, (4,)), math.log(8 * math.pi**2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.5, math.pi - 1e-3, math.pi - 1e-6])
def test_sphere_distance_keeps_its_digits_at_both_ends(dtype: torch.dtype, angle: float) -> None:
    rest = math.pi - angle
    x = torch.tensor([0.0, 0.0, 1.0], dtype=dtype)
    near = torch.tensor([math.sin(angle), 0.0, math.cos(angle) if rest > 1 else -math.cos(rest)], dtype=dtype)
    eps = torch.finfo(dtype).eps
    exact = torch.atan2(near[0].double(), near[2].double())
    assert abs(float(G.dist(SPHERE, x, near).double() - exact)) <= 2 * eps * angle
    assert abs(float(G.logmap(SPHERE, x, near).norm().double() - exact)) <= 4 * eps * angle


def test_sphere_antipode() -> None:
    x = unit_vector(4).requires_grad_()
    u = G.logmap(SPHERE, x, -x.detach())
    assert math.isclose(float(u.detach().norm()), math.pi, rel_tol=1e-12)
    assert abs(float((u @ x).detach())) < 1e-12
    torch.testing.assert_close(G.expmap(SPHERE, x, u), -x)
    for value in (u.sum(), G.dist(SPHERE, x, -x.detach())):
        (slope,) = torch.autograd.grad(value, x, retain_graph=True)
        assert torch.isfinite(slope).all()


def test_sphere_geodesic_runs_round() -> None:
    x, v = unit_vector(3), real([0.3, 0.4])
    u = G.from_coords(SPHERE, x, v)
    for turns in (1, 2):
        again = G.expmap(SPHERE, x, u * (1 + 2 * math.pi * turns / 0.5))
        torch.testing.assert_close(again, G.expmap(SPHERE, x, u))


@pytest.mark.parametrize("size", [2, 3, 4, 10])
def test_sphere_frame_is_orthonormal_everywhere(size: int) -> None:
    poles = torch.cat([torch.eye(size, dtype=F64), -torch.eye(size, dtype=F64), unit_vector(size)[None]])
    frame = G.from_coords(SPHERE, poles.unsqueeze(1), torch.eye(size - 1, dtype=F64))
    torch.testing.assert_close(frame @ frame.mT, torch.eye(size - 1, dtype=F64).expand(len(poles), -1, -1))
    assert float((frame @ poles.unsqueeze(-1)).abs().max()) < 1e-15


def test_torus_cut_locus_and_turns() -> None:
    zero, half = real([0.0]), real([math.pi])
    assert math.isclose(float(G.dist(TORUS, zero, half)), math.pi)
    assert math.isclose(float(G.dist(TORUS, zero, half + 20 * math.pi)), math.pi, rel_tol=1e-13)
    x = torch.linspace(-6, 6, 49, dtype=F64).unsqueeze(-1)
    assert bool((G.project(TORUS, x) >= -math.pi).all() and (G.project(TORUS, x) < math.pi).all())
    torch.testing.assert_close(G.project(TORUS, x).cos(), x.cos())
    torch.testing.assert_close(G.project(TORUS, x).sin(), x.sin())


def test_torus_is_a_geoopt_manifold() -> None:
    torus = mf.manifolds.Torus()
    point = geoopt.ManifoldParameter(torus.random(5, 2, dtype=F64), manifold=torus)
    target = torch.full((2,), math.pi - 0.05, dtype=F64)
    optimiser = geoopt.optim.RiemannianAdam([point], lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        torus.dist(point, target).square().sum().backward()
        optimiser.step()
    assert float(torus.dist(point.detach(), target).max()) < 1e-2
    assert bool((point.abs() <= math.pi).all())
    assert torus.check_point_on_manifold(point)
    assert not torus.check_point_on_manifold(torch.full((2,), math.nan))
    assert torus.check_vector_on_tangent(target, target)
    assert not torus.origin(3, 2).any()
    u = torus.logmap(point, target)
    torch.testing.assert_close(torus.expmap(point.detach(), u).cos(), target.cos().expand(5, 2))
    assert torus.transp(point, target, u) is u and torus.proju(point, u) is u and torus.egrad2rgrad(point, u) is u
    torch.testing.assert_close(torus.inner(point, u), u.square().sum(-1))
    torch.testing.assert_close(torus.inner(point, u, 2 * u, keepdim=True), 2 * u.square().sum(-1, keepdim=True))


def test_spd_metrics_agree_on_commuting_matrices_and_only_there() -> None:
    a, b = torch.diag(real([1.0, 3.0])), torch.diag(real([2.0, 0.5]))
    torch.testing.assert_close(G.dist(SPD, a, b), G.dist(SPD_LEM, a, b))
    turned = real([[1.0, 0.7], [0.7, 2.0]])
    assert abs(float(G.dist(SPD, a, turned) - G.dist(SPD_LEM, a, turned))) > 1e-3


def test_affine_invariance_of_the_distance() -> None:
    x, y = random_points(SPD, (3, 3), 8, 0), random_points(SPD, (3, 3), 8, 1)
    change = torch.randn(3, 3, dtype=F64)
    moved = G.dist(SPD, change @ x @ change.mT, change @ y @ change.mT)
    torch.testing.assert_close(moved, G.dist(SPD, x, y))
    torch.testing.assert_close(G.dist(SPD, torch.linalg.inv(x), torch.linalg.inv(y)), G.dist(SPD, x, y))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_spd_gradients_at_the_identity(size: int) -> None:
    eye = torch.eye(size, dtype=F64, requires_grad=True)
    other = random_points(SPD, (size, size), 1, 0)[0]
    for metric in (SPD, SPD_LEM):
        for value in (G.dist(metric, eye, other), G.logmap(metric, eye, other).sum(), G.expmap(metric, eye, other).sum()):
            (slope,) = torch.autograd.grad(value, eye)
            assert torch.isfinite(slope).all()


@pytest.mark.parametrize(
    ("manifold", "point_shape", "message"),
    [
        (SPHERE, (1,), r"point shape \(D,\) with D >= 2 on the sphere, got \(1,\)"),
        (SPHERE, (2, 2), r"got \(2, 2\)"),
        (geoopt.Sphere(intersection=torch.eye(3)[:, :2]), (3,), "full sphere.*orthonormal basis of the subspace"),
        (TORUS, (), r"point shape \(d,\) with d >= 1 on the torus"),
        (SPD, (2, 3), r"point shape \(p, p\) on SPD matrices, got \(2, 3\)"),
        (STEIN, (2, 2), "metric AIM or LEM, got SM.*no volume"),
        (geoopt.Euclidean(ndim=2), (3,), r"2 dimension\(s\) on Euclidean\(ndim=2\), got \(3,\)"),
        (geoopt.ProductManifold((SPHERE, 3), (TORUS, 1)), (3,), r"point shape \(4,\) of the product"),
        (geoopt.ProductManifold((SPHERE, (2, 2)), (TORUS, 1)), (5,), r"on the sphere, got \(2, 2\)"),
        (geoopt.Scaled(SPHERE, 2.0), (1,), r"D >= 2"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_unsupported_variants_are_refused(manifold: geoopt.Manifold, point_shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        G.check_manifold(manifold, point_shape)


def test_unknown_manifold_names_the_known_ones() -> None:
    x = torch.zeros(3)
    with pytest.raises(NotImplementedError, match=r"Torus.*got BirkhoffPolytope.*geometry\.dist\.register\(BirkhoffPolytope\)"):
        G.dist(geoopt.BirkhoffPolytope(), x, x)
    with pytest.raises(NotImplementedError, match="intrinsic_dim"):
        G.intrinsic_dim(geoopt.BirkhoffPolytope(), (3,))
    with pytest.raises(ValueError, match=r"a manifold out of .*Sphere.*got 'Klein'"):
        mf.manifolds.from_config({"type": "Klein"})


def _points(manifold: geoopt.Manifold, point_shape: tuple[int, ...], dtype: torch.dtype = F64) -> Tensor:
    return random_points(manifold, point_shape, 20, 0).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MANIFOLDS)
def test_points_in_both_dtypes_pass_the_check(name: str, dtype: torch.dtype) -> None:
    manifold, point_shape = MANIFOLDS[name]
    G.check_points(manifold, _points(manifold, point_shape, dtype), point_shape)


def test_messages_name_the_rows() -> None:
    x = _points(SPHERE, (3,))
    x[7], x[12] = 1.02 * x[7], 0.9 * x[12]
    with pytest.raises(ValueError, match=r"2 of 20 rows are off it by \| \|x\| - 1 \|, first row 7, worst 1.0e-01"):
        G.check_points(SPHERE, x, (3,))
    x[3, 1] = math.nan
    with pytest.raises(ValueError, match="1 of 20 rows have NaN or infinite entries, first row 3"):
        G.check_points(SPHERE, x, (3,))
    angles = _points(TORUS, (2,))
    angles[5] = real([90.0, 10.0])
    with pytest.raises(ValueError, match=r"1 of 20 rows exceed 2 pi radians \(degrees.*deg2rad.*first row 5"):
        G.check_points(TORUS, angles, (2,))
    matrices = _points(SPD, (2, 2))
    matrices[4] = real([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match=r"1 of 20 rows are not positive definite.*first row 4"):
        G.check_points(SPD, matrices, (2, 2))
    matrices[4] = real([[2.0, 0.2], [0.1, 1.0]])
    with pytest.raises(ValueError, match=r"1 of 20 rows are not symmetric.*first row 4, worst 5.0e-02"):
        G.check_points(SPD, matrices, (2, 2))
    product = geoopt.ProductManifold((SPHERE, 3), (SPD, (2, 2)))
    pairs = _points(product, (7,))
    pairs[2, 3:] = real([1.0, 2.0, 2.0, 1.0])
    with pytest.raises(ValueError, match=r"not positive definite.*in part 1"):
        G.check_points(product, pairs, (7,))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(5, 4), r"shape \(\.\.\., 3\) on Sphere, got shape \(5, 4\)"),
        (torch.tensor(1.0), r"got shape \(\)"),
        (torch.ones(2, 3, dtype=torch.long), r"floating dtype, got torch\.int64.*\.double\(\)"),
        ([0.0, 0.0, 1.0], "got a list.*as_tensor"),
    ],
)
def test_points_of_another_kind(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        G.check_points(SPHERE, x, (3,))


def test_empty_batches_pass() -> None:
    for manifold, point_shape in MANIFOLDS.values():
        G.check_points(manifold, torch.zeros(0, *point_shape), point_shape)
