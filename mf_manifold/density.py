"""Kernel density estimation on manifolds: one component per datum, bandwidth by exact leave-one-out likelihood."""

from __future__ import annotations

import math
import time
from os import PathLike
from typing import Any

import geoopt
import torch
from scipy.optimize import minimize_scalar
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm.auto import tqdm

from . import checkpoint, geometry, manifolds
from .estimator import Estimator
from .geometry import Shape
from .kernel import kernel_for
from .mixture import Mixture

TILE = 2**20  # pairs held at once by the leave-one-out sums
PAIRS = 2**23  # pairs of an evaluation


@checkpoint.register_model
class KernelDensity(Estimator):
    r"""Adaptive kernel density: a component of scale ``h d_k(i)`` at every datum.

    .. math:: q(x) = \frac1n \sum_i q(x \mid x_i, h\, d_k(i))

    ``d_k(i)`` is the distance to the k-th nearest other datum, in the embedding of :func:`mf_manifold.geometry.to_raw` (chords
    on sphere and torus, log-Euclidean on SPD, logarithms at the origin on hyperbolic spaces, which see far from it distances
    across too short). The factor h and the number k maximise the leave-one-out likelihood of
    ``n_scored`` data. It is exact: where the left-out point is itself among the k neighbours of a component, that
    component takes ``d_{k+1}``, so nothing of the point leaks into its own score.

    **Measure**: Riemannian volume of the manifold's metric.

    Args:
        kernel: registry name; None takes the manifold's default.
        neighbors: candidates for k; ``None`` gives all components the same scale h (times the median distance).
        kernel_options: constructor options of the kernel.

    Raises:
        ValueError: fewer than 3 points, points off the manifold, a kernel without bumps such as the uniform law.

    Reference: Breiman, Meisel, Purcell (1977), Variable kernel estimates of multivariate densities, eq. (3).

    >>> import geoopt, torch, mf_manifold as mf
    >>> x = mf.geometry.sample_uniform(geoopt.Sphere(), (3,), (500,), generator=torch.Generator().manual_seed(0))
    >>> kde = mf.KernelDensity(geoopt.Sphere(), (3,)).fit(x, progress=False)
    >>> bool((kde.log_prob(x[:100]).mean() + 2.53).abs() < 0.2)             # uniform: -log(4 pi) = -2.53
    True
    """

    points: Tensor
    scales: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        kernel: str | None = None,
        *,
        neighbors: tuple[int, ...] | None = (2, 4, 8, 16, 32),
        kernel_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(kernel_for(manifold, point_shape, kernel, **(kernel_options or {})))
        if not self.kernel.has_location:
            raise ValueError(f"Expected a kernel that makes a bump around each datum, got {self.kernel.name}, which has none.")
        if neighbors is not None and (not neighbors or min(neighbors) < 1):
            raise ValueError(f"Expected neighbors of at least one positive number, or None, got {neighbors}.")
        self.neighbors = None if neighbors is None else tuple(sorted(neighbors))
        self.register_buffer("points", torch.empty(0, *self.kernel.point_shape))
        self.register_buffer("scales", torch.empty(0))

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
        """Choose the scales for the data ``x`` (n,*E) and keep the data as components.

        Args:
            seed: draws the data that the leave-one-out likelihood scores.
            n_scored: how many are scored; None takes as many as make 2^23 pairs of data and components, at least 200.
            max_seconds: stop the search after this time with the best scales so far.
            checkpoint: folder in which every improvement is saved.
        """
        geometry.check_points(self.manifold, x, self.point_shape)
        if x.ndim != 1 + len(self.point_shape) or len(x) < 3:
            raise ValueError(f"Expected at least 3 points (n, {self.point_shape}), got shape {tuple(x.shape)}.")
        self.points = geometry.project(self.manifold, x.detach()).clone()
        self.scales = self.points.new_empty(0)
        if n_scored is not None and n_scored < 1:
            raise ValueError(f"Expected n_scored >= 1, or None, got {n_scored}.")
        search = _Search(self, seed, n_scored, max_seconds, progress, checkpoint)
        search.run()
        return self

    @property
    def mixture(self) -> Mixture:
        """The fitted density.

        Raises:
            RuntimeError: before ``fit``.
        """
        if not len(self.scales):
            raise RuntimeError("Expected a fitted KernelDensity. Call fit(x) first.")
        return Mixture(self.kernel, self.kernel.centered(self.points, self.scales))

    def freeze(self, n_components: int | None = None, seed: int = 0) -> Mixture:
        """The fitted density, whose components are the data: the same as :attr:`mixture`, for code that takes any estimator."""
        return self.mixture

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "kernel": self.kernel.name,
            "kernel_options": self.kernel.options,
            "neighbors": None if self.neighbors is None else list(self.neighbors),
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> KernelDensity:
        """Rebuild what :meth:`save` wrote."""
        manifold = manifolds.from_config(config["manifold"])
        neighbors = None if config["neighbors"] is None else tuple(config["neighbors"])
        shape, options = tuple(config["point_shape"]), config["kernel_options"]
        kde = cls(manifold, shape, config["kernel"], neighbors=neighbors, kernel_options=options)
        kde.points, kde.scales, kde.history = tensors["points"], tensors["scales"], config["history"]
        geometry.check_points(manifold, kde.points, shape)
        if kde.scales.shape != (len(kde.points),) or not bool((kde.scales > 0).all() & torch.isfinite(kde.scales).all()):
            raise ValueError(f"Expected a positive scale for each of {len(kde.points)} points in the checkpoint. Fit again.")
        return kde


class _Search:
    """Search over (k, h) by leave-one-out likelihood: h by Brent's method for every k, upwards until k makes it worse."""

    def __init__(
        self,
        model: KernelDensity,
        seed: int,
        n_scored: int | None,
        max_seconds: float | None,
        progress: bool,
        path: str | PathLike[str] | None,
    ) -> None:
        self.model, self.path = model, path
        n = len(model.points)
        permutation = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        count = max(200, PAIRS // n) if n_scored is None else n_scored
        self.scored = permutation[:count].to(model.points.device)
        self.candidates = [k for k in model.neighbors or (0,) if k + 1 < n] or [1]
        largest = max(max(self.candidates), 1) + 1
        embedded = geometry.to_raw(model.manifold, model.points).double().cpu().numpy()
        distances, self.indices = cKDTree(embedded).query(embedded, k=largest + 1)
        self.distances = torch.as_tensor(distances).to(model.points)
        # copies have distance 0; a scale at the points' own rounding would be a density of that rounding
        rounding = 100 * torch.finfo(model.points.dtype).eps * max(1.0, float(abs(embedded).max()))
        self.floor = max(1e-3 * float(self.distances[:, -1].median()), rounding)
        self.bar = tqdm(desc="bandwidth", unit=" evaluations", disable=not progress)
        self.deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
        self.start, self.best = time.monotonic(), math.inf

    def run(self) -> None:
        self.model.history = []
        previous, low, high = math.inf, math.log(0.1), math.log(10.0)
        try:
            for k in self.candidates:
                found = minimize_scalar(
                    lambda log_h, k=k: self.evaluate(k, math.exp(log_h)),
                    bounds=(low, high),
                    method="bounded",
                    options={"xatol": 0.08},
                )
                if found.fun > previous:
                    break
                # the next k wants scales of a similar size
                previous, center = found.fun, found.x + math.log(self._typical(k) / self._typical(2 * k))
                low, high = center - 0.8, center + 0.8
        except TimeoutError:
            pass
        finally:
            self.bar.close()
            if self.path is not None and len(self.model.scales):
                self.model.save(self.path, overwrite=True)

    def _typical(self, k: int) -> float:
        return max(float(self.distances[:, min(k, self.distances.shape[1] - 1)].median()), self.floor)

    def _scales(self, k: int, h: float) -> Tensor:
        if self.model.neighbors is None:
            scale = min(h * float(self.distances[:, 1].median()), self.model.kernel.max_scale)
            return torch.full_like(self.distances[:, 1], max(scale, self.floor))
        return (h * self.distances[:, k]).clamp(self.floor, self.model.kernel.max_scale)

    def evaluate(self, k: int, h: float) -> float:
        if time.monotonic() > self.deadline and self.best < math.inf:
            raise TimeoutError
        scales = self._scales(k, h)
        nll = -float(self._leave_one_out(k, scales, self._scales(k + 1, h)).mean())
        seconds = time.monotonic() - self.start
        self.model.history.append({"neighbor": k, "factor": h, "loo_nll": nll, "seconds": seconds})
        if nll < self.best:
            self.best, self.model.scales = nll, scales
        self.bar.update()
        self.bar.set_postfix(nll=f"{self.best:.4f}")
        return nll

    def _leave_one_out(self, k: int, scales: Tensor, without: Tensor) -> Tensor:
        kernel, points = self.model.kernel, self.model.points
        component, neighbor = self._neighbor_pairs(k)
        components = kernel.centered(points, scales)
        results = []
        for rows in self.scored.split(max(1, TILE // len(points))):
            log_q = kernel.pairwise_log_prob(points[rows], components)
            position = torch.full((len(points),), -1, device=rows.device)
            position[rows] = torch.arange(len(rows), device=rows.device)
            touched = position[neighbor] >= 0
            row, column = position[neighbor[touched]], component[touched]
            log_q[row, column] = self._widened(points, rows, row, column, without)
            log_q[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
            results.append(_log_mean_exp(log_q))
        return torch.cat(results)

    def _widened(self, points: Tensor, rows: Tensor, row: Tensor, column: Tensor, scales: Tensor) -> Tensor:
        """Log density of the scored points ``rows[row]`` under the components ``column``, with scales that forget the point."""
        kernel = self.model.kernel
        if kernel.bilinear(points[:1], kernel.centered(points[:1], scales[:1])) is None:
            return kernel.log_prob(points[rows[row]], kernel.centered(points[column], scales[column]))
        # all pairs in one product cost less than functions of a matrix for each pair
        return kernel.pairwise_log_prob(points[rows], kernel.centered(points, scales))[row, column]

    def _neighbor_pairs(self, k: int) -> tuple[Tensor, Tensor]:
        """Pairs (i, j) with j among the k nearest neighbours of i."""
        count = k if self.model.neighbors is not None else 0
        near = torch.as_tensor(self.indices[:, : count + 1]).to(self.scored.device)
        component = torch.arange(len(near), device=near.device).unsqueeze(-1).expand_as(near)
        other = near != component
        return component[other], near[other]


def _log_mean_exp(log_q: Tensor) -> Tensor:
    """Log mean over the n - 1 other components; exp is 50 times slower on underflow, hence the floor."""
    top = log_q.amax(1, keepdim=True)
    total = (log_q - top).clamp_min(-80).exp_().sum(1)
    return top.squeeze(1) + total.log() - math.log(log_q.shape[1] - 1)
