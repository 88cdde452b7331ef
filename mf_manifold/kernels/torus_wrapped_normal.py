"""Wrapped normal on the torus T^d: a normal law of real angles, taken modulo 2 pi."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..circular import log_wrapped_normal_1d
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.torus import Torus, wrap
from .covariance import cholesky_logdet, covariance_from_raw, covariance_option, num_covariance_raw

MAX_TERMS = 100_000
TAIL = 7.3  # erfc(TAIL / sqrt 2) = 3e-13: the mass that each side of the lattice box may leave out


@register_kernel(Torus, "wrapped_normal", default=True)
class TorusWrappedNormal(Kernel):
    r"""Law of ``loc + V`` modulo 2 pi with ``V`` normal.

    .. math:: q(x) = \sum_{k \in Z^d} N(x - loc + 2\pi k; 0, \Sigma)

    ``covariance="diagonal"`` (``scale``, one number or one per angle) is a product of one-dimensional series, each in its
    direct or its Fourier form, whichever converges. ``covariance="full"`` sums the lattice box of half widths
    ``K_i >= 7.3 sqrt(S_ii) / 2 pi + 1/2``, which leaves out a mass of at most ``d * 3e-13``, or, where every eigenvalue of S
    is above 2 pi, the Fourier series ``(2 pi)^-d sum_m exp(-m^T S m / 2) cos(m.(x - loc))``.

    **Measure**: Lebesgue in radians. **Exactness**: convergent series. **Units**: radians.

    Shapes: ``loc`` (*B,d); ``scale`` (*B,d) or (*B,1), broadcast against ``loc`` as torch does; ``covariance_matrix``
    (*B,d,d).

    Raises:
        ValueError: a full covariance so wide in so many dimensions that the lattice exceeds 100 000 terms.

    References:
        Mardia, Jupp (2000), Directional Statistics, section 3.5.7 (one angle).

    >>> import torch, mf_manifold as mf
    >>> loc = torch.zeros(2, dtype=torch.float64)
    >>> d = mf.distribution(mf.manifolds.Torus(), "wrapped_normal", loc=loc, scale=0.5)
    >>> turned = loc + 2 * torch.pi
    >>> bool(torch.isclose(d.log_prob(loc), d.log_prob(turned)))
    True
    """

    parameter_names = ("loc", "scale | covariance_matrix")
    exactness = "series"

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "diagonal") -> None:
        super().__init__(manifold, point_shape)
        self.covariance = covariance_option(covariance, ("diagonal", "full"))

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        return {"covariance": "full" if "covariance_matrix" in names else "diagonal"}

    @property
    def options(self) -> dict[str, Any]:
        return {"covariance": self.covariance}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        shape = self.point_shape
        return {"loc": shape, **({"scale": shape} if self.covariance == "diagonal" else {"covariance_matrix": 2 * shape})}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        loc = OnManifold(self.manifold, self.point_shape)
        if self.covariance == "diagonal":
            return {"loc": loc, "scale": constraints.independent(constraints.positive, 1)}
        return {"loc": loc, "covariance_matrix": constraints.positive_definite}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.covariance == "diagonal":
            scale = w["scale"].expand(*w["scale"].shape[:-1], self.dim)
            parts = (log_wrapped_normal_1d(x[..., i] - w["loc"][..., i], scale[..., i]) for i in range(self.dim))
            return sum(parts, start=torch.zeros((), dtype=x.dtype, device=x.device))
        cov, delta = w["covariance_matrix"], wrap(x - w["loc"])
        if not cov.is_meta and float(torch.linalg.eigvalsh(cov.detach()).amin()) >= 2 * math.pi:
            return _fourier(delta, cov)
        return _lattice(delta, cov)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc = w["loc"]
        noise = torch.randn((*sample_shape, *loc.shape), generator=generator, dtype=loc.dtype, device=loc.device)
        if self.covariance == "diagonal":
            return wrap(loc + w["scale"] * noise)
        factor = torch.linalg.cholesky(w["covariance_matrix"])
        return wrap(loc + (factor @ noise.unsqueeze(-1)).squeeze(-1))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        if self.covariance == "diagonal":
            return {"loc": points, "scale": scale.unsqueeze(-1)}
        eye = torch.eye(self.dim, dtype=points.dtype, device=points.device)
        return {"loc": points, "covariance_matrix": scale.square()[..., None, None] * eye}

    @property
    def num_raw_shape(self) -> int:
        return self.dim if self.covariance == "diagonal" else num_covariance_raw(self.dim)

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.covariance == "diagonal":
            return {"loc": points, "scale": self.scale_from_raw(shape)}
        return {"loc": points, "covariance_matrix": covariance_from_raw(self, shape, self.dim)}


def _box(half_widths: list[int], like: Tensor) -> Tensor:
    """Integer lattice points of a box, as floats; -> (K,d)."""
    count = math.prod(2 * k + 1 for k in half_widths)
    if count > MAX_TERMS:
        raise ValueError(
            f"Expected a covariance whose series has at most {MAX_TERMS} terms, got {count} in {len(half_widths)} "
            "dimensions. Use scale= (a diagonal covariance, which needs no lattice) or a narrower covariance_matrix."
        )
    points = list(itertools.product(*(range(-k, k + 1) for k in half_widths)))
    return torch.tensor(points, dtype=like.dtype, device=like.device)


def _lattice(delta: Tensor, cov: Tensor) -> Tensor:
    """Direct series ``logsumexp_k log N(delta + 2 pi k; 0, cov)``."""
    dim = delta.shape[-1]
    sd = cov.detach().diagonal(dim1=-2, dim2=-1).sqrt().reshape(-1, dim).amax(0)
    widths = [math.ceil(TAIL * s / (2 * math.pi) + 0.5) for s in ([1.0] * dim if cov.is_meta else sd.tolist())]
    shifts = 2 * math.pi * _box(widths, delta)
    factor = torch.linalg.cholesky(cov)
    inverse = torch.linalg.solve_triangular(
        factor, torch.eye(dim, dtype=cov.dtype, device=cov.device).expand_as(factor), upper=False
    )
    # |L^-1 (delta + s)|^2, batched over the lattice in the last dimension
    images = (inverse @ delta.unsqueeze(-1)) + inverse @ shifts.mT
    log_sum = torch.logsumexp(-images.square().sum(-2) / 2, dim=-1)
    return log_sum - cholesky_logdet(factor) - dim / 2 * math.log(2 * math.pi)


def _fourier(delta: Tensor, cov: Tensor) -> Tensor:
    """Dual series, for covariances whose every eigenvalue is above 2 pi, where its sum stays well above zero."""
    dim = delta.shape[-1]
    frequencies = _box([4] * dim, delta)  # exp(-2 pi 5^2 / 2) = 8e-35
    quadratic = (frequencies @ cov * frequencies).sum(-1) / 2
    angles = delta @ frequencies.mT
    others = frequencies.abs().sum(-1) > 0
    series = (torch.exp(-quadratic) * torch.cos(angles))[..., others].sum(-1)
    return torch.log1p(series) - dim * math.log(2 * math.pi)
