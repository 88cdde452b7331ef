"""What the normal laws of the affine-invariant geometry of SPD matrices share."""

from __future__ import annotations

import geoopt
import torch
from torch import Tensor

from ..geometry import Shape
from ..kernel import Kernel, Params
from ..measure import Measure, log_ratio


class AffineInvariantKernel(Kernel):
    """A law around ``loc`` that depends on the geodesic from ``loc``, whatever metric the manifold has."""

    base_measure = "affine_invariant"
    mean_kind: str | None = "frechet"
    needs_double = True  # float32 matrices are singular to rounding from condition numbers of 1e7, which training passes

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__(manifold, point_shape)
        self._own_metric = manifold.default_metric.value == "AIM"
        if not self._own_metric:
            self.mean_kind = None

    def mean(self, w: Params) -> Tensor:
        if not self._own_metric:
            raise NotImplementedError(
                f"{self.name} has its Fréchet mean loc by the affine-invariant metric; none is known by the log-Euclidean one. "
                "Average samples instead."
            )
        return w["loc"]

    def _same_location(self, w: Params, v: Params) -> bool:
        a, b = torch.broadcast_tensors(w["loc"], v["loc"])
        return not a.is_meta and torch.equal(a, b)

    def _no_divergence(self) -> NotImplementedError:
        return NotImplementedError(
            f"The divergence between two laws of {self.name} has a closed form at equal loc only; "
            "average p.log_prob(x) - q.log_prob(x) over samples x of p instead."
        )

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        # these ratios depend on the determinant alone, whose logarithm has the mean log det loc
        if self._own_metric and kind in ("lebesgue", "frobenius", "affine_invariant"):
            return log_ratio(Measure(self.manifold, kind), self.measure, w["loc"])
        return super().mean_log_ratio(w, kind)
