"""Mixtures of arbitrary distributions on one manifold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import geometry
from ..bases import on_device
from ..distributions import ManifoldDistribution
from ..geometry import Shape
from ..measure import Measure


class ComponentMixture(ManifoldDistribution):
    r"""Mixture of K distributions of any kind on one manifold, exactly normalised where they are.

    .. math:: p(x) = \sum_{k=1}^{K} \pi_k \, p_k(x)

    **Measure**: ``measure``, by default the Riemannian volume; ``log_prob(x, measure=...)`` converts.

    Args:
        components: distributions without batch dimensions, with points of one shape.
        log_weights: (K), normalised here; None for equal weights.

    Raises:
        ValueError: no components, batches of them, other manifolds or points, another number of weights.

    >>> import geoopt, torch, mf_manifold as mf
    >>> line = geoopt.Euclidean(ndim=1)
    >>> left = mf.distribution(line, "normal", loc=torch.tensor([-3.0]), scale=torch.tensor([1.0]))
    >>> right = mf.KernelDensity(line, (1,)).fit(3 + torch.rand(50, 1), progress=False).freeze()
    >>> law = ComponentMixture([left, right], torch.tensor([0.2, 0.8]).log())
    >>> law.responsibilities(torch.tensor([[-3.0], [3.0]])).argmax(-1)
    tensor([0, 1])
    """

    def __init__(
        self,
        components: Sequence[ManifoldDistribution],
        log_weights: Tensor | None = None,
        *,
        measure: Measure | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.components = list(components)
        _check_components(self.components)
        first, count = self.components[0], len(self.components)
        super().__init__(first.manifold, first.point_shape, (), measure, validate_args)
        if log_weights is None:
            log_weights = torch.zeros(count)
        if log_weights.shape != (count,):
            raise ValueError(f"Expected log_weights of shape {(count,)}, got {tuple(log_weights.shape)}.")
        self.log_weights = torch.log_softmax(log_weights, dim=0)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """Weighted log density ``log pi_k + log p_k(x)`` of every component, Riemannian volume; (*S,*E) -> (*S,K)."""
        self._check(x)
        logs = torch.stack([component.log_prob(x, "riemannian") for component in self.components], dim=-1)
        return logs + self.log_weights.to(logs)

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density with respect to ``measure`` (default: the mixture's own); (*S,*E) -> (*S)."""
        return self._to_measure(self.component_log_prob(value).logsumexp(-1), value, measure)

    def log_responsibilities(self, x: Tensor) -> Tensor:
        """Log probability ``log p(k | x)`` that each component made a point; NaN where none has density; (*S,*E) -> (*S,K)."""
        return self.component_log_prob(x).log_softmax(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Probabilities ``p(k | x)``, which sum to 1 over the components; (*S,*E) -> (*S,K)."""
        return self.log_responsibilities(x).exp()

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples: a component by its weight, then a point of it; -> (*sample_shape,*E)."""
        return self.sample_labelled(sample_shape, generator)[0]

    @torch.no_grad()
    def sample_labelled(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Independent samples, and which component made each; -> (*sample_shape,*E), (*sample_shape)."""
        generator = on_device(generator, self.log_weights.device)
        levels = self.log_weights.double().exp().cumsum(0)
        u = torch.rand(math.prod(sample_shape), generator=generator, device=levels.device, dtype=levels.dtype) * levels[-1]
        labels = torch.searchsorted(levels, u, right=True).clamp_max(len(levels) - 1)
        counts = labels.bincount(minlength=len(levels)).tolist()
        parts = [component.sample((n,), generator) for n, component in zip(counts, self.components, strict=True)]
        grouped = torch.cat(parts)
        points = torch.empty_like(grouped).index_copy(0, labels.argsort(stable=True).to(grouped.device), grouped)
        return points.reshape(*sample_shape, *self.point_shape), labels.reshape(sample_shape)

    def __repr__(self) -> str:
        kinds = ", ".join(type(component).__name__ for component in self.components)
        return f"ComponentMixture({kinds}; {self.measure})"


def _check_components(components: Sequence[ManifoldDistribution]) -> None:
    if not components:
        raise ValueError("Expected at least one component, got none.")
    first = components[0]
    for component in components:
        if component.batch_shape:
            raise ValueError(f"Expected components without batch dimensions, got a batch {tuple(component.batch_shape)}.")
        if component.point_shape != first.point_shape or not geometry.same_manifold(component.manifold, first.manifold):
            raise ValueError(
                f"Expected components on one manifold, got {first.manifold.name} with points {first.point_shape} and "
                f"{component.manifold.name} with points {component.point_shape}."
            )
