"""Exact, normalised probability densities on manifolds, for PyTorch and geoopt.

Names are imported on first use, so that the command line answers ``--help`` without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import bases, datasets, geometry, kernels, losses, manifolds, mcmc, models, plot, testing
    from .anchors import AnchoredFlow
    from .backends import mixture_log_prob
    from .checkpoint import load
    from .density import KernelDensity
    from .diagnosis import diagnose
    from .distributions import KernelDistribution
    from .evidence import importance, reverse_kl_bounds
    from .factory import distribution
    from .fitting import fit
    from .kernel import Kernel, kernel_for, register_kernel, registered_kernels
    from .kernel_mixture import KernelMixture
    from .marginal import MarginalFlow
    from .measure import Measure, log_ratio, measure_kinds, register_measure
    from .mixture import Mixture
    from .scoring import score
    from .submanifold import chamfer

__version__ = "0.1.0"

_HOMES = {
    "AnchoredFlow": "anchors",
    "KernelDensity": "density",
    "KernelDistribution": "distributions",
    "Kernel": "kernel",
    "KernelMixture": "kernel_mixture",
    "MarginalFlow": "marginal",
    "Measure": "measure",
    "Mixture": "mixture",
    "chamfer": "submanifold",
    "diagnose": "diagnosis",
    "distribution": "factory",
    "fit": "fitting",
    "importance": "evidence",
    "kernel_for": "kernel",
    "load": "checkpoint",
    "log_ratio": "measure",
    "measure_kinds": "measure",
    "mixture_log_prob": "backends",
    "register_kernel": "kernel",
    "register_measure": "measure",
    "registered_kernels": "kernel",
    "reverse_kl_bounds": "evidence",
    "score": "scoring",
}
_MODULES = ("bases", "datasets", "geometry", "kernels", "losses", "manifolds", "mcmc", "models", "plot", "testing")

__all__ = [
    "AnchoredFlow",
    "Kernel",
    "KernelDensity",
    "KernelDistribution",
    "KernelMixture",
    "MarginalFlow",
    "Measure",
    "Mixture",
    "bases",
    "chamfer",
    "datasets",
    "diagnose",
    "distribution",
    "fit",
    "geometry",
    "importance",
    "kernel_for",
    "kernels",
    "load",
    "log_ratio",
    "losses",
    "manifolds",
    "mcmc",
    "measure_kinds",
    "mixture_log_prob",
    "models",
    "plot",
    "register_kernel",
    "register_measure",
    "registered_kernels",
    "reverse_kl_bounds",
    "score",
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
