"""A single kernel as a model that gradients train."""

from __future__ import annotations

from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from .. import checkpoint, geometry
from ..distributions import KernelDistribution
from ..estimator import LazyDistribution
from ..geometry import Shape
from ..kernel import kernel_for
from ..manifolds import from_config
from ..starts import bump_around


@checkpoint.register_model
class KernelModel(LazyDistribution):
    r"""One distribution of a kernel, whose parameters are trained: a simple component beside flows.

    .. math:: q(x) = q(x \mid w), \quad w = \mathrm{params}(r), \quad r \text{ unconstrained}

    A fit begins with a bump at the mean of the data that is as wide as they are.

    **Measure**: Riemannian volume of the manifold's metric.

    Args:
        kernel: registry name; None takes the manifold's default.
        kernel_options: constructor options of the kernel, such as ``{"covariance": "full"}``.

    >>> import geoopt, torch, mf_manifold as mf
    >>> x = 2 + 0.5 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    >>> model = KernelModel(geoopt.Euclidean(ndim=1), (1,)).fit(x, max_steps=50, progress=False)
    >>> [round(float(value), 1) for value in model.freeze().params.values()]
    [2.0, 0.5]
    """

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        kernel: str | None = None,
        *,
        kernel_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(manifold, point_shape)
        self.kernel = kernel_for(manifold, self.point_shape, kernel, **(kernel_options or {}))
        self.raw = nn.Parameter(torch.zeros(self.kernel.num_raw))
        if self.kernel.needs_double:
            self.double()

    def forward(
        self, context: Tensor | None = None, n_components: int | None = None, generator: torch.Generator | None = None
    ) -> KernelDistribution:
        """The distribution at the current parameters."""
        if context is not None:
            raise ValueError("Expected no context: models of this class are unconditional.")
        return KernelDistribution(self.kernel, self.kernel.params(self.raw), validate_args=False)

    def freeze(self, n_components: int | None = None, seed: int = 0, context: Tensor | None = None) -> KernelDistribution:
        """The distribution at a copy of the parameters."""
        params = {name: value.detach().clone() for name, value in self(context).params.items()}
        return KernelDistribution(self.kernel, params, validate_args=False)

    @torch.no_grad()
    def reset(self, x: Tensor | None, background: float) -> None:
        """A bump that covers the data ``x`` (n,*E)."""
        self.raw.zero_()
        if x is not None and self.kernel.has_location:
            self.raw.copy_(bump_around(self.kernel, x))

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "kernel": self.kernel.name,
            "kernel_options": self.kernel.options,
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> KernelModel:
        """Rebuild what :meth:`save` wrote."""
        manifold, shape = from_config(config["manifold"]), tuple(config["point_shape"])
        model = cls(manifold, shape, config["kernel"], kernel_options=config["kernel_options"])
        model.to(tensors["raw"].dtype).load_state_dict(tensors)
        model.history = config["history"]
        return model
