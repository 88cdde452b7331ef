"""Parameters moved along their own domain, so that derivatives by them can be taken and compared."""

from __future__ import annotations

from functools import singledispatch

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..kernel import Kernel, OnManifold, Params
from ..numerics.linalg import sym_sqrtm, unsvec
from .density import exp_coords

DEFINITE = (type(constraints.positive_definite), type(constraints.positive_semidefinite))
SYMMETRIC = (type(constraints.symmetric), *DEFINITE)


def num_deltas(kernel: Kernel, name: str, value: Tensor) -> int:
    """Number of coordinates in which :func:`perturbed` moves a parameter."""
    constraint = kernel.param_constraints[name]
    if isinstance(constraint, OnManifold):
        return geometry.intrinsic_dim(constraint.manifold, constraint.point_shape)
    return value.shape[-1] * (value.shape[-1] + 1) // 2 if isinstance(constraint, SYMMETRIC) else value.numel()


def perturbed(kernel: Kernel, w: Params, deltas: Params, unit: float) -> Params:
    """The parameters ``w`` of one component, moved by ``deltas`` (N, coordinates); -> batch shape (N).

    Points move along geodesics in steps of ``unit``, definite matrices S to ``S^(1/2) (1 + delta) S^(1/2)``, other symmetric
    ones by steps relative to their largest entry, numbers by relative steps.
    """
    moved = {}
    for name, value in w.items():
        delta, constraint = deltas[name], kernel.param_constraints[name]
        if isinstance(constraint, OnManifold):
            moved[name] = exp_coords(constraint.manifold, value, unit * delta)
        elif isinstance(constraint, DEFINITE):
            root = sym_sqrtm(value)
            moved[name] = value + root @ unsvec(delta) @ root
        elif isinstance(constraint, SYMMETRIC):
            moved[name] = value + value.abs().amax().clamp_min(1e-3) * unsvec(delta)
        else:
            size = torch.where(value == 0, torch.ones_like(value), value.abs())
            moved[name] = value + size * delta.reshape(-1, *value.shape)
    return moved


def derivatives(value: Tensor, leaves: Params) -> Params:
    """Derivative of a scalar by every leaf, zero where it does not depend on one."""
    slopes = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


def zero_deltas(kernel: Kernel, w: Params, count: int) -> Params:
    """Leaves at which :func:`perturbed` is the identity."""
    return {k: torch.zeros(count, num_deltas(kernel, k, v), dtype=v.dtype, requires_grad=True) for k, v in w.items()}


@singledispatch
def special_points(manifold: geoopt.Manifold, center: Tensor) -> Tensor:
    """Points at which formulas degenerate: the centre, its cut locus, repeated eigenvalues; -> (K,*E)."""
    return center.unsqueeze(0)
