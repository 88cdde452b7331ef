"""Conformance checks for kernels, manifolds and distributions, of this library or your own.

``check_kernel``, ``check_manifold`` and ``check_distribution`` run everything; each check is also a function of its own.
Every failure is a :class:`ConformanceError` that names the check and holds the numbers.
"""

from . import spaces
from .gradients import check_gradients, check_pathwise
from .integrals import check_neighbours, check_normalisation, check_sampler
from .manifold import check_degenerate, check_maps, check_point_maps, check_volume
from .measures import check_measure, check_measures, measure_coordinates
from .mixtures import check_backends
from .perturb import special_points
from .report import ConformanceError
from .rules import exact_rule
from .statistics import check_statistics
from .structure import check_device, check_dtypes, check_life_cycle, check_shapes
from .suite import KERNEL_CHECKS, MANIFOLD_CHECKS, check_distribution, check_kernel, check_manifold
from .symmetry import check_centered, check_invariance, random_isometry

__all__ = [
    "KERNEL_CHECKS",
    "MANIFOLD_CHECKS",
    "ConformanceError",
    "check_backends",
    "check_centered",
    "check_degenerate",
    "check_device",
    "check_distribution",
    "check_dtypes",
    "check_gradients",
    "check_invariance",
    "check_kernel",
    "check_life_cycle",
    "check_manifold",
    "check_maps",
    "check_measure",
    "check_measures",
    "check_neighbours",
    "check_normalisation",
    "check_pathwise",
    "check_point_maps",
    "check_sampler",
    "check_shapes",
    "check_statistics",
    "check_volume",
    "exact_rule",
    "measure_coordinates",
    "random_isometry",
    "spaces",
    "special_points",
]
