"""What the rivals for conditional densities share: standardised data, one training loop, the best validation kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Standardised(nn.Module):
    """An affine map of vectors to mean 0 and standard deviation 1."""

    shift: Tensor
    spread: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", x.mean(0))
        self.register_buffer("spread", x.std(0).clamp_min(1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.spread

    def inverse(self, z: Tensor) -> Tensor:
        return self.shift + self.spread * z


def train(
    model: nn.Module,
    nll: Callable[[Tensor, Tensor], Tensor],
    theta: Tensor,
    x: Tensor,
    *,
    seed: int,
    max_steps: int,
    batch_size: int,
    learning_rate: float = 3e-3,
    checks: int = 25,
) -> None:
    """Minimise the mean ``nll(theta, x)`` by AdamW with warm-up and a cosine; keep the weights that validate best.

    A tenth of the rows only selects among ``checks`` states of the run.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(theta), generator=generator)
    held, rest = order[: len(order) // 10], order[len(order) // 10 :]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    best, best_state = math.inf, copy.deepcopy(model.state_dict())
    for step in range(1, max_steps + 1):
        rate = min(1.0, step / 20) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / max_steps)))
        optimizer.param_groups[0]["lr"] = learning_rate * rate
        rows = rest[torch.randint(len(rest), (batch_size,), generator=generator)]
        loss = nll(theta[rows], x[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if step % max(1, max_steps // checks) == 0 or step == max_steps:
            with torch.no_grad():
                value = float(nll(theta[held], x[held]).mean())
            if value < best:
                best, best_state = value, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
