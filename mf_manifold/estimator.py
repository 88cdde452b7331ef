"""What every fitted density offers: it freezes to a distribution, and so evaluates, samples and saves alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Self

import geoopt
import torch
from torch import Tensor, nn

from . import checkpoint, training
from .distributions import ManifoldDistribution
from .geometry import Shape
from .losses import Batch, forward_kl
from .measure import Measure


class Estimator(nn.Module):
    """Base of the estimators: a fit, and the exact distribution that it leads to.

    A subclass implements ``fit``, :meth:`freeze`, ``config`` and ``from_config``, and is decorated with
    :func:`mf_manifold.checkpoint.register_model`.

    Attributes:
        history: one dictionary of numbers for each step of the fit that was recorded.
    """

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__()
        self._place = manifold, point_shape  # in a tuple: manifolds are modules, whose buffers are no weights of the model
        self.history: list[dict[str, float]] = []

    @property
    def manifold(self) -> geoopt.Manifold:
        """The manifold of the points."""
        return self._place[0]

    @property
    def point_shape(self) -> Shape:
        """Shape of a point."""
        return tuple(self._place[1])

    def freeze(self, n_components: int | None = None, seed: int = 0) -> ManifoldDistribution:
        """The density as an exact, deterministic, normalised distribution."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density at ``x`` with respect to ``measure``, by default the Riemannian volume; (*S,*E) -> (*S)."""
        return self.freeze().log_prob(x, measure)

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        """Independent samples; -> (*sample_shape,*E)."""
        return self.freeze().sample(sample_shape, generator)

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        raise NotImplementedError

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the checkpoint ``path/model.safetensors``; :func:`mf_manifold.load` reads it back."""
        return checkpoint.save(self, path, overwrite=overwrite)


class LazyDistribution(Estimator):
    """Base of the models that gradients train: calling one gives a distribution, differentiable in its weights.

    A subclass implements :meth:`forward` and :meth:`reset`, and where it helps the other steps of a fit below.

    Attributes:
        n_components: how many components a call draws; 1 where nothing is drawn.
        context_shape: shape of what the density is conditional on; None for no contexts.
    """

    n_components = 1
    context_shape: Shape | None = None

    def forward(
        self, context: Tensor | None = None, n_components: int | None = None, generator: torch.Generator | None = None
    ) -> ManifoldDistribution:
        """The distribution, with ``n_components`` freshly drawn components where the model draws any."""
        raise NotImplementedError

    @torch.no_grad()
    def freeze(self, n_components: int | None = None, seed: int = 0, context: Tensor | None = None) -> ManifoldDistribution:
        """One draw of the distribution, kept, whatever becomes of the model: exact, deterministic, normalised, no gradients."""
        return copy.deepcopy(self).requires_grad_(False)(context, n_components, torch.Generator().manual_seed(seed))

    def log_prob(self, x: Tensor, measure: Measure | str | None = None, context: Tensor | None = None) -> Tensor:
        """Log density at ``x`` by ``measure``, under components drawn afresh for all rows; (*S,*B,*E) -> (*S,*B)."""
        return self(context).log_prob(x, measure)

    def sample(
        self, sample_shape: Shape = (), generator: torch.Generator | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Samples, of freshly drawn components; -> (*sample_shape,*B,*E)."""
        with torch.no_grad():
            return self(context, generator=generator).sample(sample_shape, generator)

    def fit(self, x: Tensor | None = None, context: Tensor | None = None, **options: Any) -> Self:
        """Fit to data, by default by :meth:`objective`; options: :func:`mf_manifold.training.fit`."""
        training.fit(self, x, context, **options)
        return self

    def objective(self, batch: Batch) -> Tensor:
        """What a fit minimises by default: the mean negative log-likelihood."""
        return forward_kl(self, batch)

    def reset(self, x: Tensor | None, background: float) -> None:
        """Make all weights anew from torch's global random state, for the training data ``x`` (n,*E) if there are any.

        ``background`` is the weight of a law that covers the whole manifold, for models that have one.
        """
        raise NotImplementedError

    def begin(
        self, x: Tensor | None, context: Tensor | None, generator: torch.Generator, steps: int, stop: Callable[[], bool]
    ) -> None:
        """Find a start for the fit, within so many steps or until ``stop()``; by default the fresh weights are."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The weights for the optimiser; a group may have a ``factor`` of the learning rate, and other options of AdamW."""
        return [{"params": list(self.parameters())}]

    def members(self) -> Iterator[LazyDistribution]:
        """This model and the models that it is made of."""
        return (part for part in self.modules() if isinstance(part, LazyDistribution))

    def track(self, generator: torch.Generator) -> None:
        """Update this part's running averages before a step of a fit; by default there are none."""

    def settle(self) -> None:
        """Make what belongs to this part's weights but is no weight fit them, before they are validated and kept."""

    def cover(self, batch: Batch, few: int) -> dict[str, float]:
        """Numbers about the components for the history; none by default.

        ``few_components`` is the share of points with fewer effective components than ``few``.
        """
        return {}
