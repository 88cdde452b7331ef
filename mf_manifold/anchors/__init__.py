"""Anchored marginal flow: components around the data, shaped by what a network reads off their surroundings.

:mod:`.neighbours` measures the surroundings, :mod:`.shapes` turns them into components, :mod:`.crossfit` scores data under the
components of others, :mod:`.training` fits, :mod:`.flow` is the estimator.
"""

from .flow import AnchoredFlow

__all__ = ["AnchoredFlow"]
