"""Minimise any loss for a budget of CPU seconds: Adam, warm-up, cosine schedule, a moving average of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def minimise(
    model: nn.Module,
    loss: Callable[[torch.Generator, float], Tensor],
    *,
    seed: int,
    max_seconds: float,
    max_steps: int = 100_000,
    learning_rate: float = 3e-3,
) -> list[tuple[float, float]]:
    """Fit ``model`` by ``loss(generator, progress)``, leaving it with averaged weights; -> (CPU seconds, loss) of each step."""
    generator, start = torch.Generator().manual_seed(seed), time.process_time()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    average, done, history = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99)), 0.0, []
    while done < 1:
        rate = min(1.0, (len(history) + 1) / 20) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        value = loss(generator, done)
        if not math.isfinite(float(value.detach())):
            raise FloatingPointError(f"Expected a finite loss at step {len(history)}, got {float(value.detach())}.")
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        average.update_parameters(model)
        seconds = time.process_time() - start
        history.append((seconds, float(value.detach())))
        done = max(seconds / max_seconds, len(history) / max_steps)
    model.load_state_dict(average.module.state_dict())
    return history
