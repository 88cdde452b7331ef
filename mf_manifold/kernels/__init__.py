"""Kernels: one family a file, registered when imported here."""

from . import (
    coordinate_normal,
    correlation_lkj,
    correlation_partial_normal,
    frames_angular_central_gaussian,
    grassmann_gnomonic_normal,
    product,
    scaled,
    simplex_dirichlet,
    simplex_logistic_normal,
    spd_log_normal,
    spd_wishart,
    sphere_von_mises_fisher,
    sphere_wrapped_normal,
    stiefel_langevin,
    torus_wrapped_normal,
    uniform,
)

__all__ = [
    "coordinate_normal",
    "correlation_lkj",
    "correlation_partial_normal",
    "frames_angular_central_gaussian",
    "grassmann_gnomonic_normal",
    "product",
    "scaled",
    "simplex_dirichlet",
    "simplex_logistic_normal",
    "spd_log_normal",
    "spd_wishart",
    "sphere_von_mises_fisher",
    "sphere_wrapped_normal",
    "stiefel_langevin",
    "torus_wrapped_normal",
    "uniform",
]
