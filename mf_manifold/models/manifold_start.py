"""Coordinates along the manifold near which data lie, and how far they are off it, before any flow is fitted."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .. import bases
from ..training.warm_start import center_and_spread

ROWS = 4000  # that are unfolded at most
PER_DIMENSION = 4  # neighbours of a local regression


def intrinsic_coordinates(x: Tensor, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates that follow the data's turns, each of mean 0 and variance 1, for some of the rows; which rows those are.

    Shapes: x (N,D) -> (n,dim), (n) with n at most 4000.
    """
    rows = torch.randperm(len(x), generator=generator)[:ROWS].to(x.device)
    u = bases.unfold(x[rows], generator)[:, -dim:]  # the leading ones come last
    shift, spread = center_and_spread(u)
    return (u - shift) / spread, rows


def noise_scale(x: Tensor, u: Tensor) -> float:
    r"""Standard deviation of the data at right angles to the manifold, a number for each of the ``D - m`` directions.

    .. math:: \hat\sigma^2 = \operatorname{median}_i \frac{\mathrm{SSE}_i}{(D - m)(k - m - 1)}

    with the squared errors of the linear regression of x on u among the k rows whose coordinates are nearest to row i. Nearest
    in u and not in x: neighbours in x were chosen by their noise.

    Shapes: x (n,D), u (n,m) -> a number.
    """
    (n, width), dim = x.shape, u.shape[1]
    count = min(n, PER_DIMENSION * (dim + 1))
    _, indices = cKDTree(u.double().cpu().numpy()).query(u.double().cpu().numpy(), k=count)
    near = torch.as_tensor(indices, device=x.device)
    ones = torch.ones(n, count, 1, dtype=torch.float64, device=x.device)
    design, y = torch.cat([ones, u.double()[near]], dim=-1), x.double()[near]
    q, _ = torch.linalg.qr(design)
    errors = (y - q @ (q.mT @ y)).square().sum((1, 2))
    return float(errors.median() / ((width - dim) * max(1, count - dim - 1))) ** 0.5
