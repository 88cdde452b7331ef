"""Check of mean, entropy, divergence and fit, where a family has them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import geometry
from ..distributions import KernelDistribution
from ..kernel import Kernel, Params
from .density import generator_for, to_dtype
from .integrals import critical_z
from .perturb import num_deltas, perturbed
from .report import demand, named_check
from .steps import distance
from .structure import demand_close

SAMPLES, FITTED = 2**14, 400
MEAN_KINDS = (None, "frechet", "extrinsic")


def _offered(function: Callable[[], Tensor | Params]) -> Tensor | Params | None:
    """What a family offers, None if it says that it has no such thing."""
    try:
        return function()
    except NotImplementedError as error:
        demand(len(str(error)) > 20, "NotImplementedError without a sentence that says what is missing")
        return None


def _demand_average(terms: Tensor, expected: Tensor, what: str) -> None:
    """Demand that the mean of ``terms`` (N,k) is ``expected`` (k) but for chance."""
    error = terms.std(0) / len(terms) ** 0.5
    z, limit = (terms.mean(0) - expected).abs() / (error + 1e-7 * (1 + expected.abs())), critical_z(terms.shape[1])
    worst = int(z.argmax())
    demand(
        bool(z[worst] <= limit),
        f"{what} is {float(expected[worst]):.8g}, {float(terms.mean(0)[worst]):.8g} +- {float(error[worst]):.1e} over samples",
    )


@named_check("statistics")
def check_statistics(kernel: Kernel, params: Params, *, seed: int = 0) -> None:
    """Mean, entropy and divergence agree with averages over samples; a fit beats the true parameters and counts weights.

    What a family does not have raises ``NotImplementedError`` and is passed over.
    """
    w, generator = to_dtype(params, torch.float64), generator_for(seed)
    dist = KernelDistribution(kernel, w)
    x = dist.sample((SAMPLES,), generator=generator)
    log_q = dist.log_prob(x)
    entropy = _offered(dist.entropy)
    if isinstance(entropy, Tensor):
        demand(entropy.shape == (), f"the entropy of one distribution has shape {tuple(entropy.shape)}")
        _demand_average(-log_q.unsqueeze(-1), entropy.unsqueeze(-1), "entropy")
    _demand_mean(dist, x)
    _demand_divergence(dist, x, log_q, generator)
    _demand_fit(dist, x[:FITTED], generator)


def _demand_mean(dist: KernelDistribution, x: Tensor) -> None:
    kind = dist.kernel.mean_kind
    demand(kind in MEAN_KINDS, f"mean_kind is {kind!r}, expected one of {MEAN_KINDS}")
    mean = _offered(lambda: dist.mean)
    demand((mean is None) == (kind is None), f"mean_kind is {kind!r}, but mean is {'missing' if mean is None else 'there'}")
    if not isinstance(mean, Tensor):
        return
    geometry.check_points(dist.manifold, mean, tuple(dist.event_shape), "mean")
    if kind == "frechet":
        steps = geometry.logmap(dist.manifold, mean.unsqueeze(0), x).flatten(1)
        _demand_average(steps, torch.zeros_like(steps[0]), "mean direction of geodesics from the Frechet mean")
        return
    # the projection is no linear map, but its differential annihilates what the mean lacks: compare along it
    average = x.mean(0).requires_grad_()
    projected = geometry.project(dist.manifold, average).flatten()
    rows = [torch.autograd.grad(entry, average, retain_graph=True)[0].flatten() for entry in projected]
    moves = (x - x.mean(0)).flatten(1) @ torch.stack(rows).T + projected.detach()
    _demand_average(moves, mean.flatten(), "projected mean")


def _demand_divergence(dist: KernelDistribution, x: Tensor, log_q: Tensor, generator: torch.Generator) -> None:
    kernel, w = dist.kernel, dist.params
    deltas = {
        k: 0.05 * torch.randn(1, num_deltas(kernel, k, v), generator=generator, dtype=torch.float64) for k, v in w.items()
    }
    unit = float(distance(kernel.manifold, x[:32], x[32:64]).mean())
    moved = {k: v.squeeze(0) for k, v in perturbed(kernel, w, deltas, unit).items()}
    for other, tolerance in ((w, 1e-9), (moved, None)):
        target = KernelDistribution(kernel, other)
        divergence = _offered(lambda: torch.distributions.kl_divergence(dist, target))  # noqa: B023
        if not isinstance(divergence, Tensor):
            return
        if tolerance is not None:
            demand_close(divergence, torch.zeros_like(divergence), "divergence from itself", tolerance)
        else:
            terms = (log_q - target.log_prob(x)).unsqueeze(-1)
            _demand_average(terms, divergence.unsqueeze(-1), "divergence")


def _demand_fit(dist: KernelDistribution, x: Tensor, generator: torch.Generator) -> None:
    fitted = _offered(lambda: dist.fit(x).params)
    if fitted is None:
        return
    law = dist.fit(x)
    gain = float((law.log_prob(x) - dist.log_prob(x)).mean())
    demand(gain >= -1e-8, f"the true parameters beat the fitted ones by {-gain:.2e} nats a point")
    counts = torch.randint(0, 3, (len(x),), generator=generator)
    repeated = x.repeat_interleave(counts, 0)
    by_weight, by_count = dist.fit(x, counts.double()).log_prob(repeated).mean(), dist.fit(repeated).log_prob(repeated).mean()
    demand_close(by_weight, by_count, "likelihood of a weighted fit against one of repeated points", 1e-7)
