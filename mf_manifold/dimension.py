"""How many components a Gaussian law of locations needs, and how many dimensions locations spread over."""

from __future__ import annotations

import math

import torch
from scipy.spatial import cKDTree
from torch import Tensor

FEWEST, THINNEST = 64, 16  # points from which a dimension is read, in all and in one part


def gaussian_variance(dim: float, width: float, radius: float = 0.0) -> float:
    r"""Relative variance V of a component's density, for normal kernels of relative ``width`` around normal locations.

    .. math:: V(x) + 1 = \left( \frac{(1 + s^{-2})^2}{1 + 2 s^{-2}} \right)^{m/2} \exp \frac{|x|^2}{(1 + s^2)(2 + s^2)},
              \quad V = Var_w q(x \mid w) / q^*(x)^2

    where locations w are standard normal in ``dim`` = m dimensions, s is the width and ``radius`` is |x|. The log density of M
    independent components has bias ``-V / 2M`` and standard deviation ``sqrt(V / M)``; their effective number is
    ``M / (1 + V)``.

    Reference: Negri, Aellen, Jahn, Khorashadizadeh, Roth (2025), Marginal Flow, arXiv 2509.26221, theorem A.3 (at the mode).

    >>> [round(gaussian_variance(m, 0.1), 1) for m in (1, 2, 3)]
    [6.1, 49.8, 360.6]
    """
    precision = width**-2
    log_ratio = dim / 2 * (2 * math.log1p(precision) - math.log1p(2 * precision))
    log_ratio += radius**2 / ((1 + width**2) * (2 + width**2))
    return math.expm1(log_ratio) if log_ratio < 700 else math.inf


def local_dimension(points: Tensor, radius: float = 0.0) -> float:
    r"""Dimension of the set near which points (n,k) lie, from the ratios of distances to the two nearest neighbours.

    .. math:: P(r_2 / r_1 > \mu) = \mu^{-dim}

    by maximum likelihood, censored at the 90 % quantile of the ratios. The points are dealt into parts until nearest
    neighbours are ``radius`` apart, or 16 points are left in a part: that is the length at which the dimension is read.

    Raises:
        ValueError: fewer than 64 points.

    Reference: Facco, d'Errico, Rodriguez, Laio (2017), Estimating the intrinsic dimension of datasets by a minimal neighborhood
        information, eq. (5).

    >>> line = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([[3.0, 4.0, 0.0]])
    >>> round(local_dimension(line), 1)
    1.0
    """
    if len(points) < FEWEST:
        raise ValueError(f"Expected at least {FEWEST} points to read a dimension from, got {len(points)}.")
    points, count = points.unique(dim=0), len(points)
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]
    while True:
        count = min(count, len(points))
        near = torch.cat([_two_nearest(part) for part in points.split(count) if len(part) == count])
        if float(near[:, 0].median()) >= radius or count < 2 * THINNEST:
            return _rate((near[:, 1] / near[:, 0]).log())
        count //= 2


def _two_nearest(points: Tensor) -> Tensor:
    """Distances to the two nearest other points; (n,k) -> (n,2)."""
    values = points.double().cpu().numpy()
    return torch.as_tensor(cKDTree(values).query(values, k=[2, 3])[0])


def _rate(values: Tensor) -> float:
    """Rate of an exponential law from its samples below their 90 % quantile and the number of those above."""
    ordered = values.sort().values
    kept = math.ceil(0.9 * len(ordered))
    return kept / float(ordered[:kept].sum() + (len(ordered) - kept) * ordered[kept - 1])
