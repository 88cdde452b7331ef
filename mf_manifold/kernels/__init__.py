"""Kernels: one family a file, registered when imported here."""

from . import (
    coordinate_normal,
    product,
    scaled,
    spd_log_normal,
    spd_riemannian_normal,
    spd_wishart,
    spd_wrapped_normal,
    sphere_angular_central_gaussian,
    sphere_bingham,
    sphere_projected_normal,
    sphere_von_mises_fisher,
    sphere_watson,
    sphere_wrapped_normal,
    torus_wrapped_normal,
    uniform,
)

__all__ = [
    "coordinate_normal",
    "product",
    "scaled",
    "spd_log_normal",
    "spd_riemannian_normal",
    "spd_wishart",
    "spd_wrapped_normal",
    "sphere_angular_central_gaussian",
    "sphere_bingham",
    "sphere_projected_normal",
    "sphere_von_mises_fisher",
    "sphere_watson",
    "sphere_wrapped_normal",
    "torus_wrapped_normal",
    "uniform",
]
