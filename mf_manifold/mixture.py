"""Finite mixtures of kernels: what every estimator of this library evaluates, samples and saves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import geometry
from .backends import mixture_log_prob
from .distributions import ManifoldDistribution, check_names, check_params
from .geometry import Shape
from .kernel import Kernel, Params
from .measure import Measure


class Mixture(ManifoldDistribution):
    r"""Mixture of M components of one kernel, exactly normalised.

    .. math:: q(x) = \sum_{c=1}^{M} \pi_c \, q(x \mid w_c)

    **Measure**: ``measure``, by default the Riemannian volume; ``log_prob(x, measure=...)`` converts.

    Args:
        kernel: the family of the components.
        params: parameters with one leading dimension M, or 1 where all components share a value.
        log_weights: (M,), normalised here; None for equal weights.
        backend: "auto", "dense" or "chunked", see :func:`mf_manifold.mixture_log_prob`.

    Raises:
        ValueError: parameters of other names, without a common number of components, or outside their domain (not checked where
            they require gradients); points off the manifold.

    >>> import geoopt, torch, mf_manifold as mf
    >>> kernel = mf.kernel_for(geoopt.Sphere(), (3,), "von_mises_fisher")
    >>> loc, concentration = torch.eye(3, dtype=torch.float64), torch.full((3,), 10., dtype=torch.float64)
    >>> mix = mf.Mixture(kernel, {"loc": loc, "concentration": concentration})
    >>> round(float(mix.log_prob(loc[0])), 4)
    -0.6338
    """

    def __init__(
        self,
        kernel: Kernel,
        params: Params,
        log_weights: Tensor | None = None,
        *,
        measure: Measure | str | None = None,
        backend: str = "auto",
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(kernel, torch.Size(), measure, validate_args)
        check_names(kernel, params)
        # what carries gradients comes from a network, which meets the constraints by construction
        if self._validate_args and not any(value.requires_grad for value in params.values()):
            check_params(kernel, params)
        shape = kernel.batch_shape(params)
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"Expected parameters with one leading dimension of components, got batch {tuple(shape)}.")
        self.params = {k: v if v.ndim > dims else v.unsqueeze(0) for k, v, dims in self._items(params)}
        self.n_components = shape[0]
        if log_weights is not None and log_weights.shape != shape:
            raise ValueError(f"Expected log_weights of shape {tuple(shape)}, got {tuple(log_weights.shape)}.")
        self.log_weights = None if log_weights is None else torch.log_softmax(log_weights, dim=0)
        self.backend = backend

    def _items(self, params: Params) -> list[tuple[str, Tensor, int]]:
        return [(name, params[name], dims) for name, dims in self.kernel.event_dims.items()]

    def _reduce(self, x: Tensor, power: float = 1.0) -> Tensor:
        params, log_weights, flat = self.params, self.log_weights, x.reshape(-1, *self.kernel.point_shape)
        dtype = torch.promote_types(x.dtype, next(iter(params.values())).dtype)
        if dtype != x.dtype or any(v.dtype != dtype for v in params.values()):
            flat, params = flat.to(dtype), {k: v.to(dtype) for k, v in params.items()}
            log_weights = None if log_weights is None else log_weights.to(dtype)
        value = mixture_log_prob(self.kernel, flat, params, log_weights, backend=self.backend, power=power)
        return value.reshape(geometry.batch_shape(self.manifold, x))

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density with respect to ``measure`` (default: the mixture's own); (*S,*E) -> (*S)."""
        self._check(value)
        return self._to_measure(self._reduce(value), value, measure)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """Weighted log density of every component, Riemannian volume; (N,*E) -> (N,M)."""
        self._check(x)
        log_weights = -math.log(self.n_components) if self.log_weights is None else self.log_weights
        return self.kernel.pairwise_log_prob(x, self.params) + log_weights

    def log_prob_interval(self, x: Tensor, z: float = 1.96) -> tuple[Tensor, Tensor, Tensor]:
        """Interval for the log density of the infinite mixture that the components were drawn from.

        With the effective sample size ``n = exp(2 S1 - S2)`` of the streamed sums at powers 1 and 2, the squared
        relative standard error is ``1/n - 1/M``, and ``log q`` is debiased by half of it. Only where n is above about 20 does
        the normal interval hold; elsewhere ``log_prob`` is a lower bound in expectation. The formula is for independently drawn
        components (``flow()``); those of ``flow.freeze()`` are spread evenly, for which the interval is too wide.

        Returns:
            lower limit, upper limit, effective number of components n; each (*S).
        """
        self._check(x)
        log_q, log_square = self._reduce(x), self._reduce(x, power=2.0)
        effective = torch.exp(2 * log_q - log_square)
        variance = (1 / effective - 1 / self.n_components).clamp_min(0)
        center = self._to_measure(log_q, x, None) + variance / 2
        return center - z * variance.sqrt(), center + z * variance.sqrt(), effective

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples: a component by its weight, then a point of it; -> (*sample_shape,*E)."""
        count, like = math.prod(sample_shape), next(iter(self.params.values()))
        if self.log_weights is None:
            index = torch.randint(self.n_components, (count,), generator=generator, device=like.device)
        else:
            # inversion, because torch.multinomial is limited to 2^24 categories
            levels = self.log_weights.double().exp().cumsum(0)
            u = torch.rand(count, generator=generator, device=like.device, dtype=torch.float64) * levels[-1]
            index = torch.searchsorted(levels, u).clamp_max(self.n_components - 1)
        chosen = {k: v[index] if v.shape[0] == self.n_components else v for k, v in self.params.items()}
        with torch.no_grad():
            points = self.kernel.rsample(self.kernel.expand(chosen, (count,)), (), generator)
        return points.reshape(*sample_shape, *self.kernel.point_shape)

    def rsample_stratified(self, n_per_component: int = 1, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Points of every component and their weights: ``sum_i weights_i f(points_i)`` estimates ``E f`` without bias.

        Pathwise differentiable in the parameters and, through the weights, in ``log_weights``.

        Returns:
            points (n_per_component M,*E), weights (n_per_component M), which sum to 1.

        Raises:
            NotImplementedError: the kernel has no pathwise samples.
        """
        if not self.kernel.has_rsample:
            raise NotImplementedError(
                f"Expected a kernel with pathwise samples, got {self.kernel.name}, whose sampler has no gradients. "
                f"Choose another kernel of {self.manifold.name}."
            )
        shape = (self.n_components,)
        points = self.kernel.rsample(self.kernel.expand(self.params, shape), (n_per_component,), generator).flatten(0, 1)
        equal = torch.full(shape, 1 / self.n_components, dtype=points.dtype, device=points.device)
        weights = equal if self.log_weights is None else self.log_weights.exp()
        return points, weights.repeat(n_per_component) / n_per_component

    def detach(self) -> Mixture:
        """The same mixture without gradients."""
        params = {k: v.detach() for k, v in self.params.items()}
        weights = None if self.log_weights is None else self.log_weights.detach()
        return Mixture(
            self.kernel, params, weights, measure=self.measure, backend=self.backend, validate_args=self._validate_args
        )

    def __repr__(self) -> str:
        return f"Mixture({self.n_components} x {self.kernel.name}; {self.measure})"
