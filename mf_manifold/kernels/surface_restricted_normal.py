"""Normal densities of the ambient space, restricted to a compact surface and normalised there."""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import geoopt
import torch
from torch import Tensor

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds.chart import ChartManifold
from ..manifolds.star_shaped import StarShaped
from ..manifolds.torus_of_revolution import TorusOfRevolution
from ..numerics.product_rules import cells, grid
from .ambient_normal import AmbientNormal, result_type

MAX_NODES = 2**20  # of the surface's grid
PER_SCALE = 1.5  # nodes per scale of arc length: neglects exp(-2 pi^2 PER_SCALE^2) of a Gaussian
SAFETY = 1.3  # by which the reach of a cell may exceed that of its corners
COARSEST = 32
BETWEEN_WALLS = 2048  # nodes of the largest Gauss rule
BLOCK = 2**21  # cells of all components that are sampled from at a time


class Grid(NamedTuple):
    """Nodes of a product rule: points (K,D), logs of area (K) and of the cells' sizes (K)."""

    points: Tensor
    log_area: Tensor
    log_size: Tensor


class Cells(NamedTuple):
    """What surrounds the nodes: corners (K,d), and by how much points and log area may differ from the node's (K)."""

    low: Tensor
    high: Tensor
    reach: Tensor
    rise: Tensor


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
    times the length of a closed curve, 1/1000 of that of a curve with ends and 1/600 of the larger extent of a surface, no
    largest one; at most 2^20 nodes, which must also resolve the surface itself (semi-axes up to 1:100).
    **Mean**: extrinsic. **Sampler**: exact rejection from a step function over the grid's cells; not pathwise.

    Shapes: ``loc`` (*B,D), on the surface or not; ``scale`` (*B); ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a scale so small, or a surface so thin, that the grid would exceed 2^20 nodes.
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
        rule = self._grid(self.whitener(w)[0])
        return -self._squares(rule.points, w) / 2 + (rule.log_area + rule.log_size)

    def _squares(self, points: Tensor, w: Params) -> Tensor:
        """Squared distances of points (K,D) from ``loc`` in units of the spread; -> (*B,K)."""
        inverse, _ = self.whitener(w)
        mean = self.whiten(inverse, w["loc"].double())
        white = inverse * points if self.covariance == "isotropic" else points @ inverse.mT
        return (white - mean.unsqueeze(-2)).square().sum(-1)

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
        if not self._affordable(counts):
            raise ValueError(
                f"Expected scales whose grid on {self.manifold.name} has at most {MAX_NODES} nodes, {BETWEEN_WALLS} a side "
                f"between walls, got {math.prod(counts)} for the scale {scale:.2g}. "
                "For laws that narrow use projected_normal, radial_normal or pushforward_normal."
            )
        return counts

    def _grid(self, inverse: Tensor) -> Grid:
        made = _grid_of(self, tuple(self._counts(inverse)))
        return Grid(*(part.to(inverse.device) for part in made))

    def _cells(self, inverse: Tensor) -> Cells:
        made = _cells_of(self, tuple(self._counts(inverse)))
        return Cells(*(part.to(inverse.device) for part in made))

    @functools.cached_property
    def _lengths(self) -> tuple[list[float], list[int]]:
        """Greatest length of each coordinate's lines, and the counts of nodes that resolve the surface itself."""
        chart, counts = self.manifold.parametrisation(), [COARSEST] * self.dim
        for i in range(self.dim):
            volumes = [math.inf, self._log_volume(counts)]
            while abs(volumes[-1] - volumes[-2]) > 1e-12 * max(1.0, abs(volumes[-1])):
                counts[i] *= 2
                if not self._affordable(counts):
                    raise ValueError(
                        f"Expected a surface that {MAX_NODES} nodes resolve, got {self.manifold.name} with parts that are too "
                        "small for its size; use projected_normal, radial_normal or pushforward_normal."
                    )
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

    def _affordable(self, counts: list[int]) -> bool:
        walls = [n for n, periodic in zip(counts, self.manifold.parametrisation().periodic, strict=True) if not periodic]
        return math.prod(counts) <= MAX_NODES and max(walls, default=0) <= BETWEEN_WALLS

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
        batch = tuple(self.batch_shape(w))
        shape, total = (*sample_shape, *batch, *self.point_shape), math.prod(batch)
        if w["loc"].is_meta or 0 in shape:
            return w["loc"].new_empty(shape)
        sizes = {k: math.prod(event) for k, event in self.event_shapes.items()}
        flat = torch.cat([v.reshape(total, sizes[k]) for k, v in self.expand(w, batch).items()], dim=-1)
        # a mixture asks for many draws from few components: each is prepared once
        distinct, which = torch.unique(flat, dim=0, return_inverse=True)
        parts = zip(self.event_shapes.items(), distinct.split(list(sizes.values()), dim=-1), strict=True)
        components = {k: part.reshape(-1, *event) for (k, event), part in parts}
        return self._draw(components, which.repeat(math.prod(sample_shape)), generator).to(w["loc"].dtype).reshape(shape)

    def _draw(self, w: Params, which: Tensor, generator: torch.Generator | None) -> Tensor:
        """A point of component ``which[i]`` for every i; -> (len(which),D)."""
        inverse, _ = self.whitener(w)
        rule, cells = self._grid(inverse), self._cells(inverse)
        points = rule.points.new_empty(len(which), *self.point_shape)
        step = max(1, BLOCK // len(rule.points))
        for start in range(0, len(w["loc"]), step):
            slots = ((which >= start) & (which < start + step)).nonzero().squeeze(-1)
            block = {k: v[start : start + step] for k, v in w.items()}
            points[slots] = self._reject(block, which[slots] - start, rule, cells, generator)
        return points

    def _reject(self, w: Params, which: Tensor, rule: Grid, cells: Cells, generator: torch.Generator | None) -> Tensor:
        """The same for few components: proposals from a step function above each density.

        In each cell the density is below its value at the node, moved closer to ``loc`` by the reach of the cell.
        """
        chart, (inverse, _) = self.manifold.parametrisation(), self.whitener(w)
        reach = torch.linalg.matrix_norm(inverse, 2).unsqueeze(-1) * cells.reach
        near = (self._squares(rule.points, w).sqrt() - reach).clamp_min(0)
        ceiling = -near.square() / 2 + (rule.log_area + cells.rise)
        share = torch.softmax(ceiling + rule.log_size, -1).cumsum(-1)
        first = torch.arange(len(share), device=share.device)
        levels = (share / share[:, -1:] + first.unsqueeze(-1)).flatten()  # those of component c are between c and c + 1
        found, missing = rule.points.new_empty(len(which), *self.point_shape), torch.arange(len(which), device=which.device)
        while len(missing) > 0:
            c = which[missing]
            noise = torch.rand(len(c), self.dim + 2, generator=generator, dtype=levels.dtype, device=levels.device)
            chosen = torch.maximum(torch.searchsorted(levels, c + noise[:, 0]), c * share.shape[-1])
            cell = chosen % share.shape[-1]
            u = cells.low[cell] + (cells.high - cells.low)[cell] * noise[:, 2:]
            x = chart.embed(u)
            white = self.whiten(inverse[c], x - w["loc"][c].double())
            level = chart.log_area(u) - white.square().sum(-1) / 2 - ceiling.flatten()[chosen]
            if not float(level.max()) <= 0:
                raise RuntimeError("The surface bends more inside a cell of the grid than its corners show.")
            accepted = noise[:, 1].log() < level
            found[missing[accepted]] = x[accepted]
            missing = missing[~accepted]
        return found


@functools.lru_cache(maxsize=4)
def _grid_of(kernel: RestrictedNormal, counts: tuple[int, ...]) -> Grid:
    chart = kernel.manifold.parametrisation()
    nodes, log_size = grid(chart.lower, chart.upper, chart.periodic, list(counts))
    with torch.no_grad():
        return Grid(chart.embed(nodes), chart.log_area(nodes), log_size)


@functools.lru_cache(maxsize=4)
def _cells_of(kernel: RestrictedNormal, counts: tuple[int, ...]) -> Cells:
    chart, rule = kernel.manifold.parametrisation(), _grid_of(kernel, counts)
    low, high = cells(chart.lower, chart.upper, chart.periodic, list(counts))
    reach, rise = torch.zeros_like(rule.log_area), torch.zeros_like(rule.log_area)
    for corner in itertools.product((False, True), repeat=low.shape[1]):
        u = torch.where(torch.tensor(corner, device=low.device), high, low)
        reach = torch.maximum(reach, (chart.embed(u) - rule.points).norm(dim=-1))
        rise = torch.maximum(rise, (chart.log_area(u) - rule.log_area).abs())
    return Cells(low, high, SAFETY * reach + 1e-9, SAFETY * rise + 1e-9)
