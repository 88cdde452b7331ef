"""The training loop of marginal flows."""

from __future__ import annotations

import copy
import math
import time
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from . import bases, geometry

if TYPE_CHECKING:
    from .marginal import MarginalFlow

WARM_STEPS = 400
WARM_SHARE = 0.25  # of the time limit
CHECKS = 50  # validations a run
EMA = 0.99


def fit(
    model: MarginalFlow,
    x: Tensor,
    *,
    seed: int = 0,
    max_steps: int = 2000,
    max_seconds: float | None = None,
    batch_size: int = 1024,
    learning_rate: float = 3e-3,
    validation_fraction: float = 0.1,
    patience: int = 20,
    progress: bool = True,
    checkpoint: str | PathLike[str] | None = None,
) -> None:
    """Fit a marginal flow from scratch by maximum likelihood, keeping the model that validates best.

    A network regressed onto matched noise (:func:`mf_manifold.bases.match`) is the start; then AdamW maximises the mean log
    density of mini-batches under fresh components, and an exponential moving average of the weights is validated with frozen
    components.
    Without ``max_seconds`` the result is the same for the same seed, data and machine.

    Args:
        x: data (n,*E) on the manifold; cast to the model's dtype and device.
        seed: of the network, the split, the batches and the components.
        max_steps: length of the cosine schedule of the learning rate.
        max_seconds: end earlier than that; the learning rate then follows the clock, and the result is no longer reproducible.
        batch_size: data a step.
        validation_fraction: share of the rows that only select the model and stop the run.
        patience: stop after this many validations (of 50 in ``max_steps``) without improvement.
        progress: show a progress bar.
        checkpoint: folder in which every improvement is saved, so that an interrupted run has lost nothing.

    Raises:
        ValueError: too few points, points off the manifold.
        FloatingPointError: the loss is not finite; the best model so far stays.
        KeyboardInterrupt: re-raised after the best model so far was put back (and saved).
    """
    geometry.check_points(model.manifold, x, model.point_shape)
    if x.ndim != 1 + len(model.point_shape) or len(x) < 10:
        raise ValueError(f"Expected at least 10 points of shape {model.point_shape}, got shape {tuple(x.shape)}.")
    if not 0 < validation_fraction < 1:
        raise ValueError(f"Expected 0 < validation_fraction < 1, got {validation_fraction}.")
    positive = {"max_steps": max_steps, "batch_size": batch_size, "learning_rate": learning_rate, "patience": patience}
    for name, value in {**positive, "max_seconds": 1.0 if max_seconds is None else max_seconds}.items():
        if not value > 0:
            raise ValueError(f"Expected a positive {name}, got {value}.")
    like = next(model.parameters())
    data = geometry.project(model.manifold, x.detach()).to(like)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.build_network()
        model.to(like)
    run = _Run(model, data, seed, max_steps, max_seconds, batch_size, learning_rate, checkpoint)
    run.split(validation_fraction)
    bar: tqdm[Any]
    with tqdm(total=max_steps, desc="fit", unit="step", disable=not progress) as bar:
        run.optimise(bar, patience)


class _Run:
    """State of one fit."""

    def __init__(
        self,
        model: MarginalFlow,
        data: Tensor,
        seed: int,
        max_steps: int,
        max_seconds: float | None,
        batch_size: int,
        learning_rate: float,
        path: str | PathLike[str] | None,
    ) -> None:
        self.model, self.data, self.path = model, data, path
        self.max_steps, self.batch_size, self.learning_rate = max_steps, batch_size, learning_rate
        self.generator = torch.Generator().manual_seed(seed)
        self.start = time.monotonic()
        self.max_seconds = math.inf if max_seconds is None else max_seconds
        self.best_nll = math.inf
        self.best_state: dict[str, Tensor] = {}
        model.history = []

    def split(self, fraction: float) -> None:
        n = len(self.data)
        order = torch.randperm(n, generator=self.generator)
        count = min(max(1, round(fraction * n)), n - 2)
        self.validation, self.train = self.data[order[:count]], self.data[order[count:]]

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def out_of_time(self) -> bool:
        return self.seconds() > self.max_seconds

    def optimise(self, bar: tqdm[Any], patience: int) -> None:
        average, stale, every = None, 0, max(1, self.max_steps // CHECKS)
        try:
            self.warm_start()
            self.validate(self.model, 0, float(self.loss().detach()))
            optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.learning_rate, weight_decay=1e-4)
            average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(EMA))
            for step in range(1, self.max_steps + 1):
                loss = self.step(optimizer, step)
                average.update_parameters(self.model)
                bar.update()
                last = step == self.max_steps or self.out_of_time()
                if step % every == 0 or last:
                    stale = 0 if self.validate(average.module, step, loss) else stale + 1
                    bar.set_postfix(validation_nll=f"{self.best_nll:.4f}")
                if last or stale >= patience:
                    break
        finally:
            if self.best_state:
                self.model.load_state_dict(self.best_state)

    def loss(self) -> Tensor:
        """Mean negative log density of a batch under fresh components."""
        rows = torch.randint(len(self.train), (min(self.batch_size, len(self.train)),), generator=self.generator)
        mixture = self.model(generator=self.generator)
        return -mixture.log_prob(self.train[rows.to(self.train.device)]).mean()

    def step(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        warmup, done = min(1.0, step / 20), max(step / self.max_steps, self.seconds() / self.max_seconds)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * warmup * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done))))
        loss = self.loss()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"Expected a finite loss at step {step}, got {value}. Lower learning_rate, or widen the kernel's scales."
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        optimizer.step()
        return value

    @torch.no_grad()
    def validate(self, candidate: nn.Module, step: int, loss: float) -> bool:
        """Score the averaged weights; keep and save them if they are the best."""
        current = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(candidate.state_dict())
        nll = -float(self.model.freeze(2 * self.model.n_components).log_prob(self.validation).mean())
        self.model.history.append({"step": step, "seconds": self.seconds(), "train_nll": loss, "validation_nll": nll})
        better = nll < self.best_nll
        if better:
            self.best_nll, self.best_state = nll, copy.deepcopy(self.model.state_dict())
            if self.path is not None:
                self.model.save(self.path, overwrite=True)
        self.model.load_state_dict(current)
        return better

    def warm_start(self) -> None:
        """Regress the network onto matched noise, and set the scales to what the regression left open."""
        model = self.model
        if not model.kernel.has_location:
            return
        target = geometry.to_raw(model.manifold, self.train)
        features = bases.unfold(target, self.generator) if model.latent_dim < model.kernel.dim else target
        noise = bases.match(features, model.latent_dim, self.generator)
        where = len(model.shift)
        model.shift, model.spread = target.mean(0), target.std(0).clamp_min(1e-6 * float(target.abs().max()))
        wanted = (target - model.shift) / model.spread
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        steps = min(WARM_STEPS, self.max_steps)
        for step in range(steps):
            if self.seconds() > WARM_SHARE * self.max_seconds:
                break
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps) + 1e-4
            rows = torch.randint(len(noise), (min(4096, len(noise)),), generator=self.generator).to(noise.device)
            error = (model.network(noise[rows])[:, :where] - wanted[rows]).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        self.set_scale(target, noise)

    @torch.no_grad()
    def set_scale(self, target: Tensor, noise: Tensor) -> None:
        """Start all components at the typical miss of the regression or at the gap between components, the larger one."""
        model, where = self.model, len(self.model.shift)
        rows = torch.randperm(len(noise), generator=self.generator)[:4096].to(noise.device)
        found = model.shift + model.spread * model.network(noise[rows])[:, :where]
        miss = (found - target[rows]).square().sum(-1).median() / model.kernel.dim
        model.head.weight[where:] = 0.0
        model.head.bias[where:-1] = model.kernel.raw_from_scale(max(self.gap(target), float(miss) ** 0.5))
        model.head.bias[-1] = 0.0

    def gap(self, target: Tensor) -> float:
        """Median distance within which a datum has its share of neighbours, a few components' worth."""
        embedded = target.double().cpu().numpy()[:5000]
        count = min(len(embedded) - 1, 1 + max(8, round(8 * len(embedded) / self.model.n_components)))
        distances, _ = cKDTree(embedded).query(embedded, k=[count + 1])
        return max(float(torch.as_tensor(distances).median()), 1e-4)
