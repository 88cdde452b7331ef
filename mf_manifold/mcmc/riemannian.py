"""Metropolis-adjusted Langevin chains on manifolds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import geometry
from ..bases import on_device
from ..distributions import ManifoldDistribution
from ..losses import by_volume
from ..measure import Measure
from .adaptation import DualAveraging
from .chains import Chains
from .langevin import Langevin, State, proposal_kernel

STUCK = 0.01  # mean acceptance below which chains do not move


def mala(
    log_prob: Callable[[Tensor], Tensor],
    manifold: geoopt.Manifold,
    start: Tensor,
    n: int = 1000,
    *,
    warmup: int = 500,
    measure: Measure | str | None = None,
    kernel: str | None = None,
    step: float | None = None,
    target_acceptance: float = 0.574,
    jumps: ManifoldDistribution | None = None,
    jump_share: float = 0.2,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Chains:
    r"""Metropolis-adjusted Langevin chains for a density on a manifold that is known up to a constant.

    .. math:: y \sim q\Bigl(\cdot \Bigm| \exp_x\bigl(\tfrac{h^2}{2} \nabla \log \pi(x)\bigr), h\Bigr), \quad
              \alpha = \min\Bigl(1, \frac{\pi(y)\, q(x \mid m(y), h)}{\pi(x)\, q(y \mid m(x), h)}\Bigr)

    with a kernel q of this library, whose density is exactly normalised, and the Riemannian gradient; ``m`` is the point in the
    bracket. On R^d with its normal kernel this is the plain algorithm. All chains move at once and share the step h, which
    is adapted in the warm-up only (:class:`mf_manifold.mcmc.adaptation.DualAveraging`).

    With ``jumps``, a share of the steps propose for all chains draws y of that law r instead, accepted with
    ``min(1, pi(y) r(x) / (pi(x) r(y)))``: where r covers the modes, chains travel between them.

    A mixture, such as a frozen marginal flow, needs no chains: its ``sample`` is exact and independent. Chains are for
    posteriors, tempered densities, products of densities.

    **Measure**: of ``log_prob``, ``measure``; the Riemannian volume by default. Gradients are taken of the density by volume.

    Args:
        log_prob: log density up to a constant, (m,*E) -> (m), differentiable; ``-inf`` where there is no mass.
        manifold: where the points are.
        start: where the chains begin (m,*E); m is the number of chains.
        n: draws of each chain that are kept.
        warmup: steps before them.
        measure: what the target is a density of.
        kernel: name of the proposals' kernel; None for the wrapped normal law, or the manifold's default where there is none.
        step: h in units of the metric, at first, and for good with ``warmup=0``; None for a guess from the gradient.
        target_acceptance: of local moves.
        jumps: a law that is drawn from for global moves.
        jump_share: share of the steps that are global where there are ``jumps``.
        generator: source of all randomness.

    Raises:
        ValueError: options out of range, starts off the manifold or where the density is not finite, a target without
            gradients, chains that do not move.

    Reference: Roberts, Tweedie (1996), Exponential convergence of Langevin distributions and their discrete approximations,
        section 1.4; Roberts, Rosenthal (1998), Optimal scaling of discrete approximations to Langevin diffusions (0.574).

    >>> import geoopt, torch, mf_manifold as mf
    >>> from mf_manifold.mcmc import mala
    >>> sphere, g = geoopt.Sphere(), torch.Generator().manual_seed(0)
    >>> start = mf.geometry.sample_uniform(sphere, (3,), (50,), generator=g, dtype=torch.float64)
    >>> chains = mala(lambda x: 5 * x[:, 2], sphere, start, 400, warmup=200, generator=g, progress=False)
    >>> bool((chains.points[:, 2].mean() - (1 / torch.tanh(torch.tensor(5.0)) - 0.2)).abs() < 0.01)    # coth 5 - 1/5
    True
    >>> bool(chains.rhat().max() < 1.02)
    True
    """
    target = _target(log_prob, manifold, start, measure)
    local = Langevin(target, proposal_kernel(manifold, tuple(start.shape[1:]), kernel))
    run = Run(local, start, n, warmup, step, target_acceptance, jumps, jump_share, generator)
    return run.chains("the density given", progress)


def _target(
    log_prob: Callable[[Tensor], Tensor], manifold: geoopt.Manifold, start: Tensor, measure: Measure | str | None
) -> Callable[[Tensor], Tensor]:
    """The log density by the Riemannian volume."""
    shape = tuple(start.shape[1:])
    geometry.check_manifold(manifold, shape)
    geometry.check_points(manifold, start, shape, "start")
    return lambda x: by_volume(log_prob, x, measure, manifold, shape)


class Run:
    """All chains side by side, through the warm-up and the draws that are kept."""

    def __init__(
        self,
        local: Langevin,
        start: Tensor,
        n: int,
        warmup: int,
        step: float | None,
        target_acceptance: float,
        jumps: ManifoldDistribution | None,
        jump_share: float,
        generator: torch.Generator | None,
    ) -> None:
        if n < 1 or warmup < 0 or len(start) < 1 or (step is not None and not step > 0):
            raise ValueError(f"Expected chains, n >= 1, warmup >= 0, step > 0, got {len(start)}, {n}, {warmup}, {step}.")
        if not 0 < target_acceptance < 1 or not 0 <= jump_share <= 1:
            raise ValueError(
                f"Expected a target_acceptance in (0, 1) and a jump_share in [0, 1], got {target_acceptance} and {jump_share}."
            )
        if jumps is not None and (jumps.batch_shape or not geometry.same_manifold(jumps.manifold, local.manifold)):
            raise ValueError(f"Expected a single law on {local.manifold.name} as jumps, got {jumps}.")
        self.local, self.n, self.warmup, self.jumps = local, n, warmup, jumps
        self.jump_share = 0.0 if jumps is None else jump_share
        self.generator = on_device(generator, start.device)
        self.state = self.begin(start.detach().as_subclass(Tensor))
        self.steps = DualAveraging(self.guess() if step is None else step, target_acceptance, self.largest())

    def begin(self, start: Tensor) -> State:
        """The first state, where the density has to be finite."""
        state = self.local.at(start)
        bad = state.broken | ~state.log_prob.isfinite()
        if bad.any():
            raise ValueError(
                f"Expected a start where the log density and its gradient are finite, but at {int(bad.sum())} of {len(bad)} "
                f"points they are not, first row {int(bad.nonzero()[0])}. Start where the density has mass."
            )
        return state

    def guess(self) -> float:
        """A step whose drift does not exceed the noise anywhere."""
        return 1.0 / max(1.0, float(self.state.length.max()) / math.sqrt(self.local.kernel.dim))

    def largest(self) -> float:
        """The largest step: that of the kernel, and on compact manifolds their size."""
        kernel = self.local.kernel
        volume = geometry.log_volume(kernel.manifold, kernel.point_shape)
        return min(kernel.max_scale, 1e10, math.exp(min(volume / kernel.dim, 23.0)))

    def move(self, step: float) -> tuple[Tensor, bool, Tensor]:
        """One step of all chains; -> acceptance probabilities (m), whether it was global, broken proposals (m)."""
        device, far = self.state.x.device, False
        if self.jumps is not None:
            far = float(torch.rand((), generator=self.generator, device=device)) < self.jump_share
        if far and self.jumps is not None:
            new, log_ratio = self.local.jump(self.state, self.jumps, self.generator)
        else:
            new, log_ratio = self.local.propose(self.state, step, self.generator)
        if log_ratio.isnan().any():
            raise FloatingPointError(
                f"Expected numbers as Metropolis ratios, got NaN for {int(log_ratio.isnan().sum())} chains."
            )
        uniform = torch.rand(log_ratio.shape, generator=self.generator, dtype=torch.float64, device=device)
        self.state = chosen(uniform.log() < log_ratio, new, self.state)
        return log_ratio.exp().clamp_max(1.0), far, new.broken

    @torch.no_grad()
    def chains(self, law: str, progress: bool) -> Chains:
        """Run."""
        total, m = self.warmup + self.n, len(self.state.x)
        x, log_prob = self.state.x.new_empty(self.n, *self.state.x.shape), self.state.log_prob.new_empty(self.n, m)
        sums, counts, scales = torch.zeros(2, m, dtype=torch.float64, device="cpu"), [0, 0], []
        broken = 0
        for t in tqdm(range(total), desc="chains", unit="step", disable=not progress):
            adapting = t < self.warmup
            scales.append(self.steps.current if adapting or self.warmup == 0 else self.steps.average)
            acceptance, far, bad = self.move(scales[-1])
            if adapting:
                if not far:
                    self.steps.update(float(acceptance.mean()))
                continue
            x[t - self.warmup], log_prob[t - self.warmup] = self.state.x, self.state.log_prob
            sums[int(far)] += acceptance.double().cpu()
            counts[int(far)] += 1
            broken += int(bad.sum())
        near, wide = (sums[i] / counts[i] if counts[i] else sums.new_full((m,), math.nan) for i in (0, 1))
        check_movement(near, wide, scales[-1], broken / (self.n * m))
        return Chains(
            samples=x.movedim(0, 1).contiguous(),
            law=law,
            manifold=self.local.manifold,
            log_prob=log_prob.mT.contiguous(),
            acceptance=near,
            jump_acceptance=wide,
            steps=torch.tensor(scales, dtype=torch.float64, device="cpu"),
            warmup=self.warmup,
            broken=broken / (self.n * m),
        )


def chosen(accepted: Tensor, new: State, old: State) -> State:
    """The new state of the chains that accepted, the old one of the others."""

    def pick(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.where(accepted.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return State(*(pick(a, b) for a, b in zip(new, old, strict=True)))  # type: ignore[arg-type]


def check_movement(near: Tensor, wide: Tensor, step: float, broken: float) -> None:
    """Raise where chains hardly move; warn of proposals where the density was not a number."""
    if float(torch.stack([near, wide]).nan_to_num(0.0).amax(0).mean()) < STUCK:
        raise ValueError(
            f"Expected chains that move, but their mean acceptance is {float(near.nan_to_num(0.0).mean()):.1e} at step "
            f"{step:.1e}. Give a smaller step, a longer warmup, or a start nearer to the mass."
        )
    if broken > 0:
        warnings.warn(
            f"At {broken:.2%} of the proposals the density or its gradient was not a number. They were rejected: the "
            "chains follow the density restricted to where it can be computed.",
            stacklevel=4,
        )
