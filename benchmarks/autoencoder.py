"""A small autoencoder of grey images: it gives a space of a few dimensions in which to estimate densities."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Images (n,p) to codes (n,d) of mean 0 and standard deviation 1 over the training images, and back.

    Trained by mean squared error on noisy codes, so that near codes decode to like images.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, pixels: int, code: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.to_code = nn.Linear(hidden, code)
        self.decoder = nn.Sequential(nn.Linear(code, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.to_pixels = nn.Linear(hidden, pixels)
        self.register_buffer("shift", torch.zeros(code))
        self.register_buffer("spread", torch.ones(code))

    def _encode(self, images: Tensor) -> Tensor:
        return self.to_code(self.encoder(images))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Standardised codes; (n,p) -> (n,d)."""
        return (self._encode(images) - self.shift) / self.spread

    def _decode(self, codes: Tensor) -> Tensor:
        return torch.sigmoid(self.to_pixels(self.decoder(codes)))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images in [0, 1]; (n,d) -> (n,p)."""
        return self._decode(self.shift + self.spread * codes)


def train_autoencoder(images: Tensor, code: int, *, seed: int, steps: int, noise: float = 0.1, batch: int = 128) -> Autoencoder:
    """Fit an autoencoder to images in [0, 1]; noise is relative to the spread of the codes in a batch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(images.shape[1], code)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = images[torch.randint(len(images), (batch,), generator=generator)]
        codes = model._encode(rows)
        shaken = codes + noise * codes.detach().std(0) * torch.randn(codes.shape, generator=generator)
        loss = (model._decode(shaken) - rows).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        codes = model._encode(images)
        model.shift, model.spread = codes.mean(0), codes.std(0)
    return model
