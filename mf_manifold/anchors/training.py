"""The fit of anchored flows: cross-fitted likelihood, first of what all anchors share, then of the network."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from .crossfit import Part, Scoring, log_density, total_loss
from .neighbours import Neighbours
from .shapes import Shapes

FOLDS = 10
SELECTING = 2  # of the parts only select, as the validation rows do
SCORED, CHECKED = 20_000, 4_000  # points that at most train and select
NEAR = 128  # anchors that a point is scored under
SHARED_STEPS, EVERY = 150, 25
SHARED_RATE, RATE, DECAY, EMA = 0.08, 2e-3, 1e-2, 0.97
BATCH, CLIP_NORM, PATIENCE = 1000, 5.0, 8
PREPARING, WARM, RESERVE = 0.3, 0.5, 0.9  # shares of the time limit by which parts, shared parameters and all steps are done


class Clock:
    """Time since the start of a fit, as a share of its limit."""

    def __init__(self, max_seconds: float | None) -> None:
        self.start, self.limit = time.monotonic(), math.inf if max_seconds is None else max_seconds

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def share(self) -> float:
        return self.seconds() / self.limit


class Training:
    """State of one fit of the :class:`Shapes`."""

    def __init__(self, shapes: Shapes, max_scale: float, clock: Clock, seed: int, progress: bool) -> None:
        self.shapes, self.max_scale, self.clock = shapes, max_scale, clock
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, float]] = []
        self.best, self.state = math.inf, copy.deepcopy(shapes.state_dict())
        self.refined, self.steps = False, 0
        self.bar: tqdm[Any] = tqdm(desc="fit", unit="step", disable=not progress)

    def prepare(self, scoring: Scoring, neighbours: Neighbours, validation: Tensor | None) -> None:
        """Make the parts: most train, the last ones and the validation rows select."""
        assert neighbours.fold is not None
        numbers = neighbours.fold.unique().tolist()
        parts: list[Part] = []
        for number in numbers:
            if len(parts) >= 2 and self.clock.share() > PREPARING:
                break
            parts.append(scoring.held_out(neighbours, neighbours.fold, number, max(1, SCORED // len(numbers))))
        selecting = SELECTING if len(parts) > SELECTING else 1
        self.train, self.selection = parts[:-selecting], parts[-selecting:]
        self.shapes.standardise(torch.cat([part.local.features for part in self.train]))
        if validation is not None:
            everything = torch.arange(len(scoring.points))
            self.selection.append(scoring.part(neighbours.local(), validation[:CHECKED], everything))

    def run(self, max_steps: int) -> None:
        """Fit, with so many steps of the network; the shapes keep what selected best, also of an interrupted fit."""
        try:
            self.shared()
            if max_steps:
                self.refine(max_steps)
        finally:
            self.bar.close()
            self.shapes.load_state_dict(self.state)
            self.shapes.refined = self.refined
            self.shapes.eval()

    def shared(self) -> None:
        """What all anchors share, without the network."""
        self.shapes.refined = False
        optimizer = torch.optim.Adam(self.shapes.shared)
        for step in range(SHARED_STEPS):
            done = max(step / SHARED_STEPS, self.clock.share() / WARM)
            if done >= 1:
                break
            loss = self.step(optimizer, SHARED_RATE * cosine(done))
        self.check(self.shapes, loss)

    def refine(self, max_steps: int) -> None:
        """The network with the rest, averaged over steps; it stays off where the selection rows do not gain by it."""
        self.shapes.refined = True
        groups = [
            {"params": list(self.shapes.network.parameters()), "weight_decay": DECAY},
            {"params": self.shapes.shared, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups)
        average = AveragedModel(self.shapes, multi_avg_fn=get_ema_multi_avg_fn(EMA))
        start, stale = self.clock.share(), 0
        for step in range(1, max_steps + 1):
            done = max(step / max_steps, (self.clock.share() - start) / (RESERVE - start) if start < RESERVE else 1.0)
            loss = self.step(optimizer, RATE * min(1.0, step / 20) * cosine(min(1.0, done)))
            average.update_parameters(self.shapes)
            if step % EVERY == 0 or done >= 1:
                stale = 0 if self.check(average.module, loss) else stale + 1
            if done >= 1 or stale >= PATIENCE:
                break

    def step(self, optimizer: torch.optim.Optimizer, rate: float) -> float:
        """One step on a batch of one part."""
        part = self.train[int(torch.randint(len(self.train), (), generator=self.generator))]
        rows = torch.randperm(len(part), generator=self.generator)[:BATCH]
        loss = -log_density(self.shapes, part, self.max_scale, rows.to(part.coords.device)).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"Expected a finite loss at step {self.steps}, got {value}. Check the data for outliers.")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters(optimizer), CLIP_NORM)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        self.steps += 1
        self.bar.update()
        return value

    def check(self, candidate: nn.Module, loss: float) -> bool:
        """Score the rows that select; keep the parameters if they are the best."""
        assert isinstance(candidate, Shapes)
        count = sum(len(part) for part in self.selection)
        nll = sum(total_loss(candidate, part, self.max_scale) for part in self.selection) / count
        entry = {"step": self.steps, "seconds": self.clock.seconds(), "train_nll": loss, "selection_nll": nll}
        self.history.append({**entry, "network": float(candidate.refined)})
        self.bar.set_postfix(selection_nll=f"{min(nll, self.best):.4f}")
        if better := nll < self.best:
            self.best, self.state, self.refined = nll, copy.deepcopy(candidate.state_dict()), candidate.refined
        return better


def cosine(done: float) -> float:
    """Share of the learning rate that is left."""
    return 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * done))


def parameters(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    """All parameters of an optimiser."""
    return [p for group in optimizer.param_groups for p in group["params"]]
