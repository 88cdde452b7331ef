"""Densities of covariance matrices of electromyograms, with whole holds of a gesture left out.

Data. Covariance matrices of windows of 300 samples of surface electromyograms
(`mf_manifold.datasets.emg_covariances`): two electrodes, SPD(2), and all eight, SPD(8). Windows of one hold of a
gesture are alike, so that whole holds are on one side of the 80/10/10 split. The connectomes of the library are left
out: with unit diagonals they lie on a submanifold, where a density on SPD matrices can be arbitrarily high.

Methods. Kernel densities; mixtures by the EM algorithm; a neural spline flow of the whitened entries of the matrix
logarithm (five layers of 8 bins, conditioners of two layers of 64 units; autoregressive on SPD(2), couplings on
SPD(8)), converted to the same measure; the marginal flow (512 components in training, frozen with 4096); the flow
anchored at the data.

How to read the table. `nll` is the mean negative log density of the test matrices in nats, by the affine-invariant
volume. The measure shifts all rows alike, so that `difference`, to the adaptive kernel density on the same test
matrices, does not depend on it; negative is better. Standard errors are over the seeds, which draw other splits of
the same holds: they are correlated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.comparison import LogDensity, Method, compare
from benchmarks.rivals import SplineFlow
from mf_manifold.anchors import AnchoredFlow
from mf_manifold.kernel_mixture import KernelMixture

if TYPE_CHECKING:
    from benchmarks.harness import Report

CHANNELS = {"EMG, SPD(2)": (0, 4), "EMG, SPD(8)": tuple(range(8))}


def run(report: Report) -> None:
    """Compare on two and on eight electrodes."""
    torch.set_num_threads(1)
    for name, channels in CHANNELS.items():
        data = mf.datasets.emg_covariances(channels=channels)
        step = 8 if report.quick else 1

        def holds(seed: int, data: mf.datasets.Dataset = data, step: int = step) -> tuple[Tensor, ...]:
            return tuple(data.points[rows[::step]] for rows in mf.datasets.split(data.points, seed, groups=data.groups))

        compare(report, name, holds, methods(data, report.quick), rival="kernel density, adaptive")


def methods(data: mf.datasets.Dataset, quick: bool) -> dict[str, Method]:
    """Every estimator, ready to be fitted to the matrices."""
    space = (data.manifold, data.point_shape)

    def kernel_density(bandwidth: str) -> Method:
        def fit(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
            kde = mf.KernelDensity(*space, bandwidth=bandwidth)
            scored = 400 if bandwidth == "local" else None  # covariances of their own cost the most for each pair
            return kde.fit(torch.cat([train, validation]), seed=seed, n_scored=scored, progress=False).freeze().log_prob

        return fit

    def mixture(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        model = KernelMixture(*space, n_components=(2, 3) if quick else (3, 10), kernel_options={"covariance": "full"})
        model.fit(torch.cat([train, validation]), seed=seed, restarts=1, max_steps=3 if quick else 100, progress=False)
        return model.freeze().log_prob

    def spline(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        flow = SplineFlow(*space, hidden=(16,) if quick else (64, 64))
        return flow.fit(train, seed=seed, max_seconds=0.5 if quick else 30, validation=validation).log_prob

    def marginal(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        flow = mf.MarginalFlow(*space, n_components=32 if quick else 512, kernel_options={"covariance": "full"})
        steps = 5 if quick else 600
        flow.fit(train, validation=validation, seed=seed, max_steps=steps, patience=50, progress=False)
        return flow.freeze(64 if quick else 4096).log_prob

    def anchored(train: Tensor, validation: Tensor, seed: int) -> LogDensity:
        flow = AnchoredFlow(*space, neighbors=(4, 8) if quick else None, networks=0 if quick else 3)
        return flow.fit(torch.cat([train, validation]), seed=seed, progress=False).freeze().log_prob

    return {
        "kernel density, adaptive": kernel_density("adaptive"),
        "kernel density, multi-scale": kernel_density("multiscale"),
        "kernel density, local covariances": kernel_density("local"),
        "mixture, EM": mixture,
        "neural spline flow": spline,
        "marginal flow": marginal,
        "anchored flow": anchored,
    }
