"""Whether a drawn mixture stands for the infinite one: effective components, bias, dimension, and a verdict."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import geometry
from .bases import on_device
from .dimension import gaussian_variance, local_dimension
from .interval import ENOUGH, Responsibilities
from .kernel import Params
from .mixture import Mixture

ROWS = 2048  # points and components that a diagnosis looks at
GROUPS = 16  # a pool of 16 M components holds 16 mixtures of M and 4 of 4 M
LOW_BIAS, LOW_SHARE = 0.01, 0.1  # nats; share of points
HIGH_DIMENSION = 5.0
MANY = 2.0**18  # components
SLOWEST = 0.1  # rate that a bias can fall with
DRAWS = 32  # of each component
LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found; ``print`` shows it as a table, :attr:`verdict` says what follows."""

    n_components: int
    n_points: int
    effective: tuple[float, ...]  # effective components, quantiles over the points
    untrusted: float  # share of points with fewer than 20
    scores: dict[int, float]  # mean log density under so many independent components
    rate: float  # the bias falls as n_components to minus this
    bias: float  # of the mean log density, in nats
    components_for_bias: float  # until the bias is 0.01 nats
    components_for_trust: float  # until 90 % of the points have 20 effective components
    dimension: float  # that the locations spread over, at the width of the kernels
    width: float  # of the kernels, relative to the spread of the locations in one of these dimensions
    frozen: dict[int, float] = field(default_factory=dict)  # mean log density under so many frozen components

    @property
    def gaussian(self) -> float:
        """Relative variance at the mode if locations were normal: so many components make one effective one."""
        return gaussian_variance(self.dimension, self.width)

    @property
    def components_needed(self) -> float:
        """Components for a low bias and trustworthy intervals."""
        return max(self.components_for_bias, self.components_for_trust)

    @property
    def verdict(self) -> str:
        """One sentence: enough components, how many are, or that the model is the wrong tool."""
        if self.untrusted <= LOW_SHARE and abs(self.bias) <= LOW_BIAS:
            return f"{self.n_components} components are enough to stand for the infinite mixture."
        needed = _count(self.components_needed)
        if self.components_needed <= MANY:
            return f"Freeze with about {needed} components: {self.n_components} are too few to stand for the infinite mixture."
        spread = f"kernels of relative width {self.width:.2g} over about {self.dimension:.1f} dimensions"
        if self.dimension > HIGH_DIMENSION:
            return (
                f"The wrong tool: {spread} would take some {needed} components. "
                "Take a kernel density or a flow, or reduce the dimension of the data first."
            )
        return (
            f"Kernels too narrow: {spread} would take some {needed} components. A frozen mixture is an exact density "
            "all the same; wider kernels or a smaller latent_dim make it a stable one."
        )

    def __str__(self) -> str:
        low, middle, high = (f"{value:.3g}" for value in self.effective)
        seen = "at least " if self.components_for_trust > max(self.scores) else ""  # beyond the pool, variances are too small
        rows = [
            ("components M", f"{self.n_components}"),
            ("points", f"{self.n_points}"),
            ("effective components at a point", f"{middle} (80 % of points: {low} to {high})"),
            ("points with fewer than 20", f"{self.untrusted:.1%}"),
            ("bias of the mean log density", f"{self.bias:.4f} nats, falling as M^-{self.rate:.2f}"),
            ("components for a bias of 0.01 nats", _count(self.components_for_bias)),
            ("components for 20 at 90 % of points", seen + _count(self.components_for_trust)),
            ("dimension of the locations", f"{self.dimension:.1f}"),
            ("width of the kernels, relative", f"{self.width:.3g}"),
            ("components for an effective one, if normal", _count(1 + self.gaussian)),
        ]
        rows += [(f"mean log density, {m} independent", f"{value:.4f}") for m, value in self.scores.items()]
        rows += [(f"mean log density, {m} frozen", f"{value:.4f}") for m, value in self.frozen.items()]
        return "\n".join([*(f"{name:<44}{value}" for name, value in rows), self.verdict])


def _count(value: float) -> str:
    if not math.isfinite(value):
        return "infinitely many"
    return f"{value:.0f}" if value < 1e5 else f"{value:.0e}"


def diagnose(
    pool: Mixture, x: Tensor, n_components: int | None = None, freeze: Callable[[int], Mixture] | None = None, seed: int = 0
) -> Diagnosis:
    """Diagnose mixtures of ``n_components`` independently drawn components against a pool of more of them.

    The pool is cut into 16 mixtures and into 4; how their scores rise towards that of the whole tells the bias and how fast it
    falls (Richardson extrapolation). Effective components are counted under the whole pool and scaled down.

    Args:
        pool: drawn components, such as ``flow(n_components=...)``. Components that were not drawn independently, as those of
            a kernel density, have no infinite mixture, and nothing to diagnose.
        x: points (N,*E), of which a random 2048 are used; held-out data, or samples of another draw.
        n_components: M; None takes all of the pool.
        freeze: gives frozen mixtures, whose scores at M, 4 M and 16 M are listed too.
        seed: of the choices of points and components.

    Raises:
        ValueError: a batch of mixtures, or fewer than 64 components.
    """
    if pool.batch_shape or pool.n_components < 64:
        raise ValueError(f"Expected a single mixture of at least 64 components, got {pool!r}.")
    generator = torch.Generator().manual_seed(seed)
    geometry.check_points(pool.manifold, x, pool.kernel.point_shape)
    x = x[torch.randperm(len(x), generator=generator)[:ROWS].to(x.device)]
    with torch.no_grad():
        pool = _shuffled(pool.detach(), generator)
        size = pool.n_components
        count = size if n_components is None else n_components
        scores = _scores(pool, x)
        biases, rate = _biases(scores)
        if count not in biases:
            raise ValueError(f"Expected n_components to be the pool's size, a quarter or a 16th: {list(biases)}, got {count}.")
        one = size / Responsibilities.of(pool, x).n_effective.double()  # components for an effective one
        dimension, width = _dimension_and_width(pool, generator)
        listed = (count, 4 * count, 16 * count)
        return Diagnosis(
            n_components=count,
            n_points=len(x),
            effective=tuple((count / one).clamp_min(1.0).quantile(torch.tensor(LEVELS).to(one)).tolist()),
            untrusted=float((count / one < ENOUGH).double().mean()),
            scores=scores,
            rate=rate,
            bias=-biases[count],
            components_for_bias=_size_for(biases, rate),
            components_for_trust=ENOUGH * float(one.quantile(1 - LOW_SHARE)),
            dimension=dimension,
            width=width,
            frozen={} if freeze is None else {m: float(freeze(m).log_prob(x).mean()) for m in listed},
        )


def _shuffled(pool: Mixture, generator: torch.Generator) -> Mixture:
    """As many of the components as make whole groups, in random order."""
    count = pool.n_components // GROUPS * GROUPS
    order = torch.randperm(pool.n_components, generator=generator)[:count].to(next(iter(pool.params.values())).device)
    return pool.weighted(None if pool.log_weights is None else pool.log_weights[order], order)


def _scores(pool: Mixture, x: Tensor) -> dict[int, float]:
    """Mean log density under mixtures of a 16th, a quarter and all of the components."""
    size = pool.n_components // GROUPS
    weights = x.new_zeros(pool.n_components) if pool.log_weights is None else pool.log_weights
    parts = [slice(i, i + size) for i in range(0, pool.n_components, size)]
    total = torch.stack([weights[part].logsumexp(0) for part in parts])
    log_q = torch.stack([pool.weighted(weights[part], part)._reduce(x) for part in parts]) + total.unsqueeze(1)
    result = {}
    for joined in (1, GROUPS // 4, GROUPS):
        value = log_q.unflatten(0, (-1, joined)).logsumexp(1) - total.unflatten(0, (-1, joined)).logsumexp(1).unsqueeze(1)
        value = pool._with_background(value, x)
        result[size * joined] = float(pool._to_measure(value, x.expand(*value.shape, *x.shape[1:]), None).double().mean())
    return result


def _biases(scores: dict[int, float]) -> tuple[dict[int, float], float]:
    """The distance of each score from its limit, and the rate at which it falls, if that is a power of the size.

    The sizes are a factor 4 apart. The rate is at most 1, that of large sizes; where few points are far in the tails
    the distance falls faster at first.
    """
    low, middle, high = scores.values()
    first, second = middle - low, high - middle
    if second <= 0:  # less than the noise
        rate, rest = 1.0, 0.0
    else:
        rate = min(max(math.log(max(first / second, 1e-9)) / math.log(4), SLOWEST), 1.0)
        rest = second / (4**rate - 1)
    return {size: max(high - value, 0.0) + rest for size, value in scores.items()}, rate


def _size_for(biases: dict[int, float], rate: float) -> float:
    """The size at which the bias is 0.01, between the known ones by a power law, beyond them at the rate."""
    known = list(biases.items())
    smallest, bias = known[0]
    if bias <= LOW_BIAS:
        return max(1.0, smallest * bias / LOW_BIAS)
    for (size, bias), (next_size, next_bias) in itertools.pairwise(known):
        if next_bias <= LOW_BIAS:
            step = math.log(bias / LOW_BIAS) / math.log(bias / max(next_bias, 1e-9))
            return size * (next_size / size) ** step
    size, bias = known[-1]
    return math.exp(min(math.log(size) + math.log(bias / LOW_BIAS) / rate, 700.0))


def _dimension_and_width(pool: Mixture, generator: torch.Generator | None) -> tuple[float, float]:
    """Dimension of the locations at the width of the kernels, and that width relative to the locations' spread.

    Means of draws stand for the locations, which not every family has among its parameters.
    """
    generator = on_device(generator, next(iter(pool.params.values())).device)
    index = pool._draw_components(ROWS, generator).unique()  # copies would look like a dimension of their own
    params: Params = {k: v if v.shape[0] == 1 else v[index] for k, v in pool.params.items()}
    params = pool.kernel.expand(params, (len(index),))
    draws = geometry.to_raw(pool.manifold, pool.kernel.rsample(params, (DRAWS,), generator)).double()
    points, dim = draws.mean(0), pool.kernel.dim
    width = math.sqrt(float(draws.var(0).sum(-1).median()) / dim)
    dimension = local_dimension(points, width)
    spread = math.sqrt(float(points.var(0).sum()) / max(dimension, 1.0))
    return dimension, width / spread
