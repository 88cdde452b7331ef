"""The experiment on latent spaces, in its quick form."""

from __future__ import annotations

import math

import torch

from benchmarks.autoencoder import train_autoencoder
from benchmarks.experiments import latent


class Notebook:
    """A report that keeps its rows."""

    quick, seeds = True, [0]

    def __init__(self):
        self.rows, self.figures = [], []

    def row(self, **columns):
        self.rows.append(columns)

    def figure(self, figure, stem, caption):
        figure.canvas.draw()
        self.figures.append(stem)


def test_quick_run_fills_the_table():
    report = Notebook()
    latent.run(report)
    assert [row["method"] for row in report.rows] == list(latent.methods(quick=True))
    assert all(math.isfinite(float(row["nll"])) and row["cpu_seconds"] > 0 for row in report.rows)
    assert float(report.rows[2]["vs_normal"]) == 0
    assert report.figures == ["walks", "samples", "curves"]


def test_autoencoder_beats_the_mean_image_and_standardises():
    images, labels, parts = latent.digits(0)
    assert len(torch.cat(parts).unique()) == len(images) == len(labels)
    train, test = images[parts[0]], images[parts[2]]
    code = train_autoencoder(train, 6, seed=0, steps=500)
    codes = code.encode(train)
    assert torch.allclose(codes.mean(0), torch.zeros(6), atol=1e-4)
    assert torch.allclose(codes.std(0), torch.ones(6), atol=1e-4)
    error = (code.decode(code.encode(test)) - test).square().sum(-1).mean()
    assert error < 0.5 * (test - train.mean(0)).square().sum(-1).mean()


def test_normal_laws_of_the_classes_against_torch():
    generator = torch.Generator().manual_seed(0)
    codes, labels = torch.randn(400, 6, generator=generator), torch.arange(400) % 10
    train, choose = (codes[:300], labels[:300]), (codes[300:], labels[300:])
    method = latent.Mixtures((1,))
    method.fit(train, choose, seed=0)
    rows = codes[labels == 3]
    covariance = (rows - rows.mean(0)).T @ (rows - rows.mean(0)) / len(rows) + 1e-3 * torch.eye(6)
    expected = torch.distributions.MultivariateNormal(rows.mean(0), covariance).log_prob(codes[:1])
    assert torch.allclose(method.log_prob((codes[:1], torch.tensor([3]))), expected, atol=1e-3)
