"""Models built from flows and other densities. Flow layers come from zuko (``pip install 'mf-manifold[flows]'``)."""

from __future__ import annotations

from .flow import Flow
from .manifold_flow import ManifoldFlow

__all__ = ["Flow", "ManifoldFlow"]
