"""What kernels of isometric models have in common: the law of another manifold's kernel, pulled back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, kernel_for
from ..measure import own_kinds
from ..model import Model, model_of
from .covariance import coordinate_change, pushed

PROBE = 1e-2  # length of the geodesics that show how frames of the model are turned


class ModelKernel(Kernel):
    """The law of a kernel on the model of a manifold, with respect to the manifold's own volume.

    Parameters that are points are points of the manifold itself; all others mean what they mean on the model.
    """

    parameter_names = ("those of the kernel of the model",)
    exactness = "that of the model"

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        base: str | None = None,
        base_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(manifold, point_shape)
        model = model_of(manifold)
        if model is None:
            raise ValueError(f"Expected a manifold with a model registered by model_of, got {type(manifold).__name__}.")
        self.base = kernel_for(model.manifold, model.to_shape(self.point_shape), base, **(base_options or {}))
        for name in ("has_rsample", "needs_double", "has_location", "mean_kind", "log_scale_range"):
            setattr(self, name, getattr(self.base, name))
        self.antipodal = self.base.antipodal and not model.wide  # x and -x are opposite only in the model's coordinates
        self.max_scale = self.base.max_scale * float(self._unit.detach())

    @property
    def model(self) -> Model:
        """The model at the present parameters of the manifold, such as a curvature that is being learned."""
        model = model_of(self.manifold)
        if model is None or type(model.manifold) is not type(self.base.manifold):
            raise ValueError(f"Expected the curvature of {self.manifold.name} to keep its sign; make a new kernel.")
        return model

    @property
    def _unit(self) -> Tensor:
        """The length, in units of the metric, of what ``centered`` passes to the base as 1."""
        return torch.exp(self.model.log_stretch)

    @property
    def options(self) -> dict[str, Any]:
        return {"base": self.base.name, "base_options": self.base.options}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {k: self.point_shape if self._is_point(k) else shape for k, shape in self.base.event_shapes.items()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        own = OnManifold(self.manifold, self.point_shape)
        return {k: own if self._is_point(k) else c for k, c in self.base.param_constraints.items()}

    def _is_point(self, name: str) -> bool:
        """Whether a parameter of the base is a point of the whole model (those of a product are points of its parts)."""
        constraint = self.base.param_constraints[name]
        return isinstance(constraint, OnManifold) and constraint.point_shape == self.base.point_shape

    def _into(self, w: Params) -> Params:
        model = self.model
        wide = {k: model.widened(v) for k, v in w.items()}
        return {k: model.to_model(v) if self._is_point(k) else v for k, v in wide.items()}

    def _out_of(self, w: Params, dtype: torch.dtype) -> Params:
        return {k: (self._point(v, dtype) if self._is_point(k) else v.to(dtype)) for k, v in w.items()}

    def _point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        model = self.model
        return geometry.project(self.manifold, model.from_model(x).to(dtype)) if model.wide else model.from_model(x)

    def _at(self, x: Tensor) -> Tensor:
        model = self.model
        return model.to_model(model.widened(x))

    def _shift(self, like: Tensor) -> Tensor:
        return self.dim * self.model.log_stretch.to(like)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self._own(self.base.log_prob(self._at(x), self._into(w)), x)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self._own(self.base.pairwise_log_prob(self._at(x), self._into(w)), x)

    def _own(self, log_q: Tensor, x: Tensor) -> Tensor:
        return (log_q - self._shift(log_q)).to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear | None:
        form = self.base.bilinear(self._at(x), self._into(w))
        return form if form is None else form._replace(offset=self._own(form.offset, x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        x = self.base.rsample(self._into(w), sample_shape, generator)
        return self._point(x, _dtype(w, x))

    def mean(self, w: Params) -> Tensor:
        mean = self.base.mean(self._into(w))
        return self._point(mean, _dtype(w, mean))

    def entropy(self, w: Params) -> Tensor:
        entropy = self.base.entropy(self._into(w))
        return (entropy + self._shift(entropy)).to(_dtype(w, entropy))

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        if kind == "riemannian" or kind in own_kinds(self.manifold):
            return super().mean_log_ratio(w, kind)
        ratio = self.base.mean_log_ratio(self._into(w), kind)
        return ratio - self._shift(ratio)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, ModelKernel):
            return super().kl_divergence(w, other, v)
        divergence = self.base.kl_divergence(self._into(w), other.base, other._into(v))
        return divergence.to(_dtype({**w, **v}, divergence))

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        return self._out_of(self.base.fit(self._at(x), weights), x.dtype)

    def fit_many(self, x: Tensor, weights: Tensor) -> Params:
        return self._out_of(self.base.fit_many(self._at(x), weights), x.dtype)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        scale = self.model.widened(scale)
        w = self.base.centered(self._at(points), scale / self._unit.to(scale))
        return self._with_points(self._out_of(w, points.dtype), points)

    def around(self, points: Tensor, covariance: Tensor) -> Params:
        # geodesics are those of the model, so that differences along them are exact at any step
        wide, there = self.model.widened(points), self._at(points)
        base, steps = self.base.manifold, torch.full_like(wide.flatten(covariance.ndim - 2)[..., 0], PROBE)

        def coordinates(x: Tensor) -> Tensor:
            return geometry.to_coords(base, there, geometry.logmap(base, there, self.model.to_model(x)))

        change = coordinate_change(self.manifold, wide, steps, coordinates)
        w = self.base.around(there, pushed(self.model.widened(covariance), change))
        return self._with_points(self._out_of(w, points.dtype), points)

    def _with_points(self, w: Params, points: Tensor) -> Params:
        """The points as they were given, not as they came back from the model."""
        return {**w, self.base.location: points} if self.base.location in w and self._is_point(self.base.location) else w

    @property
    def num_raw(self) -> int:
        return self.base.num_raw

    def params(self, raw: Tensor) -> Params:
        return self._out_of(self.base.params(self.model.widened(raw)), raw.dtype)

    @property
    def num_raw_shape(self) -> int:
        return self.base.num_raw_shape

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        return self._out_of(self.base.shaped(self._at(points), self.model.widened(shape)), shape.dtype)


def _dtype(w: Params, value: Tensor) -> torch.dtype:
    """The dtype of the parameters, that of ``value`` where there are none."""
    return next((v.dtype for v in w.values()), value.dtype)
