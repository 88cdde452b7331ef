"""Normal densities of the ambient space, restricted to a compact surface and normalised there."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import geoopt
import torch
from torch import Tensor

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds.chart import ChartManifold
from ..manifolds.embedded import Parametrisation
from ..manifolds.star_shaped import StarShaped
from ..manifolds.torus_of_revolution import TorusOfRevolution
from ..product_rules import cells, grid
from .ambient_normal import AmbientNormal, result_type

MAX_NODES = 2**20  # of the surface's grid
PER_SCALE = 1.5  # nodes per scale of arc length: neglects exp(-2 pi^2 PER_SCALE^2) of a Gaussian
SAFETY = 1.3  # by which the reach of a cell may exceed that of its corners
COARSEST, FINEST = 32, 4096


class Grid(NamedTuple):
    """Nodes of a product rule: coordinates (K,d), points (K,D), logs of area (K) and of the cells' sizes (K)."""

    coordinates: Tensor
    points: Tensor
    log_area: Tensor
    log_size: Tensor


@register_kernel(ChartManifold, "restricted_normal")
@register_kernel(TorusOfRevolution, "restricted_normal")
@register_kernel(StarShaped, "restricted_normal")
class RestrictedNormal(AmbientNormal):
    r"""Normal density of the ambient space, restricted to a compact surface and normalised there.

    .. math:: q(x) = \frac{1}{Z} \exp\left(-\tfrac12 (x - loc)^T \Sigma^{-1} (x - loc)\right), \quad
              Z = \int_M \exp\left(-\tfrac12 (y - loc)^T \Sigma^{-1} (y - loc)\right) dS(y)

    An exponential family on the surface. It is not the conditional law of a normal vector given ``g(Y) = 0`` as the limit of
    ``|g(Y)| < eps``: that one has the further factor ``1 / |grad g|`` (co-area formula) and depends on the choice of ``g``.

    The normaliser is a product rule in coordinates of the surface, of equal steps in angles and Gauss nodes between walls,
    with 1.5 nodes per scale of arc length; it is differentiable in the parameters.

    **Measure**: Hausdorff volume. **Exactness**: numeric normaliser, to 1e-10 nats for analytic surfaces.

    **Range**: curves and surfaces: ellipsoids and star-shaped surfaces in 2 and 3 dimensions, tori of revolution, charts of one
    or two bounded or periodic coordinates. The smallest ``scale``, or root of an eigenvalue of ``covariance_matrix``, is 1e-5
    times the length of a curve and 1/600 of the larger extent of a surface, no largest one; at most 2^20 nodes.
    **Mean**: extrinsic. **Sampler**: exact rejection from a step function over the grid's cells; not pathwise.

    Shapes: ``loc`` (*B,D), on the surface or not; ``scale`` (*B); ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a scale so small that the grid would exceed 2^20 nodes.
        NotImplementedError: a surface without coordinates in a bounded box, or of more than two dimensions.

    References:
        Diaconis, Holmes, Shahshahani (2013), Sampling from a manifold, section 2 (restriction and conditioning).

    >>> import torch, mf_manifold as mf
    >>> ring = mf.manifolds.TorusOfRevolution(2.0, 0.5)
    >>> d = mf.distribution(ring, "restricted_normal", loc=torch.zeros(3, dtype=torch.float64), scale=1e3)
    >>> x = torch.tensor([2.5, 0.0, 0.0], dtype=torch.float64)
    >>> round(float(d.log_prob(x) + mf.geometry.log_volume(ring, (3,))), 5)       # nearly uniform
    -0.0
    """

    exactness = "numeric normaliser"
    mean_kind = "extrinsic"
    has_rsample = False

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "isotropic") -> None:
        super().__init__(manifold, point_shape, covariance)
        if self.dim > 2:
            raise NotImplementedError(f"restricted_normal is for curves and surfaces; {manifold.name} has dimension {self.dim}")
        lengths = self._lengths[0]
        # a network's components must stay affordable: of 2^14 nodes each, but where a factor 3 goes to correlations
        affordable = 3 * PER_SCALE * (math.prod(lengths) / 2**14) ** (1 / self.dim)
        self.log_scale_range = (max(-7.0, math.log(affordable)), max(1.0, math.log(max(lengths))))

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        inverse, _ = self.whitener(w)
        apart = self.whiten(inverse, x.double() - w["loc"].double())
        return (-apart.square().sum(-1) / 2 - self.log_normalizer(w)).to(result_type(x, w))

    def log_normalizer(self, w: Params) -> Tensor:
        """``log Z`` in float64; -> (*B)."""
        return torch.logsumexp(self._exponents(w), -1)

    def _exponents(self, w: Params) -> Tensor:
        """Logs of the terms of ``Z``, one a node; -> (*B,K)."""
        inverse, _ = self.whitener(w)
        rule = self._grid(inverse)
        mean = self.whiten(inverse, w["loc"].double())
        white = inverse * rule.points if self.covariance == "isotropic" else rule.points @ inverse.mT
        return -(white - mean.unsqueeze(-2)).square().sum(-1) / 2 + (rule.log_area + rule.log_size)

    def mean(self, w: Params) -> Tensor:
        inverse, _ = self.whitener(w)
        average = torch.softmax(self._exponents(w), -1) @ self._grid(inverse).points
        return self.manifold.closest(average).to(w["loc"].dtype)

    def _counts(self, inverse: Tensor) -> list[int]:
        lengths, coarse = self._lengths
        if inverse.is_meta or inverse.numel() == 0:
            return coarse
        scale = float(1 / torch.linalg.matrix_norm(inverse.detach(), 2).amax())
        counts = [max(n, 32 + math.ceil(PER_SCALE * length / scale)) for n, length in zip(coarse, lengths, strict=True)]
        if math.prod(counts) > MAX_NODES:
            raise ValueError(
                f"Expected scales whose grid on {self.manifold.name} has at most {MAX_NODES} nodes, got {math.prod(counts)} "
                f"for the scale {scale:.2g}. For laws that narrow use projected_normal, radial_normal or pushforward_normal."
            )
        return counts

    def _grid(self, inverse: Tensor) -> Grid:
        made = _grid_of(self, tuple(self._counts(inverse)))
        return Grid(*(part.to(inverse.device) for part in made))

    @functools.cached_property
    def _lengths(self) -> tuple[list[float], list[int]]:
        """Greatest length of each coordinate's lines, and the counts of nodes that resolve the surface itself."""
        chart, counts = self.manifold.parametrisation(), [COARSEST] * self.dim
        volumes = [math.inf, self._log_volume(counts)]
        while abs(volumes[-1] - volumes[-2]) > 1e-13 * max(1.0, abs(volumes[-1])) and counts[0] < FINEST >> 3 * (self.dim - 1):
            counts = [2 * n for n in counts]
            volumes.append(self._log_volume(counts))
        nodes, _ = grid(chart.lower, chart.upper, chart.periodic, [64] * self.dim)
        lengths = []
        for i, axis in enumerate(torch.eye(self.dim, dtype=torch.float64, device="cpu")):
            speed = torch.func.jvp(chart.embed, (nodes,), (axis.expand_as(nodes).contiguous(),))[1].norm(dim=-1)
            low, high = chart.lower[i], chart.upper[i]
            if chart.periodic[i]:
                lengths.append(float(speed.amax()) * (high - low))
            else:  # Gauss nodes have equal steps in the angle whose cosine the coordinate is
                half = (nodes[:, i] - low) * (high - nodes[:, i])
                lengths.append(math.pi * float((speed * half.sqrt()).amax()))
        return lengths, counts

    def _log_volume(self, counts: list[int]) -> float:
        rule = _grid_of(self, tuple(counts))
        return float(torch.logsumexp(rule.log_area + rule.log_size, 0))

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        w = self.expand(w, self.batch_shape(w))
        loc, inverse = w["loc"].double(), self.whitener(w)[0]
        eye = torch.eye(self.point_shape[0], dtype=loc.dtype, device=loc.device)
        precision = (inverse * eye).square() if self.covariance == "isotropic" else inverse.mT @ inverse
        shift = loc.detach().mean(0)  # products of centred features keep digits that far-off data would lose
        y, c = x.double() - shift, loc - shift
        pulled = (precision @ c.unsqueeze(-1)).squeeze(-1)
        phi = torch.cat([(y.unsqueeze(-1) * y.unsqueeze(-2)).flatten(1), y, torch.ones_like(y[:, :1])], dim=-1)
        psi = torch.cat([-precision.flatten(1) / 2, pulled, -(pulled * c).sum(-1, keepdim=True) / 2], dim=-1)
        return Bilinear(phi, psi, -self.log_normalizer(w), self._base_ratio(x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        batch = self.batch_shape(w)
        rows = {k: v.reshape(-1, *v.shape[v.ndim - self.event_dims[k] :]) for k, v in self.expand(w, tuple(batch)).items()}
        count, total = math.prod(sample_shape), math.prod(batch)
        draws = [self._draw({k: v[i] for k, v in rows.items()}, count, generator) for i in range(total)]
        empty = w["loc"].new_zeros(count, 0, *self.point_shape)
        points = torch.stack(draws, dim=1).to(empty.dtype) if draws else empty
        return points.reshape(*sample_shape, *batch, *self.point_shape)

    def _draw(self, w: Params, count: int, generator: torch.Generator | None) -> Tensor:
        """Independent points (count,D) of one component, by rejection.

        In each cell the density is below its value at the node, moved closer to ``loc`` by the reach of the cell.
        """
        chart, (inverse, _) = self.manifold.parametrisation(), self.whitener(w)
        counts, rule = self._counts(inverse), self._grid(inverse)
        low, high = (part.to(inverse.device) for part in cells(chart.lower, chart.upper, chart.periodic, counts))
        far = self.whiten(inverse, rule.points - w["loc"].double()).norm(dim=-1)
        reach, rise = _reach(chart, rule, low, high, lambda v: self.whiten(inverse, v).norm(dim=-1))
        ceiling = -(far - reach).clamp_min(0).square() / 2 + rule.log_area + rise
        weight = torch.exp(ceiling + rule.log_size - (ceiling + rule.log_size).amax()).cumsum(0)
        found, missing = [rule.points[:0]], count
        while missing > 0:
            tries = 64 + 2 * missing
            noise = torch.rand(tries, self.dim + 2, generator=generator, dtype=weight.dtype, device=weight.device)
            chosen = torch.searchsorted(weight, noise[:, 0] * weight[-1]).clamp_max(len(weight) - 1)
            u = low[chosen] + (high[chosen] - low[chosen]) * noise[:, 2:]
            x = chart.embed(u)
            level = chart.log_area(u) - self.whiten(inverse, x - w["loc"].double()).square().sum(-1) / 2 - ceiling[chosen]
            if not float(level.max()) <= 0:
                raise RuntimeError("The surface bends more inside a cell of the grid than its corners show.")
            found.append(x[noise[:, 1].log() < level])
            missing -= len(found[-1])
        return torch.cat(found)[:count]


def _reach(
    chart: Parametrisation, rule: Grid, low: Tensor, high: Tensor, size: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """How far, by ``size``, and how much higher in log area than its node a cell extends; (K) each."""
    dim = low.shape[1]
    reach, rise = torch.zeros_like(rule.log_area), torch.zeros_like(rule.log_area)
    for corner in range(2**dim):
        upper = torch.tensor([bool(corner >> i & 1) for i in range(dim)], device=low.device)
        u = torch.where(upper, high, low)
        reach = torch.maximum(reach, size(chart.embed(u) - rule.points))
        rise = torch.maximum(rise, (chart.log_area(u) - rule.log_area).abs())
    return SAFETY * reach + 1e-9, SAFETY * rise + 1e-9


@functools.lru_cache(maxsize=4)
def _grid_of(kernel: RestrictedNormal, counts: tuple[int, ...]) -> Grid:
    chart = kernel.manifold.parametrisation()
    nodes, log_size = grid(chart.lower, chart.upper, chart.periodic, list(counts))
    with torch.no_grad():
        return Grid(nodes, chart.embed(nodes), chart.log_area(nodes), log_size)
