"""Reference measures: what a density is "with respect to".

Measures form a star: each kind registers its density relative to the Riemannian volume of the manifold's metric, the
library-wide default, and any two of a manifold convert through that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from . import geometry
from .model import model_of

LogDensity = Callable[[geoopt.Manifold, Tensor], Tensor]
_REGISTRY: dict[tuple[type, str], LogDensity] = {}


def register_measure(manifold_class: type, kind: str) -> Callable[[LogDensity], LogDensity]:
    """Register ``f(manifold, x) = log d kind / d riemannian (x)``, shape (*B), for a manifold class."""

    def decorate(function: LogDensity) -> LogDensity:
        _REGISTRY[manifold_class, kind] = function
        return function

    return decorate


def zeros_like_batch(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """Zeros of the batch shape of ``x``: the log ratio of a measure with itself."""
    return torch.zeros(geometry.batch_shape(manifold, x), dtype=x.dtype, device=x.device)


def own_kinds(manifold: geoopt.Manifold) -> Iterator[str]:
    """The kinds registered for a manifold's class and its bases."""
    from . import manifolds  # noqa: F401  registers the measures, whichever module a program imports first

    for cls in type(manifold).__mro__:
        for owner, kind in _REGISTRY:
            if owner is cls:
                yield kind


def measure_kinds(manifold: geoopt.Manifold) -> tuple[str, ...]:
    """Names of the measures of a manifold; the first is the default.

    >>> import geoopt, mf_manifold as mf
    >>> mf.measure_kinds(geoopt.Sphere())
    ('riemannian', 'normalized')
    """
    model = model_of(manifold)
    of_model = () if model is None else measure_kinds(model.manifold)
    kinds = dict.fromkeys(("riemannian", *own_kinds(manifold), *of_model))
    if isinstance(manifold, geoopt.ProductManifold):
        parts = [measure_kinds(part) for part in manifold.manifolds]
        kinds.update(dict.fromkeys(kind for kind in parts[0] if all(kind in part for part in parts)))
    return tuple(kinds)


@dataclass(frozen=True)
class Measure:
    """A named reference measure on a manifold.

    ``riemannian`` is the volume of the manifold's own metric (surface of the unit sphere, radians on the torus,
    affine-invariant volume on SPD); ``normalized`` the uniform probability of a compact manifold; ``lebesgue`` on SPD is
    dX over the free entries i <= j.

    Raises:
        ValueError: the manifold has no measure of that name.

    >>> import geoopt, mf_manifold as mf
    >>> mf.Measure(geoopt.SymmetricPositiveDefinite(), "lebesgue").kind
    'lebesgue'
    """

    manifold: geoopt.Manifold
    kind: str = "riemannian"

    def __post_init__(self) -> None:
        kinds = measure_kinds(self.manifold)
        if self.kind not in kinds:
            name = type(self.manifold).__name__
            raise ValueError(f"Expected a measure of {name}, one of {', '.join(kinds)}; got {self.kind!r}.")

    def __str__(self) -> str:
        return f"{self.kind} measure on {self.manifold.name}"


def _log_to_riemannian(manifold: geoopt.Manifold, kind: str, x: Tensor) -> Tensor:
    if kind == "riemannian":
        return zeros_like_batch(manifold, x)
    model = model_of(manifold)
    if model is not None and kind not in own_kinds(manifold):
        dim = geometry.intrinsic_dim(manifold, tuple(x.shape[x.ndim - geometry.point_ndim(manifold) :]))
        there = _log_to_riemannian(model.manifold, kind, model.to_model(model.widened(x)))
        return (there - dim * model.log_stretch.to(there)).to(x.dtype)
    if isinstance(manifold, geoopt.ProductManifold):
        total = zeros_like_batch(manifold, x)
        for i, part in enumerate(manifold.manifolds):
            total = total + _log_to_riemannian(part, kind, manifold.take_submanifold_value(x, i))
        return total
    owner = next(cls for cls in type(manifold).__mro__ if (cls, kind) in _REGISTRY)
    return _REGISTRY[owner, kind](manifold, x)


def log_ratio(num: Measure, den: Measure, x: Tensor) -> Tensor:
    """Log density of one measure with respect to another, ``log d num / d den (x)``.

    A density changes its reference by ``log q_den = log q_num + log_ratio(num, den, x)``.

    Shapes: ``x`` (*B,*E) -> (*B).

    Raises:
        ValueError: the measures belong to different manifolds.

    >>> import geoopt, torch, mf_manifold as mf
    >>> spd = geoopt.SymmetricPositiveDefinite()
    >>> x = 2 * torch.eye(2, dtype=torch.float64)
    >>> ratio = mf.log_ratio(mf.Measure(spd), mf.Measure(spd, "lebesgue"), x)   # 2^(1/2) det(X)^(-3/2)
    >>> round(float(ratio.exp()), 6)
    0.176777
    """
    if not geometry.same_manifold(num.manifold, den.manifold):
        raise ValueError(f"Expected two measures on one manifold, got {num} and {den}.")
    return _log_to_riemannian(num.manifold, num.kind, x) - _log_to_riemannian(den.manifold, den.kind, x)
