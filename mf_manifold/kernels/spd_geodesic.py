"""What the normal laws of the affine-invariant geometry of SPD matrices share."""

from __future__ import annotations

import geoopt
import torch
from torch import Tensor

from ..affine_invariant import by_columns
from ..geometry import Shape
from ..kernel import Kernel, Params


class AffineInvariantKernel(Kernel):
    """A law around ``loc`` that depends on the geodesic from ``loc``, whatever metric the manifold has."""

    base_measure = "affine_invariant"
    needs_double = True  # float32 matrices are singular to rounding from condition numbers of 1e7, which training passes

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__(manifold, point_shape)
        self._own_metric = manifold.default_metric.value == "AIM"
        self.mean_kind = "frechet" if self._own_metric else None

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        (count,) = self.batch_shape(w)
        w = self.expand(w, (count,))
        if count == 0:
            return self.log_prob(x.unsqueeze(1), w)
        points = x.unsqueeze(1)
        return by_columns(lambda part: self.log_prob(points, {k: v[part] for k, v in w.items()}), len(x), count)

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

    def _mean_log_det(self, w: Params, kind: str) -> Tensor:
        """``E log d kind / d riemannian`` where it depends on the determinant alone, whose log has the mean ``log det loc``."""
        if self._own_metric and kind in ("lebesgue", "frobenius", "affine_invariant"):
            return self._measure_ratio(w["loc"], kind)
        return super().mean_log_ratio(w, kind)

    def _measure_ratio(self, x: Tensor, kind: str) -> Tensor:
        from ..measure import Measure, log_ratio

        return log_ratio(Measure(self.manifold, kind), self.measure, x)
