"""The training loop of all models that gradients train."""

from __future__ import annotations

import math
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..losses import Objective
from .data import Data
from .run import Options, Run

if TYPE_CHECKING:
    from ..estimator import LazyDistribution


def fit(
    model: LazyDistribution,
    x: Tensor | None = None,
    context: Tensor | None = None,
    *,
    objective: Objective | None = None,
    validation: Tensor | tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    max_steps: int = 2000,
    max_seconds: float | None = None,
    batch_size: int | None = None,
    n_components: int | None = None,
    grow_components: bool = False,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-4,
    validation_fraction: float = 0.1,
    patience: int = 20,
    background: float = 1e-4,
    context_dropout: float = 0.0,
    progress: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
) -> None:
    """Fit a model from scratch, by default by maximum likelihood, keeping the one that validates best.

    From the start that the model finds (a marginal flow: a network regressed onto noise matched to the data,
    :func:`mf_manifold.bases.match`) AdamW minimises the objective over mini-batches of data and fresh components, and an
    exponential moving average of the weights is validated with frozen components.
    Without ``max_seconds`` the result is the same for the same seed, data and machine, also of a run that was killed and
    resumed.

    Args:
        x: data (n,*E) on the manifold, cast to the model's dtype and device; None where the objective needs none.
        context: contexts (n,*C) of the data, for a flow with ``context_shape``; NaN entries are missing.
        objective: ``objective(model, batch) -> loss``, see :mod:`mf_manifold.losses`; None takes the model's own.
        validation: data that only select the model and stop the run (with their contexts, if there are any); None takes
            ``validation_fraction`` of the rows.
        seed: of the network, the split, the batches and the components.
        max_steps: length of the cosine schedule of the learning rate.
        max_seconds: end earlier than that; the learning rate then follows the clock, and the result is no longer reproducible.
        batch_size: data a step; None takes 1024, and 256 with contexts.
        n_components: components a step; None takes the flow's.
        grow_components: begin with a sixteenth of them, and double while many points (without data: of the flow's own
            samples) have less than 20 effective components.
        learning_rate, weight_decay: of AdamW; the first 20 steps warm up.
        patience: stop after this many validations (of 50 in ``max_steps``) without improvement; a fit without data does not
            stop early and keeps its last average.
        background: weight of a law that covers the whole manifold, so that no point has density zero; 0 for none. Kept in the
            fitted density; without data there is none.
        context_dropout: probability that a step hides an entry of a context, which teaches the flow the densities of partly
            known contexts. Validation hides as many, always the same ones.
        progress: show a progress bar.
        checkpoint: folder in which every improvement is saved (``model.safetensors``), the state of the run at every validation
            (``training.safetensors``), the history as JSON lines, and events for TensorBoard where it is installed.
        resume: continue the run whose state is in that folder, if there is one.

    Raises:
        ValueError: too few points, points off the manifold, contexts of another shape, options out of range, a state that
            belongs to other data or options.
        FloatingPointError: the loss or a gradient is not finite; the best model so far stays.
        KeyboardInterrupt: re-raised after the best model so far was put back (and saved).
    """
    data = Data.prepare(model, x, context, validation, validation_fraction, seed)
    options = Options(
        objective=type(model).objective if objective is None else objective,
        seed=seed,
        max_steps=max_steps,
        max_seconds=math.inf if max_seconds is None else max_seconds,
        batch_size=(1024 if context is None else 256) if batch_size is None else batch_size,
        n_components=1 if n_components is None else n_components,
        grow_components=grow_components,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        patience=patience,
        context_dropout=context_dropout,
        background=background,
    )
    options.check()
    if resume and checkpoint is None:
        raise ValueError("Expected the folder checkpoint= of the run to resume, got none.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change those of accelerators too
        model.reset(data.train, background)
    if n_components is None:
        options = replace(options, n_components=model.n_components)
    run = Run(model, data, options, checkpoint)
    bar: tqdm[Any]
    with tqdm(total=max_steps, desc="fit", unit="step", disable=not progress) as bar:
        run.optimise(bar, resume)


__all__ = ["fit"]
