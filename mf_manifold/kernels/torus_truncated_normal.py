"""Narrow normal laws on the torus T^d of which one image is the whole density."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds.torus import Torus, wrap
from .covariance import cholesky_logdet, colour, whitening
from .diagonal_or_full import DiagonalOrFull

MAX_SCALE = math.pi / 8.3  # beyond 8.3 standard deviations lies a mass of 1e-16


@register_kernel(Torus, "truncated_normal")
class TorusTruncatedNormal(DiagonalOrFull):
    r"""Normal law of the angles' differences from ``loc``, cut off beyond half a turn.

    .. math:: q(x) = N(\delta; 0, \Sigma), \quad \delta = x - loc \in [-\pi, \pi)^d

    Standard deviations of at most :math:`\pi / 8.3 = 0.378` leave a mass below d 1e-16 outside the box, so that the normaliser
    is 1 to rounding. A wrapped normal law of that width differs by the same mass; its lattice of images makes full covariances
    in many dimensions expensive, while here a pair costs one quadratic form.

    **Measure**: Lebesgue in radians. **Exactness**: closed form. **Units**: radians.

    **Range**: scales from 1e-6 to 0.378 in any dimension, condition numbers of the covariance to 1e6. **Mean**: Fréchet,
    ``loc``. **Sampler**: normal noise modulo 2 pi, pathwise.

    Shapes: ``loc`` (*B,d); ``scale`` (*B,d) or (*B,1); ``covariance_matrix`` (*B,d,d).

    Raises:
        ValueError: a standard deviation above 0.378.

    References:
        Mardia, Jupp (2000), Directional Statistics, section 3.5.7, for the wrapped law of one angle that it stands for.

    >>> import torch, mf_manifold as mf
    >>> loc = torch.zeros(2, dtype=torch.float64)
    >>> d = mf.distribution(mf.manifolds.Torus(), "truncated_normal", loc=loc, scale=0.1)
    >>> round(float(d.log_prob(loc)), 6)                  # -2 log(0.1 sqrt(2 pi))
    2.767293
    """

    mean_kind = "frechet"
    max_scale = MAX_SCALE
    log_scale_range = (-7.0, math.log(MAX_SCALE))

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        gap = wrap(x - w["loc"]).double()
        if self.covariance == "diagonal":
            scale = self._checked(w["scale"].double()).expand(*w["scale"].shape[:-1], self.dim)
            return self._density((gap / scale).square().sum(-1), scale.log().sum(-1), x)
        inverse, half_log_det = self._whitening(w)
        return self._density((inverse @ gap.unsqueeze(-1)).square().sum((-2, -1)), half_log_det, x)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.covariance == "diagonal":
            return super().pairwise_log_prob(x, w)
        w = self.expand(w, self.batch_shape(w))
        inverse, half_log_det = self._whitening(w)

        def block(rows: slice) -> Tensor:
            # components first: their matrices multiply all points of the block at once
            gap = wrap(x[rows] - w["loc"].unsqueeze(1)).double()
            return self._density((gap @ inverse.mT).square().sum(-1).mT, half_log_det, x)

        return by_blocks(block, len(x), len(inverse), x)

    def _density(self, square: Tensor, half_log_det: Tensor, like: Tensor) -> Tensor:
        return (-square / 2 - half_log_det - self.dim / 2 * math.log(2 * math.pi)).to(like.dtype)

    def _whitening(self, w: Params) -> tuple[Tensor, Tensor]:
        self._checked(w["covariance_matrix"].diagonal(dim1=-2, dim2=-1).sqrt())
        return whitening(w["covariance_matrix"])

    def _checked(self, scale: Tensor) -> Tensor:
        if not scale.is_meta and scale.numel() and float(scale.detach().amax()) > MAX_SCALE * (1 + 1e-6):
            raise ValueError(
                f"Expected standard deviations up to {MAX_SCALE:.3g} radians for truncated_normal, got "
                f"{float(scale.detach().amax()):.3g}. Use wrapped_normal for wide laws."
            )
        return scale

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc = w["loc"]
        noise = torch.randn((*sample_shape, *loc.shape), generator=generator, dtype=loc.dtype, device=loc.device)
        if self.covariance == "diagonal":
            return wrap(loc + self._checked(w["scale"]) * noise)
        return wrap(loc + colour(noise, w["covariance_matrix"]))

    def around(self, points: Tensor, covariance: Tensor) -> Params:
        # eigenvalues below the limit keep every standard deviation below it
        values, vectors = torch.linalg.eigh(covariance)
        narrow = (vectors * values.clamp_max(MAX_SCALE**2).unsqueeze(-2)) @ vectors.mT
        return super().around(points, narrow)

    def mean(self, w: Params) -> Tensor:
        return wrap(w["loc"])

    def entropy(self, w: Params) -> Tensor:
        if self.covariance == "diagonal":
            half_log_det = w["scale"].double().expand(*w["scale"].shape[:-1], self.dim).log().sum(-1)
        else:
            half_log_det = cholesky_logdet(torch.linalg.cholesky(w["covariance_matrix"].double()))
        return (half_log_det + self.dim / 2 * math.log(2 * math.pi * math.e)).to(w["loc"].dtype)
