"""THE TABLE: one row for each kernel x manifold x parameters, and one for each manifold, that the conformance suite runs on.

A new kernel is covered by adding rows here. Numbers in an id are the width: scale, concentration or degrees of freedom.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernel import Kernel, Params
from mf_manifold.linalg import congruence
from mf_manifold.testing.density import generator_for
from mf_manifold.testing.symmetry import random_rotation

F64 = torch.float64
SPHERE, TORUS, SPD = geoopt.Sphere(), mf.manifolds.Torus(), geoopt.SymmetricPositiveDefinite()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # geoopt: only its dist follows the metric; ours follow it throughout
    SPD_LEM = geoopt.SymmetricPositiveDefinite(default_metric="LEM")
PLANE = geoopt.Euclidean(ndim=1)


@dataclass(frozen=True)
class Case:
    """A kernel at one component's parameters, with the stated bounds of single checks."""

    id: str
    kernel: Kernel
    params: Params
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def real(value: float | list[float]) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(value, dtype=F64)


def unit_vector(size: int) -> Tensor:
    """A point of the sphere in general position."""
    return torch.nn.functional.normalize(torch.randn(size, dtype=F64, generator=generator_for(size)), dim=0)


def covariance(size: int, scale: float) -> Tensor:
    """A covariance matrix with correlations, standard deviations from 0.6 to 1.4 times ``scale``."""
    rotation = random_rotation(size, generator_for(size))
    return congruence(rotation, torch.diag((scale * torch.linspace(0.6, 1.4, size, dtype=F64)).square()))


def spd_matrix(size: int) -> Tensor:
    """An SPD matrix with eigenvalues from 0.5 to 3 (1.5 alone)."""
    values = torch.linspace(0.5, 3.0, size, dtype=F64) if size > 1 else real([1.5])
    return congruence(random_rotation(size, generator_for(7 * size)), torch.diag(values))


def case(id: str, manifold: geoopt.Manifold, kernel: str | None, params: Params, **options: Mapping[str, Any]) -> Case:
    """A row; names of checks in ``options`` have underscores for spaces."""
    dist = mf.distribution(manifold, kernel, **params)
    return Case(id, dist.kernel, dist.params, options)


def _rotate_covariance(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    rotation = random_rotation(size, generator_for(99))

    def act(w: Params) -> Params:
        return {"loc": w["loc"] @ rotation.mT, "covariance_matrix": congruence(rotation, w["covariance_matrix"])}

    return lambda x: x @ rotation.mT, act


def _wishart_congruence(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Params], Params]]:
    change = torch.eye(size, dtype=F64) + 0.4 * torch.randn(size, size, dtype=F64, generator=generator_for(98))
    return lambda x: congruence(change, x), lambda w: {**w, "covariance_matrix": congruence(change, w["covariance_matrix"])}


def sphere_rows() -> list[Case]:
    """Wrapped normal, isotropic and full, and von Mises-Fisher."""
    scales = {2: (0.01, 0.5, 3.0), 3: (0.001, 0.3, 1.5), 4: (0.05, 0.3, 1.2), 10: (0.05, 0.3, 0.7)}
    concentrations = {2: (0.0, 2.0, 1e4), 3: (0.0, 5.0, 1e6), 4: (10.0, 1e4), 16: (0.0, 50.0, 1e6)}
    rows = []
    for size, values in scales.items():
        for s in values:
            name, loc = f"sphere{size - 1}-wrapped_normal", unit_vector(size)
            rows.append(case(f"{name}_{s:g}", SPHERE, "wrapped_normal", {"loc": loc, "scale": real(s)}))
            full = {"loc": loc, "covariance_matrix": covariance(size, s)}
            turn = {"transform": _rotate_covariance(size)}
            rows.append(case(f"{name}_full_{s:g}", SPHERE, "wrapped_normal", full, invariance=turn))
    for size, values in concentrations.items():
        for k in values:
            params = {"loc": unit_vector(size), "concentration": real(k)}
            rows.append(case(f"sphere{size - 1}-von_mises_fisher_{k:g}", SPHERE, "von_mises_fisher", params))
    return rows


def torus_rows() -> list[Case]:
    """Wrapped normal, diagonal and full, in the direct and in the Fourier regime."""
    rows = []
    for size in (1, 2, 3):
        loc = torch.linspace(-2.5, 3.0, size, dtype=F64)
        for s in (0.05, 0.8, 3.0):
            spread = s * torch.linspace(0.8, 1.2, size, dtype=F64)
            rows.append(case(f"torus{size}-wrapped_normal_{s:g}", TORUS, "wrapped_normal", {"loc": loc, "scale": spread}))
        for s in (0.05, 0.8, 4.5):
            full = {"loc": loc, "covariance_matrix": covariance(size, s)}
            rows.append(case(f"torus{size}-wrapped_normal_full_{s:g}", TORUS, "wrapped_normal", full))
    return rows


def spd_rows() -> list[Case]:
    """Wishart and log-normal by the affine-invariant and by the log-Euclidean metric."""
    rows = []
    for size, dfs in {1: (0.7, 6.0), 2: (2.5, 7.5, 200.0), 3: (4.2, 9.0), 5: (20.0,)}.items():
        for df in dfs:
            params = {"df": real(df), "covariance_matrix": spd_matrix(size) / df}
            change = {"transform": _wishart_congruence(size)}
            rows.append(case(f"spd{size}-wishart_{df:g}", SPD, "wishart", params, invariance=change))
    for size, scales in {1: (0.1, 1.0), 2: (0.05, 0.4, 1.0), 3: (0.1, 0.4), 5: (0.2,)}.items():
        dim, loc, own = size * (size + 1) // 2, spd_matrix(size), {"metric": SPD_LEM}
        for s in scales:
            params, full = {"loc": loc, "scale": real([s])}, {"loc": loc, "covariance_matrix": covariance(dim, s)}
            rows.append(case(f"spd{size}-log_normal_{s:g}", SPD, "log_normal", params, centered=own))
            rows.append(case(f"spd{size}-log_normal_full_{s:g}", SPD, "log_normal", full, centered=own))
        rows.append(case(f"spd{size}_lem-log_normal_{s:g}", SPD_LEM, "log_normal", params))
    wishart = {"df": real(7.5), "covariance_matrix": spd_matrix(2)}
    return [*rows, case("spd2_lem-wishart_7.5", SPD_LEM, "wishart", wishart, centered={"metric": SPD})]


def euclidean_rows() -> list[Case]:
    """Normal on vectors and on matrices."""
    rows = []
    for size, s in ((1, 0.01), (2, 1.0), (3, 5.0)):
        loc = torch.linspace(1.0, 4.0, size, dtype=F64)
        rows.append(case(f"euclidean{size}-normal_{s:g}", PLANE, "normal", {"loc": loc, "scale": real([s] * size)}))
        full = {"loc": loc, "covariance_matrix": covariance(size, s)}
        rows.append(case(f"euclidean{size}-normal_full_{s:g}", PLANE, "normal", full))
    matrices = {"loc": torch.ones(2, 3, dtype=F64), "scale": real([0.7])}
    return [*rows, case("euclidean2x3-normal_0.7", geoopt.Euclidean(ndim=2), "normal", matrices)]


def composite_rows() -> list[Case]:
    """Products, scaled manifolds, and a subclass that finds its kernels through the MRO."""
    cylinder = geoopt.ProductManifold((TORUS, 1), (PLANE, 2))
    pose = geoopt.ProductManifold((SPHERE, 3), (SPD, (2, 2)))
    on_cylinder = {"loc_0": real([3.0]), "scale_0": real([0.6]), "loc_1": real([1.0, -1.0]), "scale_1": real([0.5])}
    on_pose = {"loc_0": unit_vector(3), "concentration_0": real(8.0), "loc_1": spd_matrix(2), "scale_1": real([0.3])}
    normal, vmf = {"loc": unit_vector(3), "scale": real(0.4)}, {"loc": unit_vector(3), "concentration": real(20.0)}
    globe, clock = geoopt.Scaled(SPHERE, 6.0), geoopt.Scaled(TORUS, 0.5)
    pose_metric = geoopt.ProductManifold((SPHERE, 3), (SPD_LEM, (2, 2)))
    angles = {"loc": real([1.0, -3.0]), "scale": real([0.3, 2.0])}
    turntable = geoopt.ProductManifold((SPHERE, 3), (TORUS, 1))
    on_turntable = {"loc_0": unit_vector(3), "concentration_0": real(3.0), "loc_1": real([3.0]), "scale_1": real([0.8])}
    return [
        case("sphere2xtorus1-product", turntable, None, on_turntable),
        case("torus1xeuclidean2-product", cylinder, None, on_cylinder),
        case("sphere2xspd2-product", pose, None, on_pose, centered={"metric": pose_metric}),
        case("scaled_sphere2-von_mises_fisher_20", globe, "von_mises_fisher", vmf, centered={"metric": SPHERE}),
        case("scaled_sphere2-wrapped_normal_0.4", globe, "wrapped_normal", normal, centered={"metric": SPHERE}),
        case("scaled_torus2-wrapped_normal", clock, "wrapped_normal", angles, centered={"metric": TORUS}),
        case("sphere_exact2-wrapped_normal_0.4", geoopt.SphereExact(), "wrapped_normal", normal),
        case("sphere_exact2-von_mises_fisher_20", geoopt.SphereExact(), "von_mises_fisher", vmf),
    ]


CASES = [*sphere_rows(), *torus_rows(), *spd_rows(), *euclidean_rows(), *composite_rows()]

MANIFOLDS: dict[str, tuple[geoopt.Manifold, tuple[int, ...]]] = {
    **{f"sphere{n - 1}": (SPHERE, (n,)) for n in (2, 3, 4, 10, 16)},
    **{f"torus{n}": (TORUS, (n,)) for n in (1, 2, 3)},
    **{f"spd{n}": (SPD, (n, n)) for n in (1, 2, 3, 5)},
    **{f"spd{n}_lem": (SPD_LEM, (n, n)) for n in (1, 2, 3, 5)},
    **{f"euclidean{n}": (PLANE, (n,)) for n in (1, 3)},
    "euclidean2x3": (geoopt.Euclidean(ndim=2), (2, 3)),
    "sphere_exact2": (geoopt.SphereExact(), (3,)),
    "scaled_sphere2": (geoopt.Scaled(SPHERE, 6.0), (3,)),
    "scaled_torus2": (geoopt.Scaled(TORUS, 0.5), (2,)),
    "scaled_spd2": (geoopt.Scaled(SPD, 2.0), (2, 2)),
    "sphere2xtorus1": (geoopt.ProductManifold((SPHERE, 3), (TORUS, 1)), (4,)),
    "sphere2xspd2": (geoopt.ProductManifold((SPHERE, 3), (SPD, (2, 2))), (7,)),
}
