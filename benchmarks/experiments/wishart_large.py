"""Covariance matrices of 100 x 100, 5050 numbers each, around a curve of scales: maximum likelihood from 2000 of them.

The target is that of the experiment `wishart` at p = 100 (`benchmarks/problems/wishart.py`). The marginal flow has one
latent dimension, 64 components a step, a network of two layers of 64 and one global number of degrees of freedom, and takes
400 steps of 256 matrices. Its rivals are the one Wishart law of largest likelihood and a mixture of 64 free components with
one global number of degrees of freedom, started at data, trained by the same loss for as many CPU seconds.

The table has the mean log-likelihood per matrix of 500 new matrices by Lebesgue measure, minus that of the true density,
and the same for 500 matrices of the training set. 0 is the truth; scales of 5050 numbers cannot be found from 2000 matrices
without loss. The picture shows the means of the components beside the true curve, in the first two principal components of
its logarithms.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch

import mf_manifold as mf
from benchmarks.experiments.wishart import SPD, draw, fit_free
from benchmarks.problems.wishart import WishartCurve
from mf_manifold.losses import forward_kl

if TYPE_CHECKING:
    from benchmarks.harness import Report


def run(report: Report) -> None:
    torch.set_num_threads(1)
    for seed in report.seeds:
        curve, mixtures = compare(report, seed)
        if seed == report.seeds[0]:
            report.figure(
                draw(curve, mixtures), "wishart_large", "Logarithms of the means of the components, and the true curve."
            )


def compare(report: Report, seed: int) -> tuple[WishartCurve, dict[str, mf.Mixture]]:
    """Rows of all methods for one seed; -> the target and the two mixtures."""
    quick = report.quick
    p, count, steps, n = (6, 16, 20, 200) if quick else (100, 64, 400, 2000)
    target = WishartCurve(p, 256)
    x, new = target.sample(n, seed), target.sample(500, 1000 + seed)
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
    options = {"batch_size": 256, "learning_rate": 0.015, "patience": 50, "background": 0.0}
    flow.fit(x, seed=seed, max_steps=steps, progress=False, **options)
    seconds = time.process_time() - began
    began = time.process_time()
    kernel = mf.kernel_for(SPD, (p, p), "wishart")
    one = mf.Mixture(kernel, {name: value.unsqueeze(0) for name, value in kernel.fit(x).items()})
    alone = time.process_time() - began
    free = fit_free(p, x, forward_kl, count, seed, 0.2 if quick else seconds, x)
    fits = {"marginal flow": (flow.freeze(count), seconds), "free components": (free, seconds), "one Wishart law": (one, alone)}
    truth = target(new)
    for method, (mixture, cost) in fits.items():
        excess = mixture.log_prob(new, "lebesgue") - truth
        train = float((mixture.log_prob(x[:500], "lebesgue") - target(x[:500])).mean())
        report.row(
            method=method,
            seed=seed,
            excess_log_likelihood=float(excess.mean()),
            excess_se=float(excess.std()) / math.sqrt(len(excess)),
            excess_in_training=train,
            cpu_seconds=cost,
        )
    report.note(f"The true density has the held-out mean log-likelihood {float(truth.mean()):.1f} nats (seed {seed}).")
    return target, {"marginal flow": fits["marginal flow"][0], "free components": free}
