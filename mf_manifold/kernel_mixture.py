"""Mixtures of a fixed number of kernels by maximum likelihood: the EM algorithm on manifolds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from os import PathLike
from typing import Any

import geoopt
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import checkpoint, geometry, manifolds
from .background import background_for, covering_kernel
from .clustering import Clusters, kmeans
from .distributions import KernelDistribution
from .em import ExpectationMaximisation, State
from .estimator import Estimator
from .geometry import Shape
from .kernel import Kernel, Params, kernel_for
from .mixture import Mixture
from .neighbors import distance, length_unit, nearest

ENOUGH = 200  # held-out points that tell numbers of components apart
LEAST_FLOOR, MOST_FLOOR, FIRST_FLOOR = 0.1, 0.999, 0.01  # weight of the background: at least, in data; at most; at the start


@checkpoint.register_model
class KernelMixture(Estimator):
    r"""Mixture of M components of a kernel and a background, fitted by the EM algorithm.

    .. math:: q(x) = (1 - \beta) \sum_{c=1}^{M} \pi_c\, q(x \mid w_c) + \beta\, b(x)

    It starts at clusters by geodesic distance (:func:`mf_manifold.clustering.kmeans`). The M step is the kernel's own weighted
    fit; families without one climb by L-BFGS on unconstrained parameters. No step lowers the likelihood: a component moves only
    where its share of the expected log-likelihood does not fall. One with fewer data than twice the
    numbers of its shape, and than four times the dimension, stays the round bump of its cluster: a covariance fitted to so few
    data describes no others. A component on a single datum has an unbounded likelihood;
    none may have at a datum more density than a flat normal law of the scale ``min_scale``, and ``history`` counts those at
    that cap.

    **Measure**: Riemannian volume of the manifold's metric.

    Args:
        n_components: M; of several numbers the one whose fit to nine tenths of the data gives the others the largest
            likelihood is used, with a new fit to all data. Up to ten tenths are held out in turn, until they are 200 points.
        kernel: registry name; None takes the manifold's default.
        floor: whether there is a background, uniform on compact manifolds and a bump three times as wide as the data elsewhere.
        min_scale: see above; None takes a tenth of the median distance to the (d+1)-th neighbour.
        kernel_options: constructor options of the kernel, such as ``{"covariance": "full"}``.

    Raises:
        ValueError: fewer points than components, points off the manifold.

    References:
        Dempster, Laird, Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
        Banerjee, Dhillon, Ghosh, Sra (2005), Clustering on the unit hypersphere using von Mises-Fisher distributions.

    >>> import geoopt, torch, mf_manifold as mf
    >>> from mf_manifold.kernel_mixture import KernelMixture
    >>> poles = torch.tensor([[0.0, 0, 1], [0.0, 0, -1]], dtype=torch.float64)
    >>> law = mf.distribution(geoopt.Sphere(), "von_mises_fisher", loc=poles, concentration=50.0)
    >>> x = law.sample((200,), generator=torch.Generator().manual_seed(0)).flatten(0, 1)
    >>> model = KernelMixture(geoopt.Sphere(), (3,), n_components=2).fit(x, progress=False)
    >>> model.freeze().params["loc"][:, 2].abs() > 0.99
    tensor([True, True])
    """

    log_weights: Tensor
    floor_weight: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        n_components: int | Sequence[int] = 10,
        kernel: str | None = None,
        *,
        floor: bool = True,
        min_scale: float | None = None,
        kernel_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(manifold, point_shape)
        self.kernel = kernel_for(manifold, tuple(point_shape), kernel, **(kernel_options or {}))
        counts = (n_components,) if isinstance(n_components, int) else tuple(n_components)
        if not counts or min(counts) < 1:
            raise ValueError(f"Expected positive n_components, one or several, got {n_components}.")
        if not self.kernel.event_shapes:
            raise ValueError(f"Expected a kernel with parameters to fit, got {self.kernel.name}, which has none.")
        if min_scale is not None and not min_scale > 0:
            raise ValueError(f"Expected min_scale > 0, or None, got {min_scale}.")
        self.candidates, self.floor, self.min_scale = counts, floor, min_scale
        self.n_components = counts[0]
        self.components = _Tensors(dict.fromkeys(self.kernel.event_shapes, torch.empty(0)))
        self.background = _Tensors(dict.fromkeys(covering_kernel(manifold, self.point_shape).event_shapes, torch.empty(0)))
        self.register_buffer("log_weights", torch.empty(0))
        self.register_buffer("floor_weight", torch.zeros(()))

    def fit(
        self,
        x: Tensor,
        *,
        seed: int = 0,
        restarts: int = 3,
        max_steps: int = 300,
        tolerance: float = 1e-6,
        start: Mixture | None = None,
        max_seconds: float | None = None,
        progress: bool = True,
        checkpoint: str | PathLike[str] | None = None,
    ) -> KernelMixture:
        """Fit to points ``x`` (n,*E).

        Args:
            seed: of the starts and of the split for the choice of ``n_components``.
            restarts: fits from different starts, of which the likeliest is kept.
            max_steps: EM steps of a start.
            tolerance: a start ends when a step gains less, in nats of the mean log-likelihood.
            start: a mixture of the same kernel to begin with, instead of clusters.
            max_seconds: stop after this time with the likeliest state so far.
            checkpoint: folder in which the result is saved.
        """
        geometry.check_points(self.manifold, x, self.point_shape)
        least = max(self.candidates) if start is None else 1
        if x.ndim != 1 + len(self.point_shape) or len(x) < max(2, least):
            raise ValueError(f"Expected at least {max(2, least)} points (n, {self.point_shape}), got shape {tuple(x.shape)}.")
        if start is not None and (start.kernel.name != self.kernel.name or start.kernel.options != self.kernel.options):
            raise ValueError(f"Expected a start of {self.kernel}, got {start}.")
        self.history = []
        points, began = geometry.project(self.manifold, x.detach()), time.monotonic()
        deadline = math.inf if max_seconds is None else began + max_seconds
        with tqdm(desc="EM", unit=" steps", disable=not progress) as bar:
            fit = _Fit(self, restarts, max_steps, tolerance, deadline, began, bar)
            if len(self.candidates) > 1 and start is None:
                self.n_components = fit.choose(points, self.candidates, seed)
            fit.run(points, self.n_components if start is None else start.n_components, seed, start)
        if checkpoint is not None:
            self.save(checkpoint, overwrite=True)
        return self

    def keep(self, state: State, background: KernelDistribution | None) -> None:
        """Take over the components and weights of a state."""
        count = len(state.capped)
        self.n_components = count
        self.components = _Tensors(state.params)
        like = next(iter(state.params.values()))
        self.log_weights = (state.weights[:count] / state.weights[:count].sum()).log().to(like)
        self.floor_weight = state.weights[-1].to(like) if background is not None else like.new_zeros(())
        if background is not None:
            self.background = _Tensors(background.params)

    def freeze(self, n_components: int | None = None, seed: int = 0) -> Mixture:
        """The fitted mixture, with all its components.

        Raises:
            RuntimeError: before ``fit``.
        """
        if not len(self.log_weights):
            raise RuntimeError("Expected a fitted KernelMixture. Call fit(x) first.")
        covering = None
        if float(self.floor_weight) > 0:
            kernel = covering_kernel(self.manifold, self.point_shape)
            covering = KernelDistribution(kernel, self.background.params(), validate_args=False)
        return Mixture(
            self.kernel, self.components.params(), self.log_weights, background=covering, background_weight=self.floor_weight
        )

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "kernel": self.kernel.name,
            "options": {
                "n_components": list(self.candidates),
                "floor": self.floor,
                "min_scale": self.min_scale,
                "kernel_options": self.kernel.options,
            },
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> KernelMixture:
        """Rebuild what :meth:`save` wrote."""
        manifold = manifolds.from_config(config["manifold"])
        model = cls(manifold, tuple(config["point_shape"]), kernel=config["kernel"], **config["options"])
        for part in ("components", "background"):
            setattr(model, part, _Tensors({k.split(".", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{part}.")}))
        model.log_weights, model.floor_weight = tensors["log_weights"], tensors["floor_weight"]
        model.history, model.n_components = config["history"], len(model.log_weights)
        return model


class _Tensors(nn.Module):
    """Named tensors that are saved and moved with a module."""

    def __init__(self, values: Params) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_buffer(name, value)

    def params(self) -> Params:
        return dict(self.named_buffers())


class _Fit:
    """Restarts of the EM algorithm, and the choice of the number of components."""

    def __init__(
        self, model: KernelMixture, restarts: int, max_steps: int, tolerance: float, deadline: float, began: float, bar: Any
    ) -> None:
        self.model, self.kernel = model, model.kernel
        self.restarts, self.max_steps, self.tolerance = restarts, max_steps, tolerance
        self.deadline, self.began, self.bar = deadline, began, bar

    def choose(self, x: Tensor, candidates: Sequence[int], seed: int) -> int:
        """The number of components with the largest likelihood of held-out data, tenths of them until there are enough."""
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
        held = max(1, len(x) // 10)
        parts = order.split(held)[: min(10, math.ceil(ENOUGH / held))]
        scores: dict[int, float] = {}
        for count in candidates:
            if scores and time.monotonic() > self.deadline:
                break
            scores[count] = sum(self._held_out(x, part, count, seed) for part in parts) / sum(len(part) for part in parts)
            self.model.history.append({"n_components": count, "validation_nll": scores[count]})
        return min(scores, key=lambda count: scores[count])

    def _held_out(self, x: Tensor, part: Tensor, count: int, seed: int) -> float:
        """Negative log-likelihood of a part of the data under a fit to the others."""
        others = torch.ones(len(x), dtype=torch.bool, device=x.device)
        others[part] = False
        self.run(x[others], min(count, int(others.sum())), seed, None)
        return -float(self.model.log_prob(x[part]).double().sum())

    def run(self, x: Tensor, count: int, seed: int, start: Mixture | None) -> None:
        background = background_for(self.model.manifold, self.model.point_shape, x) if self.model.floor else None
        em = ExpectationMaximisation(
            self.kernel,
            x,
            background=None if background is None else background.log_prob(x).double(),
            floor_range=(LEAST_FLOOR / len(x), MOST_FLOOR),
            min_scale=self.model.min_scale or smallest_scale(self.kernel, x),
        )
        best = -math.inf
        for restart in range(self.restarts if start is None else 1):
            state = first_state(self.kernel, x, count, seed + restart, start, background is not None)
            value, state = self._climb(em, state, restart)
            if value > best:
                best = value
                self.model.keep(state, background)
            if time.monotonic() > self.deadline:
                break

    def _climb(self, em: ExpectationMaximisation, state: State, restart: int) -> tuple[float, State]:
        """The state after the last step that gained enough, and its mean log-likelihood."""
        before = -math.inf
        for step in range(self.max_steps + 1):
            value, following = em.step(state)
            seconds = time.monotonic() - self.began
            record = {"restart": restart, "step": step, "log_likelihood": value, "capped": int(state.capped.sum())}
            self.model.history.append({**record, "n_components": len(state.capped), "seconds": seconds})
            self.bar.update()
            self.bar.set_postfix(log_likelihood=f"{value:.4f}")
            if value - before < self.tolerance or step == self.max_steps or time.monotonic() > self.deadline:
                break
            before, state = value, following
        return value, state


def smallest_scale(kernel: Kernel, x: Tensor) -> float:
    """A tenth of the median distance to the (d+1)-th neighbour, or to a later one where that is a copy."""
    near = nearest(kernel.manifold, x, min(len(x) - 1, max(kernel.dim + 1, 32))).distances / length_unit(kernel.manifold)
    values = near[:, min(kernel.dim, near.shape[1] - 1) :]
    first = torch.where(values > 0, values, torch.inf).amin(1)
    if not bool(torch.isfinite(first).any()):
        raise ValueError(f"Expected points that are not copies of each other, got {len(x)} that are. Remove copies.")
    return float(first[torch.isfinite(first)].median()) / 10


def first_state(kernel: Kernel, x: Tensor, count: int, seed: int, start: Mixture | None, covered: bool) -> State:
    """The state to begin with: a given mixture, or bumps as wide as the clusters of the data."""
    device = x.device
    if start is not None:
        params = _expanded(kernel, {k: v.to(x) for k, v in start.params.items()}, start.n_components)
        share = torch.ones(start.n_components) if start.log_weights is None else start.log_weights.exp()
        raw, share = None, share.double().to(device)
    else:
        clusters = _clusters(kernel, x, count, seed)
        share = clusters.labels.bincount(minlength=count).double() / len(x)
        params, raw = _bumps(kernel, x, clusters)
    weights = share / share.sum()
    if covered:
        weights = torch.cat([(1 - FIRST_FLOOR) * weights, weights.new_tensor([FIRST_FLOOR])])
    return State(params, raw, weights, torch.zeros(len(share), dtype=torch.bool, device=device))


def _clusters(kernel: Kernel, x: Tensor, count: int, seed: int) -> Clusters:
    """Clusters by geodesic distance; by that of the coordinates of ``to_raw`` where the manifold has no logarithm."""
    try:
        return kmeans(kernel.manifold, x, count, seed=seed)
    except NotImplementedError:
        flat = geometry.to_raw(kernel.manifold, x)
        found = kmeans(geoopt.Euclidean(ndim=1), flat, count, seed=seed)
        closest = torch.cdist(found.centers, flat).argmin(1)
        return Clusters(x[closest], found.labels, found.inertia)


def _bumps(kernel: Kernel, x: Tensor, clusters: Clusters) -> tuple[Params, Tensor | None]:
    """Parameters at the clusters, and unconstrained ones where the kernel has no fit."""
    count, unit = len(clusters.centers), length_unit(kernel.manifold)
    if not kernel.has_location:  # without a place for bumps: fits to the clusters, mixed a little so that none lacks points
        shares = torch.nn.functional.one_hot(clusters.labels, count).double() + 0.1 / count
        return kernel.fit_many(x, shares), None
    squares = distance(kernel.manifold, clusters.centers[clusters.labels], x).square() / unit**2
    sums = squares.new_zeros(count).index_add(0, clusters.labels, squares)
    variances = sums / clusters.labels.bincount(minlength=count).clamp_min(1) / kernel.dim
    scales = variances.sqrt().clamp(smallest_scale(kernel, x), kernel.max_scale)
    if has_fit(kernel, x):
        return _expanded(kernel, kernel.centered(clusters.centers, scales), count), None
    shape = torch.stack([x.new_full((kernel.num_raw_shape,), kernel.raw_from_scale(s)) for s in scales.tolist()])
    raw = torch.cat([geometry.to_raw(kernel.manifold, clusters.centers), shape], dim=1)
    return kernel.params(raw), raw


def _expanded(kernel: Kernel, params: Params, count: int) -> Params:
    """Parameters with all entries of their own, also of scales that are the same in all directions."""
    return {name: params[name].expand(count, *shape).clone() for name, shape in kernel.event_shapes.items()}


def has_fit(kernel: Kernel, x: Tensor) -> bool:
    """Whether the family has a maximum-likelihood fit."""
    try:
        kernel.fit(x[:64])
    except NotImplementedError:
        return False
    except ValueError:  # it has one, which these points do not determine
        return True
    return True
