"""An autoencoder, and a density of its codes: an injective flow without a flow of the whole space."""

from __future__ import annotations

from typing import Self

import geoopt
import torch
from torch import Tensor, nn

from mf_manifold.manifolds.chart import forward_jacobian, orthonormalise
from mf_manifold.models import Flow
from mf_manifold.models.flow import FlowDistribution
from mf_manifold.nets import mlp

BATCH, RATE = 256, 3e-3


class Injective(nn.Module):
    """Codes (n,m) of points (n,D) and back, by two networks of mean squared error, then a spline flow of the codes.

    The density on the image of the decoder g is ``log p(u) - log det(J_g' J_g) / 2`` by Hausdorff measure, and none on R^D.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, dim: int, latent_dim: int, *, hidden: tuple[int, ...] = (128, 128, 128)) -> None:
        super().__init__()
        self.latent_dim, self.sizes = latent_dim, (dim, hidden)
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(()))
        self.law = Flow(geoopt.Euclidean(ndim=1), (latent_dim,), layers="spline", transforms=4, hidden=(32, 32))

    def fit(self, x: Tensor, *, seed: int, max_steps: int) -> Self:
        """Both stages; the codes get mean 0 and variance 1 by the standardisation of their flow."""
        generator, (dim, hidden) = torch.Generator().manual_seed(seed), self.sizes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = mlp(dim, hidden, self.latent_dim), mlp(self.latent_dim, hidden[::-1], dim)
        self.shift, self.spread = x.mean(0), x.std(0).mean()
        optimizer = torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters()], lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max_steps)
        for _ in range(max_steps):
            rows = x[torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)]
            loss = ((self.project(rows) - rows) / self.spread).square().sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            codes = self.encode(x)
        self.law.fit(codes, seed=seed, max_steps=max(1, max_steps // 2), progress=False)
        return self

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder((x - self.shift) / self.spread)

    def decode(self, u: Tensor) -> Tensor:
        return self.shift + self.spread * self.decoder(u)

    def project(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def log_prob_on_manifold(self, x: Tensor | None = None, *, u: Tensor | None = None) -> Tensor:
        at = self.encode(x) if u is None else u  # type: ignore[arg-type]
        return self.law.log_prob(at) - orthonormalise(forward_jacobian(self.decode, at))[1]

    def coordinate_law(self) -> FlowDistribution:
        return self.law()

    def sample_on_manifold(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            return self.decode(self.law.sample(shape, generator))
