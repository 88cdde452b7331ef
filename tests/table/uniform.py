"""The uniform law, which has no parameters: the checks that vary or batch them do not apply."""

from __future__ import annotations

import mf_manifold as mf

from .common import SPHERE, TORUS, Case

CHECKS = ("normalisation", "measures", "sampler", "neighbours", "statistics")


def rows() -> list[Case]:
    """Compact manifolds."""
    spaces = {"sphere1": (SPHERE, (2,)), "sphere2": (SPHERE, (3,)), "sphere9": (SPHERE, (10,)), "torus2": (TORUS, (2,))}
    kernels = {name: mf.kernel_for(manifold, shape, "uniform") for name, (manifold, shape) in spaces.items()}
    return [Case(f"{name}-uniform", kernel, {}, checks=CHECKS) for name, kernel in kernels.items()]
