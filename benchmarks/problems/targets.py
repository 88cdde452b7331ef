"""Unnormalised multimodal densities on the plane, the sphere S^2 and the torus T^2, with their normalisers by quadrature.

Every target is a callable ``target(x) -> log density`` (n,*E) -> (n) up to a constant, by the Riemannian volume. Its regions
are the cells of points nearest to its anchors, one at every mode, or evenly along what is a ring or band instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import geoopt
import numpy as np
import torch
from torch import Tensor

import mf_manifold as mf

PLANE, SPHERE, TORUS = geoopt.Euclidean(ndim=1), geoopt.Sphere(), mf.manifolds.Torus()
BOX = 6.0  # half the side of the square outside which the targets on the plane have less than 1e-12 of their mass


def plane_grid(n: int) -> tuple[Tensor, Tensor]:
    """Midpoints of n x n cells of the square [-6, 6]^2 and their log areas."""
    side = (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1) * BOX
    return torch.cartesian_prod(side, side), torch.full((n * n,), 2 * math.log(2 * BOX / n), dtype=torch.float64)


def sphere_grid(n: int) -> tuple[Tensor, Tensor]:
    """n Gauss-Legendre heights times 2 n longitudes, and log areas."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    z, longitude = torch.as_tensor(nodes), 2 * math.pi * (torch.arange(2 * n, dtype=torch.float64) + 0.5) / (2 * n) - math.pi
    pairs = torch.cartesian_prod(z, longitude)
    radius = (1 - pairs[:, 0] ** 2).sqrt()
    points = torch.stack([radius * pairs[:, 1].cos(), radius * pairs[:, 1].sin(), pairs[:, 0]], -1)
    return points, (torch.as_tensor(weights) * math.pi / n).log().repeat_interleave(2 * n)


def torus_grid(n: int) -> tuple[Tensor, Tensor]:
    """n x n angles and log areas."""
    side = 2 * math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n - math.pi
    return torch.cartesian_prod(side, side), torch.full((n * n,), 2 * math.log(2 * math.pi / n), dtype=torch.float64)


GRIDS: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {"plane": plane_grid, "sphere": sphere_grid, "torus": torus_grid}
MANIFOLDS = {"plane": PLANE, "sphere": SPHERE, "torus": TORUS}
SHAPES = {"plane": (2,), "sphere": (3,), "torus": (2,)}


@dataclass(frozen=True)
class Target:
    """An unnormalised log density on a space with a quadrature rule.

    Attributes:
        name, space: for tables; the space is "plane", "sphere" or "torus".
        log_density: (n,*E) -> (n), up to a constant.
        anchors: one point in the middle of every region (K,*E).
        n_grid: points of the quadrature along one coordinate.
    """

    name: str
    space: str
    log_density: Callable[[Tensor], Tensor] = field(repr=False)
    anchors: Tensor = field(repr=False)
    n_grid: int = 400

    def __call__(self, x: Tensor) -> Tensor:
        return self.log_density(x)

    @property
    def manifold(self) -> geoopt.Manifold:
        return MANIFOLDS[self.space]

    @property
    def point_shape(self) -> tuple[int, ...]:
        return SHAPES[self.space]

    @cached_property
    def grid(self) -> tuple[Tensor, Tensor]:
        """Nodes and log weights of the quadrature."""
        return GRIDS[self.space](self.n_grid)

    @cached_property
    def log_normalizer(self) -> float:
        points, log_area = self.grid
        return float((self(points) + log_area).logsumexp(0))

    @cached_property
    def log_prob(self) -> Tensor:
        """The normalised log density at the nodes."""
        return self(self.grid[0]) - self.log_normalizer

    @cached_property
    def regions(self) -> Tensor:
        """The nearest anchor of every node."""
        return torch.cat([nearest(self.manifold, rows, self.anchors) for rows in self.grid[0].split(20_000)])

    def region_mass(self, log_prob: Tensor) -> Tensor:
        """Mass of every region under a log density at the nodes."""
        mass = (log_prob + self.grid[1]).exp()
        return torch.zeros(len(self.anchors), dtype=mass.dtype).index_add(0, self.regions, mass)


def nearest(manifold: geoopt.Manifold, x: Tensor, anchors: Tensor) -> Tensor:
    return mf.geometry.dist(manifold, x.unsqueeze(1), anchors.unsqueeze(0)).argmin(1)


def circle(n: int, radius: float, phase: float = 0.0) -> Tensor:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n + phase
    return radius * torch.stack([angle.cos(), angle.sin()], -1)


def log_mix(terms: Tensor, weights: Tensor | None = None) -> Tensor:
    """Log of the weighted sum of exponentials along the last dimension."""
    return terms.logsumexp(-1) if weights is None else (terms + weights.to(terms).log()).logsumexp(-1)


def ring_of_gaussians() -> Target:
    centers, scale = circle(8, 2.0), 2 / 3 * math.sin(math.pi / 8)

    def log_density(x: Tensor) -> Tensor:
        return log_mix(-(x.unsqueeze(-2) - centers.to(x)).square().sum(-1) / (2 * scale**2))

    return Target("8 Gaussians", "plane", log_density, centers)


def two_rings() -> Target:
    def log_density(x: Tensor) -> Tensor:
        radius = (x.square().sum(-1) + 1e-12).sqrt()
        return log_mix(-((radius.unsqueeze(-1) - torch.tensor([1.0, 2.0]).to(x)) ** 2) / (2 * 0.125**2))

    return Target("two rings", "plane", log_density, torch.cat([circle(4, 1.0), circle(8, 2.0)]), 600)


def dual_moon() -> Target:
    def log_density(x: Tensor) -> Tensor:
        radius = (x.square().sum(-1) + 1e-12).sqrt()
        sides = x[..., :1] - torch.tensor([2.0, -2.0]).to(x)
        return -(((radius - 2) / 0.2) ** 2) / 2 + log_mix(-((sides / 0.3) ** 2) / 2)

    return Target("dual moon", "plane", log_density, torch.tensor([[2.0, 0.0], [-2.0, 0.0]], dtype=torch.float64))


def bananas() -> Target:
    """Three bananas, the second and third turned by 120 and 240 degrees, with 20, 30 and 50 % of the mass."""
    weights, turns = torch.tensor([0.2, 0.3, 0.5]), circle(3, 1.0)

    def log_density(x: Tensor) -> Tensor:
        cosine, sine = turns.to(x).unbind(-1)
        along = x[..., :1] * cosine + x[..., 1:] * sine
        across = -x[..., :1] * sine + x[..., 1:] * cosine
        return log_mix(-(across**2) / 2 - ((along - 3 + 0.7 * across**2) / 0.25) ** 2 / 2, weights)

    return Target("bananas", "plane", log_density, 2.6 * turns, 600)


def soft_checkerboard() -> Target:
    """exp(5 sin(pi x) sin(pi y)) inside a soft square: eight fields."""

    def log_density(x: Tensor) -> Tensor:
        return 5 * torch.sin(math.pi * x).prod(-1) - ((x / 2.1) ** 12).sum(-1)

    side = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64)
    fields = torch.cartesian_prod(side, side)
    return Target("soft checkerboard", "plane", log_density, fields[torch.sin(math.pi * fields).prod(-1) > 0])


def sphere_bumps() -> Target:
    """Six von Mises-Fisher bumps, 5 to 30 % of the mass."""
    raw = [[1.0, 0.0, 0.2], [-0.7, 0.7, 0.1], [-0.5, -0.8, 0.3], [0.1, 0.3, 1.0], [0.4, 0.5, -0.8], [0.3, -0.6, -0.7]]
    loc = torch.nn.functional.normalize(torch.tensor(raw, dtype=torch.float64), dim=-1)
    weights = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.2, 0.3])
    return Target("6 bumps", "sphere", lambda x: log_mix(50 * (x @ loc.to(x).mT - 1), weights), loc)


def two_bands() -> Target:
    """Bands around the parallels at heights -0.5 and 0.6, 0.08 wide."""
    heights = torch.tensor([-0.5, 0.6], dtype=torch.float64)

    def log_density(x: Tensor) -> Tensor:
        return log_mix(-((x[..., 2:] - heights.to(x)) ** 2) / (2 * 0.08**2))

    rings = [torch.cat([circle(4, math.sqrt(1 - h**2)), h.expand(4, 1)], -1) for h in heights]
    return Target("two bands", "sphere", log_density, torch.cat(rings))


def kent_bumps() -> Target:
    """Three long bumps, along the axes and across each other; the oval part is 25 of concentration 60."""
    axes = torch.eye(3, dtype=torch.float64)

    def log_density(x: Tensor) -> Tensor:
        return log_mix(60 * (x - 1) + 25 * (x.roll(-1, -1) ** 2 - x.roll(-2, -1) ** 2), torch.tensor([0.5, 0.3, 0.2]))

    return Target("3 Kent bumps", "sphere", log_density, axes)


def cubic_harmonic() -> Target:
    """exp(12 (1 - x^4 - y^4 - z^4) + z): eight modes near the corners of a cube, more mass above than below."""
    corners = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 1.0], dtype=torch.float64)]) / math.sqrt(3)
    return Target("cubic harmonic", "sphere", lambda x: 12 * (1 - (x**4).sum(-1)) + x[..., 2], corners)


def torus_bumps() -> Target:
    """Five products of von Mises laws, 10 to 30 % of the mass."""
    loc = torch.tensor([[0.0, 0.0], [2.0, 1.0], [-2.0, 2.5], [-1.5, -1.5], [1.5, -2.0]], dtype=torch.float64)
    weights = torch.tensor([0.1, 0.15, 0.2, 0.25, 0.3])

    def log_density(x: Tensor) -> Tensor:
        return log_mix(12 * (torch.cos(x.unsqueeze(-2) - loc.to(x)) - 1).sum(-1), weights)

    return Target("5 bumps", "torus", log_density, loc)


def sine_model() -> Target:
    """The sine model exp(2 cos a + 2 cos b + 8 sin a sin b), which has two modes."""
    mode = math.acos(0.25)

    def log_density(x: Tensor) -> Tensor:
        return 2 * torch.cos(x).sum(-1) + 8 * torch.sin(x).prod(-1)

    return Target("sine model", "torus", log_density, torch.tensor([[mode, mode], [-mode, -mode]], dtype=torch.float64))


def winding_band() -> Target:
    """exp(12 cos(2 a - b) + cos a): a closed band that winds twice in b while it winds once in a."""
    angle = math.pi * torch.arange(-3, 5, dtype=torch.float64) / 4
    anchors = torch.stack([angle, torch.atan2((2 * angle).sin(), (2 * angle).cos())], -1)

    def log_density(x: Tensor) -> Tensor:
        return 12 * torch.cos(2 * x[..., 0] - x[..., 1]) + torch.cos(x[..., 0])

    return Target("winding band", "torus", log_density, anchors)


def peptide() -> Target:
    """Five correlated bumps where a small peptide has its dihedral angles, the rarest with 4 % of the mass."""
    loc = torch.deg2rad(torch.tensor([[-65, -40], [-135, 150], [-70, 145], [55, 45], [60, -130]], dtype=torch.float64))
    first, second = torch.tensor([20.0, 8.0, 20.0, 30.0, 25.0]), torch.tensor([20.0, 10.0, 12.0, 20.0, 15.0])
    coupling, weights = torch.tensor([-10.0, 3.0, 4.0, -12.0, 5.0]), torch.tensor([0.35, 0.25, 0.28, 0.08, 0.04])

    def log_density(x: Tensor) -> Tensor:
        a, b = (x.unsqueeze(-2) - loc.to(x)).unbind(-1)
        oval = coupling.to(x) * torch.sin(a) * torch.sin(b)
        return log_mix(first.to(x) * (torch.cos(a) - 1) + second.to(x) * (torch.cos(b) - 1) + oval, weights)

    return Target("peptide", "torus", log_density, loc)


MAKERS = (
    ring_of_gaussians,
    two_rings,
    dual_moon,
    bananas,
    soft_checkerboard,
    sphere_bumps,
    two_bands,
    kent_bumps,
    cubic_harmonic,
    torus_bumps,
    sine_model,
    winding_band,
    peptide,
)


def all_targets() -> list[Target]:
    """Every target, by space."""
    return [make() for make in MAKERS]
