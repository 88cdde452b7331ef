"""Cayley normal distribution on frames of any number of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.frames import log_abs_det, polar, small_inverse
from ..manifolds.stiefel import is_canonical

MIN_SCALE, MAX_SCALE = 1e-6, 1e3
LOG_NEAREST = -30.0  # of |Y|: frames nearer to the end of the chart count as that near, where rounding decides


@register_kernel(geoopt.Stiefel, "cayley_normal", default=True)
class StiefelCayleyNormal(Kernel):
    r"""Law of the frame that a Cayley transform with normal entries makes of ``loc``, closed form for any n and k.

    .. math:: q(X) = N(2A, 2B; 0, scale^2 I) \, |I + A + B^T B|^{n-1}, \quad
              B = (I - loc\, loc^T) X Y^{-1}, \quad A = Y^{-1} (Y - Y^T) Y^{-T}, \quad Y = I + loc^T X

    by the canonical volume. With ``loc`` the first k axes, X is the first k columns of ``(I + S)(I
    - S)^(-1)``, S skew-symmetric with the blocks A, B and 0: a chart of all frames but those with ``|Y| = 0``, a set of
    measure zero. One preimage, no windings, a bounded density. ``scale`` is the standard deviation along unit tangent vectors
    of the manifold's metric for narrow laws; wide ones lean to ``-loc``, as the stereographic normal does, which this law is
    for k = 1.

    **Measure**: Riemannian volume. **Exactness**: closed form. **Range**: scales from 1e-6 to 1e3. **Mean**: not available in
    closed form; by symmetry the extrinsic one is ``loc`` for narrow and ``-loc`` for wide laws. **Sampler**: the definition,
    pathwise.

    Shapes: ``loc`` (*B,n,k); ``scale`` (*B).

    Raises:
        ValueError: ``loc`` that is no frame, a scale outside its range.

    References:
        Jauch, Hoff, Dunson (2020), Random orthogonal matrices and the Cayley transform, for the chart; its Jacobian in closed
            form, ``2^d |I + A + B^T B|^(1-n)``, is derived here.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.eye(4, 3, dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Stiefel(), "cayley_normal", loc=loc, scale=0.5)
    >>> round(float(d.log_prob(loc).exp()), 6)                           # (2 pi 0.5^2)^(-3), for d = 6
    0.258012
    """

    parameter_names = ("loc", "scale")
    log_scale_range = (-7.0, 0.0)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, "scale": ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"loc": OnManifold(self.manifold, self.point_shape), "scale": constraints.interval(MIN_SCALE, MAX_SCALE)}

    @property
    def _within(self) -> float:
        """Squared length of a unit entry of A in the metric: each appears twice in the matrix."""
        return 1.0 if is_canonical(self.manifold) else 2.0

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self._density(x.double(), w["loc"].double(), w["scale"].double()).to(x.dtype)

    def _density(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        n, k = self.point_shape
        eye = torch.eye(k, dtype=x.dtype, device=x.device)
        delta = x - loc
        inner = loc.mT @ delta  # loc^T X - I, from a difference, so that narrow laws keep their digits
        y = 2 * eye + inner
        inside = log_abs_det(y) > LOG_NEAREST
        inverse, log_y = small_inverse(torch.where(inside[..., None, None], y, eye))
        across = (delta - loc @ inner) @ inverse
        along = inverse @ (inner - inner.mT) @ inverse.mT
        square = 4 * (across.square().sum((-2, -1)) + self._within / 2 * along.square().sum((-2, -1)))
        log_det = k * math.log(2) - log_y  # of I + A + B^T B = 2 Y^-T
        log_norm = self.dim * (torch.log(scale) + math.log(2 * math.pi) / 2)
        # |A|^2 + |B|^2 grows with |I + A + B^T B|, so that the density is all but 0 there
        log_det = torch.where(inside, log_det, -LOG_NEAREST)
        square = torch.where(inside, square, math.exp(-LOG_NEAREST))
        return (n - 1) * log_det - square / (2 * scale.square()) - log_norm

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc, scale, (n, k) = w["loc"].double(), w["scale"].double()[..., None, None] / 2, self.point_shape
        batch = (*sample_shape, *torch.broadcast_shapes(loc.shape[:-2], scale.shape[:-2]))
        noise = torch.randn((*batch, n + k, k), generator=generator, dtype=loc.dtype, device=loc.device)
        free, turn = noise.split([n, k], dim=-2)
        across = scale * (free - loc @ (loc.mT @ free))
        below = scale / math.sqrt(self._within) * turn.tril(-1)
        eye = torch.eye(k, dtype=loc.dtype, device=loc.device)
        half, _ = small_inverse(eye + below.mT - below + across.mT @ across)  # (I + A + B^T B)^-T, A = below - below^T
        return polar(loc @ (2 * half - eye) + 2 * across @ half).to(w["loc"].dtype)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "scale": scale}
