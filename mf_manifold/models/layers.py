"""Layers of normalizing flows, from zuko, which is imported on first use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

LAYERS = ("affine", "additive", "spline")
NEAR = 0.1  # standard deviation of the parameters of a new map of one dimension


@cache
def import_zuko() -> Any:
    """The zuko package, without the global switch that its import leaves behind.

    Raises:
        ImportError: zuko is not installed.
    """
    validation = Distribution._validate_args  # zuko turns torch's validation off for every program that imports it
    try:
        import zuko  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("Expected zuko for flow layers, it is not installed. pip install 'mf-manifold[flows]'") from error
    finally:
        Distribution.set_default_validate_args(validation)
    return zuko


def couplings(dim: int, layers: str, transforms: int, hidden: Sequence[int], bins: int) -> nn.ModuleList:
    """Coupling layers that move random halves of the coordinates in turn; in one dimension one learned map each."""
    if layers not in LAYERS:
        raise ValueError(f"Expected layers in {', '.join(LAYERS)}, got {layers!r}.")
    zuko = import_zuko()
    univariate, shapes = {
        "affine": (zuko.transforms.MonotonicAffineTransform, ((), ())),
        "additive": (zuko.transforms.AdditiveTransform, ((),)),
        "spline": (zuko.transforms.MonotonicRQSTransform, ((bins,), (bins,), (bins - 1,))),
    }[layers]
    made, mask = nn.ModuleList(), torch.zeros(dim, dtype=torch.bool)
    for i in range(transforms):
        mask = ~mask if i % 2 else torch.randperm(dim) % 2 == 0
        layer = zuko.flows.GeneralCouplingTransform(
            dim, 0, mask, univariate=univariate, shapes=shapes, hidden_features=tuple(hidden), activation=nn.SiLU
        )
        if dim == 1:  # whose maps have no networks, and begin far from the identity
            for parameter in layer.parameters():
                parameter.data.mul_(NEAR)
        made.append(layer)
    return made


def forwards(layers: nn.ModuleList, x: Tensor) -> tuple[Tensor, Tensor]:
    """Points (n,d) through all layers, and the log of the absolute Jacobian determinant (n)."""
    total = torch.zeros_like(x[:, 0])
    for layer in layers:
        x, log_det = layer().call_and_ladj(x)
        total = total + (log_det if log_det.ndim == 1 else log_det.sum(-1))
    return x, total


def backwards(layers: nn.ModuleList, z: Tensor) -> Tensor:
    """The inverse of :func:`forwards`."""
    for layer in reversed(layers):
        z = layer().inv(z)
    return z
