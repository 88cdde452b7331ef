"""Normal laws in coordinates that must be found in float64, because logarithms or divisions lose digits in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, Params
from .coordinate_normal import CoordinateNormal
from .covariance import cholesky_logdet
from .shares import shares


class WideCoordinateNormal(CoordinateNormal):
    """A :class:`CoordinateNormal` that computes in float64 inside, whatever the dtype of points and parameters.

    Its coordinates are flat: their Euclidean metric is that of the manifold, so that ``loc`` is the Fréchet mean.
    """

    mean_kind = "frechet"

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super()._log_prob(x.double(), _wide(w)).to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear | None:
        form = super().bilinear(x.double(), _wide(w))
        return None if form is None else form._replace(offset=form.offset.to(x.dtype))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return super().rsample(_wide(w), sample_shape, generator).to(w["loc"].dtype)

    def mean(self, w: Params) -> Tensor:
        return w["loc"]

    def entropy(self, w: Params) -> Tensor:
        log_det = cholesky_logdet(self._factor(w))
        return (log_det + self.dim / 2 * math.log(2 * math.pi * math.e)).to(w["loc"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, type(self)):
            return super().kl_divergence(w, other, v)
        own, theirs = self._factor(w), other._factor(v)
        delta = self.coordinates(v["loc"].double()) - self.coordinates(w["loc"].double())
        shift = torch.linalg.solve_triangular(theirs, delta.unsqueeze(-1), upper=False).square().sum((-2, -1))
        ratio = torch.linalg.solve_triangular(theirs, own, upper=False)
        logs = cholesky_logdet(ratio)
        return ((ratio.square().sum((-2, -1)) - self.dim + shift) / 2 - logs).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        """Maximum likelihood in closed form: weighted mean and covariance of the coordinates."""
        v = self.coordinates(x.double())
        share = shares(x, weights)
        center = share @ v
        loc = self.from_coordinates(center).to(x.dtype)
        spread = (v - center) * share.sqrt().unsqueeze(-1)
        covariance = spread.mT @ spread
        scale = covariance.diagonal().sqrt()
        if not bool((scale > 0).all()) or (self.covariance == "full" and int(torch.linalg.cholesky_ex(covariance).info)):
            raise ValueError(
                f"Expected points that vary in all {self.dim} coordinates, got {len(x)} points that do not: they have no "
                "likelihood of largest value. Give more points."
            )
        if self.covariance == "full":
            return {"loc": loc, "covariance_matrix": covariance.to(x.dtype)}
        return {"loc": loc, "scale": scale.to(x.dtype)}

    def _factor(self, w: Params) -> Tensor:
        """Cholesky factor of the covariance, in float64."""
        if self.covariance == "full":
            return torch.linalg.cholesky(w["covariance_matrix"].double())
        return torch.diag_embed(w["scale"].double().expand(*w["scale"].shape[:-1], self.dim))


def _wide(w: Params) -> Params:
    return {name: value.double() for name, value in w.items()}
