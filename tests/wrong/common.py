"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass

from mf_manifold.kernel import Kernel, Params


@dataclass(frozen=True)
class Mutant:
    """A wrong kernel at parameters that show its mistake, and the name of the check that must fail on it."""

    kernel: Kernel
    params: Params
    check: str
