"""Flow matching on R^d, tori and S^2, with log densities by an adaptive solver and the exact divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import geoopt
import torch
from torch import Tensor, nn
from torch.func import jvp, vmap
from torchdiffeq import odeint

import mf_manifold as mf
from mf_manifold import geometry
from mf_manifold.geometry import Shape
from mf_manifold.nets import mlp

from .training import Rival


class FlowMatching(Rival):
    r"""Continuous normalising flow trained by regression onto the velocities of geodesics from noise to data.

    .. math:: \min_\theta E \| v_\theta(x_t, t) - \dot x_t \|^2, \quad x_t = \exp_{x_0}(t \log_{x_0} x_1)

    ``x_0`` is standard normal on R^d (whose data are standardised) and uniform on tori and S^2. The log density integrates the
    divergence of the tangent field, taken exactly by forward derivatives along a basis, with dopri5 at rtol = atol =
    ``tolerance``; S^2 is kept by evaluating the field at normalised points.

    **Measure**: Riemannian volume.

    Args:
        hidden: widths of the field's hidden layers.
        tolerance: relative and absolute, of the solver.

    Reference: Chen, Lipman (2024), Flow Matching on General Geometries, arXiv 2302.03660, eqs. (9), (13) and (14).
    """

    batch_size, learning_rate = 1024, 2e-3

    def __init__(
        self, manifold: geoopt.Manifold, point_shape: Shape, *, hidden: Sequence[int] = (512,) * 6, tolerance: float = 1e-5
    ) -> None:
        super().__init__()
        flat = isinstance(manifold, geoopt.Euclidean)
        torus = isinstance(manifold, mf.manifolds.Torus)
        if not flat and not torus and not (isinstance(manifold, geoopt.Sphere) and tuple(point_shape) == (3,)):
            raise ValueError(f"Expected R^d, a torus or S^2, got {manifold.name} with points of shape {tuple(point_shape)}.")
        self.manifold, self.dim, self.flat, self.torus = manifold, point_shape[0], flat, torus
        self.hidden, self.tolerance = tuple(hidden), tolerance
        self.register_buffer("center", torch.zeros(self.dim))
        self.register_buffer("spread", torch.ones(self.dim))
        self.build()

    def build(self) -> None:
        """Make the network anew, from torch's global random state."""
        self.network = mlp((2 if self.torus else 1) * self.dim + 1, self.hidden, self.dim)

    def prepare(self, x: Tensor) -> Tensor:
        self.build()
        if self.flat:
            self.center, self.spread = x.mean(0).float(), x.std(0).float().clamp_min(1e-9)
        data = self.coordinates(x)
        generator = torch.Generator().manual_seed(0)
        self.validation_noise = self.noise(4096, generator), torch.rand(4096, 1, generator=generator)
        return data

    def coordinates(self, x: Tensor) -> Tensor:
        return (x.float() - self.center) / self.spread

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Points of the base (n,d)."""
        if self.flat:
            return torch.randn(n, self.dim, generator=generator)
        return geometry.sample_uniform(self.manifold, (self.dim,), (n,), generator=generator, dtype=torch.float32)

    def log_base(self, x: Tensor) -> Tensor:
        """Log density of the base."""
        if self.flat:
            return -0.5 * x.square().sum(-1) - 0.5 * self.dim * math.log(2 * math.pi)
        return torch.full_like(x[:, 0], -geometry.log_volume(self.manifold, (self.dim,)))

    def field(self, t: Tensor, x: Tensor) -> Tensor:
        """The tangent velocity; t (N,1), x (N,d) -> (N,d)."""
        if self.torus:
            return self.network(torch.cat([x.cos(), x.sin(), t], dim=-1))
        if self.flat:
            return self.network(torch.cat([x, t], dim=-1))
        unit = nn.functional.normalize(x, dim=-1)
        v = self.network(torch.cat([unit, t], dim=-1))
        return v - (v * unit).sum(-1, keepdim=True) * unit

    def errors(self, start: Tensor, end: Tensor, t: Tensor) -> Tensor:
        """Squared errors of the velocity on the geodesics; (N)."""
        if self.flat:
            at, velocity = start + t * (end - start), end - start
        else:
            u = geometry.logmap(self.manifold, start, end)
            at = geometry.expmap(self.manifold, start, t * u)
            # the velocity keeps its length and points away from the start
            velocity = u if self.torus else -geometry.logmap(self.manifold, at, start) / t.clamp_min(1e-3)
            velocity = torch.where(t < 1e-3, u, velocity)
        return (self.field(t, at) - velocity).square().sum(-1)

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        start, t = self.noise(len(batch), generator), torch.rand(len(batch), 1, generator=generator)
        return self.errors(start, batch, t).mean()

    def validation_loss(self, held_out: Tensor) -> float:
        start, t = self.validation_noise
        rows = torch.arange(len(start)) % len(held_out)
        return float(self.errors(start, held_out[rows], t).mean())

    def basis(self, x: Tensor) -> Tensor:
        """Orthonormal tangent vectors (K,N,d)."""
        if self.flat or self.torus:
            return torch.eye(self.dim).unsqueeze(1).expand(-1, len(x), -1)
        e = torch.eye(2).unsqueeze(1).expand(-1, len(x), -1)
        return torch.stack([geometry.from_coords(self.manifold, x, v) for v in e])

    def divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The field and its divergence; (N,d), (N)."""
        basis = self.basis(x)

        def along(e: Tensor) -> tuple[Tensor, Tensor]:
            value, change = jvp(lambda y: self.field(t, y), (x,), (e,))
            return value, (change * e).sum(-1)

        value, diagonal = vmap(along, out_dims=(None, 0))(basis)
        return value, diagonal.sum(0)

    def _solve(self, function: object, state: object, end: float) -> object:
        times = torch.tensor([1.0 - end, end])
        return odeint(function, state, times, method="dopri5", rtol=self.tolerance, atol=self.tolerance)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        def right(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            point = self._projected(state[0])
            return self.divergence(t.expand(len(point), 1), point)

        start = self.coordinates(x)
        points, change = self._solve(right, (start, torch.zeros(len(x))), 0.0)  # type: ignore[misc]
        log_q = self.log_base(self._projected(points[-1])) + change[-1]
        return log_q.to(x) - self.spread.log().sum().to(x)

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        start = self.noise(n, torch.Generator().manual_seed(seed))
        path = self._solve(lambda t, x: self.field(t.expand(n, 1), self._projected(x)), start, 1.0)
        return self._projected(path[-1]) * self.spread + self.center  # type: ignore[index]

    def _projected(self, x: Tensor) -> Tensor:
        if self.flat:
            return x
        return torch.remainder(x + math.pi, 2 * math.pi) - math.pi if self.torus else nn.functional.normalize(x, dim=-1)
