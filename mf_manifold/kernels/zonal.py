"""What kernels on the sphere share that depend on the angle to ``loc`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params
from ..manifolds.sphere import chord2

# Largest error, in nats, that a product of features may make.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}


def unit(x: Tensor) -> Tensor:
    """The point in float64, normalised again: a float32 point is off the sphere by more than narrow kernels forgive."""
    wide = x.double()
    return wide / wide.norm(dim=-1, keepdim=True)


def chords(x: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
    """Squared chords from unit vectors to ``loc`` and to its antipode, each accurate where it is short."""
    return chord2(x, loc), chord2(x, -loc)


def product_suffices(slope: Tensor, dtype: torch.dtype) -> bool:
    """Whether log densities keep their digits with squared chords from a product, which err by a few roundings of float64.

    ``slope`` bounds the derivative of the log density by the squared chord. The largest one is read, once a call.
    """
    return 4 * torch.finfo(torch.float64).eps * largest(slope) <= TOLERANCE[dtype]


def largest(value: Tensor) -> float:
    """Largest entry, read to choose a formula; 1 where there is none to read."""
    return 1.0 if value.is_meta or value.numel() == 0 else float(value.detach().amax())


def chord_blocks(function: Any, x: Tensor, loc: Tensor, like: Tensor) -> Tensor:
    """The matrix ``function(rows, near2, far2)`` of all pairs of unit vectors (N,D), (M,D), from one float64 product.

    float32 would leave no correct digit of the chord of a narrow component.
    """
    left = torch.cat([x, torch.ones_like(x[:, :1])], dim=-1)
    right = torch.cat([-2 * loc, torch.full_like(loc[:, :1], 2.0)], dim=-1).mT

    def block(rows: slice) -> Tensor:
        near2 = (left[rows] @ right).clamp(0.0, 4.0)
        result: Tensor = function(rows, near2.to(like.dtype), (4 - near2).to(like.dtype))
        return result

    return by_blocks(block, len(x), len(loc), like)


def around(manifold: geoopt.Manifold, loc: Tensor, near: Tensor, far: Tensor, generator: torch.Generator | None) -> Tensor:
    """Points at given ``1 - cos(angle)`` and ``1 + cos(angle)`` (*B) from ``loc`` (*B,D) in random directions, differentiable.

    Either number has the digits of the angle where it is small; with one of them alone, samples would pile up at an end.
    """
    noise = torch.randn(loc.shape, generator=generator, dtype=loc.dtype, device=loc.device)
    direction = geometry.project(manifold, noise - (noise * loc).sum(-1, keepdim=True) * loc)
    near, far = near.unsqueeze(-1), far.unsqueeze(-1)
    sine = (near * far).clamp_min(torch.finfo(loc.dtype).tiny).sqrt()
    return geometry.project(manifold, (far - near) / 2 * loc + sine * direction)


class ZonalKernel(Kernel):
    """A law on S^d whose density is a function of the squared chords to ``loc`` and to its antipode.

    A subclass gives :meth:`_shape` and :meth:`_from_chords`, which are evaluated in float64 for single pairs; a matrix of pairs
    takes the chords from one float64 product and goes on in the dtype of the points.
    """

    mean_kind = "frechet"
    width = "concentration"  # the parameter besides loc
    width_constraint: constraints.Constraint

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, self.width: ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"loc": OnManifold(self.manifold, self.point_shape), self.width: self.width_constraint}

    def _shape(self, width: Tensor) -> tuple[Tensor, ...]:
        """What the density needs of the width (*B), computed once in float64."""
        raise NotImplementedError

    def _from_chords(self, near2: Tensor, far2: Tensor, *shape: Tensor) -> Tensor:
        """Log density from squared chords and the result of :meth:`_shape`."""
        raise NotImplementedError

    def _slope(self, width: Tensor) -> Tensor:
        """A bound of the derivative of the log density by the squared chord to loc."""
        raise NotImplementedError

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        shape = self._shape(w[self.width].double())
        return self._from_chords(*chords(unit(x), unit(w["loc"])), *shape).to(x.dtype)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        w = self.expand(w, self.batch_shape(w))
        if not product_suffices(self._slope(w[self.width].double()), x.dtype):
            return super().pairwise_log_prob(x, w)
        shape = [t.to(x.dtype) for t in self._shape(w[self.width].double())]
        return chord_blocks(lambda rows, near2, far2: self._from_chords(near2, far2, *shape), unit(x), unit(w["loc"]), x)

    def mean(self, w: Params) -> Tensor:
        return w["loc"].expand(*self.batch_shape(w), *self.point_shape)
