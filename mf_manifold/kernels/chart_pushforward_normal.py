"""Normal laws of coordinates, pushed onto a submanifold by its embedding."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..manifolds.chart import ChartManifold, principal
from ..numerics.circular import log_wrapped_normal_1d
from .ambient_normal import result_type
from .coordinate_normal import CoordinateNormal
from .covariance import cholesky_logdet

MAX_IMAGES = 10_000
NEGLIGIBLE = 80.0  # twice the nats by which an image that is left out is below the nearest


@register_kernel(ChartManifold, "pushforward_normal", default=True)
class PushforwardNormal(CoordinateNormal):
    r"""Law of ``phi(U)`` with normal coordinates ``U``, where ``phi`` is the embedding of a ``ChartManifold``.

    .. math:: q(x) = \sum_{u : \phi(u) = x} N(u; \phi^{-1}(loc), \Sigma) \det(J(u)^T J(u))^{-1/2}

    The sum is over all coordinates of ``x``: those that differ by periods, and those that ``preimages`` lists. Periods are
    summed by the series of the wrapped normal law (diagonal) or over a box of images that leaves out less than 1e-16 of the
    density (full). The determinant comes from orthogonalised columns of ``J``, never from ``J^T J``.

    **Measure**: Hausdorff volume; ``chart`` is Lebesgue measure of the coordinates. **Exactness**: closed form, where the
    embedding repeats itself a convergent series.

    **Range**: any ``scale`` from 1e-6, with periods up to 20 of them; condition numbers of ``J`` and of
    ``covariance_matrix`` up to 1e6 each. **Mean**: not available. **Sampler**: exact and pathwise.

    Spread and covariance are in units of the coordinates; ``centered`` makes bumps that are round on the manifold.

    Without periods and further preimages the divergence of two of these laws is that of their coordinates, and :meth:`fit` is
    their mean and (diagonal) deviation or covariance, since the Jacobian holds no parameter.

    Shapes: ``loc`` (*B,D), a point of the manifold; ``scale`` (*B,d) or (*B,1); ``covariance_matrix`` (*B,d,d).

    Raises:
        ValueError: a ``loc`` off the manifold; coordinates in a box that is not periodic, outside of which a normal law would
            put mass; more than 10 000 images.

    References:
        Federer (1969), Geometric Measure Theory, theorem 3.2.5 (area formula).

    >>> import torch, mf_manifold as mf
    >>> circle = mf.manifolds.surface("circle", radius=2.0)
    >>> d = mf.distribution(circle, loc=torch.tensor([2.0, 0.0], dtype=torch.float64), scale=10.0)
    >>> round(float(d.log_prob(d.loc).exp()), 6)          # uniform: 1 / (4 pi)
    0.079577
    """

    base_measure = "chart"

    def __init__(self, manifold: ChartManifold, point_shape: Shape, covariance: str = "diagonal") -> None:
        super().__init__(manifold, point_shape, covariance)
        walls = [i for i, s in enumerate(manifold.box) if s is not None and manifold.periods[i] is None]
        if walls:
            raise ValueError(
                f"Expected coordinates that run over all of R or are periodic, but number {walls[0]} ends at "
                f"{manifold.box[walls[0]]}, where a normal law does not. Give an embedding of an unbounded coordinate, such as "
                "lower + (upper - lower) * torch.sigmoid(u), or use restricted_normal."
            )
        self.simple = manifold._preimages is None and not any(manifold.periods)

    def coordinates(self, x: Tensor) -> Tensor:
        return self.manifold.coordinates(x.double())

    def from_coordinates(self, v: Tensor) -> Tensor:
        return self.manifold.embedding(v)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        u, center = self.coordinates(x), self.coordinates(w["loc"])
        if self.manifold._preimages is None:
            return self._coordinate_log_prob(u - center, w).to(result_type(x, w))
        every = self.manifold.preimages(u)
        shifted = {k: v.unsqueeze(v.ndim - dims) for (k, v), dims in zip(w.items(), self.event_dims.values(), strict=True)}
        terms = self._coordinate_log_prob(every - center.unsqueeze(-2), shifted) - self.manifold.half_logdet(every)
        return (torch.logsumexp(terms, -1) + self.manifold.half_logdet(u)).to(result_type(x, w))

    def _coordinate_log_prob(self, delta: Tensor, w: Params) -> Tensor:
        """Log density of differences of coordinates (*B,d), all periods summed."""
        if self.covariance == "full":
            return self._lattice(delta, w["covariance_matrix"].double())
        scale = w["scale"].double().expand(*w["scale"].shape[:-1], self.dim)
        terms = []
        for i, period in enumerate(self.manifold.periods):
            d, s = delta[..., i], scale[..., i]
            if period is None:
                terms.append(-(d / s).square() / 2 - s.log() - math.log(2 * math.pi) / 2)
            else:
                turn = 2 * math.pi / period
                terms.append(log_wrapped_normal_1d(turn * d, turn * s) + math.log(turn))
        return sum(terms, start=torch.zeros((), dtype=delta.dtype, device=delta.device))

    def _lattice(self, delta: Tensor, covariance: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(covariance)
        delta = torch.stack([principal(delta[..., i], p) for i, p in enumerate(self.manifold.periods)], dim=-1)
        white = torch.linalg.solve_triangular(factor, delta.unsqueeze(-1), upper=False).squeeze(-1)
        images = self._images(white.detach(), factor.detach())
        log_norm = cholesky_logdet(factor) + self.dim / 2 * math.log(2 * math.pi)
        if len(images) == 1:
            return -white.square().sum(-1) / 2 - log_norm
        shifts = torch.linalg.solve_triangular(factor, images.mT.expand(*factor.shape[:-2], *images.mT.shape), upper=False)
        squares = (white.unsqueeze(-1) + shifts).square().sum(-2)
        return torch.logsumexp(-squares / 2, dim=-1) - log_norm

    def _images(self, white: Tensor, factor: Tensor) -> Tensor:
        """Multiples of the periods (K,d) by which coordinates are moved, enough for every row."""
        readable = not (white.is_meta or factor.is_meta) and white.numel() > 0 and factor.numel() > 0
        farthest = float((white.square().sum(-1) + NEGLIGIBLE).sqrt().amax()) if readable else 1.0
        spread = factor.square().sum(-1).sqrt().reshape(-1, self.dim).amax(0).tolist() if readable else [0.0] * self.dim
        counts = [0 if p is None else int(farthest * s / p + 0.5) for p, s in zip(self.manifold.periods, spread, strict=True)]
        if math.prod(2 * k + 1 for k in counts) > MAX_IMAGES:
            raise ValueError(
                f"Expected a covariance of which at most {MAX_IMAGES} images matter, got "
                f"{math.prod(2 * k + 1 for k in counts)}. Use scale= (a diagonal covariance, which needs none)."
            )
        steps = [[k * (p or 0.0) for k in range(-n, n + 1)] for n, p in zip(counts, self.manifold.periods, strict=True)]
        return torch.tensor(list(itertools.product(*steps)), dtype=white.dtype, device=white.device)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear | None:
        return super().bilinear(x, w) if self.simple else None

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        wide = {k: v.double() for k, v in w.items()}
        return super().rsample(wide, sample_shape, generator).to(w["loc"].dtype)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        jacobian = self.manifold.jacobian(self.coordinates(points))
        if self.covariance == "diagonal":
            return {"loc": points, "scale": (scale.unsqueeze(-1) / jacobian.norm(dim=-2)).to(points.dtype)}
        inverse = torch.linalg.pinv(jacobian) * scale[..., None, None]
        return {"loc": points, "covariance_matrix": (inverse @ inverse.mT).to(points.dtype)}

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        # the divergence of the normal laws of coordinates, unless several coordinates have one point
        return super().kl_divergence(w, other, v) if self.simple else Kernel.kl_divergence(self, w, other, v)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        return super().fit(x, weights) if self.simple else Kernel.fit(self, x, weights)
