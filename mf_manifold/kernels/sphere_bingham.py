"""Bingham law on the sphere S^d of any dimension."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..numerics.concave import maximise
from ..numerics.contour import log_matrix_normalizer, quadratic_moments, second_moment_matrix
from ..numerics.linalg import svec, sym, sym_eigvals
from .covariance import num_covariance_raw, unit_lower
from .quadratic import sample_axes
from .shares import shares
from .sphere_angular_central_gaussian import squares

MAX_SPREAD = 1e8


@register_kernel(geoopt.Sphere, "bingham")
class Bingham(Kernel):
    r"""Exponential family of the quadratic statistics, a normal law conditioned to the sphere: q(x) = q(-x).

    .. math:: q(x) = \exp(x^T A x) / c(A), \quad
              c(A) = 2 \pi^{D/2} \frac{1}{2 \pi i} \int e^s \prod_i (s - a_i)^{-1/2} ds, \quad a_i \text{ eigenvalues of } A.

    ``concentration_matrix`` is A, any symmetric matrix. It counts up to multiples of the identity: A and A + c I are the same
    law. The modes are the unit eigenvectors of the largest eigenvalue; along another one the variance is about 1 / (2 gap)
    where the gap of the eigenvalues is large. The fit and ``centered`` give matrices with largest eigenvalue 0.

    **Measure**: surface of the unit sphere. **Exactness**: numeric normaliser, a contour integral by a fixed rule, to 1e-13.

    **Range**: eigenvalues up to 1e6 apart and from zero, D up to 64. Errors grow like eps times the largest of them: to about
    2e-8 nats at 1e8, and eigenvalues more than 1e8 apart are refused.
    **Mean**: not available, x and -x are equally likely. **Sampler**: exact, by rejection from an angular central Gaussian
    envelope (Kent, Ganeiban, Mardia 2018), not pathwise.

    The fit takes the eigenvectors of the mean of x x^T, and the eigenvalues by Newton's method on a concave function. A
    network's components have one mode up to sign, never a girdle.

    Shapes: ``concentration_matrix`` (*B,D,D).

    Raises:
        ValueError: a matrix that is not symmetric, eigenvalues more than 1e8 apart, a fit to points in a subspace.

    References:
        Bingham (1974), An antipodally symmetric distribution on the sphere. Mardia, Jupp (2000), Directional Statistics,
            section 9.4.3.

    >>> import geoopt, torch, mf_manifold as mf
    >>> a = torch.diag(torch.tensor([-3., -1., 0.], dtype=torch.float64))
    >>> d = mf.distribution(geoopt.Sphere(), "bingham", concentration_matrix=a)
    >>> x = torch.tensor([1., 0., 0.], dtype=torch.float64)
    >>> round(float(d.log_prob(x) - d.log_prob(torch.tensor([0., 0., 1.], dtype=torch.float64))), 6)
    -3.0
    """

    parameter_names = ("concentration_matrix",)
    location = "concentration_matrix"
    exactness = "numeric normaliser"
    antipodal = True
    has_rsample = False
    log_scale_range = (-6.5, 1.0)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"concentration_matrix": 2 * self.point_shape}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"concentration_matrix": constraints.symmetric}

    def _shifted(self, w: Params) -> tuple[Tensor, Tensor]:
        """The matrix with its largest eigenvalue, a constant to gradients, made zero, and its eigenvalues, in float64."""
        matrix = sym(w["concentration_matrix"].double())
        values = sym_eigvals(matrix)
        spread = (values[..., -1] - values[..., 0]).detach()
        if not spread.is_meta and spread.numel() and not float(spread.amax()) <= MAX_SPREAD:
            raise ValueError(
                f"Expected a concentration_matrix of bingham with eigenvalues at most {MAX_SPREAD:.0e} apart, "
                f"got {float(spread.amax()):.3g}."
            )
        top = values[..., -1:].detach()
        return matrix - torch.diag_embed(top.expand(values.shape)), values - top

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        matrix, _ = self._shifted(w)
        unit = geometry.project(self.manifold, x.double())
        form = ((matrix @ unit.unsqueeze(-1)).squeeze(-1) * unit).sum(-1)
        return (form - log_matrix_normalizer(matrix)).to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        matrix, _ = self._shifted(w)
        phi = squares(geometry.project(self.manifold, x.double()))
        return Bilinear(phi, svec(matrix), -log_matrix_normalizer(matrix), self._base_ratio(x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        given = w["concentration_matrix"]
        values, vectors = torch.linalg.eigh(sym(given.double()))
        axes = sample_axes((values[..., -1:] - values).to(given.dtype), sample_shape, generator)
        return geometry.project(self.manifold, (vectors.to(given.dtype) @ axes.unsqueeze(-1)).squeeze(-1))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"concentration_matrix": -_across(points) / (2 * scale.square()[..., None, None])}

    @property
    def num_raw_shape(self) -> int:
        return num_covariance_raw(self.point_shape[0])

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        # a precision, because eigenvalues of a covariance may come too close to zero; rows of length one bound the precision
        n = self.point_shape[0]
        rows = torch.nn.functional.normalize(unit_lower(shape[..., n:], n), dim=-1)
        half = rows / self.scale_from_raw(shape[..., :n]).unsqueeze(-1) @ _across(points)
        return {"concentration_matrix": -half.mT @ half / 2}

    def entropy(self, w: Params) -> Tensor:
        _, values = self._shifted(w)
        moments = quadratic_moments(values)
        return (moments.log_excess - (values * moments.second).sum(-1)).to(w["concentration_matrix"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, Bingham):
            return super().kl_divergence(w, other, v)
        (own, _), (theirs, _) = self._shifted(w), other._shifted(v)
        cross = ((own - theirs) * second_moment_matrix(own)).sum((-2, -1))
        result = log_matrix_normalizer(theirs) - log_matrix_normalizer(own) + cross
        return result.to(w["concentration_matrix"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        unit = geometry.project(self.manifold, x.double())
        share = shares(x, weights)
        second, vectors = torch.linalg.eigh(unit.mT @ (share.unsqueeze(-1) * unit))
        if float(second[0]) < 1 / MAX_SPREAD:
            raise ValueError(
                "Expected points that span the whole space for a fit of bingham, "
                f"got a mean square of {float(second[0]):.1e} along one direction."
            )
        values = _eigenvalues(second)
        return {"concentration_matrix": ((vectors * values) @ vectors.mT).to(x.dtype)}


def _across(points: Tensor) -> Tensor:
    """Projectors onto the tangent spaces at unit vectors; (*B,D) -> (*B,D,D)."""
    eye = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
    return eye - points.unsqueeze(-1) * points.unsqueeze(-2)


def _eigenvalues(second: Tensor) -> Tensor:
    """The a_i <= 0 = a_D of the law with mean squares E x_i^2 = second_i (D), ascending and positive."""
    start = (1 / second[-1] - 1 / second[:-1]) / 2  # right where the law is narrow, and where it is uniform
    unit = 1 + start.abs()
    extend = torch.nn.functional.pad

    def likelihood(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = extend(u * unit, (0, 1))
        m = quadratic_moments(values)
        covariance = m.fourth + 2 * torch.diag(m.fourth.diagonal()) - torch.outer(m.second, m.second)
        value = values @ second - m.log_excess - values.amax()
        return value, (second - m.second)[:-1] * unit, -covariance[:-1, :-1] * torch.outer(unit, unit)

    values = extend(maximise(likelihood, start / unit) * unit, (0, 1))
    return values - values.amax()
