"""Simulators with priors, likelihoods and reference posteriors, for inference from simulations.

`two_moons`, `gaussian_mixture` and `slcp` are written from the definitions of Lueckmann, Boelts, Greenberg, Gonçalves, Macke
(2021), Benchmarking Simulation-Based Inference, appendix T (arXiv 2101.04653); observations come from our own seeds, so that
scores are comparable with theirs in kind but not observation by observation. `plane_wave` (parameters on a torus) and `axis`
(on a sphere) are our own.
"""

from .axis import Axis
from .gaussian_mixture import GaussianMixture
from .plane_wave import PlaneWave
from .problem import Box, Compact, Problem
from .slcp import SLCP
from .two_moons import TwoMoons

PROBLEMS: dict[str, Problem] = {p.name: p for p in (TwoMoons(), GaussianMixture(), SLCP(), PlaneWave(), Axis())}

__all__ = ["PROBLEMS", "SLCP", "Axis", "Box", "Compact", "GaussianMixture", "PlaneWave", "Problem", "TwoMoons"]
