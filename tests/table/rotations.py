"""Rotations: SO(n), quaternions, poses."""

from __future__ import annotations

from dataclasses import replace

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.testing import KERNEL_CHECKS
from mf_manifold.testing.density import generator_for

from .common import F64, PLANE, Case, Manifolds, case, covariance, real
from .uniform import CHECKS

ROTATIONS, QUATERNIONS = mf.manifolds.SpecialOrthogonal(), mf.manifolds.UnitQuaternions()
AXES = ("angular_central_gaussian", {"covariance_matrix": covariance(4, 1.0)})
# rare far draws decide the mean squared distance of a narrow law with tails like these
HEAVY_TAILS = tuple(check for check in KERNEL_CHECKS if check != "centered")


def rotation(size: int) -> Tensor:
    """A rotation in general position."""
    return mf.geometry.sample_uniform(ROTATIONS, (size, size), generator=generator_for(size), dtype=F64)


def quaternion() -> Tensor:
    """A unit quaternion in general position."""
    return mf.geometry.sample_uniform(QUATERNIONS, (4,), generator=generator_for(4), dtype=F64)


def _bumps() -> list[Case]:
    rows = []
    for kernel, places in {
        "wrapped_normal": ((3, 0.001), (3, 0.4), (3, 1.6), (2, 0.7)),
        "cayley_normal": ((3, 0.01), (3, 0.8), (2, 0.5), (4, 0.3)),
    }.items():
        for n, s in places:
            rows.append(case(f"so{n}-{kernel}_{s:g}", ROTATIONS, kernel, {"loc": rotation(n), "scale": real(s)}))
    for kernel, places in {
        "wrapped_normal": ((3, 0.05), (3, 0.9)),
        "cayley_normal": ((3, 0.6), (4, 0.1), (5, 0.3)),
    }.items():
        for n, s in places:
            full = {"loc": rotation(n), "covariance_matrix": covariance(n * (n - 1) // 2, s)}
            rows.append(case(f"so{n}-{kernel}_full_{s:g}", ROTATIONS, kernel, full))
    for s in (0.005, 0.7, 2.5):
        rows.append(case(f"so3-isotropic_normal_{s:g}", ROTATIONS, "isotropic_normal", {"loc": rotation(3), "scale": real(s)}))
    return rows


def concentration(values: list[float]) -> Tensor:
    """The matrix of a Fisher law with these proper singular values."""
    left, right = mf.geometry.sample_uniform(ROTATIONS, (3, 3), (2,), generator=generator_for(5), dtype=F64)
    return left @ torch.diag(real(values)) @ right


def _through_quaternions() -> list[Case]:
    rows = []
    shapes = {"0": [0.0] * 3, "mixed": [20.0, 3.0, -1.0], "flat": [3.0, 3.0, -3.0], "400": [500.0, 400.0, 300.0]}
    for name, values in shapes.items():
        fisher = {"concentration_matrix": concentration(values)}
        rows.append(case(f"so3-matrix_fisher_{name}", ROTATIONS, "matrix_fisher", fisher))
    for length in (0.5, 4.0, 200.0):
        rows.append(case(f"so3-projected_normal_{length:g}", ROTATIONS, "projected_normal", {"loc": length * quaternion()}))
    full = {"loc": real([0.5, -1.0, 2.0, 1.0]), "covariance_matrix": covariance(4, 0.7)}
    rows.append(case("so3-projected_normal_full", ROTATIONS, "projected_normal", full))
    return [*rows, replace(case("so3-angular_central_gaussian", ROTATIONS, *AXES), checks=HEAVY_TAILS)]


def _quaternion_rows() -> list[Case]:
    bump = {"loc": quaternion(), "scale": real(0.5)}
    rows = [
        case(f"quaternions-{name}", QUATERNIONS, name, bump) for name in ("wrapped_normal", "isotropic_normal", "cayley_normal")
    ]
    fisher = {"concentration_matrix": concentration([8.0, 4.0, -1.0])}
    return [
        *rows,
        case("quaternions-matrix_fisher", QUATERNIONS, "matrix_fisher", fisher),
        case("quaternions-projected_normal", QUATERNIONS, "projected_normal", {"loc": 3 * quaternion()}),
        replace(case("quaternions-angular_central_gaussian", QUATERNIONS, *AXES), checks=HEAVY_TAILS),
        Case("quaternions-uniform", mf.kernel_for(QUATERNIONS, (4,), "uniform"), {}, checks=CHECKS),
        Case("so3-uniform", mf.kernel_for(ROTATIONS, (3, 3), "uniform"), {}, checks=CHECKS),
    ]


def rows() -> list[Case]:
    """Narrow, typical and wide laws on SO(2) to SO(5), on quaternions, and of poses."""
    poses = geoopt.ProductManifold((ROTATIONS, (3, 3)), (PLANE, 3))
    pose = {"loc_0": rotation(3), "scale_0": real(0.3), "loc_1": real([1.0, 2.0, 3.0]), "scale_1": real([0.5])}
    pair = case("poses-product", poses, ("isotropic_normal", None), pose)
    return [*_bumps(), *_through_quaternions(), *_quaternion_rows(), pair]


def manifolds() -> Manifolds:
    """SO(2) to SO(5), quaternions, poses."""
    return {
        **{f"so{n}": (ROTATIONS, (n, n)) for n in (2, 3, 4, 5)},
        "quaternions": (QUATERNIONS, (4,)),
        "so3xeuclidean3": (geoopt.ProductManifold((ROTATIONS, (3, 3)), (PLANE, 3)), (12,)),
    }
