"""Parameters moved along their own domain, so that derivatives by them can be taken and compared."""

from __future__ import annotations

from functools import singledispatch

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..kernel import Kernel, OnManifold, Params
from ..linalg import sym_sqrtm, unsvec
from ..manifolds import Torus
from ..manifolds.product import join, split
from .density import exp_coords

MATRIX_CONSTRAINTS = (type(constraints.positive_definite), type(constraints.positive_semidefinite))


def _is_matrix(constraint: constraints.Constraint) -> bool:
    return isinstance(constraint, MATRIX_CONSTRAINTS)


def num_deltas(kernel: Kernel, name: str, value: Tensor) -> int:
    """Number of coordinates in which :func:`perturbed` moves a parameter."""
    constraint = kernel.param_constraints[name]
    if isinstance(constraint, OnManifold):
        return geometry.intrinsic_dim(constraint.manifold, constraint.point_shape)
    return value.shape[-1] * (value.shape[-1] + 1) // 2 if _is_matrix(constraint) else value.numel()


def perturbed(kernel: Kernel, w: Params, deltas: Params, unit: float) -> Params:
    """The parameters ``w`` of one component, moved by ``deltas`` (N, coordinates); -> batch shape (N).

    Points move along geodesics in steps of ``unit``, matrices S to ``S^(1/2) (1 + delta) S^(1/2)``, numbers by relative steps.
    """
    moved = {}
    for name, value in w.items():
        delta, constraint = deltas[name], kernel.param_constraints[name]
        if isinstance(constraint, OnManifold):
            moved[name] = exp_coords(constraint.manifold, value, unit * delta)
        elif _is_matrix(constraint):
            root = sym_sqrtm(value)
            moved[name] = value + root @ unsvec(delta) @ root
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


@special_points.register(geoopt.Sphere)
def _(manifold: geoopt.Sphere, center: Tensor) -> Tensor:
    return torch.stack([center, -center])


@special_points.register(Torus)
def _(manifold: Torus, center: Tensor) -> Tensor:
    return torch.stack([center, center + torch.pi, center - torch.pi])


@special_points.register(geoopt.SymmetricPositiveDefinite)
def _(manifold: geoopt.SymmetricPositiveDefinite, center: Tensor) -> Tensor:
    eye = torch.eye(center.shape[-1], dtype=center.dtype, device=center.device)
    two = eye.clone()
    two[0, 0] = 3.0
    return torch.stack([center, 2 * center, eye, two])


@special_points.register(geoopt.Scaled)
def _(manifold: geoopt.Scaled, center: Tensor) -> Tensor:
    return special_points(manifold.base, center)


@special_points.register(geoopt.ProductManifold)
def _(manifold: geoopt.ProductManifold, center: Tensor) -> Tensor:
    parts = [special_points(m, c) for m, c in zip(manifold.manifolds, split(manifold, center), strict=True)]
    count = max(len(p) for p in parts)
    return join([p[torch.arange(count) % len(p)] for p in parts], manifold.shapes)
