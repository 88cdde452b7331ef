"""What a fit minimises: objectives are functions of the flow and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .marginal import MarginalFlow
    from .mixture import Mixture


class Batch(NamedTuple):
    """What an objective sees of a step.

    Attributes:
        x: points (n,*E), or None in a fit without data.
        context: contexts (n,*C), or None.
        generator: the source of all randomness of the step.
        n_components: components to draw.
        progress: share of the run that is done, in [0, 1]; 1 in validations.
    """

    x: Tensor | None
    context: Tensor | None
    generator: torch.Generator
    n_components: int
    progress: float

    def draw(self, flow: MarginalFlow) -> Mixture:
        """Fresh components of the flow for this batch."""
        return flow(self.context, self.n_components, self.generator)


Objective = Callable[["MarginalFlow", Batch], Tensor]


def forward_kl(flow: MarginalFlow, batch: Batch) -> Tensor:
    r"""Mean negative log-likelihood of the data: forward Kullback-Leibler divergence up to the data's entropy.

    .. math:: L(\theta) = -\frac1n \sum_i \log \sum_c \pi_c \, q(x_i \mid f_\theta(z_c))

    In expectation over the components it is an upper bound of the loss of the infinite mixture.

    Raises:
        ValueError: a fit without data.
    """
    if batch.x is None:
        raise ValueError("Expected data x for the forward Kullback-Leibler divergence. Pass fit(x), or another objective.")
    return -batch.draw(flow).log_prob(batch.x).mean()
