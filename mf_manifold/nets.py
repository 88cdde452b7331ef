"""Neural networks that map base noise to kernel parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """The input and its sines and cosines at random frequencies, from which a small network can make sharp maps.

    .. math:: z \\mapsto (z, \\sin 2\\pi B z, \\cos 2\\pi B z), \\quad B_{ij} \\sim N(0, bandwidth^2)

    Shapes: (*B,latent_dim) -> (*B,latent_dim + 2 n_frequencies).

    Reference: Tancik et al. (2020), Fourier features let networks learn high frequency functions, eq. (5).

    >>> import torch
    >>> FourierFeatures(2, 16, 1.0)(torch.zeros(5, 2)).shape
    torch.Size([5, 34])
    """

    frequencies: Tensor

    def __init__(self, latent_dim: int, n_frequencies: int, bandwidth: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", bandwidth * torch.randn(latent_dim, n_frequencies))
        self.out_features = latent_dim + 2 * n_frequencies

    def forward(self, z: Tensor) -> Tensor:
        angles = 2 * math.pi * z @ self.frequencies
        return torch.cat([z, angles.sin(), angles.cos()], dim=-1)


def mlp(in_features: int, hidden: Sequence[int], out_features: int) -> nn.Sequential:
    """A multi-layer perceptron with SiLU activations."""
    sizes = [in_features, *hidden]
    layers: list[nn.Module] = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out_features))
