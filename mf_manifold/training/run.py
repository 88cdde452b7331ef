"""One fit: its steps, validations and state."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from ..losses import Batch, Objective, Starts, described
from . import state
from .data import Data
from .history import Recorder

if TYPE_CHECKING:
    from ..estimator import LazyDistribution

CHECKS = 50  # validations a run
EMA = 0.99
CLIP = 10.0
LONGEST = 0.1  # of the time limit without a validation
STARTS = 4096  # points for the warm start of a fit without data
FEW, MANY = 20, 0.1  # components grow while more than this share of points has fewer effective ones
START_SHARE = 16  # growing components begin with this fraction
STEPS, SHARE = 400, 0.25  # at most, of the search for a start; of the time limit


@dataclass(frozen=True)
class Options:
    """The options of a fit that its steps use, see :func:`mf_manifold.training.fit`."""

    objective: Objective
    seed: int
    max_steps: int
    max_seconds: float
    batch_size: int
    n_components: int
    grow_components: bool
    learning_rate: float
    weight_decay: float
    patience: int
    context_dropout: float
    background: float

    def check(self) -> None:
        """Raise ``ValueError`` for a number out of range."""
        for name in ("max_steps", "max_seconds", "batch_size", "n_components", "learning_rate", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected a positive {name}, got {getattr(self, name)}.")
        if not self.weight_decay >= 0 or not 0 <= self.context_dropout < 1:
            raise ValueError(
                f"Expected weight_decay >= 0 and context_dropout in [0, 1), got {self.weight_decay} and {self.context_dropout}."
            )

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the one that was killed."""
        numbers = {k: v for k, v in vars(self).items() if k not in ("objective", "max_seconds")}
        return {**numbers, "objective": described(self.objective)}


class Run:
    """State of one fit."""

    def __init__(self, model: LazyDistribution, data: Data, options: Options, path: str | PathLike[str] | None) -> None:
        self.model, self.data, self.options = model, data, options
        self.folder = None if path is None else Path(path)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.start, self.step, self.validated = time.monotonic(), 0, 0.0
        self.best_loss, self.stale = math.inf, 0
        self.best_state: dict[str, Tensor] = {}
        self.count = max(1, options.n_components // START_SHARE) if options.grow_components else options.n_components
        model.history = []

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def optimise(self, bar: tqdm[Any], resume: bool) -> None:
        options, every = self.options, max(1, self.options.max_steps // CHECKS)
        found = state.load(self.folder) if resume and self.folder is not None else None
        recorder = None
        try:
            if found is None:
                state.clear(self.folder)
                self.begin()
            groups = self.model.parameter_groups()
            self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay)
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(EMA))
            if found is None:
                self.validate(self.model, {})
            else:
                self.restore(*found)
                bar.update(self.step)
            recorder = Recorder(self.folder, self.model.history)
            while not self.finished():
                loss = {"train_loss": self.advance()}
                bar.update()
                late = self.seconds() - self.validated > LONGEST * options.max_seconds
                if self.step % every == 0 or late or self.finished():
                    self.stale = 0 if self.validate(self.average.module, loss) else self.stale + 1
                    recorder.write(self.model.history[-1])
                    bar.set_postfix(validation=f"{self.best_loss:.4f}")
                    self.save()
        finally:
            if self.best_state:
                self.model.load_state_dict(self.best_state)
            if recorder is not None:
                recorder.close()

    def finished(self) -> bool:
        options = self.options
        return self.step >= options.max_steps or self.stale >= options.patience or self.seconds() > options.max_seconds

    def begin(self) -> None:
        """The first weights."""
        x, model = self.data.train, self.model
        if x is None and isinstance(self.options.objective, Starts):
            like = next(model.parameters())
            x = self.options.objective.start(model.manifold, model.point_shape, STARTS, self.generator, like.device).to(like)
        limit = SHARE * self.options.max_seconds
        steps, stop = min(STEPS, self.options.max_steps), lambda: self.seconds() > limit
        model.begin(x, self.data.train_context, self.generator, steps, stop)

    def advance(self) -> float:
        """One step of the optimiser; -> the loss."""
        self.step += 1
        options, done = self.options, max(self.step / self.options.max_steps, self.seconds() / self.options.max_seconds)
        schedule = min(1.0, self.step / 20) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done))))
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule * group.get("factor", 1.0)
        batch, index = self.data.batch(options.batch_size, self.generator, self.count, min(1.0, done), options.context_dropout)
        for part in self.model.members():
            part.track(self.generator)
        loss = self.loss(batch)
        if not loss.requires_grad:
            raise ValueError("Expected an objective whose loss has gradients, got one without. Compute it in torch.")
        value = float(loss.detach())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # in float64, because the squares of large gradients are not numbers of float32
        norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in self.model.parameters() if p.grad is not None]
        norm = torch.stack(norms).norm().float()
        # before clipping, which would spread it to all gradients
        if not math.isfinite(value) or not math.isfinite(float(norm)):
            raise FloatingPointError(self.explain(value, index))
        nn.utils.clip_grads_with_norm_(self.model.parameters(), CLIP, norm)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return value

    def loss(self, batch: Batch) -> Tensor:
        """The objective, checked to be one number."""
        loss = self.options.objective(self.model, batch)
        if not isinstance(loss, Tensor) or loss.ndim:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"Expected an objective that returns a scalar tensor, got {got}. Take the mean over the batch.")
        return loss

    def explain(self, loss: float, index: Tensor | None) -> str:
        """What was not finite, and where."""
        broken = [name for name, p in self.model.named_parameters() if not bool(torch.isfinite(p).all())]
        slopes = [
            name for name, p in self.model.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())
        ]
        where = "no parameter" if not broken + slopes else f"the {'value' if broken else 'gradient'} of {(broken + slopes)[0]}"
        rows = "" if index is None or self.data.rows is None else f", whose first rows are {self.data.rows[index][:5].tolist()}"
        return (
            f"Expected a finite loss and gradient at step {self.step}, got loss {loss} and non-finite numbers in {where} on a "
            f"batch of {0 if index is None else len(index)} points{rows}. The best model so far is kept. Lower learning_rate, "
            "or look at those rows."
        )

    @torch.no_grad()
    def validate(self, candidate: nn.Module, loss: dict[str, float]) -> bool:
        """Score the averaged weights; keep and save them if they are the best."""
        current = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(candidate.state_dict())
        for part in self.model.members():
            part.settle()
        entry = {"step": self.step, "seconds": self.seconds(), "components": self.count, **loss, **self.scores()}
        self.model.history.append(entry)
        # without data nothing can overfit: the last average is the best, and a draw too noisy to tell
        value = entry["validation_loss"]
        better = math.isfinite(value) if self.data.train is None else value < self.best_loss
        if better or not self.best_state:  # something is kept in any case
            self.best_loss, self.best_state = math.inf if math.isnan(value) else value, copy.deepcopy(self.model.state_dict())
            if self.folder is not None:
                self.model.save(self.folder, overwrite=True)
        self.model.load_state_dict(current)
        self.validated = self.seconds()
        return better

    def scores(self) -> dict[str, float]:
        """The objective on the validation part, and how well the components cover it."""
        model, options = self.model, self.options
        batches = self.data.validation_batches(options.batch_size, 2 * self.count, seed=0, dropout=options.context_dropout)
        sizes = [1 if batch.x is None else len(batch.x) for batch in batches]
        losses = [float(self.loss(batch)) for batch in batches]
        scores = {"validation_loss": sum(n * v for n, v in zip(sizes, losses, strict=True)) / sum(sizes)}
        points = batches[0]
        if points.x is None and options.grow_components:  # the flow's own, where there are no data
            points = points._replace(x=points.draw(model).sample((STARTS,), points.generator))
        if points.x is not None:
            scores |= model.cover(points._replace(n_components=self.count), FEW)
            if options.grow_components and scores.get("few_components", 0.0) > MANY:
                self.count = min(2 * self.count, options.n_components)
        return scores

    def identity(self) -> dict[str, Any]:
        """The options of the run, and the model that it fits, as JSON gives them back."""
        config = {k: v for k, v in self.model.config().items() if k != "history"}
        content = {**self.options.identity(), "model": config, "dtype": str(next(self.model.parameters()).dtype)}
        return dict(json.loads(json.dumps(content)))

    def save(self) -> None:
        """Write everything that the next step depends on."""
        if self.folder is None:
            return
        tensors = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best_state,
            "optimizer": state.of_optimizer(self.optimizer),
            "generator": {"state": self.generator.get_state()},
        }
        numbers = {
            "options": self.identity(),
            "data": self.data.fingerprint(),
            "progress": {name: getattr(self, name) for name in ("step", "stale", "best_loss", "count")},
            "seconds": self.seconds(),
            "history": self.model.history,
        }
        state.save(self.folder, tensors, numbers)

    def restore(self, tensors: dict[str, dict[str, Tensor]], numbers: dict[str, Any]) -> None:
        """Continue where :meth:`save` was called.

        Raises:
            ValueError: that run had other data or options.
        """
        mine, theirs = self.identity(), numbers["options"]
        differing = [name for name in mine if mine[name] != theirs.get(name)]
        if differing or numbers["data"] != self.data.fingerprint():
            raise ValueError(
                f"Expected the run in {self.folder} to have the same data and options, but "
                f"{', '.join(differing) or 'the data'} differ. Start anew with resume=False, or pass what it had."
            )
        self.model.load_state_dict(tensors["model"])
        self.average.load_state_dict(tensors["average"])
        self.best_state = tensors["best"]
        state.into_optimizer(self.optimizer, tensors["optimizer"])
        self.generator.set_state(tensors["generator"]["state"])
        for name, value in numbers["progress"].items():
            setattr(self, name, value)
        self.model.history = numbers["history"]
        self.start, self.validated = time.monotonic() - numbers["seconds"], numbers["seconds"]
