"""The resampled base of many dimensions: independent groups of coordinates, each with an acceptance of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import geoopt
import torch
from torch import Tensor, nn

from .. import checkpoint, geometry
from ..distributions import ManifoldDistribution
from ..estimator import LazyDistribution
from ..geometry import Shape
from ..manifolds import Torus, from_config
from ..measure import Measure
from .resampled import ResampledDistribution
from .resampled_base import Normalizer, ResampledBase


class FactorizedDistribution(ManifoldDistribution):
    """Independent groups of coordinates, each with a resampled law.

    **Measure**: Riemannian volume of the product.
    """

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, parts: list[ResampledDistribution]) -> None:
        super().__init__(manifold, point_shape, tuple(parts[0].batch_shape))
        self.parts = parts

    @property
    def expected_draws(self) -> Tensor:
        """Mean number of proposals that each group takes for a sample; (G)."""
        return torch.stack([part.expected_draws for part in self.parts])

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The groups' coordinates."""
        return x.split([part.point_shape[0] for part in self.parts], dim=-1)

    def _sum(self, terms: list[Tensor]) -> Tensor:
        return torch.stack(terms).sum(0)

    def log_weight(self, x: Tensor) -> Tensor:
        """Log density relative to the proposals; (*S,d) -> (*S)."""
        return self._sum([part.log_weight(own) for part, own in zip(self.parts, self.split(x), strict=True)])

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density; (*S,d) -> (*S)."""
        self._check(value)
        log_q = self._sum([part.log_prob(own) for part, own in zip(self.parts, self.split(value), strict=True)])
        return self._to_measure(log_q, value, measure)

    def log_prob_error(self, x: Tensor) -> Tensor:
        """Root of the summed squares of the groups' errors, which are independent; (*S,d) -> (*S)."""
        errors = [part.log_prob_error(own) for part, own in zip(self.parts, self.split(x), strict=True)]
        return self._sum([error.square() for error in errors]).sqrt()

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples; -> (*sample_shape,d)."""
        return torch.cat([part.sample(sample_shape, generator) for part in self.parts], dim=-1)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> FactorizedDistribution:  # type: ignore[override]
        """The same law for every entry of a batch."""
        return FactorizedDistribution(self.manifold, self.point_shape, [part.expand(batch_shape) for part in self.parts])

    def __repr__(self) -> str:
        return f"FactorizedDistribution({len(self.parts)} x {self.parts[0]})"


@checkpoint.register_model
class FactorizedResampledBase(LazyDistribution):
    r"""Independent groups of coordinates, each a :class:`ResampledBase` with its own acceptance and its own Z.

    .. math:: p(x) = \prod_{g=1}^{G} p_g(x_g)

    In many dimensions one acceptance probability for all coordinates falls exponentially with what it has to cut away; a group
    of few keeps its own.

    **Measure**: Lebesgue measure of R^d, or radians on a torus.

    Args:
        manifold: ``geoopt.Euclidean(ndim=1)`` or a torus.
        point_shape: (d,).
        groups: how many; sizes differ by at most one.
        proposal: None for the standard normal or uniform law, or the name of a kernel, each group learning its parameters.
        options: those of :class:`ResampledBase`.

    Raises:
        ValueError: another manifold, more groups than coordinates.

    Reference: Stimper, Schölkopf, Hernández-Lobato (2022), arXiv 2110.15828, factorises over the channels of images.

    >>> import geoopt, torch, mf_manifold as mf
    >>> base = mf.models.FactorizedResampledBase(geoopt.Euclidean(ndim=1), (24,), groups=8, hidden=(8,))
    >>> base.freeze().expected_draws.shape, base.sample((5,)).shape
    (torch.Size([8]), torch.Size([5, 24]))
    """

    def __init__(
        self, manifold: geoopt.Manifold, point_shape: Shape, groups: int, proposal: str | None = None, **options: Any
    ) -> None:
        super().__init__(manifold, point_shape)
        flat = isinstance(manifold, Torus) or (isinstance(manifold, geoopt.Euclidean) and len(self.point_shape) == 1)
        if not flat or not 1 <= groups <= self.point_shape[0]:
            raise ValueError(
                f"Expected R^d or a torus and at most d groups, got {manifold.name}, points {self.point_shape}, {groups} groups"
            )
        self.proposal, self.options = proposal, options
        self.sizes = [len(part) for part in torch.arange(self.point_shape[0]).tensor_split(groups)]
        self.groups = nn.ModuleList(ResampledBase(manifold, (size,), proposal, **options) for size in self.sizes)

    def _groups(self) -> list[ResampledBase]:
        return list(self.groups)  # type: ignore[arg-type]

    def forward(
        self, context: Tensor | None = None, n_components: int | None = None, generator: torch.Generator | None = None
    ) -> FactorizedDistribution:
        """The law; where gradients are recorded, the generator draws the proposals for those of every Z."""
        parts = [group(context, n_components, generator) for group in self._groups()]
        return FactorizedDistribution(self.manifold, self.point_shape, parts)

    def reset(self, x: Tensor | None, background: float) -> None:
        """New acceptance networks."""
        for group in self._groups():
            group.reset(None, background)

    def begin(
        self, x: Tensor | None, context: Tensor | None, generator: torch.Generator, steps: int, stop: Callable[[], bool]
    ) -> None:
        """Start learned proposals at the data."""
        columns = [None] * len(self.sizes) if x is None else list(x.split(self.sizes, dim=-1))
        for group, own in zip(self._groups(), columns, strict=True):
            group.begin(own, context, generator, steps, stop)

    def estimate_normalizer(self, relative_error: float = 1e-3, *, seed: int = 0, **options: Any) -> list[Normalizer]:
        """:meth:`ResampledBase.estimate_normalizer` of every group, with proposals of its own."""
        generator, found = torch.Generator().manual_seed(seed), []
        for group in self._groups():  # seeds that no other estimate uses: not those of validations
            own = int(torch.randint(2**62, (), generator=generator))
            found.append(group.estimate_normalizer(relative_error, seed=own, **options))
        return found

    def propose(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Points of the proposals, not resampled; (n,d)."""
        return torch.cat([group.propose(n, generator) for group in self._groups()], dim=-1)

    def log_weight(self, x: Tensor) -> Tensor:
        """Log density relative to the proposals under the present Z; (*S,d) -> (*S)."""
        pairs = zip(self._groups(), x.split(self.sizes, dim=-1), strict=True)
        return torch.stack([group.log_weight(own) for group, own in pairs]).sum(0)

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "groups": len(self.sizes),
            "proposal": self.proposal,
            "options": self.options,
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Rebuild what :meth:`save` wrote."""
        place = from_config(config["manifold"]), tuple(config["point_shape"])
        base = cls(*place, config["groups"], config["proposal"], **config["options"])
        base.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
        base.history = config["history"]
        return base
