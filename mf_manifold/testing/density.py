"""A density with its sampler, and the tangent coordinates in which it is integrated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import NamedTuple

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..distributions import KernelDistribution
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params
from ..mixture import Mixture
from .steps import difference, distance, has_geodesics, step

PILOT = 2048
CHUNK = 2**14


def generator_for(seed: int) -> torch.Generator:
    """A seeded generator of its own, so that no check depends on what ran before it."""
    return torch.Generator().manual_seed(seed)


def to_dtype(params: Params, dtype: torch.dtype) -> Params:
    """The parameters in another floating dtype."""
    return {name: value.to(dtype) for name, value in params.items()}


@dataclass(frozen=True)
class Density:
    """What the integrals need: log density by the Riemannian volume, sampler, and a point to integrate around."""

    manifold: geoopt.Manifold
    point_shape: Shape
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int, torch.Generator], Tensor]
    center: Tensor

    @property
    def dim(self) -> int:
        return geometry.intrinsic_dim(self.manifold, self.point_shape)

    def log_prob_of(self, x: Tensor) -> Tensor:
        """Log density of many points, in chunks."""
        with torch.no_grad():
            return torch.cat([self.log_prob(part) for part in x.split(CHUNK)])


def kernel_density(kernel: Kernel, params: Params) -> Density:
    """The density of one component in float64, around its location; an antipodal one folded to the hemisphere there."""
    w = to_dtype(params, torch.float64)
    center = _location(kernel, w)
    if center is None:
        center = _middle(kernel.manifold, _detached(kernel, w, PILOT, generator_for(0)))
    density = Density(
        kernel.manifold,
        kernel.point_shape,
        lambda x: kernel.log_prob(x, w),
        lambda n, generator: _detached(kernel, w, n, generator),
        center,
    )
    return _folded(density) if kernel.antipodal else density


def _location(kernel: Kernel, w: Params) -> Tensor | None:
    """The parameter that is a point, of products all of them joined; None where there is none."""
    located = {k: w[k].flatten() for k, c in kernel.param_constraints.items() if isinstance(c, OnManifold)}
    if kernel.location in located:
        return located[kernel.location].reshape(kernel.point_shape)
    joined = torch.cat([*located.values(), torch.zeros(0, dtype=torch.float64)])
    return joined.reshape(kernel.point_shape) if joined.numel() == math.prod(kernel.point_shape) else None


def _folded(density: Density) -> Density:
    """The law of the one of x and -x that is nearer to the centre: a single bump, which tangent coordinates can describe."""

    def side(x: Tensor) -> Tensor:
        return torch.where((x * density.center).sum(-1, keepdim=True) >= 0, 1.0, -1.0).to(x)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        x = density.sample(n, generator)
        return side(x) * x

    def log_prob(x: Tensor) -> Tensor:
        return torch.where(side(x).squeeze(-1) > 0, density.log_prob(x) + math.log(2), -math.inf)

    return replace(density, sample=sample, log_prob=log_prob)


def _detached(kernel: Kernel, w: Params, n: int, generator: torch.Generator) -> Tensor:
    with torch.no_grad():
        x = kernel.rsample(w, (n,), generator)
    # a law without parameters draws in the default dtype
    return x if x.dtype == torch.float64 else geometry.project(kernel.manifold, x.double())


def distribution_density(dist: KernelDistribution | Mixture, seed: int) -> Density:
    """The density of a distribution without batch dimensions, around the mean of a few samples."""

    def sample(n: int, generator: torch.Generator) -> Tensor:
        return dist.sample((n,), generator=generator)

    def log_prob(x: Tensor) -> Tensor:
        return dist.log_prob(x, measure="riemannian")

    x = sample(PILOT, generator_for(seed))
    return Density(dist.manifold, tuple(dist.event_shape), log_prob, sample, _middle(dist.manifold, x))


def _middle(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """The sample that is nearest to the others on average."""
    some = x[:64]
    return some[distance(manifold, some.unsqueeze(1), x.unsqueeze(0)).mean(1).argmin()]


def to_coords(manifold: geoopt.Manifold, x: Tensor, u: Tensor) -> Tensor:
    """Orthonormal coordinates of tangent vectors, the inverse of ``geometry.from_coords``; (*B,*E), (*S,*B,*E) -> (*S,*B,d)."""
    ndim = geometry.point_ndim(manifold)
    batch, shape = x.shape[: x.ndim - ndim], x.shape[x.ndim - ndim :]
    dim = geometry.intrinsic_dim(manifold, tuple(shape))
    eye = torch.eye(dim, dtype=x.dtype, device=x.device).expand(*batch, dim, dim)
    basis = geometry.from_coords(manifold, x.unsqueeze(-ndim - 1), eye).flatten(len(batch) + 1)
    return (torch.linalg.pinv(basis.mT) @ u.flatten(u.ndim - ndim).unsqueeze(-1)).squeeze(-1)


class NormalChart:
    """Normal coordinates around one centre (*E); :meth:`point` understands N centres (N,*E) too."""

    def __init__(self, manifold: geoopt.Manifold, center: Tensor) -> None:
        self.manifold = manifold
        self.center = center if center.ndim > geometry.point_ndim(manifold) else center.unsqueeze(0)

    def coords(self, x: Tensor) -> Tensor:
        """Coordinates of points; (N,*E) -> (N,d)."""
        return to_coords(self.manifold, self.center[0], difference(self.manifold, self.center, x))

    def point(self, v: Tensor) -> Tensor:
        """Points with given coordinates; (N,d) -> (N,*E)."""
        return step(self.manifold, self.center, geometry.from_coords(self.manifold, self.center, v))

    def log_volume(self, v: Tensor) -> Tensor:
        """Log density of the Riemannian volume by Lebesgue measure of the coordinates; (N,d) -> (N)."""
        u = geometry.from_coords(self.manifold, self.center, v)
        return geometry.logdet_expmap(self.manifold, self.center, u)

    def reached(self, v: Tensor, x: Tensor) -> Tensor:
        """Whether ``v`` are the coordinates that ``x = point(v)`` has; (N,d), (N,*E) -> (N)."""
        length = v.norm(dim=-1)
        # false beyond the cut locus, and where a matrix is so ill-conditioned that float64 does not hold its small eigenvalues
        return (geometry.dist(self.manifold, self.center, x) - length).abs() < 1e-8 * length + 1e-12


@singledispatch
def chart(manifold: geoopt.Manifold, center: Tensor) -> NormalChart:
    """The coordinates in which a density is integrated; register others for a manifold without a logarithm."""
    return NormalChart(manifold, center)


def has_volume(manifold: geoopt.Manifold, center: Tensor) -> bool:
    """Whether the coordinates around a point know the density of the Riemannian volume."""
    return has_geodesics(manifold) or type(chart(manifold, center)) is not NormalChart


def log_coords(manifold: geoopt.Manifold, center: Tensor, x: Tensor) -> Tensor:
    """Coordinates of ``x`` (N,*E) around one centre (*E); -> (N,d)."""
    return chart(manifold, center).coords(x)


def exp_coords(manifold: geoopt.Manifold, center: Tensor, v: Tensor) -> Tensor:
    """Points with coordinates ``v`` (N,d) around one centre (*E) or N centres (N,*E); -> (N,*E)."""
    return chart(manifold, center).point(v)


class Pilot(NamedTuple):
    """Mean and Cholesky factor of the covariance of samples in normal coordinates."""

    mean: Tensor
    factor: Tensor

    @property
    def spread(self) -> float:
        """Root mean square deviation per coordinate."""
        return float(self.factor.square().sum().div(len(self.mean)).sqrt())


def pilot(density: Density, seed: int) -> Pilot:
    """Where the mass is, from a few samples: it steers where integrals look, not what they are."""
    v = log_coords(density.manifold, density.center, density.sample(PILOT, generator_for(seed)))
    return Pilot(v.mean(0), torch.linalg.cholesky(torch.atleast_2d(v.T.cov())))
