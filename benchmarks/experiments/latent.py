"""One curve a class: a conditional marginal flow with one-dimensional noise walks through the handwriting of each digit.

Data: the 1797 images of 8 x 8 pixels in scikit-learn's `load_digits`, split at random for every seed: 1000 to fit, 297 to
choose, 500 to score. A small autoencoder, fitted without labels to the first 1297, gives codes of 6 dimensions, standardised.
All densities are of the code given the class.

Methods: the marginal flow with noise of one dimension (`latent_dim=1`), equal weights and the class as context; for
comparison a normal law, a kernel density and a mixture of normal laws for each class by itself, the mixture's size chosen by
the 297.

The table: mean negative log-likelihood of held-out codes given their class, in nats, lower is better. The densities are with
respect to Lebesgue measure of the six standardised coordinates of that seed's autoencoder: numbers compare methods of one
seed, not autoencoders, and say nothing about images. A flow around one curve a class is a restricted model: it is asked for a
readable walk first and for likelihood second.
"""

from __future__ import annotations

import time
from typing import Any

import geoopt
import numpy as np
import torch
from torch import Tensor

import mf_manifold as mf
from benchmarks.autoencoder import Autoencoder, train_autoencoder
from benchmarks.harness import Report, summary

CODE, CLASSES, SIDE = 6, 10, 8
LINE = geoopt.Euclidean(ndim=1)
Data = tuple[Tensor, Tensor]  # codes, labels


def one_hot(labels: Tensor) -> Tensor:
    """Classes as contexts; (n) -> (n,10)."""
    return torch.nn.functional.one_hot(labels, CLASSES).float()


class ClassFlow:
    """The conditional marginal flow."""

    def __init__(self, latent_dim: int, max_steps: int) -> None:
        self.max_steps = max_steps
        self.flow = mf.MarginalFlow(
            LINE,
            (CODE,),
            context_shape=(CLASSES,),
            latent_dim=latent_dim,
            n_components=64,
            hidden=(64, 64),
            n_frequencies=16,
            bandwidth=0.5,
            learn_weights=False,
            kernel_options={"covariance": "diagonal"},
        )

    def fit(self, train: Data, choose: Data, seed: int) -> None:
        codes, labels = (torch.cat(pair) for pair in zip(train, choose, strict=True))
        self.flow.fit(codes, one_hot(labels), seed=seed, max_steps=self.max_steps, batch_size=256, progress=False)

    def log_prob(self, data: Data) -> Tensor:
        logs = torch.empty(len(data[0]))
        for label in data[1].unique().tolist():
            rows = data[1] == label
            logs[rows] = self.mixture(label).log_prob(data[0][rows])
        return logs

    def mixture(self, label: int) -> mf.Mixture:
        return self.flow.freeze(1024, seed=0, context=one_hot(torch.tensor(label)))


class PerClass:
    """One density for each class; a subclass says which."""

    def fit(self, train: Data, choose: Data, seed: int) -> None:
        self.laws = [self.one(train[0][train[1] == c], choose[0][choose[1] == c], seed) for c in range(CLASSES)]

    def one(self, train: Tensor, choose: Tensor, seed: int) -> Any:
        raise NotImplementedError

    def log_prob(self, data: Data) -> Tensor:
        logs = torch.empty(len(data[0]))
        for label in data[1].unique().tolist():
            rows = data[1] == label
            logs[rows] = self.score(self.laws[label], data[0][rows])
        return logs

    def score(self, law: Any, codes: Tensor) -> Tensor:
        return torch.as_tensor(law.score_samples(codes.double().numpy())).float()


class Mixtures(PerClass):
    """Mixtures of normal laws with full covariances by expectation maximisation, the number chosen on held-out codes."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes

    def one(self, train: Tensor, choose: Tensor, seed: int) -> Any:
        from sklearn.mixture import GaussianMixture

        a, b = train.double().numpy(), choose.double().numpy()
        fitted = [GaussianMixture(k, reg_covar=1e-3, random_state=seed).fit(a) for k in self.sizes]
        best = self.sizes[int(np.argmax([law.score(b) for law in fitted]))]
        return GaussianMixture(best, reg_covar=1e-3, random_state=seed).fit(np.concatenate([a, b]))


class KernelDensities(PerClass):
    """The library's adaptive kernel density."""

    def one(self, train: Tensor, choose: Tensor, seed: int) -> Any:
        return mf.KernelDensity(LINE, (CODE,)).fit(torch.cat([train, choose]).double(), progress=False)

    def score(self, law: Any, codes: Tensor) -> Tensor:
        return law.log_prob(codes.double()).float()


def methods(quick: bool) -> dict[str, Any]:
    """Methods by name; the first is the one that this page is about."""
    steps = 20 if quick else 600
    return {
        "marginal flow, m=1": ClassFlow(1, steps),
        "marginal flow, m=2": ClassFlow(2, steps),
        "normal law": Mixtures((1,)),
        "kernel density": KernelDensities(),
        "mixture": Mixtures((1, 2, 3, 4)),
    }


def run(report: Report) -> None:
    """Fit all methods for every seed, and draw the first seed's curves."""
    torch.set_num_threads(1)
    scores: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    for index, seed in enumerate(report.seeds):
        images, labels, parts = digits(seed)
        code = train_autoencoder(images[torch.cat(parts[:2])], CODE, seed=seed, steps=50 if report.quick else 2000)
        train, choose, test = ((code.encode(images[rows]), labels[rows]) for rows in parts)
        fitted = methods(report.quick)
        for name, method in fitted.items():
            start = time.process_time()
            method.fit(train, choose, seed)
            costs.setdefault(name, []).append(time.process_time() - start)
            scores.setdefault(name, []).append(-float(method.log_prob(test).mean()))
        if index == 0:
            flow = fitted["marginal flow, m=1"]
            report.figure(draw_walks(flow, code), "walks", "Decoded walks along the one-dimensional noise, one row a digit.")
            report.figure(draw_samples(flow, code), "samples", "Decoded draws of the flow, one row a digit.")
            report.figure(draw_curves(flow, train), "curves", "Codes and curves in the first two principal components.")
    summarise(report, scores, costs)


def digits(seed: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Images in [0, 1] (1797,64), labels, and the rows to fit, to choose and to score."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    rows = (order[:1000], order[1000:1297], order[1297:])
    return torch.as_tensor(pixels / 16).float(), torch.as_tensor(labels), rows


def summarise(report: Report, scores: dict[str, list[float]], costs: dict[str, list[float]]) -> None:
    """One row a method: mean and standard error over seeds, and the paired difference to the normal law."""
    base = scores["normal law"]
    for name, values in scores.items():
        report.row(
            method=name,
            nll=summary(values),
            vs_normal=summary([value - normal for value, normal in zip(values, base, strict=True)]),
            cpu_seconds=float(np.mean(costs[name])),
        )


def draw_images(rows: list[Tensor]) -> Any:
    """Images (n,64) as a picture, one row of images for each entry."""
    from matplotlib.figure import Figure

    columns = len(rows[0])
    images = torch.nn.functional.pad(torch.stack(rows).reshape(len(rows), columns, SIDE, SIDE), (1, 1, 1, 1))
    sheet = images.permute(0, 2, 1, 3).reshape(len(rows) * (SIDE + 2), -1)
    figure = Figure(figsize=(columns * 0.45, len(rows) * 0.45))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet.numpy(), cmap="gray_r", interpolation="nearest")
    axes.set_axis_off()
    return figure


def draw_walks(method: ClassFlow, code: Autoencoder) -> Any:
    noise = torch.linspace(-1, 1, 16)[:, None]
    contexts = one_hot(torch.arange(CLASSES))
    return draw_images([code.decode(method.flow.decode(noise, context).detach()) for context in contexts])


def draw_samples(method: ClassFlow, code: Autoencoder) -> Any:
    generator = torch.Generator().manual_seed(0)
    return draw_images([code.decode(method.mixture(label).sample((16,), generator)) for label in range(CLASSES)])


def draw_curves(method: ClassFlow, train: Data) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6))
    axes = figure.subplots()
    directions = torch.linalg.svd(train[0], full_matrices=False).Vh[:2].T
    noise = torch.linspace(-1, 1, 400)[:, None]
    for label in range(CLASSES):
        color, flat = f"C{label}", train[0][train[1] == label] @ directions
        curve = method.flow.decode(noise, one_hot(torch.tensor(label))).detach() @ directions
        axes.scatter(*flat.T.numpy(), s=6, color=color, alpha=0.4, linewidths=0)
        axes.plot(*curve.T.numpy(), color=color, label=str(label))
    axes.legend(title="digit", fontsize="small")
    axes.set(xlabel="first principal component", ylabel="second principal component")
    return figure
