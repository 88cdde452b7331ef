"""Exact, normalised probability densities on manifolds, for PyTorch and geoopt.

Names are imported on first use, so that the command line answers ``--help`` without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import datasets, geometry, kernels, manifolds, plot, testing
    from .backends import mixture_log_prob
    from .checkpoint import load
    from .density import KernelDensity
    from .distributions import KernelDistribution
    from .factory import distribution
    from .fitting import fit
    from .kernel import Kernel, kernel_for, register_kernel, registered_kernels
    from .marginal import MarginalFlow
    from .measure import Measure, log_ratio, measure_kinds, register_measure
    from .mixture import Mixture

__version__ = "0.1.0"

_HOMES = {
    "KernelDensity": "density",
    "KernelDistribution": "distributions",
    "Kernel": "kernel",
    "MarginalFlow": "marginal",
    "Measure": "measure",
    "Mixture": "mixture",
    "distribution": "factory",
    "fit": "fitting",
    "kernel_for": "kernel",
    "load": "checkpoint",
    "log_ratio": "measure",
    "measure_kinds": "measure",
    "mixture_log_prob": "backends",
    "register_kernel": "kernel",
    "register_measure": "measure",
    "registered_kernels": "kernel",
}
_MODULES = ("datasets", "geometry", "kernels", "manifolds", "plot", "testing")

__all__ = [
    "Kernel",
    "KernelDensity",
    "KernelDistribution",
    "MarginalFlow",
    "Measure",
    "Mixture",
    "datasets",
    "distribution",
    "fit",
    "geometry",
    "kernel_for",
    "kernels",
    "load",
    "log_ratio",
    "manifolds",
    "measure_kinds",
    "mixture_log_prob",
    "plot",
    "register_kernel",
    "register_measure",
    "registered_kernels",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
