"""Mean log densities with their errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .interval import Responsibilities
from .mixture import Mixture


class Score(NamedTuple):
    """Mean log density at points, with the errors that the choice of points and the draw of components leave in it.

    ``bias`` is the expected excess over the mean under the infinite mixture, to first order.
    """

    mean: float
    sampling_error: float
    draw_error: float
    bias: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} +- {self.sampling_error:.4f} (points) +- {self.draw_error:.4f} (components)"


def score(mixture: Mixture, x: Tensor) -> Score:
    r"""Mean log density at ``x`` (N,*E) by the mixture's measure, in nats, with two standard errors that are kept apart.

    ``sampling_error`` is that of the points, ``sd_n log q(x_n) / sqrt N``. ``draw_error`` is that of the components, drawn
    independently: all points share them, so that their errors add up instead of averaging out. The influence of a component
    on the mean is the derivative by its log weight,

    .. math:: \psi_c = \frac{1}{N} \sum_n (r_{nc} - \pi_c), \quad (draw\ error)^2 = \sum_c \psi_c^2

    with responsibilities r, and the error the norm of a gradient. For frozen Sobol components ``draw_error`` and ``bias`` are
    upper bounds.

    **Measure**: that of the mixture.

    Raises:
        ValueError: fewer than two points, or a batch of mixtures.

    Reference: Owen (2013), Monte Carlo theory, methods and examples, section 2.7 (delta method); Hampel (1974), The influence
        curve and its role in robust estimation.

    >>> import geoopt, torch, mf_manifold as mf
    >>> g = torch.Generator().manual_seed(0)
    >>> line = mf.kernel_for(geoopt.Euclidean(ndim=1), (1,))
    >>> mixture = mf.Mixture(line, {"loc": torch.randn(512, 1, generator=g), "scale": torch.tensor([1.0])})
    >>> print(score(mixture, 2 ** 0.5 * torch.randn(2000, 1, generator=g)))
    -1.7738 +- 0.0159 (points) +- 0.0016 (components)
    """
    if len(x) < 2 or mixture.batch_shape:
        raise ValueError(
            f"Expected at least two points and a single mixture, got {len(x)} points and batch {tuple(mixture.batch_shape)}."
        )
    fixed = mixture.detach()
    even = next(iter(fixed.params.values())).new_zeros(fixed.n_components)
    leaf = (even if fixed.log_weights is None else fixed.log_weights).clone().requires_grad_()
    with torch.enable_grad():
        value = fixed.weighted(leaf).log_prob(x)
        (influence,) = torch.autograd.grad(value.mean(), leaf)
    value = value.detach().double()
    bias = float(Responsibilities.of(fixed, x).bias.mean())
    return Score(float(value.mean()), float(value.std()) / math.sqrt(len(x)), float(influence.double().norm()), bias)
