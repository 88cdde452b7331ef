"""Finite mixtures of kernels: what every estimator of this library evaluates, samples and saves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import geometry
from .backends import mixture_log_prob
from .backends.dense import log_sum_exp
from .bases import on_device
from .distributions import KernelDistribution, ManifoldDistribution, check_names, check_params
from .geometry import Shape
from .interval import LogProbInterval, log_prob_interval
from .kernel import Kernel, Params
from .measure import Measure


class Mixture(ManifoldDistribution):
    r"""Mixture of M components of one kernel, exactly normalised, and if wanted a background that covers all points.

    .. math:: q(x) = (1 - \beta) \sum_{c=1}^{M} \pi_c \, q(x \mid w_c) + \beta \, b(x)

    **Measure**: ``measure``, by default the Riemannian volume; ``log_prob(x, measure=...)`` converts.

    Args:
        kernel: the family of the components.
        params: parameters with a leading dimension M, or 1 where all components share a value. Dimensions before that make a
            batch of mixtures: (*B,M, ...).
        log_weights: (*B,M), normalised here; None for equal weights.
        background: the law b, see :func:`mf_manifold.background.background_for`; None for none.
        background_weight: beta, in [0, 1).
        backend: "auto", "dense" or "chunked", see :func:`mf_manifold.mixture_log_prob`; for a single mixture.

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
        background: KernelDistribution | None = None,
        background_weight: Tensor | float = 0.0,
        measure: Measure | str | None = None,
        backend: str = "auto",
        validate_args: bool | None = None,
    ) -> None:
        shape = kernel.batch_shape(params) if set(params) == set(kernel.event_shapes) else torch.Size()
        self.kernel = kernel
        super().__init__(kernel.manifold, kernel.point_shape, shape[:-1], measure, validate_args)
        check_names(kernel, params)
        # what carries gradients comes from a network, which meets the constraints by construction
        if self._validate_args and not any(value.requires_grad for value in params.values()):
            check_params(kernel, params)
        if len(shape) < 1 or shape[-1] < 1:
            raise ValueError(f"Expected parameters with one leading dimension of components, got batch {tuple(shape)}.")
        self.params = {k: v if v.ndim > dims else v.unsqueeze(0) for k, v, dims in self._items(params)}
        self.n_components = shape[-1]
        if log_weights is not None and log_weights.shape != shape:
            raise ValueError(f"Expected log_weights of shape {tuple(shape)}, got {tuple(log_weights.shape)}.")
        self.log_weights = None if log_weights is None else torch.log_softmax(log_weights, dim=-1)
        self.background = background
        like = next(iter(params.values()))
        self.background_weight = torch.as_tensor(background_weight, dtype=like.dtype, device=like.device)
        self._check_background()
        self.backend = backend

    def _items(self, params: Params) -> list[tuple[str, Tensor, int]]:
        return [(name, params[name], dims) for name, dims in self.kernel.event_dims.items()]

    def _check_background(self) -> None:
        weight = self.background_weight
        if self.background is None or weight.is_meta:
            return
        if not geometry.same_manifold(self.background.manifold, self.manifold):
            raise ValueError(f"Expected a background on {self.manifold.name}, got one on {self.background.manifold.name}.")
        if weight.ndim or not 0 <= float(weight.detach()) < 1:
            raise ValueError(f"Expected a background_weight in [0, 1), got {weight.tolist()}.")

    def _reduce(self, x: Tensor, power: float = 1.0, log_weights: Tensor | None = None) -> Tensor:
        """Log sum of powers of the components under their own or other weights, no background; (*S,*B,*E) -> (*S,*B)."""
        params, log_weights = self.params, self.log_weights if log_weights is None else log_weights
        dtype = torch.promote_types(x.dtype, next(iter(params.values())).dtype)
        if dtype != x.dtype or any(v.dtype != dtype for v in params.values()):
            x, params = x.to(dtype), {k: v.to(dtype) for k, v in params.items()}
            log_weights = None if log_weights is None else log_weights.to(dtype)
        if self.batch_shape:
            logits = self.kernel.log_prob(x.unsqueeze(x.ndim - len(self.kernel.point_shape)), params)
            return log_sum_exp(power * (logits + (-math.log(self.n_components) if log_weights is None else log_weights)))
        flat = x.reshape(-1, *self.kernel.point_shape)
        value = mixture_log_prob(self.kernel, flat, params, log_weights, backend=self.backend, power=power)
        return value.reshape(geometry.batch_shape(self.manifold, x))

    def _with_background(self, log_q: Tensor, x: Tensor) -> Tensor:
        if self.background is None:
            return log_q
        weight = self.background_weight.to(log_q)
        covering = self.background.log_prob(x, "riemannian").to(log_q)
        return torch.logaddexp(log_q + torch.log1p(-weight), covering + weight.log())

    def log_prob(self, value: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density with respect to ``measure`` (default: the mixture's own); (*S,*E) -> (*S)."""
        self._check(value)
        return self._to_measure(self._with_background(self._reduce(value), value), value, measure)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """Weighted log density of every component of a single mixture, Riemannian volume; (N,*E) -> (N,M)."""
        self._check(x)
        log_weights = -math.log(self.n_components) if self.log_weights is None else self.log_weights
        return self.kernel.pairwise_log_prob(x, self.params) + log_weights + self._log_share()

    def components_log_prob(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of the components without the background, Riemannian volume, and their effective number at ``x``.

        The number is ``exp(2 S1 - S2)`` with the logarithms S1, S2 of the summed densities and of their squares (Kish's), and 1
        where no component has density.

        Shapes: (*S,*B,*E) -> (*S,*B) each.
        """
        self._check(x)
        log_q = self._reduce(x)
        effective = torch.exp(2 * log_q - self._reduce(x, power=2.0)).masked_fill(log_q == -math.inf, 1.0)
        return log_q + self._log_share(), effective

    def _log_share(self) -> Tensor | float:
        """Log of the components' joint weight, which a background leaves them."""
        return 0.0 if self.background is None else torch.log1p(-self.background_weight)

    def log_prob_interval(self, x: Tensor, z: float = 1.96) -> LogProbInterval:
        r"""Interval for the log density of the infinite mixture ``q* = E[pi q(x | w)] / E[pi]`` that the components estimate.

        With responsibilities ``r_c = pi_c q(x | w_c) / sum_j pi_j q(x | w_j)`` and independently drawn components,

        .. math:: Var \log q \approx \sum_c (r_c - \pi_c)^2, \quad
                  E \log q - \log q^* \approx -\frac{1}{2} \sum_c (r_c^2 - \pi_c^2)

        which are ``1/n - 1/M`` and minus half of it for equal weights, ``n = 1 / sum r_c^2`` being the effective number of
        components. Normalised learned weights make a ratio of two means; the formulas are its delta method. A
        background is not random: it scales both down by the components' share of the density.

        The normal interval holds where ``trustworthy`` (n of at least 20); elsewhere ``log_prob`` is a lower bound in
        expectation. Components of a frozen Sobol draw are spread more evenly than independent ones: the interval is
        then too wide, and the correction too large.

        Args:
            x: points (*S,*E).
            z: half width in standard errors; 1.96 covers 95 %.

        Reference: Kish (1965), Survey Sampling, section 11.7 (n); Owen (2013), Monte Carlo theory, methods and examples,
            section 9.2 (ratios).

        >>> import geoopt, torch, mf_manifold as mf
        >>> w = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
        >>> line = mf.kernel_for(geoopt.Euclidean(ndim=1), (1,))
        >>> found = mf.Mixture(line, {"loc": w, "scale": torch.tensor([0.5])}).log_prob_interval(torch.zeros(1))
        >>> exact = torch.distributions.Normal(0.0, 1.25 ** 0.5).log_prob(torch.tensor(0.0))
        >>> bool(found.trustworthy), bool(found.lower < exact < found.upper)
        (True, True)
        """
        return log_prob_interval(self, x, z)

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """Independent samples: a component by its weight, then a point of it; -> (*sample_shape,*B,*E)."""
        generator = on_device(generator, self.background_weight.device)
        with torch.no_grad():
            index = self._draw_components(math.prod(sample_shape), generator)
            expanded = self.kernel.expand(self.params, (*self.batch_shape, self.n_components))
            flat = {k: v.reshape(-1, *v.shape[v.ndim - dims :]) for k, v, dims in self._items(expanded)}
            chosen = {k: v[index] for k, v in flat.items()}
            points = self.kernel.rsample(self.kernel.expand(chosen, (len(index),)), (), generator)
            points = self._mix_background(points, generator)
        return points.reshape(*sample_shape, *self.batch_shape, *self.kernel.point_shape)

    def _draw_components(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Flat indices into (*B,M) of ``count`` components for each mixture of the batch; -> (count prod B)."""
        like, batch = next(iter(self.params.values())), math.prod(self.batch_shape)
        shape = (count, batch)
        if self.log_weights is None:
            index = torch.randint(self.n_components, shape, generator=generator, device=like.device)
        else:
            # inversion, because torch.multinomial is limited to 2^24 categories
            levels = self.log_weights.detach().double().exp().cumsum(-1).reshape(batch, -1)
            u = torch.rand(shape, generator=generator, device=like.device, dtype=torch.float64) * levels[:, -1]
            index = torch.searchsorted(levels, u.mT.contiguous()).mT.clamp_max(self.n_components - 1)
        return (index + self.n_components * torch.arange(batch, device=like.device)).reshape(-1)

    def _mix_background(self, points: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.background is None:
            return points
        chosen = torch.rand(len(points), generator=generator, device=points.device) < self.background_weight
        points[chosen] = self.background.sample((int(chosen.sum()),), generator).to(points)
        return points

    def _map(self, change: Callable[[Tensor], Tensor]) -> Mixture:
        """The same mixture with every tensor changed; parameters that passed their checks are not checked again."""
        background = self.background
        if background is not None:
            changed = {k: change(v) for k, v in background.params.items()}
            background = KernelDistribution(background.kernel, changed, background.measure, False, background.batch_shape)
        mixture = Mixture(
            self.kernel,
            {k: change(v) for k, v in self.params.items()},
            None if self.log_weights is None else change(self.log_weights),
            background=background,
            background_weight=change(self.background_weight),
            measure=self.measure,
            backend=self.backend,
            validate_args=False,
        )
        mixture._validate_args = self._validate_args
        return mixture

    def weighted(self, log_weights: Tensor | None, index: Tensor | slice = slice(None)) -> Mixture:
        """The components ``index`` of a single mixture under other weights, normalised anew; the background stays."""
        params = {k: v if v.shape[0] == 1 else v[index] for k, v in self.params.items()}
        return Mixture(
            self.kernel,
            params,
            log_weights,
            background=self.background,
            background_weight=self.background_weight,
            measure=self.measure,
            backend=self.backend,
            validate_args=False,
        )

    def rsample_stratified(self, n_per_component: int = 1, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Points of every component and their weights: ``sum_i weights_i f(points_i)`` estimates ``E f`` without bias.

        Pathwise differentiable in the parameters and, through the weights, in ``log_weights`` and ``background_weight``. A
        background counts as one more component.

        Returns:
            points (n,*B,*E) and weights (n,*B), which sum to 1 over n = ``n_per_component`` times the number of components.

        Raises:
            NotImplementedError: the kernel has no pathwise samples.
        """
        if not self.kernel.has_rsample:
            raise NotImplementedError(
                f"Expected a kernel with pathwise samples, got {self.kernel.name}, whose sampler has no gradients. "
                f"Choose another kernel of {self.manifold.name}."
            )
        shape = (*self.batch_shape, self.n_components)
        generator = on_device(generator, next(iter(self.params.values())).device)
        points = self.kernel.rsample(self.kernel.expand(self.params, shape), (n_per_component,), generator)
        equal = torch.full(shape, 1 / self.n_components, dtype=points.dtype, device=points.device)
        weights, axis = equal if self.log_weights is None else self.log_weights.exp(), len(shape)
        if self.background is not None:
            share = self.background_weight.expand(*self.batch_shape, 1)
            covering = self.background.sample((n_per_component, *share.shape), generator).to(points)
            points, weights = torch.cat([points, covering], axis), torch.cat([(1 - share) * weights, share], -1)
        repeats = (n_per_component, *(1 for _ in self.batch_shape))
        return points.movedim(axis, 1).flatten(0, 1), weights.movedim(-1, 0).repeat(repeats) / n_per_component

    def detach(self, validate_args: bool | None = None) -> Mixture:
        """The same mixture without gradients; ``validate_args=False`` also skips the checks of points."""
        mixture = self._map(Tensor.detach)
        mixture._validate_args = self._validate_args if validate_args is None else validate_args
        return mixture

    def to(self, *args: Any, **options: Any) -> Mixture:
        """The same mixture in another dtype or on another device, as :meth:`torch.Tensor.to`."""
        return self._map(lambda tensor: tensor.to(*args, **options))

    def __repr__(self) -> str:
        batch = f"batch {tuple(self.batch_shape)}, " if self.batch_shape else ""
        covered = "" if self.background is None else f" + {self.background.kernel.name}"
        return f"Mixture({batch}{self.n_components} x {self.kernel.name}{covered}; {self.measure})"
