"""Surfaces that every ray from the origin meets once: ``{radius(u) u : u in S^(D-1)}``."""

from __future__ import annotations

import math
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure
from ..numerics.product_rules import grid
from .embedded import EmbeddedManifold, Parametrisation, hypersurface_frame, reject

NODES = {2: [4096], 3: [512, 256]}
SLACK = 0.05  # how much above its largest value on the grid the area per solid angle is taken to reach


class StarShaped(EmbeddedManifold):
    """The hypersurface ``{radius(u) u}`` of R^D, ``u`` the directions: star-shaped about the origin.

    Args:
        radius: distance of the surface from the origin in directions ``u``; unit vectors (*B,D) -> (*B), positive, smooth,
            differentiable by torch.
        ambient_dim: D, at least 2.

    :func:`mf_manifold.geometry.project` moves points along the rays, not to the nearest point.

    >>> import torch, mf_manifold as mf
    >>> pear = mf.manifolds.StarShaped(lambda u: 1 + 0.3 * u[..., 2], ambient_dim=3)
    >>> mf.geometry.project(pear, torch.tensor([0., 0., 2.]))
    tensor([0.0000, 0.0000, 1.3000])
    """

    name = "StarShaped"

    def __init__(self, radius: Callable[[Tensor], Tensor], ambient_dim: int) -> None:
        super().__init__()
        if ambient_dim < 2:
            raise ValueError(f"Expected a star-shaped surface in at least 2 dimensions, got ambient_dim={ambient_dim}.")
        self.radius, self.ambient_dim, self.dim = radius, ambient_dim, ambient_dim - 1
        axes = torch.eye(ambient_dim, dtype=torch.float64, device="cpu")
        example = radius(torch.cat([axes, -axes]))
        if example.shape != (2 * ambient_dim,) or not bool((example > 0).all()):
            raise ValueError(
                f"Expected a radius that maps unit vectors ({2 * ambient_dim}, {ambient_dim}) to positive numbers "
                f"({2 * ambient_dim},), got shape {tuple(example.shape)} and the least number {float(example.min()):.3g}. "
                "Index components as u[..., i]."
            )

    def gauge(self, x: Tensor) -> Tensor:
        """The factor ``g`` by which ``x`` is farther out than the surface: ``x / g(x)`` is on it; (*B,D) -> (*B)."""
        size = x.norm(dim=-1, keepdim=True)
        return size.squeeze(-1) / self.radius(x / size)

    def gauge_gradient(self, x: Tensor) -> Tensor:
        """Gradient of :meth:`gauge`, an outward normal with ``x . gradient = gauge(x)``; (*B,D) -> (*B,D)."""
        return torch.func.grad(lambda y: self.gauge(y).sum())(x)

    def normal(self, x: Tensor) -> Tensor:
        """Outward unit normal; (*B,D) -> (*B,D)."""
        return torch.nn.functional.normalize(self.gauge_gradient(x), dim=-1, eps=0.0)

    def log_solid_angle(self, x: Tensor) -> Tensor:
        """``log (x . n) / |x|^D``: solid angle seen from the origin per unit of surface; (*B,D) -> (*B)."""
        return -self.gauge_gradient(x).norm(dim=-1).log() - self.ambient_dim * x.norm(dim=-1).log()

    def on_ray(self, x: Tensor) -> Tensor:
        """The point of the surface in the direction of ``x``; (*B,D) -> (*B,D)."""
        return x / self.gauge(x).unsqueeze(-1)

    def closest(self, x: Tensor) -> Tensor:
        return self.on_ray(x)

    def offset(self, x: Tensor) -> Tensor:
        return (self.gauge(x) - 1).abs() / self.gauge_gradient(x).norm(dim=-1)

    def frame(self, x: Tensor) -> Tensor:
        return hypersurface_frame(self.normal(x))

    def parametrisation(self) -> Parametrisation:
        if self.ambient_dim > 3:
            return super().parametrisation()

        def embed(p: Tensor) -> Tensor:
            return self.on_ray(direction(p))

        def log_area(p: Tensor) -> Tensor:
            return -self.log_solid_angle(embed(p))

        angle, height = (0.0, -1.0)[: self.dim], (2 * math.pi, 1.0)[: self.dim]
        return Parametrisation([*angle], [*height], [True, False][: self.dim], embed, log_area)


def direction(p: Tensor) -> Tensor:
    """Unit vectors from the angle around the axis and, in space, the height; dS = dp."""
    ring = torch.stack([p[..., 0].cos(), p[..., 0].sin()], dim=-1)
    if p.shape[-1] == 1:
        return ring
    height = p[..., 1:]
    return torch.cat([(1 - height.square()).sqrt() * ring, height], dim=-1)


def numeric_log_volume(manifold: EmbeddedManifold, counts: list[int]) -> float:
    """Log volume of a manifold with a parametrisation, by a product rule."""
    chart = manifold.parametrisation()
    nodes, log_weights = grid(chart.lower, chart.upper, chart.periodic, counts)
    return float(torch.logsumexp(chart.log_area(nodes) + log_weights, 0))


@geometry.log_volume.register(StarShaped)
def _(manifold: StarShaped, point_shape: Shape) -> float:
    if manifold.ambient_dim > 3:
        raise NotImplementedError("The volume of a star-shaped surface is computed in 2 and 3 dimensions only.")
    return numeric_log_volume(manifold, NODES[manifold.ambient_dim])


@geometry.sample_uniform.register(StarShaped)
def _(
    manifold: StarShaped,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    chart = manifold.parametrisation()
    nodes, _ = grid(chart.lower, chart.upper, chart.periodic, NODES[manifold.ambient_dim])
    bound = float(chart.log_area(nodes).amax()) + SLACK

    def propose(count: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(count, manifold.ambient_dim, generator=generator, dtype=dtype, device=device)
        x = manifold.on_ray(noise)
        log_rate = -manifold.log_solid_angle(x) - bound
        if not log_rate.is_meta and float(log_rate.max()) > 0:
            raise RuntimeError("The surface is rougher than the grid on which its area per solid angle was bounded.")
        u = torch.rand(count, generator=generator, dtype=x.dtype, device=x.device)
        return x, u.log() < log_rate

    return reject(propose, sample_shape)


@geometry.raw_dim.register(StarShaped)
def _(manifold: StarShaped, point_shape: Shape) -> int:
    return manifold.ambient_dim


@geometry.from_raw.register(StarShaped)
def _(manifold: StarShaped, raw: Tensor, point_shape: Shape) -> Tensor:
    return manifold.on_ray(geometry.from_raw(geoopt.Sphere(), raw, point_shape))


@geometry.to_raw.register(StarShaped)
def _(manifold: StarShaped, x: Tensor) -> Tensor:
    return x


@register_measure(StarShaped, "solid_angle")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return manifold.log_solid_angle(x)
