"""Markov chains in the latent space of a trained flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import geoopt
import torch
from torch import Tensor, nn

from ..bases import on_device
from ..distributions import ManifoldDistribution
from ..estimator import LazyDistribution
from .chains import Chains
from .langevin import Langevin, proposal_kernel
from .riemannian import Run

LAWS = ("tempered", "exact")
CANDIDATES = 16  # for each chain, of starts
ROWS = 2**14  # points mapped at once


class Pushforward(Protocol):
    """What maps noise to data."""

    def to_data(self, z: Tensor) -> Tensor:
        """The image of latent points; (*S,m) -> (*S,d)."""


def latent_mala(
    flow: Pushforward | ManifoldDistribution,
    n: int = 500,
    *,
    law: str = "tempered",
    power: float | None = None,
    metric: bool = False,
    base: ManifoldDistribution | None = None,
    log_det: Callable[[Tensor], Tensor] | None = None,
    chains: int = 64,
    start: str | Tensor = "spread",
    warmup: int = 200,
    jump_share: float = 0.2,
    step: float | None = None,
    target_acceptance: float = 0.574,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Chains:
    r"""Samples of a trained flow without the bridges between its modes, by Langevin chains in its latent space.

    **The chains do not follow the flow's own law** :math:`q_X` **unless** ``law="exact"``. With the law of the noise
    :math:`q_Z`, the flow's map f and its Jacobian J they follow, for ``law="tempered"`` with the power b = 1,

    .. math:: \pi(z) \propto q_Z(z) \, |\det J(z)|^{-b}, \qquad
              x = f(z) \sim \frac{q_X(x)^{1 + b}}{q_Z(f^{-1}(x))^{b}} \text{ up to a constant}

    which thins out where f stretches the noise, as it must between modes when the noise has a single one. It changes everything
    else too: weights of modes, spread, tails. Maps that stretch alike everywhere, linear or additive couplings, change nothing.
    The law exists only where :math:`E_{q_Z} |\det J|^{-b}` is finite, which no program can find out: maps that saturate
    (a sigmoid or a distribution function as last layer) violate it.

    Local moves are those of :func:`mf_manifold.mcmc.mala` on the latent space, with ``metric=True`` in the metric
    :math:`G = J^T J`:

    .. math:: z' \sim N\Bigl(z + \tfrac{h^2}{2} G^{-1} \nabla \log \pi(z), \; h^2 G(z)^{-1}\Bigr)

    A share ``jump_share`` of the steps are global: :math:`z' \sim q_Z`, accepted with
    :math:`\min(1, |\det J(z)|^b / |\det J(z')|^b)`. The flow is not changed.

    This is a reconstruction from the abstract, the introduction and a figure of the paper below; its algorithm may differ.

    **Measure**: of ``log_prob``, the volume of the latent space (Lebesgue). **Exactness**: of Markov chains, in the limit.

    Args:
        flow: a model with ``to_data`` and ``to_latent`` whose frozen distribution has a ``base``, such as
            :class:`mf_manifold.models.Flow`, or that distribution; any object with ``to_data``, given ``base`` and ``log_det``.
        n: draws of each chain that are kept.
        law: ``"tempered"``, or ``"exact"``, which returns the flow's law and is a check of the chains.
        power: b of the tempered law; None for 1.
        metric: whether local moves use the metric of the data space, at the cost of one derivative for each of its dimensions.
        base: law of the noise; None for that of the flow, frozen with seed 0 where it draws components.
        log_det: latent points (m,k) -> ``log |det J|`` (m), or half of ``log det J^T J`` where the image has more dimensions;
            None takes it from the flow's ``to_latent``.
        chains: number of chains.
        start: ``"spread"`` for points far from each other in data space, so that all modes are among them and R-hat can tell
            whether chains mix; ``"base"`` for draws of the noise, which hide that; or latent points (chains,k), such as
            ``flow.to_latent(data)[0]``.
        warmup: steps before the draws, in which the step is adapted.
        jump_share: share of global steps.
        step, target_acceptance, generator: as for :func:`mf_manifold.mcmc.mala`.

    Returns:
        Chains of points in data space, with their ``latents``.

    Raises:
        ValueError: options out of range, a flow without base or Jacobian, chains that do not move.

    Reference: reconstructed from Coeurdoux, Dobigeon, Chainais (2024), Normalizing flow sampling with Langevin dynamics in the
        latent space, arXiv 2305.12149; Girolami, Calderhead (2011), Riemann manifold Langevin and Hamiltonian Monte Carlo
        methods, section 5 (simplified proposals with a metric).

    >>> import geoopt, torch, mf_manifold as mf
    >>> from mf_manifold.mcmc import latent_mala
    >>> class Stretched:                                                   # two modes: |f'| is large between them
    ...     def to_data(self, z):
    ...         return z + 4 * torch.tanh(3 * z)
    >>> base = mf.distribution(geoopt.Euclidean(ndim=1), loc=torch.zeros(1, dtype=torch.float64), scale=1.0)
    >>> def log_det(z):
    ...     return torch.log1p(12 / torch.cosh(3 * z[:, 0]) ** 2)
    >>> g = torch.Generator().manual_seed(0)
    >>> between = {}
    >>> for law in ("exact", "tempered"):
    ...     chains = latent_mala(Stretched(), law=law, base=base, log_det=log_det, generator=g, progress=False)
    ...     between[law] = round(float((chains.points.abs() < 2).double().mean()), 2)
    >>> between                                                           # of the mass; 0.131 and 0.020 by quadrature
    {'exact': 0.13, 'tempered': 0.02}
    """
    if law not in LAWS or (law == "exact" and power is not None):
        raise ValueError(f"Expected law in {', '.join(LAWS)}, a power for the tempered one only, got {law!r} and {power}.")
    b = 0.0 if law == "exact" else 1.0 if power is None else power
    maps, noise = parts(flow, base, log_det)
    generator = on_device(generator, place(maps, start))
    with held(maps):
        target = latent_target(maps, noise, log_det, b)
        options = {"covariance": "full"} if metric else {}
        kernel = proposal_kernel(noise.manifold, tuple(noise.point_shape), **options)
        local = Langevin(target, kernel, (lambda z: metric_of(maps, z)) if metric else None)
        begin = starts(maps, noise, target, chains, start, generator)
        run = Run(local, begin, n, warmup, step, target_acceptance, noise, jump_share, generator)
        found = run.chains(named(b), progress)
        with torch.no_grad():
            images = torch.cat([maps.to_data(z) for z in found.points.split(ROWS)])
    space = getattr(flow, "manifold", geoopt.Euclidean(ndim=1))
    samples = images.reshape(*found.samples.shape[:2], *images.shape[1:])
    return replace(found, samples=samples, manifold=space, latents=found.samples)


def named(b: float) -> str:
    """The law of the samples in words."""
    if b == 0:
        return "the flow's own law q_X"
    return f"tempered: q_X(x)^{1 + b:g} / q_Z(z)^{b:g} up to a constant, not q_X"


def parts(flow: Any, base: ManifoldDistribution | None, log_det: object) -> tuple[Any, ManifoldDistribution]:
    """The map and the law of the noise."""
    maps = getattr(flow, "flow", flow) if isinstance(flow, ManifoldDistribution) else flow
    if base is None:
        base = getattr(flow.freeze() if isinstance(flow, LazyDistribution) else flow, "base", None)
    if not isinstance(base, ManifoldDistribution):
        raise ValueError(f"Expected a flow whose frozen distribution has a base, got {type(flow).__name__}. Pass base=.")
    if not hasattr(maps, "to_data") or (log_det is None and not hasattr(maps, "to_latent")):
        raise ValueError(
            f"Expected a flow with to_data and to_latent, got {type(maps).__name__}. Pass log_det= for the latter."
        )
    return maps, base


def place(maps: object, start: object) -> torch.device:
    """Where the latent points are."""
    held = [start] if isinstance(start, Tensor) else list(maps.parameters()) if isinstance(maps, nn.Module) else []
    return held[0].device if held else torch.device("cpu")


@contextmanager
def held(flow: object) -> Iterator[None]:
    """Keep the weights of a flow out of all gradients meanwhile."""
    weights = [p for p in flow.parameters() if p.requires_grad] if isinstance(flow, nn.Module) else []
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def latent_target(
    maps: Any, base: ManifoldDistribution, log_det: Callable[[Tensor], Tensor] | None, power: float
) -> Callable[[Tensor], Tensor]:
    """The log density ``log q_Z(z) - b log|det J(z)|`` of latent points (m,k) -> (m)."""
    stretch = log_det or (lambda z: -maps.to_latent(maps.to_data(z))[1])
    return lambda z: base.log_prob(z, "riemannian") - (power * stretch(z) if power else 0.0)


def metric_of(maps: Any, z: Tensor) -> Tensor:
    """``J^T J`` of the map at latent points (m,k); (m,k,k)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        columns = maps.to_data(z).flatten(1).unbind(1)
        rows = [torch.autograd.grad(column.sum(), z, retain_graph=True)[0] for column in columns]
    jacobian = torch.stack(rows, dim=1)
    return jacobian.mT @ jacobian


@torch.no_grad()
def starts(
    maps: Any,
    base: ManifoldDistribution,
    target: Callable[[Tensor], Tensor],
    chains: int,
    start: str | Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Latent points (chains,k) where chains begin."""
    if isinstance(start, Tensor):
        return start
    if start not in ("spread", "base") or chains < 1:
        raise ValueError(f"Expected chains and start='spread', 'base' or latent points, got {chains} and {start!r}.")
    if start == "base":
        return base.sample((chains,), generator)
    z = base.sample((CANDIDATES * chains,), generator)
    z = z[target(z).argsort(descending=True)[: len(z) // 2]]
    return z[far_apart(maps.to_data(z).flatten(1), chains)]


def far_apart(x: Tensor, count: int) -> Tensor:
    """Indices of ``count`` of the points (n,d), each the farthest from those before it, in standardised coordinates.

    Reference: Gonzalez (1985), Clustering to minimize the maximum intercluster distance.
    """
    x = (x - x.mean(0)) / x.std(0).clamp_min(torch.finfo(x.dtype).tiny)
    chosen, distance = [0], (x - x[0]).square().sum(-1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(-1))
    return torch.tensor(chosen, device=x.device)
