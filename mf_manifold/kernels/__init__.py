"""Kernels: one family a file, registered when imported here."""

from . import (
    coordinate_normal,
    product,
    scaled,
    spd_inverse_wishart,
    spd_log_cholesky_normal,
    spd_log_normal,
    spd_matrix_beta_prime,
    spd_wishart,
    sphere_von_mises_fisher,
    sphere_wrapped_normal,
    torus_sine_bivariate_von_mises,
    torus_von_mises,
    torus_wrapped_normal,
    uniform,
)

__all__ = [
    "coordinate_normal",
    "product",
    "scaled",
    "spd_inverse_wishart",
    "spd_log_cholesky_normal",
    "spd_log_normal",
    "spd_matrix_beta_prime",
    "spd_wishart",
    "sphere_von_mises_fisher",
    "sphere_wrapped_normal",
    "torus_sine_bivariate_von_mises",
    "torus_von_mises",
    "torus_wrapped_normal",
    "uniform",
]
