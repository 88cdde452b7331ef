"""Ellipses, ellipsoids and their generalisations to any dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from . import register_config
from .embedded import Fibre, Parametrisation, reject
from .star_shaped import StarShaped, direction

NEWTON_STEPS = 60
BLOCK = 2**13  # points whose roots are found at a time: what a step needs in between stays in the cache


class Ellipsoid(StarShaped):
    r"""The surface ``sum_i (x_i / a_i)^2 = 1`` in R^D with semi-axes ``a``: an ellipse for D = 2.

    Its medial axis, where the closest point is not unique, lies in the hyperplane that the shortest axis is normal to. Inward
    normals reach it at the distance ``a_min^2 sqrt(sum_i x_i^2 / a_i^4)``, before the centres of curvature; there is
    none outside.

    >>> import torch, mf_manifold as mf
    >>> ellipse = mf.manifolds.Ellipsoid([2.0, 1.0])
    >>> [round(v, 4) for v in mf.geometry.project(ellipse, torch.tensor([1.0, 1.0])).tolist()]
    [0.9657, 0.8757]
    """

    name = "Ellipsoid"

    def __init__(self, semi_axes: Sequence[float]) -> None:
        axes = tuple(float(a) for a in semi_axes)
        if len(axes) < 2 or not all(0 < a < math.inf for a in axes):
            raise ValueError(f"Expected at least 2 positive semi-axes, got {list(axes)}.")
        self.semi_axes = axes
        super().__init__(self._radius, len(axes))
        self.continuous_projection = axes.count(min(axes)) > 1  # the medial axis then has no side that a path could change

    def _radius(self, u: Tensor) -> Tensor:
        return 1 / self.gauge(u)

    def axes(self, x: Tensor) -> Tensor:
        """The semi-axes as a tensor (D) like ``x``."""
        return torch.tensor(self.semi_axes, dtype=x.dtype, device=x.device)

    def gauge(self, x: Tensor) -> Tensor:
        return (x / self.axes(x)).norm(dim=-1)

    def gauge_gradient(self, x: Tensor) -> Tensor:
        return x / self.axes(x).square() / self.gauge(x).unsqueeze(-1)

    def closest(self, x: Tensor) -> Tensor:
        """Nearest point, differentiable once; from the medial axis, one of the nearest."""
        axes = self.axes(x)
        ratio = (axes / axes.min()).square()
        scaled = x / axes
        tiny = torch.finfo(x.dtype).tiny ** 0.25
        safe = torch.where(scaled.abs() < tiny, torch.full_like(scaled, tiny), scaled)
        # x_i = ratio_i y_i / (ratio_i - 1 + s); the nearest point belongs to the only root s > 0
        blocks = safe.detach().reshape(-1, self.ambient_dim).split(BLOCK)
        root = torch.cat([_secular_root(ratio, block) for block in blocks]).reshape(x.shape[:-1])
        parts = ratio * safe / (ratio - 1 + root.unsqueeze(-1)).detach()
        slope = -2 * (parts.square() / (ratio - 1 + root.unsqueeze(-1))).sum(-1)
        root = root - (parts.square().sum(-1) - 1) / slope.detach()  # carries the derivative; its value is rounding
        return axes * (ratio * safe / (ratio - 1 + root.unsqueeze(-1)))

    def parametrisation(self) -> Parametrisation:
        log_stretch = sum(math.log(a) for a in self.semi_axes)

        def log_area(p: Tensor) -> Tensor:
            u = direction(p)
            return (u / self.axes(u)).norm(dim=-1).log() + log_stretch

        return super().parametrisation()._replace(embed=lambda p: self.axes(p) * direction(p), log_area=log_area)

    def fibre(self, x: Tensor) -> Fibre:
        """The normal line from the medial axis outwards."""
        axes = self.axes(x)
        least = axes.min()
        steep = self.gauge_gradient(x)
        slope = steep.norm(dim=-1)
        normal = steep / slope.unsqueeze(-1)
        constant = (axes - least) * (axes + least) / axes.square()
        linear = 1 / (axes.square() * slope.unsqueeze(-1))
        # sum_i n_i^2 prod_{j != i} (constant_j + linear_j t): every coefficient is nonnegative
        product, total = torch.ones_like(x[..., :1]), torch.zeros_like(x[..., :1])
        for j in range(self.ambient_dim):
            total = _times(total, constant[j], linear[..., j]) + _pad(normal[..., j : j + 1].square() * product)
            product = _times(product, constant[j], linear[..., j])
        return Fibre(normal, -least.square() * slope, None, total[..., :-1])


def _pad(coefficients: Tensor) -> Tensor:
    return torch.nn.functional.pad(coefficients, (0, 1))


def _times(coefficients: Tensor, constant: Tensor, linear: Tensor) -> Tensor:
    """Coefficients of a polynomial times ``constant + linear t``."""
    return constant * _pad(coefficients) + linear.unsqueeze(-1) * torch.nn.functional.pad(coefficients, (1, 0))


def _secular_root(ratio: Tensor, y: Tensor) -> Tensor:
    """The root s > 0 of ``sum_i (ratio_i y_i / (ratio_i - 1 + s))^2 = 1``, one of the ratios being 1 and none smaller.

    Newton's method on ``1 - 1 / sqrt(sum)``, nearly linear, within the bracket of Eberly (2013): the root is between the value
    for the shortest axes alone and the norm of ``ratio y``.
    """
    shortest = torch.where(ratio == 1, y, torch.zeros_like(y))
    low, high = shortest.norm(dim=-1), (ratio * y).norm(dim=-1)
    s = low
    for _ in range(NEWTON_STEPS):
        shifted = ratio - 1 + s.unsqueeze(-1)
        parts = (ratio * y / shifted).square()
        value = parts.sum(-1)
        low, high = torch.where(value >= 1, s, low), torch.where(value >= 1, high, s)
        off = value.sqrt() - 1
        step = s + value * off / (parts / shifted).sum(-1)
        inside = (step >= low) & (step <= high)
        new = torch.where(inside, step, (low + high) / 2)
        eps = 4 * torch.finfo(s.dtype).eps
        settled = ((new - s).abs() <= eps * s) | (off.abs() <= eps)
        s = new
        if not s.is_meta and bool(settled.all()):
            break
    return s


def _mean_root(weights: Sequence[float]) -> float:
    """``E sqrt(sum_i weights_i u_i^2)`` over the unit sphere, by one integral over the real line.

    With z normal, ``E sqrt(q(z)) = int (1 - prod_i (1 + 2 weights_i t)^(-1/2)) t^(-3/2) dt / (2 sqrt pi)``; ``t = exp(v)``.
    """
    step = 0.125
    v = torch.arange(-75.0, 75.0, step, dtype=torch.float64, device="cpu")
    largest = max(weights)  # whose term alone is between 1 / sqrt(D) and the whole
    logs = torch.stack([torch.log1p(2 * w / largest * v.exp()) for w in weights]).sum(0) / 2
    integral = float((-torch.expm1(-logs) * torch.exp(-v / 2)).sum()) * step / (2 * math.sqrt(math.pi))
    half = len(weights) / 2
    return math.sqrt(largest) * integral / (math.sqrt(2) * math.exp(math.lgamma(half + 0.5) - math.lgamma(half)))


register_config("Ellipsoid", lambda config: Ellipsoid(config["semi_axes"]))


@geometry.to_config.register(Ellipsoid)
def _(manifold: Ellipsoid) -> dict[str, Any]:
    return {"type": "Ellipsoid", "semi_axes": list(manifold.semi_axes)}


@geometry.log_volume.register(Ellipsoid)
def _(manifold: Ellipsoid, point_shape: Shape) -> float:
    sphere = geometry.log_volume(geoopt.Sphere(), (manifold.ambient_dim,))
    stretch = sum(math.log(a) for a in manifold.semi_axes)
    return sphere + stretch + math.log(_mean_root([a**-2 for a in manifold.semi_axes]))


@geometry.sample_uniform.register(Ellipsoid)
def _(
    manifold: Ellipsoid,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    def propose(count: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(count, manifold.ambient_dim, generator=generator, dtype=dtype, device=device)
        u, axes = geometry.project(geoopt.Sphere(), noise), manifold.axes(noise)
        rate = (u / axes).norm(dim=-1) * axes.min()  # area per solid angle of u, over its largest value
        return axes * u, torch.rand(count, generator=generator, dtype=u.dtype, device=u.device) < rate

    return reject(propose, sample_shape)


@register_measure(Ellipsoid, "normalized")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) - geometry.log_volume(manifold, (x.shape[-1],))
