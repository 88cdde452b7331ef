"""Normal law of Fisher's z of the canonical partial correlations of a correlation matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds.correlation import (
    Correlation,
    factor_or_identity,
    from_partial_coordinates,
    full_rank,
    partial_coordinates,
)
from .coordinate_normal import CoordinateNormal


@register_kernel(Correlation, "partial_correlation_normal", default=True)
class PartialCorrelationNormal(CoordinateNormal):
    r"""Law of a correlation matrix whose canonical partial correlations have normal Fisher z.

    .. math:: q(X) = N(z(X); z(loc), \Sigma), \qquad
              q_{leb}(X) = q(X) \prod_{i > j} (1 - c_{ij}^2)^{-(p - j)/2}

    with :math:`z_{ij} = \mathrm{atanh}\, c_{ij}` and :math:`c_{ij}` the correlation of variables i and j given 0 .. j-1, both
    counted from 0; coordinates come row by row, (1,0), (2,0), (2,1), ... For p = 2 it is Fisher's normal law of atanh r.

    **Measure**: Riemannian volume by default, by which the density is exactly the normal. **Exactness**: closed form.
    **Range**: any positive scale; matrices of full rank in their dtype. **Mean**: Fréchet, ``loc``. **Sampler**: pathwise; a
    matrix that would be singular to rounding, one with a z of 18 (8 in float32), say, is returned a few roundings nearer to the
    identity.

    Shapes: ``loc`` (*B,p,p); ``scale`` (*B,m) or (*B,1) with m = p(p-1)/2; ``covariance_matrix`` (*B,m,m).

    Raises:
        ValueError: ``loc`` not a correlation matrix of full rank, a scale that is not positive.

    References:
        Joe (2006), Generating random correlation matrices based on partial correlations, for the Jacobian.

    >>> import torch, mf_manifold as mf
    >>> loc = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    >>> d = mf.distribution(mf.manifolds.Correlation(), "partial_correlation_normal", loc=loc, scale=0.5, measure="lebesgue")
    >>> round(float(d.log_prob(loc).exp() * (1 - 0.6**2)), 6)            # 1 / (0.5 sqrt(2 pi))
    0.797885
    """

    mean_kind = "frechet"
    needs_double = True  # a float32 matrix has lost the digits of partial correlations near 1

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x, w).masked_fill(_singular(x), -math.inf)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear | None:
        form = super().bilinear(x, w)
        return None if form is None else form._replace(offset=form.offset.masked_fill(_singular(x), -math.inf))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        wide = {name: value.double() for name, value in w.items()}
        return full_rank(super().rsample(wide, sample_shape, generator), w["loc"].dtype)

    def coordinates(self, x: Tensor) -> Tensor:
        return partial_coordinates(x)

    def from_coordinates(self, v: Tensor) -> Tensor:
        return from_partial_coordinates(v)


def _singular(x: Tensor) -> Tensor:
    """Whether a matrix has no Cholesky factor; its coordinates are then those of a stand-in."""
    return ~factor_or_identity(x)[1]
