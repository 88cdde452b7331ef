"""Deliberately wrong kernels, manifolds, backends and measures, each with the check that must catch it.

A check that passes one of them has no teeth.
"""

from __future__ import annotations

from dataclasses import dataclass

import geoopt
import torch
import wrong_kernels as wrong
import wrong_manifolds
from cases import PLANE, SPD, SPHERE, TORUS, real, spd_matrix, unit_vector
from torch import Tensor

from mf_manifold.backends.problem import Problem
from mf_manifold.kernel import Kernel, Params
from mf_manifold.measure import Measure, log_ratio


@dataclass(frozen=True)
class Mutant:
    """A wrong kernel at parameters that show its mistake, and the name of the check that must fail on it."""

    kernel: Kernel
    params: Params
    check: str


def _on_sphere(kernel: type[Kernel], scale: float, check: str) -> Mutant:
    return Mutant(kernel(SPHERE, (3,)), {"loc": unit_vector(3), "scale": real(scale)}, check)


def _on_spd(kernel: type[Kernel], check: str) -> Mutant:
    return Mutant(kernel(SPD, (2, 2)), {"df": real(7.5), "covariance_matrix": spd_matrix(2)}, check)


def _in_plane(kernel: type[Kernel], check: str) -> Mutant:
    return Mutant(kernel(PLANE, (2,)), {"loc": real([1.0, -2.0]), "scale": real([0.7, 0.4])}, check)


def mutants() -> list[Mutant]:
    """All wrong kernels."""
    fisher = {"loc": unit_vector(3), "concentration": real(5.0)}
    angles, pair = real([1.0, -2.0]), torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)
    return [
        _on_sphere(wrong.NoVolumeFactor, 0.5, "normalisation"),
        _on_sphere(wrong.PrincipalBranch, 1.5, "normalisation"),
        Mutant(wrong.OneTurnTorus(TORUS, (2,)), {"loc": angles, "scale": real([1.5, 0.5])}, "normalisation"),
        Mutant(wrong.HyperbolicFactorOnSPD(SPD, (2, 2)), {"loc": spd_matrix(2), "scale": real([0.6])}, "normalisation"),
        _on_spd(wrong.WishartWithoutRoots, "normalisation"),
        _on_spd(wrong.WishartTraceConstant, "normalisation"),
        Mutant(wrong.AmbientNormalizer(SPHERE, (3,)), fisher, "normalisation"),
        _on_spd(wrong.WishartOneLess, "sampler"),
        _on_sphere(wrong.WideSampler, 0.3, "sampler"),
        Mutant(wrong.MirroredSampler(TORUS, (2,), "full"), {"loc": angles, "covariance_matrix": pair}, "neighbours"),
        _on_sphere(wrong.ClampedDistance, 0.001, "dtypes"),
        _in_plane(wrong.AlwaysDouble, "dtypes"),
        _on_sphere(wrong.FrameDependent, 0.3, "invariance"),
        _on_sphere(wrong.ArccosGradient, 0.3, "gradients"),
        _on_sphere(wrong.DetachedScale, 0.3, "gradients"),
        _on_sphere(wrong.DetachedLocation, 0.3, "pathwise"),
        _in_plane(wrong.ForgetsTheDevice, "device"),
        _in_plane(wrong.BroadcastsAway, "shapes"),
        _in_plane(wrong.DeadParameter, "life cycle"),
        _in_plane(wrong.VarianceForScale, "centered"),
        Mutant(wrong.ShortBilinear(SPHERE, (3,)), fisher, "backends"),
    ]


MANIFOLD_MUTANTS = {
    wrong_manifolds.ChordSphere: "maps",
    wrong_manifolds.StretchedSphere: "maps",
    wrong_manifolds.AmbientSphere: "volume",
    wrong_manifolds.HalfSphere: "volume",
    wrong_manifolds.ClampedSphere: "degenerate points",
    wrong_manifolds.ScatteringSphere: "points",
}


def reduce_without_weights(problem: Problem) -> Tensor:
    """A dense reduction that forgets the weights of the components."""
    return (problem.power * problem.kernel.pairwise_log_prob(problem.x, problem.w)).logsumexp(1)


def frobenius_for_lebesgue(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """Lebesgue measure without the factor 2^(p (p - 1) / 4) that sets it apart from the Frobenius volume."""
    return log_ratio(Measure(manifold, "frobenius"), Measure(manifold), x)
