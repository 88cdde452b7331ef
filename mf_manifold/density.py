"""Kernel density estimation on manifolds: a component or several per datum, widths by exact leave-one-out likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import Any

import geoopt
import torch
from torch import Tensor

from . import checkpoint, geometry, manifolds
from .background import background_for
from .bandwidth import NEIGHBORS, Bandwidths, Search
from .estimator import Estimator
from .geometry import Shape
from .kernel import Params, kernel_for
from .leave_one_out import Scales
from .local_covariance import Covariances, covariance_params, local_kernel
from .mixture import Mixture


@checkpoint.register_model
class KernelDensity(Estimator):
    r"""Kernel density with widths chosen by leave-one-out likelihood.

    .. math:: q(x) = (1 - \beta) \sum_j \pi_j \frac1n \sum_i q(x \mid x_i, s_{ij}) + \beta\, b(x)

    ``bandwidth`` says what the widths are:

    - ``"single"``: one scale h for all data.
    - ``"adaptive"``: ``h d_k(i)``, with the geodesic distance from datum i to its k-th nearest other datum.
    - ``"multiscale"``: many scales ``h_j`` at every datum, log-spaced, with weights shared by all data.
    - ``"combined"``: the levels of a multi-scale density together with levels ``h d_k(i)`` for several k and h.
    - ``"local"``: a covariance ``h C_k(i) + r I`` from the logarithms of the k nearest data (manifold Parzen windows).

    The numbers h, k, r maximise the leave-one-out likelihood of ``n_scored`` data, and the weights :math:`\pi_j, \beta` do so
    by the EM algorithm, of which no step lowers it. The leave-one-out scores are exact: what a component takes from its
    neighbours it takes from k others where one of them is the datum that is scored. The background b, uniform on compact
    manifolds and a bump three times as wide as the data elsewhere, counts as given; it weighs at least a tenth of a datum.

    **Measure**: Riemannian volume of the manifold's metric.

    Args:
        kernel: registry name; None takes the manifold's default, or for local covariances its wrapped normal law.
        bandwidth: see above.
        neighbors: candidates for k; None takes (2, 4, 8, 16, 32), (16, 32, 64) for local covariances, and (4, 16) for combined
            levels.
        scales: the scales of a multi-scale density; None takes a grid from the spread of the data down to the distances of the
            closest ones, a factor ``10^(1/8)`` apart.
        floor: whether there is a background; False has :math:`\beta = 0`.
        kernel_options: constructor options of the kernel.

    Raises:
        ValueError: fewer than 3 points, points off the manifold, a kernel without bumps such as the uniform law, local
            covariances with a kernel that has none.

    References:
        Breiman, Meisel, Purcell (1977), Variable kernel estimates of multivariate densities, eq. (3), for adaptive widths.
        Vincent, Bengio (2002), Manifold Parzen windows, section 2, for local covariances.

    >>> import geoopt, torch, mf_manifold as mf
    >>> x = mf.geometry.sample_uniform(geoopt.Sphere(), (3,), (500,), generator=torch.Generator().manual_seed(0))
    >>> kde = mf.KernelDensity(geoopt.Sphere(), (3,)).fit(x, progress=False)
    >>> bool((kde.log_prob(x[:100]).mean() + 2.53).abs() < 0.2)             # uniform: -log(4 pi) = -2.53
    True
    """

    points: Tensor
    scales: Tensor
    covariances: Tensor
    log_weights: Tensor
    floor_weight: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        kernel: str | None = None,
        *,
        bandwidth: str = "adaptive",
        neighbors: Sequence[int] | None = None,
        scales: Sequence[float] | None = None,
        floor: bool = True,
        kernel_options: dict[str, Any] | None = None,
    ) -> None:
        if bandwidth not in NEIGHBORS:
            raise ValueError(f"Expected bandwidth to be one of {', '.join(NEIGHBORS)}, got {bandwidth!r}.")
        make = local_kernel if bandwidth == "local" else _kernel
        super().__init__(manifold, point_shape)
        self.kernel = make(manifold, tuple(point_shape), kernel, kernel_options or {})
        if not self.kernel.has_location:
            raise ValueError(f"Expected a kernel that makes a bump around each datum, got {self.kernel.name}, which has none.")
        if neighbors is not None and (not neighbors or min(neighbors) < 1):
            raise ValueError(f"Expected neighbors of at least one positive number, or None, got {neighbors}.")
        if scales is not None and (bandwidth not in ("multiscale", "combined") or not scales or min(scales) <= 0):
            raise ValueError(f"Expected positive scales, for bandwidth='multiscale' or 'combined' only, got {scales}.")
        self.bandwidth, self.floor = bandwidth, floor
        self.neighbors = tuple(sorted(neighbors or NEIGHBORS[bandwidth]))
        self.given_scales = None if scales is None else tuple(scales)
        self.register_buffer("points", torch.empty(0, *self.kernel.point_shape))
        self.register_buffer("scales", torch.empty(0, 1))
        self.register_buffer("covariances", torch.empty(0, self.kernel.dim, self.kernel.dim))
        self.register_buffer("log_weights", torch.empty(0))
        self.register_buffer("floor_weight", torch.zeros(()))

    def fit(
        self,
        x: Tensor,
        *,
        seed: int = 0,
        n_scored: int | None = None,
        max_seconds: float | None = None,
        progress: bool = True,
        checkpoint: str | PathLike[str] | None = None,
    ) -> KernelDensity:
        """Choose the widths for the data ``x`` (n,*E) and keep the data as components.

        Args:
            seed: draws the data that the leave-one-out likelihood scores.
            n_scored: how many are scored; None takes as many as make 2^23 pairs of data and components, at least 200, or 2000
                where the weights of many levels are estimated.
            max_seconds: stop the search after this time with the best widths so far.
            checkpoint: folder in which every improvement is saved.
        """
        geometry.check_points(self.manifold, x, self.point_shape)
        if x.ndim != 1 + len(self.point_shape) or len(x) < 3:
            raise ValueError(f"Expected at least 3 points (n, {self.point_shape}), got shape {tuple(x.shape)}.")
        if n_scored is not None and n_scored < 1:
            raise ValueError(f"Expected n_scored >= 1, or None, got {n_scored}.")
        self.points = geometry.project(self.manifold, x.detach()).clone()
        self.log_weights = self.points.new_empty(0)

        def keep(found: Bandwidths) -> None:
            self._keep(found)
            if checkpoint is not None:
                self.save(checkpoint, overwrite=True)

        search = Search(
            self.kernel,
            self.points,
            self.bandwidth,
            neighbors=self.neighbors,
            scales=self.given_scales,
            background=background_for(self.manifold, self.point_shape, self.points) if self.floor else None,
            keep=keep,
            seed=seed,
            n_scored=n_scored,
            max_seconds=max_seconds,
            progress=progress,
        )
        self.history = search.history
        search.run()
        return self

    def _keep(self, found: Bandwidths) -> None:
        """Take over levels, all of one sort, and their weights."""
        like, levels = self.points, found.levels
        local = [level.covariance() for level in levels if isinstance(level, Covariances)]
        widths = [level.scales() for level in levels if isinstance(level, Scales)]
        shared = all(level.neighbors == 0 for level in levels)  # one scale for all data needs one row only
        self.covariances = local[0].to(like) if local else like.new_empty(0, self.kernel.dim, self.kernel.dim)
        self.scales = torch.stack(widths, dim=1)[: 1 if shared else None] if widths else like.new_empty(0, 1)
        self.log_weights, self.floor_weight = found.weights.log().to(like), like.new_tensor(found.floor)

    @property
    def mixture(self) -> Mixture:
        """The fitted density.

        Raises:
            RuntimeError: before ``fit``.
        """
        if not len(self.log_weights):
            raise RuntimeError("Expected a fitted KernelDensity. Call fit(x) first.")
        log_weights = (self.log_weights - math.log(len(self.points))).repeat_interleave(len(self.points))
        covered = float(self.floor_weight) > 0
        return Mixture(
            self.kernel,
            self._params(),
            log_weights if len(self.log_weights) > 1 else None,
            background=background_for(self.manifold, self.point_shape, self.points) if covered else None,
            background_weight=self.floor_weight,
        )

    def _params(self) -> Params:
        """Parameters of all components, level by level."""
        if len(self.covariances):
            return covariance_params(self.kernel, self.points, self.covariances.double())
        n, levels = len(self.points), self.scales.shape[1]
        points = self.points.expand(levels, *self.points.shape).flatten(0, 1)
        return self.kernel.centered(points, self.scales.expand(n, levels).mT.reshape(-1))

    def freeze(self, n_components: int | None = None, seed: int = 0) -> Mixture:
        """The fitted density, whose components are at the data: the same as :attr:`mixture`, as any estimator has it."""
        return self.mixture

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "kernel": self.kernel.name,
            "kernel_options": self.kernel.options,
            "bandwidth": self.bandwidth,
            "neighbors": list(self.neighbors) or None,
            "scales": None if self.given_scales is None else list(self.given_scales),
            "floor": self.floor,
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> KernelDensity:
        """Rebuild what :meth:`save` wrote; files from before ``bandwidth`` are those of one level without a background."""
        manifold, shape = manifolds.from_config(config["manifold"]), tuple(config["point_shape"])
        old = "bandwidth" not in config
        if old:
            config = {**config, "bandwidth": "single" if config["neighbors"] is None else "adaptive", "floor": False}
            tensors = {**tensors, "scales": tensors["scales"].unsqueeze(-1), "log_weights": tensors["points"].new_zeros(1)}
        names = ("bandwidth", "neighbors", "floor", "kernel_options")
        kde = cls(manifold, shape, config["kernel"], scales=config.get("scales"), **{name: config[name] for name in names})
        for name, value in tensors.items():
            if "." not in name:  # parts of the manifold, such as a curvature, are in the description
                kde.register_buffer(name, value)
        kde.history = config["history"]
        geometry.check_points(manifold, kde.points, shape)
        kde._check_widths()
        return kde

    def _check_widths(self) -> None:
        n, levels, scales = len(self.points), len(self.log_weights), self.scales
        fits = len(self.covariances) == n if self.bandwidth == "local" else scales.shape in ((n, levels), (1, levels))
        if not fits or not bool((scales > 0).all() & torch.isfinite(scales).all() & torch.isfinite(self.covariances).all()):
            raise ValueError(f"Expected a positive scale for each of {n} points in the checkpoint. Fit again.")


def _kernel(manifold: geoopt.Manifold, point_shape: Shape, name: str | None, options: dict[str, Any]) -> Any:
    return kernel_for(manifold, point_shape, name, **options)
