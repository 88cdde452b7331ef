"""Neural networks that map base noise, and a context if there is one, to kernel parameters."""

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


class Unconditional(nn.Sequential):
    """Features of the noise and a perceptron; (M,m) -> (M,out_features)."""

    def __init__(self, features: FourierFeatures, hidden: Sequence[int], out_features: int) -> None:
        super().__init__(features, *mlp(features.out_features, hidden, out_features))

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        layer = self[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def own_parts(self, start: int) -> list[Tensor]:
        """Nothing: the head makes all outputs."""
        return []


class Conditional(nn.Module):
    """Base of the networks with a context, whose missing entries are NaN.

    Entries are standardised; a missing one becomes 0 beside an indicator, so that every pattern of missing entries is an input
    of its own.

    Shapes: noise (M,m), context (*B,context_dim) -> (*B,M,out_features).
    """

    context_shift: Tensor
    context_spread: Tensor

    def __init__(self, features: FourierFeatures, hidden: Sequence[int], out_features: int, context_dim: int) -> None:
        super().__init__()
        self.features = features
        width = hidden[0]
        self.embedding = nn.Sequential(mlp(2 * context_dim, (width,), width), nn.SiLU())
        self.register_buffer("context_shift", torch.zeros(context_dim))
        self.register_buffer("context_spread", torch.ones(context_dim))
        self.head = nn.Linear(hidden[-1], out_features)

    def standardise(self, context: Tensor) -> None:
        """Learn centre and spread of every entry from data (n,context_dim)."""
        known, values = ~context.isnan(), context.double()  # whose squares float32 may not hold
        count = known.sum(0).clamp_min(1)
        shift = values.nan_to_num().sum(0) / count
        spread = (torch.where(known, values - shift, 0.0).square().sum(0) / count).sqrt()
        self.context_shift, self.context_spread = shift.to(context), torch.where(spread > 0, spread, 1.0).to(context)

    def own_parts(self, start: int) -> list[Tensor]:
        """What besides the head makes the outputs from ``start`` on."""
        return []

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        missing = context.isnan()
        value = ((context - self.context_shift) / self.context_spread).masked_fill(missing, 0.0)
        embedded = self.embedding(torch.cat([value, missing.to(value)], dim=-1))
        return self.output(self.features(z), embedded)

    def output(self, features: Tensor, embedded: Tensor) -> Tensor:
        """Outputs from features (M,F) and embedded contexts (*B,E); -> (*B,M,out_features)."""
        output: Tensor = self.head(self.trunk(features, embedded.unsqueeze(-2)))
        return output

    def trunk(self, features: Tensor, embedded: Tensor) -> Tensor:
        """Last hidden layer from features (M,F) and embedded contexts (*B,1,E)."""
        raise NotImplementedError


class Concatenation(Conditional):
    """The embedded context is a further input of the perceptron."""

    def __init__(self, features: FourierFeatures, hidden: Sequence[int], out_features: int, context_dim: int) -> None:
        super().__init__(features, hidden, out_features, context_dim)
        self.of_noise = nn.Linear(features.out_features, hidden[0])
        self.of_context = nn.Linear(hidden[0], hidden[0], bias=False)
        self.rest = mlp(hidden[0], hidden[1:-1], hidden[-1]) if len(hidden) > 1 else nn.Identity()

    def trunk(self, features: Tensor, embedded: Tensor) -> Tensor:
        # a layer of concatenated inputs is the sum of two, each computed once
        joint = nn.functional.silu(self.of_noise(features) + self.of_context(embedded))
        return nn.functional.silu(self.rest(joint))


class FeatureModulation(Conditional):
    """Every hidden layer is scaled and shifted by the context.

    Reference: Perez et al. (2018), FiLM: visual reasoning with a general conditioning layer, eqs. (1)-(2).
    """

    def __init__(self, features: FourierFeatures, hidden: Sequence[int], out_features: int, context_dim: int) -> None:
        super().__init__(features, hidden, out_features, context_dim)
        sizes = [features.out_features, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.modulations = nn.ModuleList(nn.Linear(hidden[0], 2 * width) for width in hidden)

    def trunk(self, features: Tensor, embedded: Tensor) -> Tensor:
        value = features
        for layer, modulation in zip(self.layers, self.modulations, strict=True):
            scale, shift = modulation(embedded).chunk(2, dim=-1)
            value = nn.functional.silu((1 + scale) * layer(value) + shift)
        return value


class Hypernetwork(Conditional):
    """The context makes the weights of the perceptron of the noise.

    Reference: Ha, Dai, Le (2017), HyperNetworks, section 3.1.
    """

    def __init__(self, features: FourierFeatures, hidden: Sequence[int], out_features: int, context_dim: int) -> None:
        super().__init__(features, hidden, out_features, context_dim)
        self.sizes = [features.out_features, *hidden]
        pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        self.makers = nn.ModuleList(nn.Linear(hidden[0], (a + 1) * b) for a, b in pairs)
        for maker, (a, _) in zip(self.makers, pairs, strict=True):
            assert isinstance(maker, nn.Linear)
            nn.init.normal_(maker.weight, std=0.1 / math.sqrt(hidden[0]))
            nn.init.uniform_(maker.bias, -1 / math.sqrt(a), 1 / math.sqrt(a))  # as an ordinary layer

    def trunk(self, features: Tensor, embedded: Tensor) -> Tensor:
        value = features
        for maker, (a, b) in zip(self.makers, zip(self.sizes[:-1], self.sizes[1:], strict=True), strict=True):
            made = maker(embedded.squeeze(-2)).unflatten(-1, (a + 1, b))
            value = nn.functional.silu(value @ made[..., :-1, :] + made[..., -1:, :])
        return value


class Readout(Conditional):
    """The noise alone makes the hidden layers, and the context makes the last one: parameters are linear in shared features.

    .. math:: f(z; y) = (A + A(y)) \\, h(z) + b + b(y)

    The hidden layers are computed once for all contexts of a batch, so that a component costs a fraction of what it costs
    elsewhere.
    """

    def __init__(self, features: FourierFeatures, hidden: Sequence[int], out_features: int, context_dim: int) -> None:
        super().__init__(features, hidden, out_features, context_dim)
        self.of_noise = nn.Sequential(mlp(features.out_features, hidden[:-1], hidden[-1]), nn.SiLU())
        self.maker = nn.Linear(hidden[0], (hidden[-1] + 1) * out_features)
        nn.init.zeros_(self.maker.bias)

    def own_parts(self, start: int) -> list[Tensor]:
        made = self.maker.weight.unflatten(0, (-1, self.head.out_features))[:, start:]
        return [made, self.maker.bias.unflatten(0, (-1, self.head.out_features))[:, start:]]

    def output(self, features: Tensor, embedded: Tensor) -> Tensor:
        value = self.of_noise(features)
        made = self.maker(embedded).unflatten(-1, (-1, self.head.out_features))
        output: Tensor = self.head(value) + value @ made[..., :-1, :] + made[..., -1:, :]
        return output


CONDITIONING = {"film": FeatureModulation, "concat": Concatenation, "hyper": Hypernetwork, "readout": Readout}
