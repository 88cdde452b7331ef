"""The data of a fit: checked, split, drawn in batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import geometry
from ..losses import Batch

if TYPE_CHECKING:
    from ..estimator import LazyDistribution


@dataclass
class Data:
    """Points and contexts to train on and to validate with; all None in a fit without data.

    Attributes:
        rows: what rows of the caller's data the training points are.
    """

    train: Tensor | None = None
    train_context: Tensor | None = None
    validation: Tensor | None = None
    validation_context: Tensor | None = None
    rows: Tensor | None = None

    @classmethod
    def prepare(
        cls,
        model: LazyDistribution,
        x: Tensor | None,
        context: Tensor | None,
        validation: Tensor | tuple[Tensor, Tensor] | None,
        fraction: float,
        seed: int,
    ) -> Data:
        """Check the caller's data and split off the validation part.

        Raises:
            ValueError: as :func:`mf_manifold.training.fit`.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"Expected 0 < validation_fraction < 1, got {fraction}.")
        if x is None:
            if context is not None or validation is not None:
                raise ValueError("Expected data x with the contexts and the validation data, got none.")
            if model.context_shape is not None:
                raise ValueError("Expected points x and contexts, because the flow was made with context_shape, got none.")
            return cls()
        points, contexts = _checked(model, x, context)
        if validation is not None:
            held_x, held_context = validation if isinstance(validation, tuple) else (validation, None)
            return cls(points, contexts, *_checked(model, held_x, held_context, fewest=1), torch.arange(len(points)))
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
        count = min(max(1, round(fraction * len(points))), len(points) - 2)
        held, rows = order[:count].to(points.device), order[count:].to(points.device)
        part = (None, None) if contexts is None else (contexts[rows], contexts[held])
        return cls(points[rows], part[0], points[held], part[1], rows)

    def batch(
        self, size: int, generator: torch.Generator, n_components: int, progress: float, dropout: float
    ) -> tuple[Batch, Tensor | None]:
        """A random batch, and which of the training points it has."""
        if self.train is None:
            return Batch(None, None, generator, n_components, progress), None
        index = torch.randint(len(self.train), (min(size, len(self.train)),), generator=generator).to(self.train.device)
        context = None if self.train_context is None else self.train_context[index]
        context = None if context is None else _hidden(context, dropout, generator)
        return Batch(self.train[index], context, generator, n_components, progress), index

    def validation_batches(self, size: int, n_components: int, seed: int, dropout: float) -> list[Batch]:
        """The validation part in pieces, each with the same noise; with one empty piece in a fit without data.

        Entries of contexts are hidden as in training, at every call the same ones.
        """

        def generator() -> torch.Generator:
            return torch.Generator().manual_seed(seed)

        if self.validation is None:
            return [Batch(None, None, generator(), n_components, 1.0)]
        if self.validation_context is None:
            return [Batch(self.validation, None, generator(), n_components, 1.0)]
        context = _hidden(self.validation_context, dropout, generator())
        pieces = zip(self.validation.split(size), context.split(size), strict=True)
        return [Batch(x, context, generator(), n_components, 1.0) for x, context in pieces]

    def fingerprint(self) -> str:
        """Hash of all data, by which a resumed run knows its own."""
        digest = hashlib.sha256()
        for tensor in (self.train, self.train_context, self.validation, self.validation_context):
            digest.update(b"none" if tensor is None else tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _hidden(context: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Contexts of which entries are missing at random."""
    if not dropout:
        return context
    return context.masked_fill(torch.rand(context.shape, generator=generator).to(context.device) < dropout, torch.nan)


def _checked(model: LazyDistribution, x: Tensor, context: Tensor | None, fewest: int = 10) -> tuple[Tensor, Tensor | None]:
    geometry.check_points(model.manifold, x, model.point_shape)
    if x.ndim != 1 + len(model.point_shape) or len(x) < fewest:
        raise ValueError(f"Expected at least {fewest} points of shape {model.point_shape}, got shape {tuple(x.shape)}.")
    like = next(model.parameters())
    points = geometry.project(model.manifold, x.detach()).to(like)
    if not bool(torch.isfinite(points).all()):
        raise ValueError(
            f"Expected points that {like.dtype}, the model's dtype, can hold. Rescale them, or call model.double()."
        )
    if (context is None) != (model.context_shape is None):
        raise ValueError(
            f"Expected {'no contexts' if model.context_shape is None else 'a context for every point'}, because the flow was "
            f"made with context_shape={model.context_shape}."
        )
    if context is None or model.context_shape is None:
        return points, None
    if tuple(context.shape) != (len(x), *model.context_shape):
        raise ValueError(f"Expected contexts of shape {(len(x), *model.context_shape)}, got {tuple(context.shape)}.")
    contexts = context.detach().to(like)
    if contexts.isinf().any():
        raise ValueError(
            f"Expected contexts that are finite in {like.dtype}, the model's dtype, with NaN where an entry is missing, got "
            "infinite ones. Repair or rescale them."
        )
    return points, contexts
