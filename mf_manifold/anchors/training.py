"""The fit of anchored flows: cross-fitted likelihood, first of what all anchors share, then of the network."""

from __future__ import annotations

import copy
import math
import time
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
SHARED_STEPS, EVERY = 150, 20
SHARED_RATE, RATE, DECAY, EMA = 0.08, 2e-3, 1e-2, 0.97
BATCH, CLIP_NORM, PATIENCE = 1000, 5.0, 5
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
        self.steps = 0
        self.parts: list[Part] = []
        self.validation: list[Part] = []
        self.bar: tqdm[Any] = tqdm(desc="fit", unit="step", disable=not progress)

    def prepare(self, scoring: Scoring, neighbours: Neighbours, validation: Tensor | None) -> None:
        """Make the parts of the cross-validation, as many as there is time for."""
        assert neighbours.fold is not None
        numbers = neighbours.fold.unique().tolist()
        for number in numbers:
            if len(self.parts) >= 2 and self.clock.share() > PREPARING:
                break
            self.parts.append(scoring.held_out(neighbours, number, max(1, SCORED // len(numbers))))
        self.shapes.standardise(torch.cat([part.local.features for part in self.parts]))
        if validation is not None:
            everything = torch.arange(len(scoring.points))
            self.validation = [scoring.part(neighbours.local(), validation[:CHECKED], everything)]

    def run(self, max_steps: int) -> None:
        """Fit, with so many steps of each network; also of an interrupted fit the shapes keep what was found so far."""
        members: list[Shapes] = []
        try:
            self.shared()
            for number in range(len(self.shapes.networks) if max_steps else 0):
                members.append(self.shapes.alone(number))
                self.refine(members[-1], number, max_steps)
        finally:
            self.bar.close()
            if members:
                untrained = range(len(members), len(self.shapes.networks))
                self.shapes.average([*members, *(self.shapes.alone(number) for number in untrained)])
            self.shapes.eval()

    def shared(self) -> None:
        """What all anchors share, without networks, from all parts."""
        optimizer, loss = torch.optim.Adam(self.shapes.shared), math.nan
        for step in range(SHARED_STEPS):
            done = max(step / SHARED_STEPS, self.clock.share() / WARM)
            if done >= 1:
                break
            loss = self.step(self.shapes, self.parts, optimizer, SHARED_RATE * cosine(done))
        self.check(self.shapes, self.parts[-1:] + self.validation, loss)

    def refine(self, shapes: Shapes, number: int, max_steps: int) -> None:
        """One network with the rest, averaged over steps, on parts of which some select; off where these gain nothing by it."""
        count = SELECTING if len(self.parts) > 2 * SELECTING else 1
        chosen = {(number * count + k) % len(self.parts) for k in range(count)}
        train = [part for k, part in enumerate(self.parts) if k not in chosen]
        selection = [self.parts[k] for k in sorted(chosen)] + self.validation
        best, state, stale = self.check(shapes, selection, math.nan), copy.deepcopy(shapes.state_dict()), 0
        shapes.refined, refined = True, False
        groups = [
            {"params": list(shapes.networks.parameters()), "weight_decay": DECAY},
            {"params": shapes.shared, "weight_decay": 0.0},
        ]
        optimizer, average = torch.optim.AdamW(groups), AveragedModel(shapes, multi_avg_fn=get_ema_multi_avg_fn(EMA))
        start = self.clock.share()
        end = start + (RESERVE - start) / (len(self.shapes.networks) - number)  # the rest of the time, shared evenly
        try:
            for step in range(1, max_steps + 1):
                done = max(step / max_steps, (self.clock.share() - start) / (end - start) if end > start else 1.0)
                loss = self.step(shapes, train, optimizer, RATE * min(1.0, step / 20) * cosine(min(1.0, done)))
                average.update_parameters(shapes)
                if step % EVERY == 0 or done >= 1:
                    nll = self.check(average.module, selection, loss)
                    stale = 0 if nll < best else stale + 1
                    if nll < best:
                        best, state, refined = nll, copy.deepcopy(average.module.state_dict()), True
                if done >= 1 or stale >= PATIENCE:
                    break
        finally:
            shapes.load_state_dict(state)
            shapes.refined = refined

    def step(self, shapes: Shapes, parts: list[Part], optimizer: torch.optim.Optimizer, rate: float) -> float:
        """One step on a batch of one part."""
        part = parts[int(torch.randint(len(parts), (), generator=self.generator))]
        rows = torch.randperm(len(part), generator=self.generator)[:BATCH]
        loss = -log_density(shapes, part, self.max_scale, rows.to(part.coords.device)).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"Expected a finite loss at step {self.steps}, got {value}. Check the data for outliers.")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], CLIP_NORM)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        self.steps += 1
        self.bar.update()
        return value

    def check(self, candidate: nn.Module, selection: list[Part], loss: float) -> float:
        """Mean negative log density of the rows that select."""
        assert isinstance(candidate, Shapes)
        count = sum(len(part) for part in selection)
        nll = sum(total_loss(candidate, part, self.max_scale) for part in selection) / count
        entry = {"step": float(self.steps), "seconds": self.clock.seconds(), "selection_nll": nll}
        trained = {} if math.isnan(loss) else {"train_nll": loss}  # no step was made before the first check
        self.history.append({**entry, **trained, "network": float(candidate.refined)})
        self.bar.set_postfix(selection_nll=f"{nll:.4f}")
        return nll


def cosine(done: float) -> float:
    """Share of the learning rate that is left."""
    return 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * done))
