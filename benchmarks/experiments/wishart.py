"""A law of SPD matrices around a curve of scales: what of a fit comes from the family, and what from the flow.

The target is an integral of Wishart laws over a one-dimensional manifold of 10 x 10 scale matrices
(`benchmarks/problems/wishart.py`), of which training knows the log density by Lebesgue measure (512 nodes, converged to
1e-12) and its gradient, no samples.

The marginal flow has one latent dimension, 128 components a step, a network of two layers of 64, one global number of
degrees of freedom and 1000 steps, and starts at matrices around the identity. Its rivals have the same loss and as many CPU
seconds, and three times as many in a second row of the flow of Cholesky factors: a mixture of 128 free Wishart components
with one global number of degrees of freedom, started at the same points, and an autoregressive flow of the Cholesky factors
with splines (zuko's NSF, 4 transforms, 256 samples a step, learning rate 3e-3), started around the identity. The free
components separate the family from the flow: they share the first with the marginal flow, and the Cholesky flow neither.

KL(q || t) is the mean of log q - log t over 20 000 samples of the fit, KL(t || q) over 2000 of the target, with standard
errors. The picture shows the means of the components beside the true curve, in the first two principal components of its
logarithms.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import geoopt
import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.problems.wishart import WishartCurve
from benchmarks.rivals import CholeskyFlow
from benchmarks.rivals.fixed_mixture import FixedMixture
from benchmarks.rivals.optimise import minimise
from mf_manifold.losses import Batch, ReverseKL

if TYPE_CHECKING:
    from benchmarks.harness import Report

SPD = geoopt.SymmetricPositiveDefinite()
START = 0.1  # standard deviation of the start, in units of the metric
LONGER = 3  # times the CPU seconds of the flow


def run(report: Report) -> None:
    torch.set_num_threads(1)
    for seed in report.seeds:
        curve, mixtures = compare(report, seed)
        if seed == report.seeds[0]:
            report.figure(draw(curve, mixtures), "wishart", "Logarithms of the means of the components, and the true curve.")


def compare(report: Report, seed: int) -> tuple[WishartCurve, dict[str, mf.Mixture]]:
    """Rows of all methods for one seed; -> the target and the two mixtures."""
    quick = report.quick
    p, count, steps = (4, 16, 30) if quick else (10, 128, 1000)
    target = WishartCurve(p)
    objective = ReverseKL(target, measure="lebesgue", spread=START)
    began = time.process_time()
    flow = mf.MarginalFlow(
        SPD,
        (p, p),
        "wishart",
        n_components=count,
        latent_dim=1,
        hidden=(64, 64),
        n_frequencies=8,
        bandwidth=0.25,
        shared_shape=True,
    )
    flow.fit(objective=objective, seed=seed, max_steps=steps, patience=50, progress=False)
    seconds = time.process_time() - began
    start = objective.start(SPD, (p, p), count, torch.Generator().manual_seed(seed))
    free = fit_free(p, start, lambda model, batch: objective(model, batch), count, seed, 0.2 if quick else seconds)
    mixtures = {"marginal flow": flow.freeze(count), "free components": free}
    for method, mixture in mixtures.items():
        own = mixture.sample((500 if quick else 20_000,), torch.Generator().manual_seed(seed))
        log_q = partial(mixture.log_prob, measure="lebesgue")
        score(report, target, method, seed, own, log_q(own), log_q, seconds)
    for factor in (1, LONGER):
        budget = 0.2 if quick else factor * seconds
        rival = fit_cholesky(p, target, seed, budget)
        with torch.no_grad():  # its samples come with their densities, which would take an inversion each
            pairs = rival.rsample_and_log_prob(500 if quick else 20_000, torch.Generator().manual_seed(seed))
        score(report, target, "Cholesky flow", seed, *pairs, rival.log_prob, budget)
    return target, mixtures


def score(
    report: Report, target: WishartCurve, method: str, seed: int, own: Tensor, own_log_q: Tensor, log_q: Any, seconds: float
) -> None:
    """A row of both divergences, from a fit's own samples with their log densities, and from new ones of the target."""
    with torch.no_grad():
        reverse = own_log_q - torch.cat([target(x) for x in own.split(2000)])
        new = target.sample(len(own) // 10, seed=1000 + seed)
        forward = target(new) - log_q(new)
    errors = [float(d.std()) / math.sqrt(len(d)) for d in (reverse, forward)]
    report.row(
        method=method,
        seed=seed,
        kl_qt=float(reverse.mean()),
        kl_qt_se=errors[0],
        kl_tq=float(forward.mean()),
        kl_tq_se=errors[1],
        cpu_seconds=seconds,
    )


def fit_free(
    p: int, start: Tensor, objective: Any, count: int, seed: int, seconds: float, x: Tensor | None = None
) -> mf.Mixture:
    """A mixture of free components with one global number of degrees of freedom."""
    model = FixedMixture(SPD, (p, p), "wishart", start, math.sqrt(2 / (p + 1)), n_components=count, shared_shape=True)

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        rows = None if x is None else x[torch.randint(len(x), (256,), generator=generator)]
        value: Tensor = objective(model, Batch(rows, None, generator, count, progress))
        return value

    minimise(model, loss, seed=seed, max_seconds=seconds, learning_rate=1e-2)
    return model.freeze()


def fit_cholesky(p: int, target: WishartCurve, seed: int, seconds: float) -> CholeskyFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CholeskyFlow(p)
    with torch.no_grad():
        model.log_spread.fill_(math.log(0.3))

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        x, log_q = model.rsample_and_log_prob(256, generator)
        return (log_q - target(x)).mean()

    minimise(model, loss, seed=seed, max_seconds=seconds)
    return model


def draw(curve: WishartCurve, mixtures: dict[str, mf.Mixture]) -> Any:
    """Log means in the plane of the first two principal components of the true curve."""
    from matplotlib.figure import Figure

    true = mf.geometry.to_raw(SPD, curve.mean(torch.linspace(0, 1, 200, dtype=torch.float64)))
    center = true.mean(0)
    axes = torch.linalg.svd(true - center, full_matrices=False)[2][:2].mT
    figure = Figure(figsize=(4.2 * len(mixtures), 4), dpi=80, layout="constrained")
    for axis, (method, mixture) in zip(figure.subplots(1, len(mixtures)), mixtures.items(), strict=True):
        means = mf.geometry.to_raw(SPD, mixture.kernel.mean(mixture.params)) - center
        line, found = (true - center) @ axes, means @ axes
        axis.plot(*line.mT.numpy(), color="0.6", lw=4, label="true curve")
        weights = torch.full((len(found),), 1 / len(found)) if mixture.log_weights is None else mixture.log_weights.exp()
        axis.scatter(*found.mT.numpy(), s=6 + 600 * weights.numpy(), alpha=0.6, color="C3", lw=0, label=method)
        axis.set(title=method, aspect="equal")
        axis.legend(fontsize=7)
    return figure
