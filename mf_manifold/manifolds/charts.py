"""Named embeddings: what :func:`mf_manifold.manifolds.surface` makes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .chart import ChartManifold
from .named import register_surface


@register_surface("circle")
def circle(radius: float = 1.0) -> ChartManifold:
    """The circle in the plane, by the angle."""

    def embedding(u: Tensor) -> Tensor:
        return radius * torch.cat([u.cos(), u.sin()], dim=-1)

    def coordinates(x: Tensor) -> Tensor:
        return torch.atan2(x[..., 1:], x[..., :1])

    return ChartManifold(embedding, 1, coordinates=coordinates, periods=[2 * math.pi], box=[(-math.pi, math.pi)])


@register_surface("helix")
def helix(radius: float = 1.0, pitch: float = 1.0) -> ChartManifold:
    """The helix around the third axis, by the angle; ``pitch`` is its rise in a full turn."""
    rise = pitch / (2 * math.pi)

    def embedding(u: Tensor) -> Tensor:
        return torch.cat([radius * u.cos(), radius * u.sin(), rise * u], dim=-1)

    return ChartManifold(embedding, 1, coordinates=lambda x: x[..., 2:] / rise)


@register_surface("cylinder")
def cylinder(radius: float = 1.0) -> ChartManifold:
    """The cylinder around the third axis, by angle and height."""

    def embedding(u: Tensor) -> Tensor:
        angle, height = u[..., :1], u[..., 1:]
        return torch.cat([radius * angle.cos(), radius * angle.sin(), height], dim=-1)

    def coordinates(x: Tensor) -> Tensor:
        return torch.stack([torch.atan2(x[..., 1], x[..., 0]), x[..., 2]], dim=-1)

    return ChartManifold(embedding, 2, coordinates=coordinates, periods=[2 * math.pi, None], box=[(-math.pi, math.pi), None])


@register_surface("swiss_roll")
def swiss_roll() -> ChartManifold:
    """The roll ``(t cos t, h, t sin t)`` with t > 0, by ``log t`` and ``h``."""

    def embedding(u: Tensor) -> Tensor:
        t, h = u[..., 0].exp(), u[..., 1]
        return torch.stack([t * t.cos(), h, t * t.sin()], dim=-1)

    def coordinates(x: Tensor) -> Tensor:
        return torch.stack([torch.hypot(x[..., 0], x[..., 2]).log(), x[..., 1]], dim=-1)

    return ChartManifold(embedding, 2, coordinates=coordinates)


@register_surface("sphere_cap")
def sphere_cap(radius: float = 1.0) -> ChartManifold:
    """The open upper half of a sphere, by central projection onto the plane that touches its pole."""

    def embedding(u: Tensor) -> Tensor:
        return radius * torch.nn.functional.normalize(torch.cat([u, torch.ones_like(u[..., :1])], dim=-1), dim=-1)

    return ChartManifold(embedding, 2, coordinates=lambda x: x[..., :2] / x[..., 2:])


@register_surface("paraboloid")
def paraboloid(curvature: float = 1.0) -> ChartManifold:
    """The graph of ``curvature |u|^2 / 2`` over the plane."""

    def embedding(u: Tensor) -> Tensor:
        return torch.cat([u, curvature * u.square().sum(-1, keepdim=True) / 2], dim=-1)

    return ChartManifold(embedding, 2, coordinates=lambda x: x[..., :2])
