"""Table rows of several density estimators on the same splits: held-out NLL, paired differences, CPU seconds."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from benchmarks.harness import Report

LogDensity = Callable[[Tensor], Tensor]
Split = Callable[[int], tuple[Tensor, Tensor, Tensor]]  # seed -> points to fit, to select with, to test
Method = Callable[[Tensor, Tensor, int], LogDensity]  # points to fit, to select with, seed -> the fitted log density


def compare(
    report: Report,
    data: str,
    split: Split,
    methods: dict[str, Method],
    *,
    rival: str,
    truth: LogDensity | None = None,
    keep: Sequence[int] = (),
) -> dict[str, LogDensity]:
    """One row for each method, mean and standard error over the seeds; returns the fits of the first seed of ``keep``.

    Fits of the seeds in ``keep``, which the caller uses, are made by a resumed run too; of the others it takes the scores.
    ``difference`` is the NLL minus the one of ``rival`` on the same test points; ``kl`` is the NLL minus the one of ``truth``.
    """
    parts = {seed: split(seed) for seed in report.seeds}
    order = [rival, *(name for name in methods if name != rival)]
    base: list[float] = []
    first: dict[str, LogDensity] = {}

    def score(name: str, seed: int) -> tuple[float, float]:
        train, validation, test = parts[seed]
        start = time.process_time()
        fitted = methods[name](train, validation, seed)
        seconds = time.process_time() - start
        if seed in keep[:1]:
            first[name] = fitted
        return -float(fitted(test).double().mean()), seconds

    for name in order:
        found = [
            score(name, seed)
            if seed in keep
            else report.once(f"{data}; {name}; seed {seed}", functools.partial(score, name, seed))
            for seed in report.seeds
        ]
        scores, seconds = [nll for nll, _ in found], [time for _, time in found]
        base = base or scores
        columns = _mean("nll", scores) | _mean("difference", [a - b for a, b in zip(scores, base, strict=True)])
        if truth is not None:
            entropies = [-float(truth(test).mean()) for _, _, test in parts.values()]
            columns |= _mean("kl", [a - b for a, b in zip(scores, entropies, strict=True)])
        sizes = next(iter(parts.values()))
        report.row(
            data=data,
            method=name,
            n_fit=len(sizes[0]) + len(sizes[1]),
            n_test=len(sizes[2]),
            **columns,
            cpu_seconds=statistics.mean(seconds),
        )
    return first


def _mean(name: str, values: list[float]) -> dict[str, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {name: statistics.mean(values), f"{name}_se": error}
