"""Orthonormal frames, k columns in R^n: ``geoopt.Stiefel`` with its canonical and its Euclidean metric.

A tangent vector at X is ``X A + B`` with A skew-symmetric and B orthogonal to X. The Euclidean metric is ``|A|^2 + |B|^2``,
that of the embedding in R^(n x k); the canonical one, geoopt's default, is ``|A|^2 / 2 + |B|^2``. Their volumes differ by the
constant factor ``2^(k(k-1)/4)``. Neither has a logarithm in closed form.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import geoopt
import torch
from geoopt import Stiefel
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from . import register_config
from .frames import complement, log_multigamma, off_orthonormal, polar

register_config("Stiefel", lambda config: Stiefel(canonical=config["canonical"]))


def is_canonical(manifold: Stiefel) -> bool:
    """Whether the metric is the canonical one."""
    return isinstance(manifold, geoopt.CanonicalStiefel)


@geometry.check_manifold.register(Stiefel)
def _(manifold: Stiefel, point_shape: Shape) -> None:
    if len(point_shape) != 2 or not 1 <= point_shape[1] < point_shape[0]:
        raise ValueError(
            f"Expected a point shape (n, k) with 1 <= k < n on the Stiefel manifold, got {tuple(point_shape)}. "
            "Square orthogonal matrices form two components; take special orthogonal ones."
        )


@geometry.to_config.register(Stiefel)
def _(manifold: Stiefel) -> dict[str, Any]:
    return {"type": "Stiefel", "canonical": is_canonical(manifold)}


@geometry.intrinsic_dim.register(Stiefel)
def _(manifold: Stiefel, point_shape: Shape) -> int:
    n, k = point_shape[-2:]
    return n * k - k * (k + 1) // 2


@geometry.expmap.register(Stiefel)
def _(manifold: Stiefel, x: Tensor, u: Tensor) -> Tensor:
    # with a = 1 for the Euclidean and 1/2 for the canonical metric the geodesic is
    # expm(2 a X A X^T + B X^T - X B^T) X expm((1 - 2 a) A); Edelman, Arias, Smith (1998), sections 2.2.2 and 2.4.1
    inner = x.mT @ u
    skew = (inner - inner.mT) / 2
    turn = (u - x @ inner) @ x.mT
    weight = 1 if is_canonical(manifold) else 2
    y = torch.linalg.matrix_exp(weight * (x @ skew @ x.mT) + turn - turn.mT) @ x
    return polar(y if is_canonical(manifold) else y @ torch.linalg.matrix_exp(-skew))


def _no_logarithm(what: str) -> NoReturn:
    raise NotImplementedError(
        f"The {what} of the Stiefel manifold has no closed form, and iterations for it may end in a longer geodesic. Use "
        "geoopt.Sphere for one column, Grassmann for subspaces, or the Frobenius distance torch.linalg.matrix_norm(x - y)."
    )


@geometry.logmap.register(Stiefel)
def _(manifold: Stiefel, x: Tensor, y: Tensor) -> Tensor:
    _no_logarithm("logarithm")


@geometry.dist.register(Stiefel)
def _(manifold: Stiefel, x: Tensor, y: Tensor) -> Tensor:
    _no_logarithm("geodesic distance")


@geometry.logdet_expmap.register(Stiefel)
def _(manifold: Stiefel, x: Tensor, u: Tensor) -> Tensor:
    _no_logarithm("volume density of the exponential map")


@geometry.from_coords.register(Stiefel)
def _(manifold: Stiefel, x: Tensor, v: Tensor) -> Tensor:
    n, k = x.shape[-2:]
    count = k * (k - 1) // 2
    rows, columns = torch.tril_indices(k, k, -1, device=x.device)
    skew = torch.zeros((*v.shape[:-1], k, k), dtype=v.dtype, device=v.device)
    skew[..., rows, columns] = v[..., :count] * (1.0 if is_canonical(manifold) else math.sqrt(0.5))
    return x @ (skew - skew.mT) + complement(x) @ v[..., count:].unflatten(-1, (n - k, k))


@geometry.log_volume.register(Stiefel)
def _(manifold: Stiefel, point_shape: Shape) -> float:
    n, k = point_shape[-2:]
    canonical = k * math.log(2) + n * k / 2 * math.log(math.pi) - log_multigamma(k, n / 2)
    return canonical + (0.0 if is_canonical(manifold) else k * (k - 1) / 4 * math.log(2))


@geometry.sample_uniform.register(Stiefel)
def _(
    manifold: Stiefel,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    return polar(torch.randn((*sample_shape, *point_shape), generator=generator, dtype=dtype, device=device))


@geometry.project.register(Stiefel)
def _(manifold: Stiefel, x: Tensor) -> Tensor:
    return polar(x)


@geometry.raw_dim.register(Stiefel)
def _(manifold: Stiefel, point_shape: Shape) -> int:
    return math.prod(point_shape[-2:])


@geometry.from_raw.register(Stiefel)
def _(manifold: Stiefel, raw: Tensor, point_shape: Shape) -> Tensor:
    return polar(raw.unflatten(-1, tuple(point_shape[-2:])))


@geometry.to_raw.register(Stiefel)
def _(manifold: Stiefel, x: Tensor) -> Tensor:
    return x.flatten(-2)


@geometry.violations.register(Stiefel)
def _(manifold: Stiefel, x: Tensor) -> list[tuple[str, Tensor]]:
    return [("have columns that are not orthonormal, off by |X^T X - 1|", off_orthonormal(x))]


@register_measure(Stiefel, "normalized")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) - geometry.log_volume(manifold, tuple(x.shape[-2:]))
