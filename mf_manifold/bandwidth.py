"""Choice of the widths and weights of a kernel density by leave-one-out likelihood."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from tqdm.auto import tqdm

from .distributions import KernelDistribution
from .kernel import Kernel
from .leave_one_out import LeaveOneOut, Level, Scales
from .local_covariance import Covariances, check_frame, neighbor_logs
from .neighbors import distance, length_unit, nearest
from .weights import log_mixed, mixing_weights

PAIRS, PAIRS_LOCAL = 2**23, 2**21  # pairs of an evaluation; covariances take their time
FEWEST, FEWEST_MIXED = 200, 2000  # scored data, at least, for one level and where weights of many are estimated
RATIO = 10**0.125  # between the scales of neighbouring levels
FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # of neighbour distances, for mixtures of them
LEAST_FLOOR = 0.1  # weight of the background, at least, in data: one that no component covers costs log(n / 0.1) nats, not more
MOST_FLOOR = 0.999
MANY = 32  # neighbours that say how narrow a scale may be: most data have fewer copies
NEGLIGIBLE = 1e-6  # weight below which a level is left out
NEIGHBORS = {
    "single": (),
    "multiscale": (),
    "adaptive": (2, 4, 8, 16, 32),
    "combined": (4, 16),
    "local": (16, 32, 64),
}


@dataclass(frozen=True)
class Bandwidths:
    """The outcome of a search: levels with their weights, the weight of the background, and the score of all that."""

    levels: list[Level]
    weights: Tensor
    floor: float
    loo: float


class Search:
    """Leave-one-out likelihood of data under kernel densities of the others, and the searches that maximise it.

    Args:
        background: scored along with the levels, its weight estimated; None for none.
        neighbors: the candidates for k.
        scales: the scales of a multi-scale density; None for a grid.
        keep: called with every improvement.
    """

    def __init__(
        self,
        kernel: Kernel,
        points: Tensor,
        mode: str,
        *,
        neighbors: Sequence[int],
        scales: Sequence[float] | None,
        background: KernelDistribution | None,
        keep: Callable[[Bandwidths], None],
        seed: int = 0,
        n_scored: int | None = None,
        max_seconds: float | None = None,
        progress: bool = False,
    ) -> None:
        self.kernel, self.points, self.mode, self.given, self.keep = kernel, points, mode, scales, keep
        n, mixed = len(points), mode in ("multiscale", "combined")
        self.candidates = [k for k in neighbors if k + 1 < n] or [1]
        self.near = nearest(kernel.manifold, points, min(n - 1, max(*self.candidates, MANY) + 1))
        self.distances = self.near.distances / length_unit(kernel.manifold)
        permutation = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        count = (
            max(FEWEST_MIXED if mixed else FEWEST, (PAIRS_LOCAL if mode == "local" else PAIRS) // n)
            if n_scored is None
            else n_scored
        )
        scored = permutation[:count].to(points.device)
        self.loo = LeaveOneOut(kernel, points, self.near, scored)
        self.covering = None if background is None else background.log_prob(points[scored]).double().unsqueeze(1)
        self.floor_range = (0.0, 1.0) if background is None else (LEAST_FLOOR / len(points), MOST_FLOOR)
        # copies have distance 0; a scale at the points' own rounding would be a density of that rounding
        rounding = 100 * torch.finfo(points.dtype).eps * max(1.0, float(points.abs().max()))
        self.floor = max(1e-3 * self._typical(self.distances.shape[1]), rounding)
        self.history: list[dict[str, float]] = []
        self.best: Bandwidths | None = None
        self.bar = tqdm(desc="bandwidth", unit=" evaluations", disable=not progress)
        self.start = time.monotonic()
        self.deadline = math.inf if max_seconds is None else self.start + max_seconds

    def run(self) -> None:
        try:
            {"single": self._single, "adaptive": self._adaptive, "local": self._local}.get(self.mode, self._mixed)()
        except TimeoutError:
            pass
        finally:
            self.bar.close()

    def scales(self, k: int, factor: float) -> Scales:
        """The level of the widths ``factor * d_k``, or ``factor`` for k = 0."""
        return Scales(k, factor, self.distances, self.floor, self.kernel.max_scale)

    def evaluate(self, level: Level, **record: float) -> float:
        """Negative leave-one-out log-likelihood of one level and the background."""
        if time.monotonic() > self.deadline and self.best is not None:
            raise TimeoutError
        return self._judge([level], self.loo.scores(level).unsqueeze(1), record)

    def _judge(self, levels: list[Level], scores: Tensor, record: dict[str, float]) -> float:
        if self.covering is not None:
            scores = torch.cat([scores, self.covering], dim=1)
        weights = mixing_weights(scores, last_within=self.floor_range).weights
        nll = -float(log_mixed(scores, weights).mean())
        share, floor = weights[: len(levels)], 0.0 if self.covering is None else float(weights[-1])
        self.history.append({**record, "floor": floor, "loo_nll": nll, "seconds": time.monotonic() - self.start})
        if self.best is None or nll < self.best.loo:
            kept = share > NEGLIGIBLE * share.sum()
            chosen = [level for level, keep in zip(levels, kept.tolist(), strict=True) if keep]
            self.best = Bandwidths(chosen, share[kept] / share[kept].sum(), floor, nll)
            self.keep(self.best)
        self.bar.update()
        self.bar.set_postfix(nll=f"{self.best.loo:.4f}")
        return nll

    def _typical(self, k: int) -> float:
        """Median distance to the k-th neighbour, or to the first after it that is no copy."""
        values = self.distances[:, min(k, self.distances.shape[1]) - 1 :]
        first = torch.where(values > 0, values, torch.inf).amin(1)
        if not bool(torch.isfinite(first).any()):
            raise ValueError(f"Expected points that are not copies of each other, got {len(first)} that are. Remove copies.")
        return float(first[torch.isfinite(first)].median())

    def _single(self) -> None:
        center = math.log(self._typical(1))
        _brent(lambda log_s: self.evaluate(self.scales(0, math.exp(log_s)), neighbor=0, factor=math.exp(log_s)), center, 2.3)

    def _adaptive(self) -> None:
        previous, center, width = math.inf, 0.0, 2.3
        for k in self.candidates:

            def score(log_h: float, k: int = k) -> float:
                return self.evaluate(self.scales(k, math.exp(log_h)), neighbor=k, factor=math.exp(log_h))

            log_h, nll = _brent(score, center, width)
            if nll > previous:
                break
            # the next k wants scales of a similar size
            previous, center, width = nll, log_h + math.log(self._typical(k) / self._typical(2 * k)), 0.8

    def _mixed(self) -> None:
        """All levels at once, weighted by the EM algorithm; narrow ones are left out when time is up."""
        levels: list[Level] = [self.scales(0, s) for s in self._grid()]
        if self.mode == "combined":
            levels += [self.scales(k, h) for k in self.candidates for h in FACTORS]
        columns: list[Tensor] = []
        for level in levels:
            if columns and time.monotonic() > self.deadline:
                break
            columns.append(self.loo.scores(level))
            self.bar.update()
        self._judge(levels[: len(columns)], torch.stack(columns, dim=1), {"levels": len(columns)})

    def _grid(self) -> list[float]:
        """Scales from the spread of the data down to a third of the smallest distances, those of copies left out."""
        if self.given is not None:
            return sorted(self.given, reverse=True)
        close = self.distances[:, 0][self.distances[:, 0] > 0]
        low = max(float(close.quantile(0.01)) / 3 if len(close) else 0.0, self.floor)
        high = min(max(self._spread(), 2 * low), self.kernel.max_scale)
        steps = math.ceil(math.log(high / low) / math.log(RATIO))
        return [high * (low / high) ** (i / max(steps, 1)) for i in range(steps + 1)]

    def _spread(self) -> float:
        """The median distance of random pairs of data."""
        order = torch.randperm(len(self.points), generator=torch.Generator().manual_seed(0)).to(self.points.device)
        pairs = distance(self.kernel.manifold, self.points[order], self.points[order.roll(1)])
        return float(pairs.median()) / length_unit(self.kernel.manifold)

    def _local(self) -> None:
        check_frame(self.kernel, self.points[0])
        logs = neighbor_logs(self.kernel, self.points, self.near)
        unit = length_unit(self.kernel.manifold)
        floor2, previous, start = (unit * self.floor) ** 2, math.inf, (-0.7, -3.0)
        for k in self.candidates:
            typical = max(float((self.near.distances[:, :k] ** 2).mean(1).median()) / self.kernel.dim, floor2)

            def score(v: Any, k: int = k, typical: float = typical) -> float:
                factor, ridge = math.exp(min(v[0], 3.0)), max(typical * math.exp(min(v[1], 3.0)), floor2)
                level = Covariances(k, factor, ridge, logs)
                return self.evaluate(level, neighbor=k, factor=factor, ridge=ridge)

            simplex = [start, (start[0] + 0.7, start[1]), (start[0], start[1] + 1.5)]
            options = {"initial_simplex": simplex, "xatol": 0.3, "fatol": 2e-3, "maxfev": 24}
            found = minimize(score, start, method="Nelder-Mead", options=options)
            if found.fun > previous:
                break
            previous, start = float(found.fun), (float(found.x[0]), float(found.x[1]))


def _brent(function: Callable[[float], float], center: float, width: float) -> tuple[float, float]:
    found = minimize_scalar(function, bounds=(center - width, center + width), method="bounded", options={"xatol": 0.08})
    return float(found.x), float(found.fun)
