"""Wrapped normal on the torus T^d: a normal law of real angles, taken modulo 2 pi."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds.torus import Torus, wrap
from ..numerics.circular import log_wrapped_normal_1d, wrapped_normal_entropy
from ..numerics.climb import climb
from .circular_statistics import mean_angles
from .covariance import cholesky_logdet
from .diagonal_or_full import DiagonalOrFull
from .shares import average, shares
from .stein import narrowed

MAX_TERMS = 100_000
TWO_IMAGES = 0.7  # below this scale the two nearest images make the density of one angle in any dtype
REDUCTION_SWEEPS = 30  # a bound; deviations that differ by 10^4 in five dimensions need nine
TAIL = 8.3  # erfc(TAIL / sqrt 2) = 1e-16: the mass that the lattice box may leave out in each dimension


@register_kernel(Torus, "wrapped_normal", default=True)
class TorusWrappedNormal(DiagonalOrFull):
    r"""Law of ``loc + V`` modulo 2 pi with ``V`` normal.

    .. math:: q(x) = \sum_{k \in Z^d} N(x - loc + 2\pi k; 0, \Sigma)

    ``covariance="diagonal"`` (``scale``, one number or one per angle) is a product of one-dimensional series, each in its
    direct or its Fourier form, whichever converges. ``covariance="full"`` sums a lattice box around the nearest image of
    ``x``, wide enough to leave out a mass of at most ``d * 1e-16``, or, where every eigenvalue of S is above 2 pi, the
    Fourier series ``(2 pi)^-d sum_m exp(-m^T S m / 2) cos(m.(x - loc))``.

    **Measure**: Lebesgue in radians. **Exactness**: convergent series. **Units**: radians.

    **Range**: scales from 1e-4 up in any dimension; full covariances up to 100 000 terms. **Mean**: Fréchet, equal to ``loc``.
    **Sampler**: normal noise modulo 2 pi, pathwise. ``fit`` climbs the likelihood (L-BFGS) from the mean directions and the
    second moments around them; entropies exist for diagonal covariances.

    Shapes: ``loc`` (*B,d); ``scale`` (*B,d) or (*B,1), broadcast against ``loc`` as torch does; ``covariance_matrix``
    (*B,d,d).

    Raises:
        ValueError: a scale that is not positive, a full covariance so wide in so many dimensions that the lattice exceeds
            100 000 terms, a fit to angles that do not spread.

    References:
        Mardia, Jupp (2000), Directional Statistics, section 3.5.7 (one angle).

    >>> import torch, mf_manifold as mf
    >>> loc = torch.zeros(2, dtype=torch.float64)
    >>> d = mf.distribution(mf.manifolds.Torus(), "wrapped_normal", loc=loc, scale=0.5)
    >>> turned = loc + 2 * torch.pi
    >>> bool(torch.isclose(d.log_prob(loc), d.log_prob(turned)))
    True
    """

    exactness = "series"
    mean_kind = "frechet"

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.covariance == "diagonal":
            scale = w["scale"].expand(*w["scale"].shape[:-1], self.dim)
            parts = (log_wrapped_normal_1d(x[..., i] - w["loc"][..., i], scale[..., i]) for i in range(self.dim))
            return sum(parts, start=torch.zeros((), dtype=x.dtype, device=x.device))
        cov, delta = w["covariance_matrix"], wrap(x - w["loc"])
        readable = not cov.is_meta and cov.numel() > 0
        if readable and float(torch.linalg.eigvalsh(cov.detach()).amin()) >= 2 * math.pi:
            return _fourier(delta, cov)
        return _lattice(delta, cov)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.covariance == "full":
            return super().pairwise_log_prob(x, w)
        # one wide component would make every other one pay for its images: narrow and wide ones go apart
        w = self.expand(w, self.batch_shape(w))
        narrow = w["scale"].detach().amax(-1) < TWO_IMAGES
        if narrow.is_meta or bool(narrow.all()) or not bool(narrow.any()):
            return self.log_prob(x.unsqueeze(1), w)
        groups = [narrow.nonzero().squeeze(1), (~narrow).nonzero().squeeze(1)]
        columns = [self.log_prob(x.unsqueeze(1), {k: v[group] for k, v in w.items()}) for group in groups]
        return torch.cat(columns, dim=1)[:, torch.cat(groups).argsort()]

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc = w["loc"]
        noise = torch.randn((*sample_shape, *loc.shape), generator=generator, dtype=loc.dtype, device=loc.device)
        if self.covariance == "diagonal":
            return wrap(loc + w["scale"] * noise)
        factor = torch.linalg.cholesky(w["covariance_matrix"])
        return wrap(loc + (factor @ noise.unsqueeze(-1)).squeeze(-1))

    def mean(self, w: Params) -> Tensor:
        return wrap(w["loc"])

    def entropy(self, w: Params) -> Tensor:
        if self.covariance == "full":
            return super().entropy(w)
        return wrapped_normal_entropy(w["scale"].expand(*w["scale"].shape[:-1], self.dim)).sum(-1)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        share, wide, d = shares(x, weights), x.double(), self.dim
        center = mean_angles(wide, share)
        angle = wrap(wide - center)
        second = average(share, angle.unsqueeze(-1) * angle.unsqueeze(-2))
        spread = second.diagonal().sqrt()
        least = torch.linalg.eigvalsh(second / (spread.unsqueeze(-1) * spread).clamp_min(1e-300))[0]
        if not float(spread.amin()) > 0 or (self.covariance == "full" and not float(least) > 1e-12):
            raise ValueError(
                f"Expected angles that spread in all {d} dimensions for a fit of wrapped_normal, got standard deviations "
                f"{spread.tolist()} around the mean direction: fit more points, or a diagonal covariance."
            )
        factor = torch.linalg.cholesky(second) if self.covariance == "full" else torch.diag(spread)
        rows, columns = torch.tril_indices(d, d, -1, device=x.device)

        def params(theta: Tensor) -> Params:
            loc = theta[:d] @ factor.mT
            if self.covariance == "diagonal":
                return {"loc": loc, "scale": spread * theta[d:].exp()}
            change = torch.diag_embed(theta[d : 2 * d].exp()).index_put((rows, columns), theta[2 * d :])
            return {"loc": loc, "covariance_matrix": factor @ change @ change.mT @ factor.mT}

        size = 2 * d if self.covariance == "diagonal" else 2 * d + len(rows)
        start = torch.zeros(size, dtype=torch.float64, device=x.device)
        found = params(climb(lambda theta: share @ self._log_prob(angle, params(theta)), start))
        found["loc"] = wrap(found["loc"] + center)
        return {name: narrowed(value, x) if name == "covariance_matrix" else value.to(x) for name, value in found.items()}


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
    """Direct series ``logsumexp_k log N(delta + 2 pi k; 0, cov)`` over a box around the nearest image.

    Whitened, the images are the points ``L^-1 delta + B k`` with ``B = 2 pi L^-1``. In the reduced basis of that lattice the
    nearest image is found by rounding, and few neighbours matter; in the given one a correlated law misses it.
    """
    dim = delta.shape[-1]
    factor = torch.linalg.cholesky(cov)
    inverse = torch.linalg.solve_triangular(
        factor, torch.eye(dim, dtype=cov.dtype, device=cov.device).expand_as(factor), upper=False
    )
    basis = 2 * math.pi * inverse @ _reduction(inverse.detach())
    q, r = torch.linalg.qr(basis.detach())
    nearest = _nearest_image((inverse @ delta.unsqueeze(-1)).squeeze(-1), basis, q, r)
    images = nearest.unsqueeze(-1) + basis @ _box(_half_widths(r), delta).mT
    log_sum = torch.logsumexp(-images.square().sum(-2) / 2, dim=-1)
    return log_sum - cholesky_logdet(factor) - dim / 2 * math.log(2 * math.pi)


def _reduction(basis: Tensor) -> Tensor:
    """Integer matrix U of determinant one such that the columns of ``basis @ U`` are short, by pairwise reduction."""
    dim = basis.shape[-1]
    change = torch.eye(dim, dtype=basis.dtype, device=basis.device).expand_as(basis).clone()
    for _ in range(REDUCTION_SWEEPS):
        before = change.clone()
        for i, j in itertools.permutations(range(dim), 2):
            short = basis @ change
            turns = torch.round((short[..., i] * short[..., j]).sum(-1) / short[..., j].square().sum(-1))
            change[..., i] -= turns.unsqueeze(-1) * change[..., j]
        if change.is_meta or torch.equal(before, change):
            break
    return change


def _nearest_image(white: Tensor, basis: Tensor, q: Tensor, r: Tensor) -> Tensor:
    """The whitened image next to the origin, coordinate by coordinate (Babai 1986)."""
    for i in reversed(range(white.shape[-1])):
        turns = torch.round((white.detach() * q[..., i]).sum(-1) / r[..., i, i])
        white = white - turns.unsqueeze(-1) * basis[..., i]
    return white


def _half_widths(r: Tensor) -> list[int]:
    """Steps from the nearest image, in each basis vector, that normal draws within TAIL deviations can need."""
    dim = r.shape[-1]
    if r.is_meta or r.numel() == 0:
        return [1] * dim
    bounds: dict[int, Tensor] = {}
    for i in reversed(range(dim)):
        carried = sum((bounds[j] * r[..., i, j].abs() for j in bounds), start=torch.full_like(r[..., i, i], TAIL))
        bounds[i] = (carried / r[..., i, i].abs() + 0.5).floor()
    widest = torch.stack([bounds[i] for i in range(dim)], dim=-1).reshape(-1, dim).amax(0)
    return [max(1, int(width)) for width in widest.tolist()]


def _fourier(delta: Tensor, cov: Tensor) -> Tensor:
    """Dual series, for covariances whose every eigenvalue is above 2 pi, where its sum stays well above zero."""
    dim = delta.shape[-1]
    frequencies = _box([4] * dim, delta)  # exp(-2 pi 5^2 / 2) = 8e-35
    quadratic = (frequencies @ cov * frequencies).sum(-1) / 2
    angles = delta @ frequencies.mT
    others = frequencies.abs().sum(-1) > 0
    series = (torch.exp(-quadratic) * torch.cos(angles))[..., others].sum(-1)
    return torch.log1p(series) - dim * math.log(2 * math.pi)
