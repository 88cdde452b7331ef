"""The estimator."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from .. import checkpoint, geometry, manifolds
from ..background import background_for, covering_kernel
from ..distributions import KernelDistribution
from ..estimator import Estimator
from ..geometry import Shape
from ..kernel import Params
from ..mixture import Mixture
from .components import components
from .crossfit import Scoring
from .kernels import anchor_kernel
from .neighbours import Neighbours
from .shapes import Shapes
from .training import FOLDS, NEAR, Clock, Training

FEW = (4, 4, 4, 8, 8, 16, 16, 32, 32, 64, 128, 128)  # neighbours in at most three dimensions
MANY = (8, 8, 8, 16, 16, 32, 32, 64, 64, 128, 256, 256)  # in more
FITTED = 40_000  # data that the shapes are learned from; all become anchors


@checkpoint.register_model
class AnchoredFlow(Estimator):
    r"""Marginal flow whose noise is a datum and a scale: components of several scales around every datum.

    .. math:: q(x) = (1 - \epsilon) \sum_{i=1}^n \sum_{j=1}^J \pi_{ij}\, q(x \mid a_i, \Sigma_{ij}) + \epsilon\, q_0(x)

    The covariance of a component has the principal axes of the :math:`k_j` nearest neighbours of the anchor :math:`a_i`.
    Widths, roundness, shifts towards the neighbours' mean and weights are learned, for each scale j and, by networks, for
    each anchor's surroundings. The likelihood that is maximised is cross-fitted: a datum is scored under anchors and
    neighbours of the other parts of the data only. :math:`q_0` is the background of
    :func:`mf_manifold.background.background_for`.

    **Measure**: Riemannian volume of the manifold's metric.

    Args:
        manifold: a geoopt manifold with exponential map and logarithm.
        point_shape: shape of a point.
        kernel: registry name; None takes the one that costs least for each pair of point and component.
        neighbors: the :math:`k_j`, in increasing order; a number that is repeated makes several components. None takes 12
            from 4 to 128, in more than 3 dimensions from 8 to 256.
        networks: how many networks learn corrections for each anchor's surroundings, which are averaged; each is trained on
            other parts of the data, and left out where held-out data do not gain by it. 0 for shared parameters only.
        hidden, dropout: of a network.
        kernel_options: constructor options of the kernel; by default full covariances where the family has them.

    >>> import geoopt, torch, mf_manifold as mf
    >>> from mf_manifold.anchors import AnchoredFlow
    >>> x = mf.geometry.sample_uniform(geoopt.Sphere(), (3,), (60,), generator=torch.Generator().manual_seed(0))
    >>> AnchoredFlow(geoopt.Sphere(), (3,), neighbors=(4, 8), networks=0).fit(x, progress=False).freeze()
    Mixture(120 x stereographic_normal + uniform; riemannian measure on Sphere)
    """

    log_weights: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        kernel: str | None = None,
        *,
        neighbors: Sequence[int] | None = None,
        networks: int = 3,
        hidden: Sequence[int] = (64, 64),
        dropout: float = 0.2,
        kernel_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(manifold, point_shape)
        self.kernel = anchor_kernel(manifold, tuple(point_shape), kernel, kernel_options)
        wanted = neighbors or (FEW if self.kernel.dim <= 3 else MANY)
        if min(wanted) < 1 or list(wanted) != sorted(wanted):
            raise ValueError(f"Expected neighbors as positive numbers in increasing order, got {tuple(wanted)}.")
        if not self.kernel.has_location:
            raise ValueError(f"Expected a kernel that makes a bump around each datum, got {self.kernel.name}, which has none.")
        if networks < 0:
            raise ValueError(f"Expected a number of networks, 0 or more, got {networks}.")
        self.neighbors, self.networks = tuple(wanted), networks
        self.hidden, self.dropout = tuple(hidden), dropout
        self.shapes: Shapes | None = None
        self.sizes: tuple[int, ...] = ()
        self.components, self.covering = nn.ParameterDict(), nn.ParameterDict()
        self.register_buffer("log_weights", torch.empty(0))

    def fit(
        self,
        x: Tensor,
        *,
        validation: Tensor | None = None,
        seed: int = 0,
        max_steps: int = 200,
        max_seconds: float | None = None,
        progress: bool = True,
        checkpoint: str | PathLike[str] | None = None,
    ) -> AnchoredFlow:
        """Learn the shapes and put components around the data ``x`` (n,*E).

        Two tenths of the data, and ``validation`` where given, select the parameters and stop the fit. Without ``max_seconds``
        the result is the same for the same seed, data and machine.

        Args:
            validation: points (v,*E) that only select.
            seed: of the parts, the network and the batches.
            max_steps: of each network, at most.
            max_seconds: end before that time.
            progress: show a progress bar.
            checkpoint: folder in which the result is saved, also of a fit that is interrupted.

        Raises:
            ValueError: fewer than 10 points, points off the manifold.
            NotImplementedError: a manifold without logarithms.
            FloatingPointError: the loss is not finite.
            KeyboardInterrupt: re-raised after the best shapes so far were put in place.
        """
        clock, points = Clock(max_seconds), self._checked(x, "points")
        if len(points) < 10:
            raise ValueError(f"Expected at least 10 points, got {len(points)}.")
        for name, value in {"max_steps": max_steps, "max_seconds": 1.0 if max_seconds is None else max_seconds}.items():
            if not value > 0:
                raise ValueError(f"Expected a positive {name}, got {value}.")
        extra = None if validation is None else self._checked(validation, "validation")
        self.shapes, self.components = None, nn.ParameterDict()
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
        fitted = points[order[:FITTED].to(points.device)]
        self._set_background(points)
        neighbours = Neighbours(self.manifold, fitted, self._sizes(len(fitted)), torch.arange(len(fitted)) % FOLDS)
        scoring = Scoring(self.manifold, fitted, NEAR, self._background_log_prob)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._set_shapes(self._sizes(len(fitted)), neighbours.local().features.shape[1])
            assert self.shapes is not None
            training = Training(self.shapes.to(points.device), self.kernel.max_scale, clock, seed, progress)
            try:
                training.prepare(scoring, neighbours, extra)
                training.run(max_steps)
            finally:
                self.history = training.history
                if self.history:
                    self.anchor(points)
                    if checkpoint is not None:
                        self.save(checkpoint, overwrite=True)
                else:  # nothing was learned that could be put around data
                    self.shapes = None
        return self

    @torch.no_grad()
    def anchor(self, x: Tensor) -> AnchoredFlow:
        """Put components of the shapes learned before around the data ``x`` (n,*E), which replace all others.

        Raises:
            RuntimeError: before ``fit``.
            ValueError: fewer points than the statistics have neighbours.
        """
        if self.shapes is None:
            raise RuntimeError("Expected a fitted AnchoredFlow. Call fit(x) first.")
        points = self._checked(x, "points")
        if len(points) <= self.sizes[-1]:
            raise ValueError(f"Expected more than {self.sizes[-1]} points, the neighbours of the fit, got {len(points)}.")
        local = Neighbours(self.manifold, points, self.sizes).local()
        bumps = self.shapes(local.single(), self.kernel.max_scale)
        params, self.log_weights = components(self.kernel, points, local, bumps, self.shapes.columns)
        self.components = _frozen(params)
        self._set_background(points)
        return self

    def freeze(self, n_components: int | None = None, seed: int = 0) -> Mixture:
        """The fitted density.

        Raises:
            RuntimeError: before ``fit``.
        """
        if self.shapes is None or not len(self.components):
            raise RuntimeError("Expected a fitted AnchoredFlow. Call fit(x) first.")
        weight = self.shapes.background.detach().double().sigmoid()
        return Mixture(
            self.kernel,
            dict(self.components.items()),
            self.log_weights,
            background=self._background(),
            background_weight=weight,
            validate_args=False,
        )

    def _checked(self, x: Tensor, name: str) -> Tensor:
        geometry.check_points(self.manifold, x, self.point_shape, name)
        if x.ndim != 1 + len(self.point_shape) or not len(x):
            raise ValueError(f"Expected {name} of shape (n, {self.point_shape}), got shape {tuple(x.shape)}.")
        return geometry.project(self.manifold, x.detach())

    def _sizes(self, n: int) -> tuple[int, ...]:
        """Numbers of neighbours that also the data outside one part have."""
        most = n - -(-n // FOLDS) - 1
        return tuple(sorted({min(k, most) for k in self.neighbors}))

    def _set_shapes(self, sizes: tuple[int, ...], n_features: int) -> None:
        self.sizes = sizes
        columns = [sizes.index(min(k, sizes[-1])) for k in self.neighbors]
        self.shapes = Shapes(columns, n_features, self.hidden, self.dropout, self.networks)

    def _set_background(self, points: Tensor) -> None:
        self.covering = _frozen(background_for(self.manifold, self.point_shape, points).params)

    def _background(self) -> KernelDistribution:
        kernel = covering_kernel(self.manifold, self.point_shape)
        return KernelDistribution(kernel, dict(self.covering.items()), validate_args=False)

    def _background_log_prob(self, x: Tensor) -> Tensor:
        return self._background().log_prob(x)

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "kernel": self.kernel.name,
            "kernel_options": self.kernel.options,
            "options": {
                "neighbors": list(self.neighbors),
                "networks": self.networks,
                "hidden": list(self.hidden),
                "dropout": self.dropout,
            },
            "sizes": list(self.sizes),
            "refined": self.shapes is not None and self.shapes.refined,
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> AnchoredFlow:
        """Rebuild what :meth:`save` wrote."""
        manifold, shape = manifolds.from_config(config["manifold"]), tuple(config["point_shape"])
        flow = cls(manifold, shape, config["kernel"], kernel_options=config["kernel_options"], **config["options"])
        flow.history = config["history"]
        parts: dict[str, dict[str, Tensor]] = {"components": {}, "covering": {}}
        for name, value in tensors.items():
            head, _, rest = name.partition(".")
            parts.setdefault(head, {})[rest] = value
        if "shapes" in parts:
            flow._set_shapes(tuple(config["sizes"]), len(tensors["shapes.center"]))
            assert flow.shapes is not None
            flow.shapes.load_state_dict(parts["shapes"])
            flow.shapes.refined = config["refined"]
            flow.shapes.eval()
        flow.components, flow.covering = _frozen(parts["components"]), _frozen(parts["covering"])
        flow.log_weights = tensors["log_weights"]
        return flow


def _frozen(params: Params) -> nn.ParameterDict:
    return nn.ParameterDict({name: nn.Parameter(value, requires_grad=False) for name, value in params.items()})
