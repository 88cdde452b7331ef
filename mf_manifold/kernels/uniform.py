"""The uniform law of compact manifolds."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..manifolds import (
    ChartManifold,
    Grassmann,
    SpecialOrthogonal,
    StarShaped,
    Torus,
    TorusOfRevolution,
    UnitQuaternions,
)
from ..measure import zeros_like_batch


@register_kernel(UnitQuaternions, "uniform")
@register_kernel(SpecialOrthogonal, "uniform")
@register_kernel(geoopt.Sphere, "uniform")
@register_kernel(geoopt.Stiefel, "uniform")
@register_kernel(Grassmann, "uniform")
@register_kernel(Torus, "uniform")
@register_kernel(ChartManifold, "uniform")
@register_kernel(StarShaped, "uniform")
@register_kernel(TorusOfRevolution, "uniform")
class Uniform(Kernel):
    r"""The law that no isometry changes, on any compact manifold.

    .. math:: q(x) = 1 / \mathrm{vol}(M)

    It has no parameters: the shape of a point has to be given, batch dimensions come from ``expand``, and samples have torch's
    default dtype.

    **Measure**: Riemannian volume. **Exactness**: closed form.

    **Range**: every compact manifold. **Mean**: not available, every point is a Fréchet mean. **Sampler**: that of
    :func:`mf_manifold.geometry.sample_uniform`.

    Shapes: no parameters.

    Raises:
        ValueError: no ``point_shape``.

    References:
        Mardia, Jupp (2000), Directional Statistics, section 9.3.1.

    >>> import geoopt, torch, mf_manifold as mf
    >>> d = mf.distribution(geoopt.Sphere(), "uniform", point_shape=(3,))
    >>> round(float(d.entropy()), 6)                      # log(4 pi)
    2.531024
    """

    parameter_names = ()
    has_location = False

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {}

    @classmethod
    def infer_point_shape(cls, manifold: geoopt.Manifold, params: Mapping[str, Any]) -> Shape:
        raise ValueError(f"Expected point_shape= for the uniform law on {type(manifold).__name__}, such as point_shape=(3,).")

    @functools.cached_property
    def _log_volume(self) -> float:
        value = geometry.log_volume(self.manifold, self.point_shape)
        if value == math.inf:
            raise ValueError(f"Expected a manifold of finite volume for the uniform law, got an infinite {self.manifold.name}.")
        return value

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return zeros_like_batch(self.manifold, x) - self._log_volume

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        device = None if generator is None else generator.device
        return geometry.sample_uniform(self.manifold, self.point_shape, sample_shape, generator=generator, device=device)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {}

    @property
    def num_raw(self) -> int:
        return 0

    @property
    def num_raw_shape(self) -> int:
        return 0

    def params(self, raw: Tensor) -> Params:
        return {}

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        return {}

    def entropy(self, w: Params) -> Tensor:
        return torch.tensor(self._log_volume, dtype=torch.get_default_dtype())

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        return {}
