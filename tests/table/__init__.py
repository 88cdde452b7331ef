"""THE TABLE: one row for each kernel x manifold x parameters, and one for each manifold, that the conformance suite runs on.

A new kernel is covered by a row in one of the modules here, which are found by themselves: ``rows()`` gives cases,
``manifolds()`` manifolds with the shape of a point. Numbers in an id are the width: scale, concentration, degrees of freedom.
"""

from __future__ import annotations

import importlib
import pkgutil

from .common import Case, Manifolds

MODULES = [importlib.import_module(f".{found.name}", __name__) for found in pkgutil.iter_modules(__path__)]
CASES: list[Case] = [case for module in MODULES if hasattr(module, "rows") for case in module.rows()]
MANIFOLDS: Manifolds = {k: v for module in MODULES if hasattr(module, "manifolds") for k, v in module.manifolds().items()}
