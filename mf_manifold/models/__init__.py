"""Models built from flows and other densities. Flow layers come from zuko (``pip install 'mf-manifold[flows]'``)."""

from __future__ import annotations

from .factorized_base import FactorizedResampledBase
from .flow import Flow
from .resampled import ResampledDistribution
from .resampled_base import ResampledBase
from .resampled_objectives import AcceptanceReward, ResampledReverseKL

__all__ = [
    "AcceptanceReward",
    "FactorizedResampledBase",
    "Flow",
    "ResampledBase",
    "ResampledDistribution",
    "ResampledReverseKL",
]
