"""What kernels on the sphere share whose shape is a covariance in the tangent space at ``loc``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params
from ..numerics.linalg import svec, sym_eigvals
from .covariance import (
    SemidefiniteToRounding,
    cholesky_logdet,
    covariance_from_raw,
    covariance_option,
    num_covariance_raw,
    pushed,
)
from .zonal import chord_blocks, chords, largest, product_suffices, unit


class Spread(NamedTuple):
    """A tangent covariance in float64: isotropic, or the tangent part of an ambient matrix."""

    variance: Tensor  # (*B), the mean over the directions
    half_log_det: Tensor  # (*B), half the log determinant
    tangent: Tensor | None  # (*B,D,D), singular along loc
    factor: Tensor | None  # Cholesky factor of the tangent part completed by the mean variance along loc


class TangentKernel(Kernel):
    """A law on S^d that depends on x by its two squared chords to ``loc`` and its antipode and on u' S^-1 u, where u is the
    tangent direction towards x and S the tangent covariance.

    ``covariance_matrix`` is an ambient D x D matrix of which the tangent part P S P counts, with P = I - loc loc'. A subclass
    gives :meth:`_terms` and :meth:`_from_chords`, which are evaluated in float64 for single pairs; a matrix of pairs takes the
    chords from one float64 product and goes on in the dtype of the points.
    """

    parameter_names = ("loc", "scale | covariance_matrix")
    covariances: ClassVar[tuple[str, ...]] = ("isotropic", "full")

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str | None = None) -> None:
        super().__init__(manifold, point_shape)
        self.covariance = covariance_option(covariance or self.covariances[0], self.covariances)

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        return {"covariance": "full" if "covariance_matrix" in names else cls.covariances[0]}

    @property
    def options(self) -> dict[str, Any]:
        return {"covariance": self.covariance}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        shape = self.point_shape
        spread: dict[str, Shape] = {"scale": ()} if self.covariance == "isotropic" else {"covariance_matrix": 2 * shape}
        return {"loc": shape, **spread}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        loc = OnManifold(self.manifold, self.point_shape)
        if self.covariance == "isotropic":
            return {"loc": loc, "scale": constraints.positive}
        return {"loc": loc, "covariance_matrix": SemidefiniteToRounding()}

    def _terms(self, spread: Spread) -> tuple[Any, ...]:
        """What the density needs besides the pair's numbers, computed once in float64."""
        raise NotImplementedError

    def _forgets_direction(self, terms: tuple[Any, ...]) -> bool:
        """Whether the density close to loc depends on the precision along the geodesic only by its product with the angle."""
        return True

    def _from_chords(self, near2: Tensor, far2: Tensor, along: Tensor, *terms: Any) -> Tensor:
        """Log density from squared chords, the precision along the geodesic and the result of :meth:`_terms`."""
        raise NotImplementedError

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        spread = self._spread(w)
        return self._directly(unit(x), unit(w["loc"]), spread, self._terms(spread)).to(x.dtype)

    def _directly(self, x: Tensor, loc: Tensor, spread: Spread, terms: tuple[Any, ...]) -> Tensor:
        """Log density at unit vectors by differences from loc."""
        near2, far2 = chords(x, loc)
        return self._from_chords(near2, far2, _precision_along(x, loc, near2 > far2, spread), *terms)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        w = self.expand(w, self.batch_shape(w))
        loc, spread = unit(w["loc"]), self._spread(w)
        matrix = None if spread.factor is None else precision_matrix(loc, spread)
        point, exact = unit(x), self._terms(spread)
        slope = spread.variance.reciprocal() if matrix is None else matrix.abs()
        if not product_suffices(slope, x.dtype) or not (matrix is None or self._forgets_direction(exact)):
            white = _whitening(spread)

            def direct(rows: slice) -> Tensor:
                return self._from_chords(*_by_differences(point[rows], loc, white, spread.variance), *exact).to(x.dtype)

            return by_blocks(direct, len(x), len(loc), x)
        terms = [t.to(x.dtype) if isinstance(t, Tensor) else t for t in exact]
        if matrix is None:
            precision = spread.variance.reciprocal().to(x.dtype)
            return chord_blocks(lambda rows, a, b: self._from_chords(a, b, precision, *terms), point, loc, x)
        phi, psi, variance = svec(_outer(point)), svec(matrix).mT, spread.variance.to(x.dtype)
        # next to loc the quotient is rounding noise, which the angle multiplies away unless it is negative or huge
        low, high = 1 / (self.dim * variance), matrix.diagonal(dim1=-2, dim2=-1).sum(-1).to(x.dtype)

        def block(rows: slice, near2: Tensor, far2: Tensor) -> Tensor:
            # x' B x = sin^2 u' B u, because B annihilates loc
            along = _ratio((phi[rows] @ psi).to(x.dtype), near2 * far2 / 4, variance)
            return self._from_chords(near2, far2, torch.clamp(along, low, high), *terms)

        return chord_blocks(block, point, loc, x)

    def _spread(self, w: Params) -> Spread:
        if self.covariance == "isotropic":
            scale = w["scale"].double()
            return Spread(scale.square(), self.dim * scale.log(), None, None)
        loc = unit(w["loc"])
        projector = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device) - _outer(loc)
        tangent = projector @ w["covariance_matrix"].double() @ projector
        variance = tangent.diagonal(dim1=-2, dim2=-1).sum(-1) / self.dim
        factor, info = torch.linalg.cholesky_ex(tangent + variance[..., None, None] * _outer(loc))
        if not info.is_meta and (info > 0).any():
            raise ValueError(
                "Expected a covariance_matrix whose part tangent to the sphere at loc is positive definite; "
                f"{int((info > 0).sum())} of {info.numel()} are not."
            )
        return Spread(variance, cholesky_logdet(factor) - variance.log() / 2, tangent, factor)

    def _variances(self, spread: Spread) -> Tensor:
        """Variances along the principal axes, (*B,d) or, with one zero for the direction of loc, (*B,D)."""
        if spread.tangent is None:
            return spread.variance.unsqueeze(-1).expand(*spread.variance.shape, self.dim)
        return sym_eigvals(spread.tangent)

    def _velocity(self, w: Params, sample_shape: Shape, generator: torch.Generator | None) -> Tensor:
        """Normal tangent vectors at loc (*S,*B,D)."""
        loc = w["loc"]
        noise = torch.randn((*sample_shape, *loc.shape), generator=generator, dtype=loc.dtype, device=loc.device)
        factor = self._spread(w).factor
        if factor is None:
            ambient = w["scale"].unsqueeze(-1) * noise
        else:
            ambient = (factor.to(loc.dtype) @ noise.unsqueeze(-1)).squeeze(-1)
        return ambient - (ambient * loc).sum(-1, keepdim=True) * loc

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        if self.covariance == "isotropic":
            return {"loc": points, "scale": scale}
        eye = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
        return {"loc": points, "covariance_matrix": scale.square()[..., None, None] * eye}

    def around(self, points: Tensor, covariance: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().around(points, covariance)
        axes = torch.eye(self.dim, dtype=points.dtype, device=points.device)
        frame = [geometry.from_coords(self.manifold, points, axis.expand(*points.shape[:-1], -1)) for axis in axes]
        return {"loc": points, "covariance_matrix": pushed(covariance, torch.stack(frame, dim=-1))}

    @property
    def num_raw_shape(self) -> int:
        return 1 if self.covariance == "isotropic" else num_covariance_raw(self.point_shape[0])

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.covariance == "isotropic":
            return super().shaped(points, shape)
        return {"loc": points, "covariance_matrix": covariance_from_raw(self, shape, self.point_shape[0])}

    def _signed(self, w: Params, cosine: Tensor) -> Tensor:
        """The projected mean of a law that is symmetric around loc: loc, or its antipode where the mean cosine is negative."""
        side = torch.where(cosine < 0, -1.0, 1.0).to(w["loc"])
        return (side.unsqueeze(-1) * w["loc"]).expand(*self.batch_shape(w), *self.point_shape)


def _outer(x: Tensor) -> Tensor:
    return x.unsqueeze(-1) * x.unsqueeze(-2)


def precision_matrix(loc: Tensor, spread: Spread) -> Tensor:
    """The inverse of the covariance in the tangent space, which annihilates loc; (*B,D,D)."""
    assert spread.factor is not None
    return torch.cholesky_inverse(spread.factor) - _outer(loc) / spread.variance[..., None, None]


def largest_scale(spread: Spread) -> float:
    """An upper bound of the standard deviations in every direction: the largest one, or the root of the largest trace."""
    trace = spread.variance if spread.factor is None else spread.factor.square().sum((-2, -1))
    return math.sqrt(largest(trace))


def _precision_along(x: Tensor, loc: Tensor, beyond: Tensor, spread: Spread) -> Tensor:
    """u' S^-1 u for the tangent direction u towards x, from the nearer of loc and its antipode."""
    if spread.factor is None:
        return spread.variance.reciprocal()
    short = torch.where(beyond.unsqueeze(-1), x + loc, x - loc)
    tangent = short - (short * loc).sum(-1, keepdim=True) * loc
    white = torch.linalg.solve_triangular(spread.factor, tangent.unsqueeze(-1), upper=False).squeeze(-1)
    return _ratio(white.square().sum(-1), tangent.square().sum(-1), spread.variance)


def _whitening(spread: Spread) -> Tensor | None:
    """The inverse of the covariance's factor, lower triangular (M,D,D)."""
    if spread.factor is None:
        return None
    eye = torch.eye(spread.factor.shape[-1], dtype=spread.factor.dtype, device=spread.factor.device)
    return torch.linalg.solve_triangular(spread.factor, eye.expand_as(spread.factor), upper=False)


def _by_differences(x: Tensor, loc: Tensor, white: Tensor | None, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared chords of all pairs (N,D), (M,D) and the precisions along them, without the cancellation of a product.

    Coordinate by coordinate: sums over a short last dimension, and triangular solves of single vectors, cost ten times as much.
    """
    columns = list(zip(x.unsqueeze(1).unbind(-1), loc.unbind(-1), strict=True))
    near2 = sum((a - b).square() for a, b in columns)
    far2 = sum((a + b).square() for a, b in columns)
    assert isinstance(near2, Tensor) and isinstance(far2, Tensor)
    if white is None:
        return near2, far2, variance.reciprocal()
    # the tangent vector from the nearer of loc and its antipode
    sign = torch.where(near2 > far2, -1.0, 1.0).to(near2)
    bend = sign * torch.minimum(near2, far2) / 2
    tangent = [(a - sign * b) + bend * b for a, b in columns]
    form = torch.zeros_like(near2)
    for k, rows in enumerate(white.unbind(-2)):
        entries = rows.unbind(-1)[: k + 1]
        coordinate = sum(w * t for w, t in zip(entries, tangent, strict=False))
        assert isinstance(coordinate, Tensor)
        form = form + coordinate.square()
    return near2, far2, _ratio(form, near2 * far2 / 4, variance)


def _ratio(form: Tensor, sine2: Tensor, variance: Tensor) -> Tensor:
    """form / sine2; at loc and at its antipode, where there is no direction, the inverse of the mean variance."""
    degenerate = sine2 <= torch.finfo(torch.float64).eps ** 2
    return torch.where(degenerate, 1 / variance, form / torch.where(degenerate, torch.ones_like(sine2), sine2))
