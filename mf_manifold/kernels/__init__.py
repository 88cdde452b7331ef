"""Kernels: one family a file, registered when imported here."""

from . import (
    affine_normal,
    chart_pushforward_normal,
    coordinate_normal,
    product,
    scaled,
    spd_log_normal,
    spd_riemannian_normal,
    spd_wishart,
    spd_wrapped_normal,
    sphere_von_mises_fisher,
    sphere_wrapped_normal,
    star_shaped_radial_normal,
    surface_projected_normal,
    surface_restricted_normal,
    torus_wrapped_normal,
    uniform,
)

__all__ = [
    "affine_normal",
    "chart_pushforward_normal",
    "coordinate_normal",
    "product",
    "scaled",
    "spd_log_normal",
    "spd_riemannian_normal",
    "spd_wishart",
    "spd_wrapped_normal",
    "sphere_von_mises_fisher",
    "sphere_wrapped_normal",
    "star_shaped_radial_normal",
    "surface_projected_normal",
    "surface_restricted_normal",
    "torus_wrapped_normal",
    "uniform",
]
