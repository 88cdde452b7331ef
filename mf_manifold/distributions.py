"""A kernel with its parameters as a ``torch.distributions.Distribution``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import geoopt
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from . import geometry
from .geometry import Shape
from .kernel import Kernel, OnManifold, Params, kernel_class_for, kernel_for
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
        kernel: Kernel,
        batch_shape: torch.Size,
        measure: Measure | str | None,
        validate_args: bool | None,
    ) -> None:
        self.kernel = kernel
        self.measure = as_measure(kernel.manifold, measure)
        # torch's own validation has no row numbers; ours runs in its place, under the same switch
        super().__init__(batch_shape, torch.Size(kernel.point_shape), validate_args=False)
        self._validate_args = Distribution._validate_args if validate_args is None else validate_args

    @property
    def manifold(self) -> geoopt.Manifold:
        """The manifold of the points."""
        return self.kernel.manifold

    @property
    def support(self) -> constraints.Constraint:
        """The points of the manifold."""
        return OnManifold(self.manifold, self.kernel.point_shape)

    def _to_measure(self, log_prob: Tensor, x: Tensor, measure: Measure | str | None) -> Tensor:
        target = self.measure if measure is None else as_measure(self.manifold, measure)
        if target.kind == "riemannian":
            return log_prob
        return log_prob + log_ratio(self.kernel.measure, target, x)

    def _check(self, x: Tensor) -> None:
        if self._validate_args:
            geometry.check_points(self.manifold, x, self.kernel.point_shape)


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
    if trailing != shape and not (name.startswith("scale") and trailing == (1,)):
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
    ) -> None:
        super().__init__(kernel, kernel.batch_shape(params), measure, validate_args)
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
        return self._to_measure(self.kernel.log_prob(value, self.params), value, measure)

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
        w = self.kernel.expand(self.params, tuple(self.batch_shape))
        return self.kernel.rsample(w, tuple(sample_shape), generator)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> KernelDistribution:  # type: ignore[override]
        """The same distribution with parameters expanded to ``batch_shape``."""
        params = self.kernel.expand(self.params, tuple(batch_shape))
        return KernelDistribution(self.kernel, params, self.measure, validate_args=False)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k}: {tuple(v.shape)}" for k, v in self.params.items())
        return f"{self.kernel.name}({shapes}; {self.measure})"


def _as_tensors(params: dict[str, Any], event_dims: Mapping[str, int]) -> Params:
    like = [v for v in params.values() if isinstance(v, Tensor) and v.is_floating_point()]
    dtype = like[0].dtype if like else torch.get_default_dtype()
    device = like[0].device if like else None
    out = {}
    for name, value in params.items():
        tensor = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else dtype, device=device)
        tensor = tensor.as_subclass(torch.Tensor) if isinstance(tensor, geoopt.ManifoldTensor) else tensor
        missing = event_dims[name] - tensor.ndim
        out[name] = tensor.reshape((1,) * missing + tuple(tensor.shape)) if missing > 0 else tensor
    return out


Name = str | Sequence[str | None] | None


def _product_with(manifold: geoopt.ProductManifold, name: Name, params: Mapping[str, Any]) -> Kernel:
    names = [None] * manifold.n_manifolds if name is None or isinstance(name, str) else list(name)
    if len(names) != manifold.n_manifolds:
        raise ValueError(f"Expected a kernel name for each of {manifold.n_manifolds} parts, got {names}.")
    parts = []
    for i, (part, part_name) in enumerate(zip(manifold.manifolds, names, strict=True)):
        own = {k.removesuffix(f"_{i}"): v for k, v in params.items() if k.endswith(f"_{i}")}
        parts.append(_kernel_with(part, part_name, own))
    options = [part.options for part in parts]
    return kernel_for(
        manifold, (manifold.n_elements,), "product", kernels=[part.name for part in parts], part_options=options
    )


def _kernel_with(manifold: geoopt.Manifold, name: Name, params: Mapping[str, Any]) -> Kernel:
    """The kernel whose variant and point shape the keyword arguments imply."""
    if isinstance(manifold, geoopt.ProductManifold):
        return _product_with(manifold, name, params)
    if name is not None and not isinstance(name, str):
        raise ValueError(f"Expected one kernel name on {type(manifold).__name__}, got {list(name)}.")
    if isinstance(manifold, geoopt.Scaled):
        base = _kernel_with(manifold.base, name, params)
        return kernel_for(manifold, base.point_shape, base.name, **base.options)
    kernel_class = kernel_class_for(manifold, name)
    options = kernel_class.options_for(set(params))
    return kernel_class(manifold, kernel_class.infer_point_shape(manifold, params), **options)


def distribution(
    manifold: geoopt.Manifold,
    name: Name = None,
    *,
    measure: Measure | str | None = None,
    validate_args: bool | None = None,
    **params: Any,
) -> KernelDistribution:
    """A distribution on a manifold by the name of its kernel, such as ``"wrapped_normal"`` on ``geoopt.Sphere()``.

    **Measure**: the Riemannian volume of the manifold's metric, or the one named by ``measure``.

    Args:
        manifold: a geoopt manifold.
        name: registry name, on products one for each part; None takes the manifold's default kernel.
        measure: reference measure of ``log_prob``.
        params: the kernel's parameters; numbers or tensors, broadcast over batch dimensions.

    Raises:
        ValueError: unknown kernel, wrong parameter names, values outside their domain, points off the manifold.

    >>> import geoopt, torch, mf_manifold as mf
    >>> d = mf.distribution(geoopt.Sphere(), "von_mises_fisher", loc=torch.tensor([0., 0., 1.]), concentration=50.0)
    >>> d.log_prob(torch.tensor([0., 0., 1.])).exp()      # 50 / (2 pi) per unit of surface
    tensor(7.9577)
    """
    kernel = _kernel_with(manifold, name, params)
    check_names(kernel, params)
    return KernelDistribution(kernel, _as_tensors(params, kernel.event_dims), measure, validate_args)
