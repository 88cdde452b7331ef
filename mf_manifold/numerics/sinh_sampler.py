r"""Exact samples of the Riemannian normal law on SPD matrices, for narrow and for wide scales, by rejection.

The log-eigenvalues l have the density ``prod_{i<j} 2 sinh(|l_i - l_j| / 2) exp(-sum l_i^2 / 2 s^2)``. Two envelopes:

- *Gaussian matrices.* With ``phi(h) = log sinhc(h / 2)`` the density is that of the eigenvalues of a Gaussian symmetric matrix
  times ``exp(sum_{i<j} phi(l_i - l_j))``. As ``phi(h) = sum_k log(1 + h^2 / (2 pi k)^2)`` is a conditionally negative definite
  kernel, for any law nu on the line with ``Phi = phi * nu``

  .. math:: \sum_{i<j} \phi(l_i - l_j) \le p \sum_i \Phi(l_i) - \tfrac{p^2}{2} \int \Phi \, d\nu,

  with a small loss if nu is like the l's: pairs are bounded by single eigenvalues, these by ``beta l_i^2 + constant``, which
  only widens the Gaussian. A nu of few atoms next to the best one comes from a convex programme.
- *Brownian motions.* For ordered l the product is ``prod_{i<j} (1 - exp(l_i - l_j)) exp(sum_j (j - (p+1)/2) l_j)``: independent
  normal variables around ``s^2 (j - (p+1)/2)``, accepted with the probability that Brownian motions from these points, ``s^2``
  apart, do not meet on the way. That is certain in the limit of wide scales.

Both acceptances are known from the normaliser; the better one is taken. It is at least 0.5 for p <= 5, 0.2 for p <= 8 and
0.002 for p <= 20, the least at scales around 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .linalg import sum_log_sinhc_gaps, unsvec
from .sinh_ensemble import log_noncolliding, log_normalizer, mean_square
from .special import log_sinhc

RATIO = 1.05  # of the scales at which envelopes are made
PROGRAMME_STEPS, ATOMS, CHECKED = 150, 161, 4001
LEAST_ACCEPTANCE = 1e-5
PROPOSALS, TRIES = 2**12, 64
Draws = tuple[Tensor, Tensor, Tensor]  # log-eigenvalues, frames, accepted


class Envelope(NamedTuple):
    """``sum_{i<j} phi <= beta |l - mean|^2 + bound``, and the logarithm of the acceptance at the largest scale it is for."""

    beta: float
    bound: float
    log_acceptance: float


def _phi(h: Tensor) -> Tensor:
    return log_sinhc(h / 2)


@lru_cache(maxsize=4096)
def envelope(p: int, index: int) -> Envelope:
    """Envelope for scales up to ``RATIO ** index``."""
    s = torch.tensor(RATIO**index, dtype=torch.float64, device="cpu")
    s2, free = float(s.square()), (p - 1) * (p + 2) / 4  # half the dimension of the traceless matrices
    gain = float(log_normalizer(s, p)) - (free + 0.5) * math.log(2 * math.pi * s2)

    def with_acceptance(beta: float, bound: float) -> Envelope:
        narrower = 1 - 2 * beta * s2
        return Envelope(beta, bound, gain + free * math.log(narrower) - bound if narrower > 0 else -math.inf)

    simple = with_acceptance(p / 24, 0.0)  # phi(h) <= h^2 / 24
    if p == 1 or simple.log_acceptance > -0.01:
        return simple
    spread = (float(mean_square(s, p)) - s2) / p
    return max(simple, with_acceptance(*_programme(p, s2, free, spread)), key=lambda e: e.log_acceptance)


def _programme(p: int, s2: float, free: float, spread: float) -> tuple[float, float]:
    """Beta and bound by pairwise Frank-Wolfe steps for the atoms of a symmetric nu, from atoms at the mean squared spread."""
    options = {"dtype": torch.float64, "device": "cpu"}
    x = torch.linspace(0, max(2.2 * math.sqrt(spread), 12.0 if spread < 4 else 0.0), ATOMS, **options)  # type: ignore[call-overload]
    x[int((x - math.sqrt(spread)).abs().argmin())] = math.sqrt(spread)
    gram = (_phi(x[:, None] - x) + _phi(x[:, None] + x)) / 2
    mass = torch.zeros_like(x)
    mass[int((x - math.sqrt(spread)).abs().argmin())] = 1.0
    potential, square, fractions = gram @ mass, x.square(), torch.linspace(1 / 64, 1, 64, **options)  # type: ignore[call-overload]
    for _ in range(PROGRAMME_STEPS):
        second = float(mass @ square)
        slope = p * (p * potential - _beta(p, s2, free, second) * square)
        to, away = int(slope.argmax()), int(slope.masked_fill(mass == 0, math.inf).argmin())
        if float(slope[to] - slope @ mass) < 0.01:
            break
        t = mass[away] * fractions
        curve = float(gram[to, to] + gram[away, away] - 2 * gram[to, away])
        rise, change = p * p * float(potential[to] - potential[away]), float(square[to] - square[away])
        moved = second + change * t
        loss = p * change * t / (2 * s2) - rise * t - p * p / 2 * curve * t.square() - free * moved.clamp_min(1e-300).log()
        best = float(t[int(loss.argmin())])
        mass[to], mass[away] = mass[to] + best, (mass[away] - best).clamp_min(0)
        potential = potential + best * (gram[to] - gram[away])
    beta = _beta(p, s2, free, float(mass @ square))
    return beta, _bound(p, beta, x[mass > 0], mass[mass > 0] / mass.sum())


def _beta(p: int, s2: float, free: float, second: float) -> float:
    """The widening for which the Gaussian matrix has the second moment of nu."""
    return max(1e-6, (1 - 2 * free * s2 / (p * second)) / (2 * s2))


def _bound(p: int, beta: float, atoms: Tensor, mass: Tensor) -> float:
    """Largest ``p sum_i (p Phi(l_i) - beta l_i^2) - p^2/2 int Phi d nu``, by a grid and a bound of what lies between its nodes.

    As ``phi' <= 1/2`` is concave, ``p Phi - beta x^2`` falls from ``p / (4 beta)`` on, beyond the atoms.
    """
    end = max(p / (4 * beta), float(atoms.max()))
    # two grids: narrow laws have their atoms close to 0
    grids = [torch.linspace(0, e, CHECKED, dtype=torch.float64, device="cpu") for e in (2 * float(atoms.max()), end)]
    most = []
    for x in grids:
        potential = ((_phi(x[:, None] - atoms) + _phi(x[:, None] + atoms)) / 2) @ mass
        step = float(x[1] - x[0])
        most.append(float((p * potential - beta * x.square()).max()) + step**2 / 8 * (p / 12 + 2 * beta))
    own = float(mass @ ((_phi(atoms[:, None] - atoms) + _phi(atoms[:, None] + atoms)) / 2) @ mass)
    return p * max(most) - p * p / 2 * own


def sample_tangent(scale: Tensor, p: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Log-eigenvalues (N,p) and orthogonal frames (N,p,p), float64, of the law around the identity, for scales (N).

    Raises:
        ValueError: a size so large that neither envelope accepts one proposal in 1e5.
    """
    s = scale.double()
    distinct, which = s.unique(return_inverse=True)
    index = (distinct.log() / math.log(RATIO)).ceil().long()
    envelopes = [envelope(p, int(i)) for i in index.tolist()]
    table = torch.tensor(envelopes, dtype=s.dtype, device=s.device).reshape(-1, 3)
    apart = log_noncolliding(distinct, p)[0]
    worst, brownian = torch.maximum(apart, table[:, 2])[which], (apart > table[:, 2])[which]
    table = table[which]
    if s.numel() and float(worst.min()) < math.log(LEAST_ACCEPTANCE):
        raise ValueError(
            f"Expected a scale and a matrix size for which samples are accepted, got {float(s[worst.argmin()]):.3g} at size "
            f"{p}, where only {float(worst.min().exp()):.0e} of the proposals are. Take a smaller size, or a scale below "
            f"{math.sqrt(3 / p):.2g}."
        )
    values, frames = s.new_empty(len(s), p), s.new_empty(len(s), p, p)
    for chosen, draw in ((~brownian, _gaussian), (brownian, _brownian)):
        rows = chosen.nonzero().squeeze(1)
        _fill(rows, lambda i, draw=draw: draw(s[i], table[i], p, generator), values, frames)  # type: ignore[misc]
    return values, frames


def _fill(todo: Tensor, draw: Callable[[Tensor], Draws], values: Tensor, frames: Tensor) -> None:
    """The first accepted proposal for every row; late rounds make several proposals a row."""
    while len(todo):
        tries = max(1, min(TRIES, PROPOSALS // len(todo)))
        drawn, u, accepted = draw(todo.repeat_interleave(tries))
        accepted = accepted.reshape(-1, tries)
        done = accepted.any(1)
        first = (accepted.int().argmax(1) + tries * torch.arange(len(todo), device=todo.device))[done]
        values[todo[done]], frames[todo[done]] = drawn[first], u[first]
        todo = todo[~done]


def _log_uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device).log()


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _gaussian(s: Tensor, table: Tensor, p: int, generator: torch.Generator | None) -> Draws:
    noise = unsvec(_normal((len(s), p * (p + 1) // 2), s, generator))
    shape, frames = torch.linalg.eigh(noise)
    trace = shape.mean(-1, keepdim=True)  # independent of the rest, and not widened
    beta, bound = table[:, 0], table[:, 1]
    widened = s / torch.sqrt(1 - 2 * beta * s.square())
    shape = widened.unsqueeze(-1) * (shape - trace)
    level = sum_log_sinhc_gaps(shape) - beta * shape.square().sum(-1) - bound
    return shape + s.unsqueeze(-1) * trace, frames, level >= _log_uniform(s, generator)


def _brownian(s: Tensor, table: Tensor, p: int, generator: torch.Generator | None) -> Draws:
    start = torch.arange(p, dtype=s.dtype, device=s.device) - (p - 1) / 2
    values = s.unsqueeze(-1).square() * start + s.unsqueeze(-1) * _normal((len(s), p), s, generator)
    row, column = torch.triu_indices(p, p, 1, device=s.device)
    gaps = values[:, column] - values[:, row]
    ordered = (gaps > 0).all(-1)
    level = torch.log(-torch.expm1(-torch.where(gaps > 0, gaps, 1.0))).sum(-1)
    # Haar up to the signs of columns, which no function U f(l) U^T sees
    frames = torch.linalg.qr(_normal((len(s), p, p), s, generator)).Q
    return values, frames, ordered & (level >= _log_uniform(s, generator))
