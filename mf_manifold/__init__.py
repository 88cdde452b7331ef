"""Exact, normalised probability densities on manifolds, for PyTorch and geoopt."""

from . import geometry, kernels, manifolds
from .backends import mixture_log_prob
from .distribution import KernelDistribution, distribution
from .kernel import Kernel, kernel_for, register_kernel, registered_kernels
from .measure import Measure, log_ratio, measure_kinds, register_measure
from .mixture import Mixture

__all__ = [
    "Kernel",
    "KernelDistribution",
    "Measure",
    "Mixture",
    "distribution",
    "geometry",
    "kernel_for",
    "kernels",
    "log_ratio",
    "manifolds",
    "measure_kinds",
    "mixture_log_prob",
    "register_kernel",
    "register_measure",
    "registered_kernels",
]
__version__ = "0.1.0"
