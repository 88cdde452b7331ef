"""Points with classes: laws of the plane with known densities, and images of digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .synthetic2d import Pinwheel, Problem, two_circles


class LabelledProblem(Problem, Protocol):
    """A law of the plane with a known density, whose points are of classes."""

    def sample_labelled(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


class Split(NamedTuple):
    """Points to fit, to select with and to test, with their classes; float32.

    ``log_prob`` is the true log density, None where it is unknown.
    """

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    test: Tensor
    test_labels: Tensor
    log_prob: Callable[[Tensor], Tensor] | None


def split_of(problem: LabelledProblem, n: int, n_test: int, seed: int) -> Split:
    """Samples of a law; a tenth of the n only selects."""
    x, labels = problem.sample_labelled(n, torch.Generator().manual_seed(seed))
    test, test_labels = problem.sample_labelled(n_test, torch.Generator().manual_seed(10_000 + seed))
    held = n // 10
    return Split(x[held:].float(), labels[held:], x[:held].float(), test.float(), test_labels, problem.log_prob)


def digits(seed: int, dimensions: int = 16, n: int = 1300) -> Split:
    """scikit-learn's 1797 images of 8 x 8 pixels: their first principal components; n to fit, 140 to select, the rest to test.

    Uniform noise on [0, 1) makes the 17 grey levels continuous; the components are those of the points to fit, and all are
    divided by one number, the standard deviation of the first.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found.data), generator=generator)
    pixels = torch.as_tensor(found.data)[order]
    pixels = pixels + torch.rand(pixels.shape, generator=generator, dtype=pixels.dtype)
    labels = torch.as_tensor(found.target)[order].long()
    center = pixels[:n].mean(0)
    axes = torch.linalg.svd(pixels[:n] - center, full_matrices=False)[2][:dimensions]
    x = (pixels - center) @ axes.mT
    x = (x / x[:n, 0].std()).float()
    held = n + 140
    return Split(x[:n], labels[:n], x[n:held], x[held:], labels[held:], None)


def pinwheel(arms: int) -> Pinwheel:
    """Three arms that turn at rate 0.25, or five at 0.4."""
    return Pinwheel(arms, 0.4 if arms == 5 else 0.25)


LAWS: dict[str, Callable[[], LabelledProblem]] = {
    "pinwheel, 5 arms": lambda: pinwheel(5),
    "pinwheel, 3 arms": lambda: pinwheel(3),
    "two circles": two_circles,
}
