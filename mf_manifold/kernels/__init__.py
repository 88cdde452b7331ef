"""Kernels: one family a file, registered when imported here."""

from . import (
    coordinate_normal,
    product,
    scaled,
    spd_log_normal,
    spd_wishart,
    special_orthogonal_angular_central_gaussian,
    special_orthogonal_cayley_normal,
    special_orthogonal_isotropic_normal,
    special_orthogonal_matrix_fisher,
    special_orthogonal_projected_normal,
    special_orthogonal_wrapped_normal,
    sphere_von_mises_fisher,
    sphere_wrapped_normal,
    torus_wrapped_normal,
    uniform,
)

__all__ = [
    "coordinate_normal",
    "product",
    "scaled",
    "spd_log_normal",
    "spd_wishart",
    "special_orthogonal_angular_central_gaussian",
    "special_orthogonal_cayley_normal",
    "special_orthogonal_isotropic_normal",
    "special_orthogonal_matrix_fisher",
    "special_orthogonal_projected_normal",
    "special_orthogonal_wrapped_normal",
    "sphere_von_mises_fisher",
    "sphere_wrapped_normal",
    "torus_wrapped_normal",
    "uniform",
]
