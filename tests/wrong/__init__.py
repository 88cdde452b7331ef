"""Deliberately wrong kernels, manifolds, backends and measures, each with the check that must catch it.

A check that passes one of them has no teeth. Modules with a function ``mutants()`` are found by themselves.
"""

from __future__ import annotations

import importlib
import pkgutil

from .common import Mutant

MODULES = [importlib.import_module(f".{found.name}", __name__) for found in pkgutil.iter_modules(__path__)]
MUTANTS: list[Mutant] = [mutant for module in MODULES if hasattr(module, "mutants") for mutant in module.mutants()]
