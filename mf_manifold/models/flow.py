"""Normalizing flows on Euclidean space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from .. import checkpoint, geometry
from ..distributions import KernelDistribution, ManifoldDistribution
from ..estimator import LazyDistribution
from ..geometry import Shape
from ..kernel import kernel_for
from ..manifolds import from_config
from ..measure import Measure
from ..training.warm_start import center_and_spread
from . import layers as zuko_layers


def standard_normal(like: Tensor) -> KernelDistribution:
    """The standard normal law on R^d, d being the size of the vector ``like``, in its dtype and on its device."""
    kernel = kernel_for(geoopt.Euclidean(ndim=1), tuple(like.shape), "normal")
    params = {"loc": torch.zeros_like(like), "scale": like.new_ones(1)}
    return KernelDistribution(kernel, params, validate_args=False)


class FlowDistribution(ManifoldDistribution):
    """The law of ``x = f(z)`` for noise z of a base distribution and an invertible f.

    **Measure**: Lebesgue measure of R^d.
    """

    def __init__(self, flow: Flow, base: ManifoldDistribution) -> None:
        super().__init__(flow.manifold, flow.point_shape)
        self.flow, self.base = flow, base

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether samples are pathwise differentiable."""
        return bool(self.base.has_rsample)

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density; (*S,d) -> (*S)."""
        self._check(value)
        z, log_det = self.flow.to_latent(value)
        return self._to_measure(self.base.log_prob(z) + log_det, value, measure)

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples; -> (*sample_shape,d)."""
        with torch.no_grad():
            return self.flow.to_data(self.base.sample(sample_shape, generator))

    def rsample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Samples with pathwise gradients, where the base has them; -> (*sample_shape,d)."""
        base: Any = self.base
        return self.flow.to_data(base.rsample(sample_shape, generator))

    def __repr__(self) -> str:
        return f"FlowDistribution({self.base}; {self.measure})"


@checkpoint.register_model
class Flow(LazyDistribution):
    r"""A normalizing flow on R^d: couplings that turn noise into data, of any base distribution.

    .. math:: \log q(x) = \log p(z) + \log\left|\det \frac{\partial z}{\partial x}\right|, \quad z = f^{-1}(x)

    **Measure**: Lebesgue measure of R^d.

    Args:
        manifold: ``geoopt.Euclidean(ndim=1)``.
        point_shape: (d,).
        layers: ``"affine"`` couplings (RealNVP), ``"additive"`` ones, which keep volumes (NICE), or rational-quadratic
            ``"spline"`` ones.
        transforms: how many of them; each moves about half of the coordinates.
        hidden: widths of the hidden layers of each coupling's network.
        bins: of a spline.
        base: a model on R^d that gives the law of the noise, such as :class:`mf_manifold.models.ResampledBase` or a
            :class:`mf_manifold.MarginalFlow`, trained with the flow; None for the standard normal law.

    The data are standardised first: a fixed affine map, set by the fit, which is part of f.

    Raises:
        ValueError: another manifold, unknown layers, numbers that are not positive, a base on another space.
        ImportError: zuko is not installed.

    Reference: Dinh, Sohl-Dickstein, Bengio (2017), Density estimation using Real NVP, arXiv 1605.08803, eqs. (2), (7); Durkan,
        Bekasov, Murray, Papamakarios (2019), Neural Spline Flows, arXiv 1906.04032.

    >>> import geoopt, torch, mf_manifold as mf
    >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    >>> flow = mf.models.Flow(geoopt.Euclidean(ndim=1), (2,), hidden=(16,)).fit(x, max_steps=200, progress=False)
    >>> bool(flow.log_prob(x).mean() > -2.5)                          # minus the entropy: -2.33
    True
    >>> z, log_det = flow.to_latent(x)
    >>> bool((flow.to_data(z) - x).abs().max() < 1e-3)
    True
    """

    shift: Tensor
    spread: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        *,
        layers: str = "affine",
        transforms: int = 8,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        base: LazyDistribution | None = None,
    ) -> None:
        super().__init__(manifold, point_shape)
        if not isinstance(manifold, geoopt.Euclidean) or len(self.point_shape) != 1:
            raise ValueError(f"Expected R^d, geoopt.Euclidean(ndim=1), got {manifold.name} and points {self.point_shape}.")
        if min(transforms, bins - 1, *hidden) < 1:
            raise ValueError(f"Expected positive transforms and widths, 2 bins or more, got {transforms}, {hidden}, {bins}.")
        if base is not None and (base.point_shape != self.point_shape or not isinstance(base.manifold, geoopt.Euclidean)):
            raise ValueError(
                f"Expected a base with points of shape {self.point_shape} in R^d, "
                f"got one with points of shape {base.point_shape} on {base.manifold.name}."
            )
        self.options: dict[str, Any] = {"layers": layers, "transforms": transforms, "hidden": tuple(hidden), "bins": bins}
        self.base = base
        if base is not None:
            self.n_components = base.n_components
        self.register_buffer("shift", torch.zeros(self.point_shape))
        self.register_buffer("spread", torch.ones(self.point_shape))
        self.build()

    @property
    def dim(self) -> int:
        """d."""
        return self.point_shape[0]

    def build(self) -> None:
        """Make the couplings anew, from torch's global random state."""
        self.couplings = zuko_layers.couplings(self.dim, **self.options)

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The noise ``z`` of points and ``log|det dz/dx|``; (*S,d) -> (*S,d), (*S)."""
        flat = ((x - self.shift) / self.spread).reshape(-1, self.dim)
        z, log_det = zuko_layers.forwards(self.couplings, flat)
        return z.reshape(x.shape), log_det.reshape(x.shape[:-1]) - self.spread.log().sum()

    def to_data(self, z: Tensor) -> Tensor:
        """The points ``x = f(z)``; (*S,d) -> (*S,d)."""
        flat = zuko_layers.backwards(self.couplings, z.reshape(-1, self.dim))
        return flat.reshape(z.shape) * self.spread + self.shift

    def forward(
        self, context: Tensor | None = None, n_components: int | None = None, generator: torch.Generator | None = None
    ) -> FlowDistribution:
        """The law of the flow; a base that draws components draws them afresh."""
        if context is not None:
            raise ValueError("Expected no context: flows of this class are unconditional.")
        base = standard_normal(self.shift) if self.base is None else self.base(None, n_components, generator)
        return FlowDistribution(self, base)

    def reset(self, x: Tensor | None, background: float) -> None:
        """New couplings, and the standardisation of the data ``x`` (n,d)."""
        like = next(self.parameters())
        self.build()
        self.to(like)
        if x is not None:
            self.shift, self.spread = center_and_spread(x)
        if self.base is not None:
            self.base.reset(None if x is None else (x - self.shift) / self.spread, background)

    def begin(
        self, x: Tensor | None, context: Tensor | None, generator: torch.Generator, steps: int, stop: Callable[[], bool]
    ) -> None:
        """Let the base begin at the standardised data."""
        if self.base is not None:
            self.base.begin(None if x is None else (x - self.shift) / self.spread, context, generator, steps, stop)

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "options": self.options,
            "base": None if self.base is None else checkpoint.describe(self.base),
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Flow:
        """Rebuild what :meth:`save` wrote."""
        base = None if config["base"] is None else checkpoint.build(config["base"], checkpoint.part(tensors, "base"))
        flow = cls(from_config(config["manifold"]), tuple(config["point_shape"]), **config["options"], base=base)
        flow.to(tensors["shift"].dtype).load_state_dict(tensors)
        flow.history = config["history"]
        return flow
