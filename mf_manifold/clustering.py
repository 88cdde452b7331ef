"""Clusters on manifolds: Fréchet means, and k-means by geodesic distances."""

from __future__ import annotations

from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from . import geometry

PAIRS = 2**20  # distances at once
HALVINGS = 20


@dataclass(frozen=True)
class Clusters:
    """Centres (K,*E), the cluster of each point (N), and the mean squared geodesic distance to the nearest centre."""

    centers: Tensor
    labels: Tensor
    inertia: float


def frechet_mean(
    manifold: geoopt.Manifold, x: Tensor, weights: Tensor | None = None, *, tolerance: float = 1e-9, max_steps: int = 100
) -> Tensor:
    r"""The point of least weighted mean squared distance to points (N,*E), by Karcher's iteration; -> (*E).

    .. math:: m \leftarrow \exp_m\Bigl(t \sum_n a_n \log_m x_n \Big/ \sum_n a_n\Bigr)

    It starts at the datum of least mean squared distance among a few, and halves t where a step would lead uphill, so that it
    ends in a local minimum. The mean of points that spread over half a sphere or more need not be unique.

    Reference: Karcher (1977), Riemannian center of mass and mollifier smoothing.

    >>> import torch, mf_manifold as mf
    >>> angles = torch.tensor([[3.0], [-3.0]], dtype=torch.float64)          # on both sides of pi
    >>> frechet_mean(mf.manifolds.Torus(), angles).abs()
    tensor([3.1416], dtype=torch.float64)
    """
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    some = x[torch.linspace(0, len(x) - 1, min(len(x), 32), device=x.device).long()]
    weights = x.new_ones(len(x)) if weights is None else weights.to(x)
    start = some[(_squares(manifold, x, some).mT @ weights).argmin()].unsqueeze(0)
    return _means(manifold, x, labels, weights, start, tolerance, max_steps)[0]


def _means(
    manifold: geoopt.Manifold, x: Tensor, labels: Tensor, weights: Tensor, start: Tensor, tolerance: float, max_steps: int
) -> Tensor:
    """Fréchet means (K,*E) of all clusters at once; those without points stay."""
    centers = start
    total = weights.new_zeros(len(start)).index_add(0, labels, weights)

    def costs(at: Tensor) -> Tensor:
        return weights.new_zeros(len(at)).index_add(0, labels, weights * geometry.dist(manifold, at[labels], x).square())

    cost = costs(centers)
    for _ in range(max_steps):
        logs = geometry.logmap(manifold, centers[labels], x)
        tall = (-1, *[1] * (logs.ndim - 1))
        step = torch.zeros_like(centers).index_add(0, labels, logs * weights.reshape(tall))
        step = step / total.clamp_min(1e-300).reshape(tall)
        share = torch.ones_like(total)
        for _ in range(HALVINGS):
            moved = geometry.project(manifold, geometry.expmap(manifold, centers, share.reshape(tall) * step))
            found = costs(moved)
            uphill = found > cost
            if not bool(uphill.any()):
                break
            share = torch.where(uphill, share / 2, share)
        better = (found <= cost) & (total > 0)
        centers = torch.where(better.reshape(tall), moved, centers)
        gain = (cost - found)[better]
        cost = torch.where(better, found, cost)
        if not len(gain) or float(gain.max()) <= tolerance * float(cost.max()):
            break
    return centers


def _squares(manifold: geoopt.Manifold, x: Tensor, centers: Tensor) -> Tensor:
    """Squared distances (N,K), block by block."""
    blocks = x.split(max(1, PAIRS // len(centers)))
    return torch.cat([geometry.dist(manifold, part.unsqueeze(1), centers.unsqueeze(0)).square() for part in blocks])


def _seeds(manifold: geoopt.Manifold, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeds: each drawn with probability proportional to the squared distance to the seeds before it."""
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, geometry.dist(manifold, x, x[chosen[-1]].expand_as(x)).square())
        levels = nearest.double().cpu().cumsum(0)
        if not float(levels[-1]) > 0:
            raise ValueError(f"Expected at least {count} distinct points for {count} clusters, got {len(chosen)}.")
        u = torch.rand(1, generator=generator, dtype=torch.float64) * levels[-1]
        chosen.append(min(int(torch.searchsorted(levels, u, right=True)), len(x) - 1))
    return x[chosen]


def kmeans(
    manifold: geoopt.Manifold, x: Tensor, n_clusters: int, *, seed: int = 0, restarts: int = 1, max_steps: int = 50
) -> Clusters:
    r"""Clusters of points (N,*E) around Fréchet means: Lloyd's iterations by geodesic distance from k-means++ seeds.

    .. math:: \min_{m_1, \ldots, m_K} \frac1N \sum_n \min_c d(x_n, m_c)^2

    No iteration raises the mean squared distance; the best of several starts is returned. A cluster that loses its points takes
    the point farthest from its centre. It needs the manifold's logarithm, exponential map and distance, and nothing else.

    Raises:
        ValueError: fewer distinct points than clusters.
        NotImplementedError: the manifold has no logarithm in closed form.

    References:
        Arthur, Vassilvitskii (2007), k-means++: the advantages of careful seeding.
        Karcher (1977), Riemannian center of mass and mollifier smoothing.

    >>> import geoopt, torch
    >>> poles = torch.tensor([[0.0, 0, 1], [0.0, 0, -1]], dtype=torch.float64).repeat(5, 1)
    >>> found = kmeans(geoopt.Sphere(), poles, 2)
    >>> found.inertia, found.labels.bincount().tolist()
    (0.0, [5, 5])
    """
    if not 1 <= n_clusters <= len(x):
        raise ValueError(f"Expected from 1 to {len(x)} clusters for {len(x)} points, got {n_clusters}.")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        found = [_lloyd(manifold, x, _seeds(manifold, x, n_clusters, generator), max_steps) for _ in range(restarts)]
    return min(found, key=lambda clusters: clusters.inertia)


def _lloyd(manifold: geoopt.Manifold, x: Tensor, centers: Tensor, max_steps: int) -> Clusters:
    ones, labels = x.new_ones(len(x)), torch.full((len(x),), -1, device=x.device)
    for _ in range(max_steps):
        squares, before = _squares(manifold, x, centers), labels
        nearest, labels = squares.min(1)
        empty = (labels.bincount(minlength=len(centers)) == 0).nonzero().squeeze(1)
        if len(empty):
            centers = centers.index_copy(0, empty, x[nearest.topk(len(empty)).indices])
            continue
        if torch.equal(labels, before):
            break
        centers = _means(manifold, x, labels, ones, centers, 1e-6, 10)
    nearest, labels = _squares(manifold, x, centers).min(1)
    return Clusters(centers, labels, float(nearest.mean()))


def cluster_labels(manifold: geoopt.Manifold, x: Tensor, n_clusters: int, *, seed: int = 0, restarts: int = 1) -> Tensor:
    """The cluster of each point (N,*E) by :func:`kmeans`, in coordinates of ``to_raw`` without a logarithm in closed form."""
    try:
        return kmeans(manifold, x, n_clusters, seed=seed, restarts=restarts).labels
    except NotImplementedError:
        flat = geometry.to_raw(manifold, x)
        return kmeans(geoopt.Euclidean(ndim=1), flat, n_clusters, seed=seed, restarts=restarts).labels
