"""From bumps in tangent spaces to parameters of a kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import geometry
from ..kernel import Kernel, OnManifold, Params
from ..kernels.stein import narrowed
from .neighbours import Local
from .shapes import Bumps

BLOCK = 2**17  # entries of covariance matrices made at once
PROBE = 0.1  # standard deviations over which frames are compared


def components(kernel: Kernel, points: Tensor, local: Local, bumps: Bumps, columns: list[int]) -> tuple[Params, Tensor]:
    """Parameters of the n J components, anchor by anchor, and their log weights (nJ), in the dtype of the points."""
    scales, dim = len(columns), kernel.dim
    blocks = []
    for rows in torch.arange(len(points), device=points.device).split(max(1, BLOCK // (scales * dim * dim))):
        vectors = local.vectors[rows][:, columns].double()
        covariance = (vectors * bumps.variances[rows].double().unsqueeze(-2)) @ vectors.mT
        moved = bumps.shift[rows].double().unsqueeze(-1) * local.mean[rows][:, columns].double()
        at = geometry.project(kernel.manifold, points[rows].double()).repeat_interleave(scales, 0)
        exact = kernel.around(*_shifted(kernel, at, moved.flatten(0, 1), covariance.flatten(0, 1)))
        blocks.append(rounded(kernel, exact, points))
    params = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    return params, bumps.log_weights.to(points).flatten()


def rounded(kernel: Kernel, w: Params, like: Tensor) -> Params:
    """Parameters in the dtype of ``like``: points stay on the manifold, nearly flat covariances positive definite."""
    result, kinds = {}, kernel.param_constraints
    for name, value in w.items():
        kind = kinds[name]
        if isinstance(kind, OnManifold):
            result[name] = geometry.project(kind.manifold, value.to(like))
        else:
            result[name] = narrowed(value, like) if name.startswith("covariance_matrix") else value.to(like)
    return result


def _shifted(kernel: Kernel, points: Tensor, v: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The points moved by the coordinates ``v`` of tangent vectors, and the covariances in the frames there."""
    manifold = kernel.manifold
    loc = geometry.project(manifold, geometry.expmap(manifold, points, geometry.from_coords(manifold, points, v)))
    step = PROBE * covariance.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).sqrt()
    columns = []
    for axis in torch.eye(kernel.dim, dtype=points.dtype, device=points.device):
        ends = [geometry.from_coords(manifold, points, v + h * axis) for h in (step, -step)]
        there = [geometry.logmap(manifold, loc, geometry.expmap(manifold, points, end)) for end in ends]
        there = [geometry.to_coords(manifold, loc, log) for log in there]
        columns.append((there[0] - there[1]) / (2 * step))
    change = torch.stack(columns, dim=-1)
    image = change @ covariance @ change.mT
    return loc, (image + image.mT) / 2
