"""Models built from flows and other densities. Flow layers come from zuko (``pip install 'mf-manifold[flows]'``)."""

from __future__ import annotations

from .component_mixture import ComponentMixture
from .factorized_base import FactorizedResampledBase
from .flow import Flow
from .kernel_model import KernelModel
from .manifold_flow import ManifoldFlow
from .resampled import ResampledDistribution
from .resampled_base import ResampledBase
from .resampled_objectives import AcceptanceReward, ResampledReverseKL
from .variational_mixture import VariationalMixture

__all__ = [
    "AcceptanceReward",
    "ComponentMixture",
    "FactorizedResampledBase",
    "Flow",
    "KernelModel",
    "ManifoldFlow",
    "ResampledBase",
    "ResampledDistribution",
    "ResampledReverseKL",
    "VariationalMixture",
]
