"""Densities on tori: how far each estimator is from the truth, and how well it predicts torsion angles.

Data. Three laws on T^2 and T^5 whose density is known (`benchmarks/problems/torus.py`), 4000 points to fit and 2000
to test, drawn anew for every seed; and the backbone torsions (phi, psi) of simulated alanine dipeptide, every second
frame, where blocks of 400 frames stay on one side of the 80/10/10 split.

Methods. Kernel densities (with local covariances on T^2 only: their cost grows with the number of windings,
exponentially in the dimension); mixtures by the EM algorithm; a neural spline flow on circles (five layers, 8 bins,
conditioners of two layers of 128 units that see angles by cosine and sine); the marginal flow (1024 components in
training, frozen with 8192) and the flow anchored at the data. What selects a model is a tenth of the rows.

How to read the table. `nll` is the mean negative log density of the test points in nats, by radians; the uniform law
has 1.838 d. `difference` is taken on the same test points to the adaptive kernel density, negative is better; `kl` is
the excess over the true density. Standard errors are over the seeds, which draw new data, splits and fits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.comparison import LogDensity, Method, compare
from benchmarks.problems.torus import TARGETS
from benchmarks.rivals import SplineFlow
from mf_manifold.anchors import AnchoredFlow
from mf_manifold.kernel_mixture import KernelMixture

if TYPE_CHECKING:
    from benchmarks.harness import Report

TORUS = mf.manifolds.Torus()


def run(report: Report) -> None:
    """Compare on the known laws, then on the torsions."""
    torch.set_num_threads(1)
    for name, target in TARGETS.items():
        sizes = [160, 40, 100] if report.quick else [3600, 400, 2000]

        def draw(seed: int, target: Any = target, sizes: list[int] = sizes) -> tuple[Tensor, ...]:
            return target.sample(sum(sizes), seed).split(sizes)

        compare(report, name, draw, methods(target.dim, report.quick), rival="kernel density, adaptive", truth=target.log_prob)
    data = mf.datasets.alanine_dipeptide(every=40 if report.quick else 2)

    def blocks(seed: int) -> tuple[Tensor, ...]:
        return tuple(data.points[rows] for rows in mf.datasets.split(data.points, seed, groups=data.groups))

    first = report.seeds[:1]
    fits = compare(report, data.name, blocks, methods(2, report.quick), rival="kernel density, adaptive", keep=first)
    report.figure(picture(fits, blocks(report.seeds[0])[2]), "alanine", "Fitted log densities of the torsions, first seed.")


def methods(dim: int, quick: bool) -> dict[str, Method]:
    """Every estimator, ready to be fitted to points of T^dim."""
    shape = (dim,)

    def kernel_density(bandwidth: str) -> Method:
        def fit(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
            kde = mf.KernelDensity(TORUS, shape, bandwidth=bandwidth)
            scored = 400 if bandwidth == "local" else None  # covariances of their own cost the most for each pair
            return kde.fit(torch.cat([train, validation]), seed=seed, n_scored=scored, progress=False).freeze().log_prob

        return fit

    def mixture(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        model = KernelMixture(TORUS, shape, n_components=(2, 3) if quick else (10, 40))
        model.fit(torch.cat([train, validation]), seed=seed, restarts=1, max_steps=3 if quick else 100, progress=False)
        return model.freeze().log_prob

    def spline(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        flow = SplineFlow(TORUS, shape, hidden=(16,) if quick else (128, 128))
        return flow.fit(train, seed=seed, max_seconds=0.5 if quick else 45, validation=validation).log_prob

    def marginal(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        flow = mf.MarginalFlow(TORUS, shape, n_components=64 if quick else 1024)
        steps = 5 if quick else 1000
        flow.fit(train, validation=validation, seed=seed, max_steps=steps, patience=50, progress=False)
        return flow.freeze(128 if quick else 8192).log_prob

    def anchored(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        flow = AnchoredFlow(TORUS, shape, neighbors=(4, 8) if quick else None, networks=0 if quick else 3)
        return flow.fit(torch.cat([train, validation]), seed=seed, progress=False).freeze().log_prob

    local = {"kernel density, local covariances": kernel_density("local")} if dim == 2 else {}
    return {
        "kernel density, adaptive": kernel_density("adaptive"),
        "kernel density, multi-scale": kernel_density("multiscale"),
        **local,
        "mixture, EM": mixture,
        "neural spline flow": spline,
        "marginal flow": marginal,
        "anchored flow": anchored,
    }


def picture(fits: dict[str, LogDensity], test: Tensor) -> Any:
    """The log densities of the fits over the square of the angles, beside the test points."""
    import matplotlib.pyplot as plt

    line = math.pi * ((torch.arange(120, dtype=torch.float64) + 0.5) / 60 - 1)
    grid = torch.cartesian_prod(line, line)
    figure, axes = plt.subplots(1, len(fits) + 1, figsize=(2.6 * (len(fits) + 1), 2.8), sharex=True, sharey=True)
    axes[0].plot(*test[:1500].T.numpy(), ".", markersize=1)
    axes[0].set_title("test points", fontsize=8)
    for axis, (name, log_prob) in zip(axes[1:], fits.items(), strict=True):
        values = log_prob(grid).reshape(120, 120).T.numpy()
        axis.imshow(values, origin="lower", extent=(-math.pi, math.pi) * 2, vmin=-8, vmax=2)
        axis.set_title(name, fontsize=8)
    figure.tight_layout()
    return figure
