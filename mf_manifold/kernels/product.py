"""Independent kernels on the parts of a product manifold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import geoopt
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from .. import geometry
from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, Params, kernel_for, register_kernel
from ..manifolds.product import join, split


@register_kernel(geoopt.ProductManifold, "product", default=True)
class ProductKernel(Kernel):
    r"""Product of independent kernels, one for each part of a ``geoopt.ProductManifold``.

    .. math:: q(x_0, x_1, \ldots \mid w) = \prod_i q_i(x_i \mid w_i)

    The parameters of part ``i`` carry its number: ``loc_0``, ``concentration_0``, ``loc_1``, ``scale_1``.

    **Measure**: product of the parts' Riemannian volumes. **Exactness**: that of the weakest part.

    Args:
        kernels: registry name of each part's kernel (None: the part's default).
        part_options: constructor options of each part's kernel.

    >>> import geoopt, torch, mf_manifold as mf
    >>> cylinder = geoopt.ProductManifold((mf.manifolds.Torus(), 1), (geoopt.Euclidean(ndim=1), 1))
    >>> d = mf.distribution(cylinder, loc_0=torch.zeros(1), scale_0=1.0, loc_1=torch.zeros(1), scale_1=1.0)
    >>> d.event_shape
    torch.Size([2])
    """

    parameter_names = ("<parameter>_<part>",)
    exactness = "that of the parts"

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        kernels: tuple[str | None, ...] | None = None,
        part_options: tuple[dict[str, Any], ...] | None = None,
    ) -> None:
        super().__init__(manifold, point_shape)
        count = manifold.n_manifolds
        names, options = kernels or (None,) * count, part_options or ({},) * count
        if len(names) != count or len(options) != count:
            raise ValueError(f"Expected kernels and part_options for {count} parts, got {len(names)} and {len(options)}.")
        parts = zip(manifold.manifolds, manifold.shapes, names, options, strict=True)
        self._modules["parts"] = nn.ModuleList([kernel_for(m, s, n, **o) for m, s, n, o in parts])
        self.has_rsample = all(part.has_rsample for part in self.parts)
        self.needs_double = any(part.needs_double for part in self.parts)
        self.max_scale = min(part.max_scale for part in self.parts)
        kinds = {part.mean_kind for part in self.parts}
        self.mean_kind = kinds.pop() if len(kinds) == 1 else None if None in kinds else "extrinsic"

    @property
    def parts(self) -> list[Kernel]:
        """The kernels of the parts."""
        return list(cast(Iterable[Kernel], self._modules["parts"]))

    @property
    def options(self) -> dict[str, Any]:
        return {"kernels": [part.name for part in self.parts], "part_options": [part.options for part in self.parts]}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {f"{k}_{i}": shape for i, part in enumerate(self.parts) for k, shape in part.event_shapes.items()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {f"{k}_{i}": c for i, part in enumerate(self.parts) for k, c in part.param_constraints.items()}

    def _part(self, w: Params, i: int) -> Params:
        return {k: w[f"{k}_{i}"] for k in self.parts[i].event_shapes}

    def _each(self, function: Callable[[Kernel, Tensor, Params], Any], x: Tensor, w: Params) -> list[Any]:
        values = zip(self.parts, split(self.manifold, x), strict=True)
        return [function(k, v, self._part(w, i)) for i, (k, v) in enumerate(values)]

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        parts = self._each(lambda kernel, v, part: kernel.log_prob(v, part), x, w)
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        parts = self._each(lambda kernel, v, part: kernel.pairwise_log_prob(v, part), x, w)
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear | None:
        forms = self._each(lambda kernel, v, part: kernel.bilinear(v, part), x, w)
        if any(form is None for form in forms):
            return None
        phi, psi, bias, offset = zip(*forms, strict=True)
        return Bilinear(torch.cat(phi, dim=-1), torch.cat(psi, dim=-1), sum(bias), sum(offset))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        batch = tuple(self.batch_shape(w))
        dtype = next((value.dtype for value in w.values()), torch.get_default_dtype())
        draws = []
        for i, part in enumerate(self.parts):
            own = part.expand(self._part(w, i), batch)
            draw = part.rsample(own, sample_shape if own else (*sample_shape, *batch), generator)
            # a part without parameters draws in the default dtype
            draws.append(draw if draw.dtype == dtype else geometry.project(part.manifold, draw.to(dtype)))
        return join(draws, self.manifold.shapes)

    def mean(self, w: Params) -> Tensor:
        return join([part.mean(self._part(w, i)) for i, part in enumerate(self.parts)], self.manifold.shapes)

    def _total(self, function: Callable[[Kernel, int], Tensor]) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*[function(part, i) for i, part in enumerate(self.parts)])).sum(0)

    def entropy(self, w: Params) -> Tensor:
        return self._total(lambda part, i: part.entropy(self._part(w, i)))

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        return self._total(lambda part, i: part.mean_log_ratio(self._part(w, i), kind))

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, ProductKernel):
            return super().kl_divergence(w, other, v)
        others = other.parts
        return self._total(lambda part, i: part.kl_divergence(self._part(w, i), others[i], other._part(v, i)))

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        values = zip(self.parts, split(self.manifold, x), strict=True)
        return self._numbered([part.fit(value, weights) for part, value in values])

    def fit_many(self, x: Tensor, weights: Tensor) -> Params:
        values = zip(self.parts, split(self.manifold, x), strict=True)
        return self._numbered([part.fit_many(value, weights) for part, value in values])

    def _numbered(self, parts: list[Params]) -> Params:
        return {f"{k}_{i}": v for i, part in enumerate(parts) for k, v in part.items()}

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        values = split(self.manifold, points)
        return self._numbered([part.centered(v, scale) for part, v in zip(self.parts, values, strict=True)])

    def around(self, points: Tensor, covariance: Tensor) -> Params:
        """Independent bumps of the parts: the blocks of the covariance on its diagonal."""
        ends = list(itertools.accumulate(part.dim for part in self.parts))
        blocks = [covariance[..., e - p.dim : e, e - p.dim : e] for p, e in zip(self.parts, ends, strict=True)]
        values = split(self.manifold, points)
        return self._numbered([p.around(v, block) for p, v, block in zip(self.parts, values, blocks, strict=True)])

    @property
    def num_raw_shape(self) -> int:
        return sum(part.num_raw_shape for part in self.parts)

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        shapes = shape.split([part.num_raw_shape for part in self.parts], dim=-1)
        values = split(self.manifold, points)
        return self._numbered([k.shaped(v, s) for k, v, s in zip(self.parts, values, shapes, strict=True)])
