"""Gnomonic normal distribution on the Grassmannian: a normal law of the slopes of a subspace over another."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import constraints

from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.frames import log_abs_det, polar, small_inverse
from ..manifolds.grassmann import Grassmann

MIN_SCALE, MAX_SCALE = 1e-6, 1e6
LOG_NEAREST = -300.0  # of |loc^T X|: the slopes of what is nearer to a right angle overflow


@register_kernel(Grassmann, "gnomonic_normal", default=True)
class GnomonicNormal(Kernel):
    r"""Law of the span of ``loc + T`` with T normal in the directions orthogonal to ``loc``.

    .. math:: q(X) = N(T; 0, scale^2 I) \, |I + T^T T|^{n/2}, \qquad T = (I - loc\, loc^T) X (loc^T X)^{-1}

    T, the matrix of slopes, is a chart of all subspaces but those that meet the complement of ``loc``, a set of measure zero:
    one preimage, no windings. The singular values of T are the tangents of the principal angles. The density is bounded and
    falls to 0 where an angle reaches pi/2; for narrow scales it is a normal law of the geodesic distance. For k = 1 it is the
    gnomonic normal law of axes.

    **Measure**: Riemannian volume. **Exactness**: closed form. **Range**: scales from 1e-6 to 1e6. **Mean**: Fréchet,
    ``loc``, for scales up to 2 / sqrt(n); wider laws gather far from ``loc``, where the mean squared distance is then
    stationary but need not be least. **Sampler**: the definition, pathwise.

    Shapes: ``loc`` (*B,n,k) any orthonormal basis; ``scale`` (*B).

    Raises:
        ValueError: ``loc`` that is no orthonormal basis, a scale outside its range.

    References:
        Edelman, Arias, Smith (1998), The geometry of algorithms with orthogonality constraints, section 2.5, for the
            geometry.
        James (1954), Normal multivariate analysis and the orthogonal group, for the invariant measure.

    >>> import torch, mf_manifold as mf
    >>> loc = torch.eye(3, 1, dtype=torch.float64)
    >>> d = mf.distribution(mf.manifolds.Grassmann(), "gnomonic_normal", loc=loc, scale=0.5)
    >>> round(float(d.log_prob(-loc).exp()), 6)                          # 1 / (2 pi 0.5^2); -loc has the same span
    0.63662
    """

    parameter_names = ("loc", "scale")
    mean_kind = "frechet"
    log_scale_range = (-7.0, 1.5)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, "scale": ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"loc": OnManifold(self.manifold, self.point_shape), "scale": constraints.interval(MIN_SCALE, MAX_SCALE)}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self._from_inner(x.double(), w["loc"].double(), w["scale"].double()).to(x.dtype)

    def _from_inner(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        inner = loc.mT @ x
        inside = log_abs_det(inner) > LOG_NEAREST
        eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
        inverse, log_det = small_inverse(torch.where(inside[..., None, None], inner, eye))
        slopes = (x - loc @ inner) @ inverse
        exponent = -slopes.square().sum((-2, -1)) / (2 * scale.square())
        log_norm = self.dim * (torch.log(scale) + math.log(2 * math.pi) / 2)
        return (exponent - self.point_shape[0] * log_det - log_norm).masked_fill(~inside, -math.inf)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc, scale = w["loc"].double(), w["scale"].double()[..., None, None]
        batch = torch.broadcast_shapes(loc.shape, (*scale.shape[:-2], 1, 1))
        noise = torch.randn((*sample_shape, *batch), generator=generator, dtype=loc.dtype, device=loc.device)
        return polar(loc + scale * (noise - loc @ (loc.mT @ noise))).to(w["loc"].dtype)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "scale": scale}

    def mean(self, w: Params) -> Tensor:
        return w["loc"]
