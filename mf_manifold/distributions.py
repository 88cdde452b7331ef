"""A kernel with its parameters as a ``torch.distributions.Distribution``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import geoopt
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from . import geometry
from .geometry import Shape
from .kernel import Kernel, OnManifold, Params
from .measure import Measure, log_ratio


def as_measure(manifold: geoopt.Manifold, measure: Measure | str | None) -> Measure:
    """The measure meant by an object, a name, or None (the Riemannian volume)."""
    if not isinstance(measure, Measure):
        return Measure(manifold, measure or "riemannian")
    if not geometry.same_manifold(manifold, measure.manifold):
        raise ValueError(f"Expected a measure on {manifold.name}, got the {measure}.")
    return measure


class ManifoldDistribution(Distribution):
    """What all distributions of this library share: a manifold, a named reference measure, validated points."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        batch_shape: Shape = (),
        measure: Measure | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.manifold, self.point_shape = manifold, tuple(point_shape)
        self.measure = as_measure(manifold, measure)
        # torch's own validation has no row numbers; ours runs in its place, under the same switch
        super().__init__(torch.Size(batch_shape), torch.Size(point_shape), validate_args=False)
        self._validate_args = Distribution._validate_args if validate_args is None else validate_args

    @property
    def dim(self) -> int:
        """Dimension of the manifold."""
        return geometry.intrinsic_dim(self.manifold, self.point_shape)

    def like(self, points: Tensor) -> Tensor:
        """Points in the dtype and on the device of this distribution's samples."""
        return points.to(self.sample((1,), torch.Generator().manual_seed(0)))

    @property
    def support(self) -> constraints.Constraint:
        """The points of the manifold."""
        return OnManifold(self.manifold, self.point_shape)

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density with respect to ``measure``, by default the distribution's own."""
        raise NotImplementedError

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples."""
        raise NotImplementedError

    def _to_measure(self, log_prob: Tensor, x: Tensor, measure: Measure | str | None) -> Tensor:
        target = self.measure if measure is None else as_measure(self.manifold, measure)
        if target.kind == "riemannian":
            return log_prob
        return log_prob + log_ratio(Measure(self.manifold), target, x)

    def _check(self, x: Tensor) -> None:
        if self._validate_args:
            geometry.check_points(self.manifold, x, self.point_shape)


def check_names(kernel: Kernel, params: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless the parameters are those of the kernel."""
    if set(params) != set(kernel.event_shapes):
        raise ValueError(
            f"Expected the parameters {', '.join(kernel.event_shapes)} of {kernel.name} on {kernel.manifold.name}, "
            f"got {', '.join(params) or 'none'}."
        )


def check_params(kernel: Kernel, params: Params) -> None:
    """Raise ``ValueError`` unless shapes and values of the parameters satisfy their constraints."""
    for name, value in params.items():
        _check_param(kernel, name, value)


def _check_param(kernel: Kernel, name: str, value: Tensor) -> None:
    constraint, shape = kernel.param_constraints[name], kernel.event_shapes[name]
    trailing = tuple(value.shape[value.ndim - len(shape) :])
    if trailing != shape and not (name.startswith(("scale", "concentration")) and trailing == (1,)):
        raise ValueError(
            f"Expected parameter {name} of {kernel.name} on {kernel.manifold.name} to end in the dimensions {shape}, "
            f"got shape {tuple(value.shape)}. Batches of one number per component are (batch, 1)."
        )
    if isinstance(constraint, OnManifold):
        return geometry.check_points(constraint.manifold, value, constraint.point_shape, name)
    if value.is_meta or value.numel() == 0:
        return None
    finite = torch.isfinite(value.reshape(*value.shape[: value.ndim - constraint.event_dim], -1)).all(-1)
    bad = ~(constraint.check(value) & finite)
    if bad.any():
        raise ValueError(
            f"Expected parameter {name} of {kernel.name} on {kernel.manifold.name} to satisfy {constraint} and to be finite, "
            f"but {int(bad.sum())} of {bad.numel()} values do not, such as {value[bad][0].tolist()}."
        )
    return None


class KernelDistribution(ManifoldDistribution):
    """The distribution q(x | w) of a kernel with parameters ``w``.

    **Measure**: ``measure``, by default the Riemannian volume; ``log_prob(x, measure=...)`` converts.

    Shapes: batch_shape is that of the parameters, event_shape the manifold's point shape.
    """

    def __init__(
        self,
        kernel: Kernel,
        params: Params,
        measure: Measure | str | None = None,
        validate_args: bool | None = None,
        batch_shape: Shape = (),
    ) -> None:
        shape = torch.broadcast_shapes(kernel.batch_shape(params), batch_shape)
        self.kernel = kernel
        super().__init__(kernel.manifold, kernel.point_shape, shape, measure, validate_args)
        if self._validate_args:
            check_params(kernel, params)
        self.params = params

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:  # type: ignore[override]
        """Constraint of each parameter."""
        return dict(self.kernel.param_constraints)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether samples are pathwise differentiable in the parameters."""
        return self.kernel.has_rsample

    def __getattr__(self, name: str) -> Tensor:
        params: Params = self.__dict__.get("params", {})
        if name in params:
            return params[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density with respect to ``measure`` (default: the distribution's own); (*S,*B,*E) -> (*S,*B)."""
        self._check(value)
        log_q = self._to_measure(self.kernel.log_prob(value, self.params), value, measure)
        return log_q if self.params else log_q.expand(torch.broadcast_shapes(log_q.shape, self.batch_shape))

    def rsample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Pathwise differentiable samples; -> (*sample_shape,*B,*E)."""
        if not self.has_rsample:
            raise NotImplementedError(f"{self.kernel.name} has no pathwise sampler here; call sample() instead.")
        return self._draw(sample_shape, generator)

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples; -> (*sample_shape,*B,*E)."""
        with torch.no_grad():
            return self._draw(sample_shape, generator)

    def _draw(self, sample_shape: Shape, generator: torch.Generator | None) -> Tensor:
        batch = tuple(self.batch_shape)
        shape = tuple(sample_shape) if self.params else (*sample_shape, *batch)
        return self.kernel.rsample(self.kernel.expand(self.params, batch), shape, generator)

    @property
    def mean(self) -> Tensor:
        """The mean, a point of the manifold; ``kernel.mean_kind`` says which: "frechet", or "extrinsic" (projected E X)."""
        return self.kernel.mean(self.kernel.expand(self.params, tuple(self.batch_shape)))

    def entropy(self, measure: Measure | str | None = None) -> Tensor:
        """Differential entropy with respect to ``measure`` (default: the distribution's own), in nats; -> (*B)."""
        target = self.measure if measure is None else as_measure(self.manifold, measure)
        entropy = self.kernel.entropy(self.params)
        entropy = entropy + self.kernel.mean_log_ratio(self.params, target.kind).to(entropy)
        return entropy.expand(self.batch_shape)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> KernelDistribution:
        """The distribution of this family with the largest likelihood for points (N,*E), see :func:`mf_manifold.fit`."""
        from .fitting import fit_kernel

        return fit_kernel(self.kernel, x, weights, self.measure)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> KernelDistribution:  # type: ignore[override]
        """The same distribution with parameters expanded to ``batch_shape``."""
        params = self.kernel.expand(self.params, tuple(batch_shape))
        new = KernelDistribution(self.kernel, params, self.measure, validate_args=False, batch_shape=tuple(batch_shape))
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k}: {tuple(v.shape)}" for k, v in self.params.items())
        return f"{self.kernel.name}({shapes}; {self.measure})"


@register_kl(KernelDistribution, KernelDistribution)  # type: ignore[untyped-decorator]
def _kl(p: KernelDistribution, q: KernelDistribution) -> Tensor:
    """Divergences do not depend on measures: ``torch.distributions.kl_divergence(p, q)``."""
    if not geometry.same_manifold(p.manifold, q.manifold) or p.event_shape != q.event_shape:
        raise ValueError(
            f"Expected two distributions on one manifold, got {p.manifold.name} with points {tuple(p.event_shape)} and "
            f"{q.manifold.name} with points {tuple(q.event_shape)}."
        )
    divergence = p.kernel.kl_divergence(p.params, q.kernel, q.params)
    return divergence.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
