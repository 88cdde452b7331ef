"""What every fitted density offers: it freezes to a mixture, and so evaluates, samples and saves alike."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from . import checkpoint
from .geometry import Shape
from .kernel import Kernel
from .measure import Measure
from .mixture import Mixture


class Estimator(nn.Module):
    """Base of the estimators: a kernel, a fit, and the exact mixture that it leads to.

    A subclass implements ``fit``, :meth:`freeze`, ``config`` and ``from_config``, and is decorated with
    :func:`mf_manifold.checkpoint.register_model`.

    Attributes:
        kernel: the family of the components.
        history: one dictionary of numbers for each step of the fit that was recorded.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.history: list[dict[str, float]] = []

    @property
    def manifold(self) -> geoopt.Manifold:
        """The manifold of the points."""
        return self.kernel.manifold

    @property
    def point_shape(self) -> Shape:
        """Shape of a point."""
        return self.kernel.point_shape

    def freeze(self, n_components: int | None = None, seed: int = 0) -> Mixture:
        """The density as an exact, deterministic, normalised mixture."""
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
