"""Laws of a manifold flow: the split law of its noise, and the law on the manifold that it has learned."""

from __future__ import annotations

import geoopt
import torch
from torch import Tensor

from ..distributions import ManifoldDistribution
from ..geometry import Shape
from ..manifolds import ChartManifold
from ..measure import Measure


class SplitLaw(ManifoldDistribution):
    """Noise (u, v) of two independent laws, on R^m and on R^(D-m).

    **Measure**: Lebesgue measure of R^D.
    """

    def __init__(self, along: ManifoldDistribution, across: ManifoldDistribution) -> None:
        self.along, self.across = along, across
        self.split = along.point_shape[0]
        super().__init__(geoopt.Euclidean(ndim=1), (self.split + across.point_shape[0],), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether samples are pathwise differentiable."""
        return bool(self.along.has_rsample)

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density; (*S,D) -> (*S)."""
        log_q = self.along.log_prob(value[..., : self.split]) + self.across.log_prob(value[..., self.split :])
        return self._to_measure(log_q, value, measure)

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples; -> (*sample_shape,D)."""
        parts = [law.sample(sample_shape, generator=generator) for law in (self.along, self.across)]  # type: ignore[call-arg]
        return torch.cat(parts, dim=-1)

    def rsample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Samples with pathwise gradients; -> (*sample_shape,D)."""
        parts = [law.rsample(sample_shape, generator=generator) for law in (self.along, self.across)]  # type: ignore[call-arg]
        return torch.cat(parts, dim=-1)

    def __repr__(self) -> str:
        return f"SplitLaw({self.along}, {self.across})"


class LearnedManifoldDistribution(ManifoldDistribution):
    r"""The law of ``x = g(u)`` on the image of g, for coordinates u with a law on R^m.

    .. math:: \log p_M(x) = \log p_U(u) - \tfrac12 \log\det\left(J_g(u)^\top J_g(u)\right)

    **Measure**: Hausdorff measure of the image (arc length, area), which is the Riemannian volume of the manifold
    ``ChartManifold``; by ``"chart"`` the density is that of u.

    Args:
        chart: the image; computes in float64 whatever comes.
        along: the law of the coordinates, in float64.

    >>> import geoopt, torch, mf_manifold as mf
    >>> chart = mf.manifolds.ChartManifold(lambda u: torch.cat([3 * u, 4 * u], -1), 1, coordinates=lambda x: x[..., :1] / 3)
    >>> normal = mf.distribution(geoopt.Euclidean(ndim=1), "normal", loc=torch.zeros(1).double(), scale=torch.ones(1).double())
    >>> law = LearnedManifoldDistribution(chart, normal)                 # a line, on which 5 units are one of u
    >>> x = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    >>> bool((law.log_prob(x).exp() * 5 - law.log_prob(x, "chart").exp()).abs() < 1e-12)
    True
    """

    def __init__(self, chart: ChartManifold, along: ManifoldDistribution) -> None:
        self.along = along
        super().__init__(chart, (chart.ambient_dim,))

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density at points of the learned manifold; (*S,D) -> (*S)."""
        self._check(value)
        u = self.manifold.coordinates(value.double())
        log_q = (self.along.log_prob(u) - self.manifold.half_logdet(u)).to(value.dtype)
        return self._to_measure(log_q, value, measure)

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples; -> (*sample_shape,D), float64."""
        with torch.no_grad():
            return self.manifold.embedding(self.along.sample(sample_shape, generator=generator))  # type: ignore[call-arg]

    def __repr__(self) -> str:
        return f"LearnedManifoldDistribution({self.along}; {self.measure})"
