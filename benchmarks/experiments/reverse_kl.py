"""Marginal flows learn unnormalised multimodal densities on plane, sphere and torus by reverse divergence alone.

Targets: the thirteen of `benchmarks/problems/targets.py`, with normalisers by quadrature. Training uses nothing but
`target(x)` and its gradient.

Protocol: the marginal flow draws 256 components a step (`mf.losses.ReverseKL`, temperature 1, 800 steps) and is reported as
a frozen mixture of 256 components and of 2048. Its rival is a mixture of 256 free components (locations, scales, weights),
trained by the same loss from points of the same start for as many CPU seconds as the flow's whole fit. Both divergences,
the masses of regions and the integral of the density are by quadrature over 160 000 to 360 000 cells. A region is covered
where the fit has at least half of its mass. The effective sample size, log Z and the tail index come from 10 000 importance
samples; the bounds of KL(q || p) are those of the infinite mixture behind the flow.

Read: all regions should be covered, the divergences near 0, ESS / n near 1, the error of log Z within 2 standard errors,
and the KL(q || p) of the mixture of many components near the bounds. The measure is the Riemannian volume.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.harness import summary
from benchmarks.problems.targets import MAKERS, Target
from benchmarks.rivals.fixed_mixture import FixedMixture
from benchmarks.rivals.optimise import minimise
from mf_manifold.evidence import importance, reverse_kl_bounds
from mf_manifold.losses import Batch, ReverseKL

if TYPE_CHECKING:
    from benchmarks.harness import Report

KERNELS = {"plane": "normal", "sphere": "von_mises_fisher", "torus": "von_mises"}
COMPONENTS, MANY, STEPS = 256, 2048, 800


def run(report: Report) -> None:
    torch.set_num_threads(1)
    makers = [MAKERS[0], MAKERS[7], MAKERS[10]] if report.quick else MAKERS
    pictures: dict[str, list[tuple[Target, dict[str, Tensor]]]] = {}
    for make in makers:
        target = make()
        if report.quick:
            target = dataclasses.replace(target, n_grid=60)
        for seed in report.seeds:
            fits = fit_all(target, seed, report.quick)
            for method, (mixture, seconds, flow) in fits.items():
                found = {} if flow is None else bounds(flow, target, report.quick)
                scores = evaluate(target, mixture, 500 if report.quick else 10_000)
                report.row(
                    space=target.space, target=target.name, method=method, seed=seed, **scores, **found, cpu_seconds=seconds
                )
            if seed == report.seeds[0]:
                densities = {method: log_density(target, mixture) for method, (mixture, _, _) in fits.items()}
                pictures.setdefault(target.space, []).append((target, densities))
    summarise(report)
    for space, panels in pictures.items():
        report.figure(draw(panels), f"reverse_kl_{space}", f"Densities on the {space}: target above, fits below (first seed).")


def summarise(report: Report) -> None:
    """A sentence on every method, over all targets and seeds, with its divergence paired with that of the free components."""
    free = [row["kl_qp"] for row in report.rows if row["method"] == "free components"]
    for method in dict.fromkeys(row["method"] for row in report.rows):
        rows = [row for row in report.rows if row["method"] == method]
        complete = sum(row["smallest_share"] >= 0.5 for row in rows)
        paired = summary([row["kl_qp"] - other for row, other in zip(rows, free, strict=True)])
        report.note(
            f"{method}: every region covered in {complete} of {len(rows)} fits; mean KL(q || p) "
            f"{summary([row['kl_qp'] for row in rows])}, ESS / n {summary([row['ess'] for row in rows])}; "
            f"KL(q || p) minus that of the free components {paired}."
        )


def fit_all(target: Target, seed: int, quick: bool) -> dict[str, tuple[mf.Mixture, float, mf.MarginalFlow | None]]:
    """Frozen mixtures of every method with the CPU seconds of the fit, and the flow they come from."""
    kernel, count, steps = KERNELS[target.space], (32 if quick else COMPONENTS), (20 if quick else STEPS)
    objective, began = ReverseKL(target), time.process_time()
    flow = mf.MarginalFlow(target.manifold, target.point_shape, kernel, n_components=count, hidden=(64, 64, 64))
    flow.fit(objective=objective, seed=seed, max_steps=steps, patience=50, progress=False)
    seconds = time.process_time() - began
    many = 64 if quick else MANY
    return {
        "marginal flow": (flow.freeze(count), seconds, flow),
        f"marginal flow, {many} components": (flow.freeze(many), seconds, None),
        "free components": (fit_fixed(target, objective, count, seed, 0.2 if quick else seconds), seconds, None),
    }


def fit_fixed(target: Target, objective: ReverseKL, count: int, seed: int, seconds: float) -> mf.Mixture:
    generator = torch.Generator().manual_seed(seed)
    start = objective.start(target.manifold, target.point_shape, count, generator)
    scale = float(mf.geometry.dist(target.manifold, start[:, None], start[None]).kthvalue(9, dim=1).values.median())
    order = torch.randperm(count, generator=generator)
    rival = FixedMixture(
        target.manifold, target.point_shape, KERNELS[target.space], start[order].float(), max(scale, 0.02), n_components=count
    )

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        return objective(rival, Batch(None, None, generator, count, progress))  # type: ignore[arg-type]

    minimise(rival, loss, seed=seed, max_seconds=seconds, learning_rate=1e-2)
    return rival.freeze()


def log_density(target: Target, mixture: mf.Mixture) -> Tensor:
    """Log density at the nodes of the quadrature, float64."""
    like = next(iter(mixture.params.values()))
    with torch.no_grad():
        return torch.cat([mixture.log_prob(rows.to(like)).double() for rows in target.grid[0].split(20_000)])


def evaluate(target: Target, mixture: mf.Mixture, n: int) -> dict[str, Any]:
    log_q, log_p, log_area = log_density(target, mixture), target.log_prob, target.grid[1]
    q, p = (log_q + log_area).exp(), (log_p + log_area).exp()
    share = target.region_mass(log_q) / target.region_mass(log_p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tail index is in the table
        found = importance(mixture.to(torch.float64), target, n)
    return {
        "kl_qp": float((q * (log_q - log_p)).sum()),
        "kl_pq": float((p * (log_p - log_q)).sum()),
        "integral": float(q.sum()),
        "covered": f"{int((share >= 0.5).sum())}/{len(share)}",
        "smallest_share": float(share.min()),
        "ess": found.efficiency,
        "log_z_error_in_se": (found.log_normalizer - target.log_normalizer) / found.standard_error,
        "pareto_k": found.pareto_k,
    }


def bounds(flow: mf.MarginalFlow, target: Target, quick: bool) -> dict[str, float]:
    found = reverse_kl_bounds(
        flow, target, log_normalizer=target.log_normalizer, n_components=32 if quick else MANY, n_draws=2 if quick else 16
    )
    return {"lower": found.lower, "lower_se": found.lower_error, "upper": found.upper, "upper_se": found.upper_error}


def draw(panels: list[tuple[Target, dict[str, Tensor]]]) -> Any:
    """One column a target: its density above those of the fits, all with the colours of the target."""
    from matplotlib.figure import Figure

    titles = ["target", *panels[0][1]]
    figure = Figure(figsize=(1.3 * len(panels), 1.2 * len(titles)), layout="constrained")
    axes = figure.subplots(len(titles), len(panels), squeeze=False)
    for column, (target, densities) in enumerate(panels):
        side = target.n_grid
        shape = (side, 2 * side) if target.space == "sphere" else (side, side)
        top = float(target.log_prob.exp().max())
        for row, values in enumerate([target.log_prob, *densities.values()]):
            picture = values.exp().reshape(shape).numpy()
            axis = axes[row, column]
            upright = picture if target.space == "sphere" else picture.T
            axis.imshow(upright[:: side // 60, :: side // 60], origin="lower", vmin=0, vmax=top, aspect="auto", cmap="magma")
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(titles[row], fontsize=7)
        axes[0, column].set_title(target.name, fontsize=8)
    return figure
