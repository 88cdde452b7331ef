"""The training loop that all rivals share: Adam, a moving average of the weights, early stopping on held-out data."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

EMA = 0.99
WARMUP = 20  # steps


class Check(NamedTuple):
    """One validation: the step, the CPU seconds of training so far, the held-out loss."""

    step: int
    seconds: float
    loss: float


class Rival(nn.Module):
    """A density with a loss; subclasses give ``prepare``, ``loss``, ``validation_loss``, ``log_prob`` and ``sample``."""

    batch_size = 512
    learning_rate = 1e-3
    history: list[Check]

    def prepare(self, x: Tensor) -> Tensor:
        """Set what is read off the training data ``x`` (N,*E); returns them as coordinates."""
        raise NotImplementedError

    def coordinates(self, x: Tensor) -> Tensor:
        """Points as the network sees them."""
        raise NotImplementedError

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Scalar training loss of a batch of coordinates."""
        raise NotImplementedError

    def validation_loss(self, held_out: Tensor) -> float:
        """The loss that stops the run."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at points, Riemannian volume; (N,*E) -> (N)."""
        raise NotImplementedError

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Independent samples; -> (n,*E)."""
        raise NotImplementedError

    @property
    def parameter_count(self) -> int:
        """Number of trained reals."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def fit(
        self,
        x: Tensor,
        *,
        seed: int = 0,
        max_seconds: float = 60.0,
        validation: Tensor | None = None,
        max_steps: int = 20_000,
        checks: int = 40,
        patience: int = 10,
        on_check: Callable[[Check], bool | None] | None = None,
    ) -> Self:
        """Fit to ``x`` (N,*E) for at most ``max_seconds`` CPU seconds and keep the averaged weights that validate best.

        Without ``validation`` a tenth of the rows is held out. Validations are spread evenly over the time limit and count in
        it; ``patience`` of them without improvement end the run. ``on_check`` is called after each with the averaged weights
        in place, off the clock, and ends the run by returning True.
        """
        generator = torch.Generator().manual_seed(seed)
        if validation is None:
            order = torch.randperm(len(x), generator=generator)
            held = max(1, len(x) // 10)
            x, validation = x[order[held:]], x[order[:held]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            data = self.prepare(x)
        run = _Run(self, data, self.coordinates(validation), generator, max_seconds, max_steps)
        run.optimise(checks, patience, on_check)
        return self


class _Run:
    def __init__(
        self, model: Rival, data: Tensor, held_out: Tensor, generator: torch.Generator, max_seconds: float, max_steps: int
    ) -> None:
        self.model, self.data, self.held_out, self.generator = model, data, held_out, generator
        self.max_seconds, self.max_steps = max_seconds, max_steps
        self.optimizer = torch.optim.Adam(model.parameters(), lr=model.learning_rate)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA))
        self.best, self.best_state = math.inf, copy.deepcopy(model.state_dict())
        self.start, self.paused = time.process_time(), 0.0
        model.history = []

    def seconds(self) -> float:
        return time.process_time() - self.start - self.paused

    def optimise(self, checks: int, patience: int, on_check: Callable[[Check], bool | None] | None) -> None:
        stale, due = 0, 1
        for step in range(1, self.max_steps + 1):
            done = max(step / self.max_steps, self.seconds() / self.max_seconds)
            self.step(step, min(1.0, done))
            if done * checks < due and done < 1:
                continue
            due = math.floor(done * checks) + 1
            stale = 0 if self.check(step) else stale + 1
            if self.report(on_check) or stale >= patience or done >= 1:
                break
        self.model.load_state_dict(self.best_state)

    def step(self, step: int, done: float) -> None:
        rate = min(1.0, step / WARMUP) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * done)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.model.learning_rate * rate
        rows = torch.randint(len(self.data), (min(self.model.batch_size, len(self.data)),), generator=self.generator)
        loss = self.model.loss(self.data[rows], self.generator)
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"Expected a finite loss at step {step}, got {float(loss.detach())}.")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)

    @torch.no_grad()
    def check(self, step: int) -> bool:
        averaged: Rival = self.average.module  # type: ignore[assignment]
        loss = averaged.validation_loss(self.held_out)
        self.model.history.append(Check(step, self.seconds(), loss))
        better = loss < self.best
        if better:
            self.best, self.best_state = loss, copy.deepcopy(averaged.state_dict())
        return better

    def report(self, on_check: Callable[[Check], bool | None] | None) -> bool:
        if on_check is None:
            return False
        since, current = time.process_time(), copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.average.module.state_dict())
        stop = bool(on_check(self.model.history[-1]))
        self.model.load_state_dict(current)
        self.paused += time.process_time() - since
        return stop
