"""Products, scaled manifolds, subclasses."""

from __future__ import annotations

from dataclasses import replace

import geoopt

from mf_manifold.testing import KERNEL_CHECKS

from .common import PLANE, SPD, SPD_LEM, SPHERE, TORUS, Case, Manifolds, case, real, spd_matrix, unit_vector

# a network has outputs for the place of a uniform part, which nothing depends on, and centered() makes no bump of it
WITHOUT_BUMPS = tuple(check for check in KERNEL_CHECKS if check not in ("life cycle", "centered"))


def rows() -> list[Case]:
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
    any_angle = {k: v for k, v in on_turntable.items() if k.endswith("_0")}
    return [
        case("sphere2xtorus1-product", turntable, None, on_turntable),
        replace(case("sphere2xtorus1-product_uniform", turntable, (None, "uniform"), any_angle), checks=WITHOUT_BUMPS),
        case("torus1xeuclidean2-product", cylinder, None, on_cylinder),
        case("sphere2xspd2-product", pose, None, on_pose, centered={"metric": pose_metric}),
        case("scaled_sphere2-von_mises_fisher_20", globe, "von_mises_fisher", vmf, centered={"metric": SPHERE}),
        case("scaled_sphere2-wrapped_normal_0.4", globe, "wrapped_normal", normal, centered={"metric": SPHERE}),
        case("scaled_torus2-wrapped_normal", clock, "wrapped_normal", angles, centered={"metric": TORUS}),
        case("sphere_exact2-wrapped_normal_0.4", geoopt.SphereExact(), "wrapped_normal", normal),
        case("sphere_exact2-von_mises_fisher_20", geoopt.SphereExact(), "von_mises_fisher", vmf),
    ]


def manifolds() -> Manifolds:
    """Scaled manifolds and products."""
    return {
        "scaled_sphere2": (geoopt.Scaled(SPHERE, 6.0), (3,)),
        "scaled_torus2": (geoopt.Scaled(TORUS, 0.5), (2,)),
        "scaled_spd2": (geoopt.Scaled(SPD, 2.0), (2, 2)),
        "sphere2xtorus1": (geoopt.ProductManifold((SPHERE, 3), (TORUS, 1)), (4,)),
        "sphere2xspd2": (geoopt.ProductManifold((SPHERE, 3), (SPD, (2, 2))), (7,)),
    }
