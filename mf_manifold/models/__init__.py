"""Models built from flows and other densities. Flow layers come from zuko (``pip install 'mf-manifold[flows]'``)."""

from __future__ import annotations

from .component_mixture import ComponentMixture
from .flow import Flow
from .kernel_model import KernelModel
from .manifold_flow import ManifoldFlow
from .variational_mixture import VariationalMixture

__all__ = ["ComponentMixture", "Flow", "KernelModel", "ManifoldFlow", "VariationalMixture"]
