"""Submanifolds given by a user's embedding."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure
from .embedded import EmbeddedManifold, Parametrisation, reject
from .star_shaped import numeric_log_volume

Map = Callable[[Tensor], Tensor]
GRID, MAX_STARTS = 33, 2**16  # starts a side and in all, for a search of coordinates in a box
SAME = 1e-4  # relative difference of coordinates that are not the same
CHECKED, WIDE = 64, (-4.0, 4.0)  # points at which coordinates are tried, and where in unbounded directions
SEARCH_STEPS, POLISH_STEPS = 60, 4
NODES = {1: 4096, 2: 400, 3: 60}
BETWEEN_WALLS = 512  # nodes of the largest Gauss rule
SLACK = 0.05  # how much above its largest value on a grid the log volume element is taken to reach


class ChartManifold(EmbeddedManifold):
    r"""The image of an embedding ``phi`` of R^d into R^D, an immersion; points are ambient, (*B,D).

    Args:
        embedding: phi, by rows: (*B,d) -> (*B,D), smooth, differentiable by torch twice.
        dim: d.
        coordinates: a left inverse of phi, (*B,D) -> (*B,d). Without it the Gauss-Newton method looks for coordinates,
            beginning at the start whose image is nearest; give it where phi is far from linear between the starts.
        jacobian: derivative of phi, (*B,d) -> (*B,D,d); by default by forward differentiation.
        periods: for each coordinate the period after which phi repeats itself, None where it does not.
        preimages: for an embedding that covers its image several times in another way, all coordinates (*B,K,d) of the point
            with coordinates (*B,d).
        box: for each coordinate its least and largest value, None where it is unbounded; one period where it is periodic. With
            every side bounded the volume is finite and ``restricted_normal`` exists.
        starts: coordinates (K,d) to begin a search at; by default a grid in the box, 0 in unbounded coordinates.

    Coordinates are tried at random points (in unbounded directions between -4 and 4); what happens elsewhere is not looked at.
    A point that has more coordinates than ``periods`` and ``preimages`` say would have too small a density.

    Raises:
        ValueError: shapes that do not fit; coordinates that the embedding does not map back; a point with further coordinates.

    Measures: ``riemannian``, the Hausdorff measure :math:`\sqrt{\det J^T J}\, du`, and ``chart``, Lebesgue measure ``du``.

    >>> import torch, mf_manifold as mf
    >>> parabola = mf.manifolds.ChartManifold(lambda u: torch.cat([u, u ** 2], -1), 1, coordinates=lambda x: x[..., :1])
    >>> mf.geometry.project(parabola, torch.tensor([0.0, -1.0]))
    tensor([0., 0.])
    """

    name = "ChartManifold"

    def __init__(
        self,
        embedding: Map,
        dim: int,
        *,
        coordinates: Map | None = None,
        jacobian: Map | None = None,
        periods: Sequence[float | None] | None = None,
        preimages: Map | None = None,
        box: Sequence[tuple[float, float] | None] | None = None,
        starts: Sequence[Sequence[float]] | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.embedding, self.dim = embedding, dim
        self._coordinates, self._jacobian, self._preimages = coordinates, jacobian, preimages
        self.periods = list(periods) if periods is not None else [None] * dim
        if len(self.periods) != dim or any(p is not None and not 0 < p < math.inf for p in self.periods):
            raise ValueError(f"Expected periods of {dim} coordinates, positive numbers or None, got {self.periods}.")
        sides = list(box) if box is not None else [None] * dim
        if len(sides) != dim:
            raise ValueError(f"Expected a box of {dim} pairs of numbers or None, got {len(sides)}.")
        self.box = [_side(*pair) for pair in zip(sides, self.periods, strict=True)]
        example = embedding(
            torch.tensor([[0.0 if s is None else sum(s) / 2 for s in self.box]], dtype=torch.float64, device="cpu")
        )
        if example.ndim != 2 or example.shape[0] != 1 or example.shape[1] < dim:
            raise ValueError(
                f"Expected an embedding that maps coordinates (1, {dim}) to points (1, D) with D >= {dim}, got shape "
                f"{tuple(example.shape)}. Index coordinates as u[..., i] and join with torch.stack([...], dim=-1)."
            )
        self.ambient_dim = int(example.shape[1])
        self._given_starts = None if starts is None else torch.as_tensor(starts).double().reshape(-1, dim)
        self._check_coordinates()

    @functools.cached_property
    def _starts(self) -> Tensor:
        return _default_starts(self.box) if self._given_starts is None else self._given_starts

    @torch.no_grad()
    def _check_coordinates(self) -> None:
        """Notice, at points drawn at random, coordinates that are not those of the point or not the only ones."""
        noise = torch.rand(CHECKED, self.dim, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(0))
        low, high = (
            torch.tensor([WIDE[i] if s is None else s[i] for s in self.box], dtype=torch.float64, device="cpu") for i in (0, 1)
        )
        u = low + (high - low) * noise
        x = self.embedding(u)
        found = self.coordinates(x)
        back = (self.embedding(found) - x).norm(dim=-1) <= SAME * (1 + x.norm(dim=-1))
        defined = torch.isfinite(x).all(-1) & torch.isfinite(found).all(-1)
        if self._coordinates is not None and bool((defined & ~back).any()):
            raise ValueError("Expected coordinates with embedding(coordinates(x)) = x on the image, got others for some x.")
        gap = found.unsqueeze(-2) - self.preimages(u)
        gap = torch.stack([principal(gap[..., i], p) for i, p in enumerate(self.periods)], dim=-1)
        other = defined & back & (gap.norm(dim=-1) > SAME * (1 + u.norm(dim=-1, keepdim=True))).all(-1)
        if bool(other.any()):
            row = int(other.nonzero()[0])
            raise ValueError(
                "Expected an embedding that takes each point once, but for periods and preimages; got the same point at "
                f"{u[row].tolist()} and {found[row].tolist()}. State periods= or preimages=."
            )

    def jacobian(self, u: Tensor) -> Tensor:
        """Derivative of the embedding; (*B,d) -> (*B,D,d)."""
        if self._jacobian is not None:
            return self._jacobian(u)
        return forward_jacobian(self.embedding, u)

    def half_logdet(self, u: Tensor) -> Tensor:
        """``log sqrt(det J^T J)``, volume per unit of coordinates, without forming the product; (*B,d) -> (*B)."""
        return orthonormalise(self.jacobian(u))[1]

    def coordinates(self, x: Tensor) -> Tensor:
        """Coordinates of points; of periodic ones, those in the box; (*B,D) -> (*B,d)."""
        if self._coordinates is not None:
            return self._coordinates(x)
        with torch.no_grad():
            flat = x.detach().reshape(-1, self.ambient_dim)
            starts = self._starts.to(x)
            nearest = torch.cdist(flat, self.embedding(starts)).argmin(-1)
            found = self._gauss_newton(flat, starts[nearest], SEARCH_STEPS).reshape(*x.shape[:-1], self.dim)
            found = self._into_box(found)
        return self._newton_step(x, found)

    def preimages(self, u: Tensor) -> Tensor:
        """All coordinates of a point, but for periods; (*B,d) -> (*B,K,d)."""
        return u.unsqueeze(-2) if self._preimages is None else self._preimages(u)

    def closest(self, x: Tensor) -> Tensor:
        """The nearest point next to the one with the coordinates of ``x``."""
        with torch.no_grad():
            flat = x.detach().reshape(-1, self.ambient_dim)
            found = self._gauss_newton(flat, self.coordinates(flat), POLISH_STEPS).reshape(*x.shape[:-1], self.dim)
        return self.embedding(self._between_walls(self._newton_step(x, found)))

    def offset(self, x: Tensor) -> Tensor:
        return (x - self.closest(x)).norm(dim=-1)

    def frame(self, x: Tensor) -> Tensor:
        return orthonormalise(self.jacobian(self.coordinates(x)))[0]

    def _newton_step(self, x: Tensor, u: Tensor) -> Tensor:
        """Coordinates that carry the derivative by ``x`` of a solution ``u``, whose value they keep but for rounding."""
        u = u.detach()
        return u + least_squares(self.jacobian(u).detach(), x - self.embedding(u).detach())

    def _gauss_newton(self, x: Tensor, u: Tensor, steps: int) -> Tensor:
        """Coordinates of the nearest points (N,D), from starts (N,d): steps halved while they lead away."""
        away, size = (x - self.embedding(u)).norm(dim=-1), torch.ones_like(x[:, 0])
        eps = torch.finfo(u.dtype).eps
        rounding = 8 * eps * (1 + x.norm(dim=-1))
        for _ in range(steps):
            move = least_squares(self.jacobian(u), x - self.embedding(u))
            trial = u + size.unsqueeze(-1) * move
            distance = (x - self.embedding(trial)).norm(dim=-1)
            better = distance <= away + rounding
            u = torch.where(better.unsqueeze(-1), trial, u)
            away, size = torch.where(better, distance, away), torch.where(better, (2 * size).clamp_max(1), size / 2)
            if not u.is_meta and bool((move.norm(dim=-1) <= 64 * eps * (1 + u.norm(dim=-1))).all()):
                break
        return u

    def _into_box(self, u: Tensor) -> Tensor:
        parts = []
        for i, (side, period) in enumerate(zip(self.box, self.periods, strict=True)):
            v = u[..., i]
            parts.append(v if period is None or side is None else v - period * torch.floor((v - side[0]) / period))
        return torch.stack(parts, dim=-1)

    def _between_walls(self, u: Tensor) -> Tensor:
        """Coordinates moved to the box where it has walls."""
        pairs = zip(self.box, self.periods, strict=True)
        walls = [(-math.inf, math.inf) if side is None or period is not None else side for side, period in pairs]
        low, high = torch.tensor(walls, dtype=u.dtype, device=u.device).unbind(-1)
        return torch.minimum(torch.maximum(u, low), high)

    def parametrisation(self) -> Parametrisation:
        if any(side is None for side in self.box):
            return super().parametrisation()
        lower, upper = ([side[i] for side in self.box if side is not None] for i in (0, 1))
        return Parametrisation(lower, upper, [p is not None for p in self.periods], self.embedding, self.half_logdet)


def forward_jacobian(embedding: Map, u: Tensor) -> Tensor:
    """Derivative of a map of rows at ``u``, one forward pass for each coordinate; (*B,d) -> (*B,D,d)."""
    u = u.contiguous()
    axes = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    columns = [torch.func.jvp(embedding, (u,), (axis.expand_as(u).clone(),))[1] for axis in axes]
    return torch.stack(columns, dim=-1)


def principal(delta: Tensor, period: float | None) -> Tensor:
    """The representative of a difference that is at most half a period long."""
    return delta if period is None else delta - period * torch.round(delta.detach() / period)


def _side(side: tuple[float, float] | None, period: float | None) -> tuple[float, float] | None:
    if side is None:
        return None if period is None else (0.0, float(period))
    low, high = float(side[0]), float(side[1])
    if not -math.inf < low < high < math.inf or (period is not None and not math.isclose(high - low, period)):
        raise ValueError(f"Expected sides of the box with lower < upper, one period long where periodic, got {side}.")
    return low, high


def _default_starts(box: Sequence[tuple[float, float] | None]) -> Tensor:
    bounded = sum(side is not None for side in box)
    count = GRID if bounded <= 3 else max(1, int(MAX_STARTS ** (1 / bounded)))
    steps = torch.linspace(0, 1, count, dtype=torch.float64, device="cpu")
    sides = [torch.zeros(1, dtype=torch.float64, device="cpu") if s is None else s[0] + (s[1] - s[0]) * steps for s in box]
    return torch.cartesian_prod(*sides).reshape(-1, len(sides))


def orthonormalise(jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns with the span of those of J, and ``log sqrt(det J^T J)``, by Gram-Schmidt done twice.

    The logarithm keeps ``eps * condition`` where the determinant of ``J^T J`` would keep the square of it.
    Shapes: (*B,D,d) -> (*B,D,d), (*B).
    """
    columns: list[Tensor] = []
    total = torch.zeros_like(jacobian[..., 0, 0])
    for column in jacobian.unbind(-1):
        for q in columns * 2:
            column = column - (q * column).sum(-1, keepdim=True) * q
        length = column.norm(dim=-1)
        columns.append(column / length.unsqueeze(-1))
        total = total + length.log()
    return torch.stack(columns, dim=-1), total


def least_squares(jacobian: Tensor, residual: Tensor) -> Tensor:
    """The vector ``u`` for which ``J u`` is closest to a residual; (*B,D,d), (*B,D) -> (*B,d)."""
    q, _ = orthonormalise(jacobian)
    right, triangle = (q.mT @ residual.unsqueeze(-1)).squeeze(-1), q.mT @ jacobian
    parts: list[Tensor] = []  # from the last to the first
    for i in reversed(range(right.shape[-1])):
        rest = right[..., i]
        for k, known in enumerate(reversed(parts)):
            rest = rest - triangle[..., i, i + 1 + k] * known
        parts.append(rest / triangle[..., i, i])
    return torch.stack(parts[::-1], dim=-1)


@geometry.log_volume.register(ChartManifold)
def _(manifold: ChartManifold, point_shape: Shape) -> float:
    if any(side is None for side in manifold.box):
        return math.inf
    counts = [_nodes(manifold) if period else min(_nodes(manifold), BETWEEN_WALLS) for period in manifold.periods]
    return numeric_log_volume(manifold, counts)


def _nodes(manifold: ChartManifold) -> int:
    if manifold.dim not in NODES:
        raise NotImplementedError("The volume of a chart, and uniform samples, exist in up to 3 dimensions only.")
    return NODES[manifold.dim]


@geometry.sample_uniform.register(ChartManifold)
def _(
    manifold: ChartManifold,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    chart = manifold.parametrisation()
    steps = torch.cartesian_prod(
        *[torch.linspace(0, 1, _nodes(manifold) + 1, dtype=torch.float64, device="cpu")] * manifold.dim
    )
    sides = torch.tensor([chart.lower, chart.upper], dtype=torch.float64, device="cpu")
    bound = float(chart.log_area(sides[0] + (sides[1] - sides[0]) * steps.reshape(-1, manifold.dim)).amax()) + SLACK

    def propose(count: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(count, manifold.dim + 1, generator=generator, dtype=dtype, device=device)
        ends = sides.to(noise)
        u = ends[0] + (ends[1] - ends[0]) * noise[:, :-1]
        log_rate = chart.log_area(u) - bound
        if not log_rate.is_meta and float(log_rate.max()) > 0:
            raise RuntimeError("The embedding stretches more between the nodes of the grid on which that was bounded.")
        return chart.embed(u), noise[:, -1].log() < log_rate

    return reject(propose, sample_shape)


@geometry.violations.register(ChartManifold)
def _(manifold: ChartManifold, x: Tensor) -> list[tuple[str, Tensor]]:
    found = geometry.violations.dispatch(EmbeddedManifold)(manifold, x)
    if manifold._coordinates is None:
        found = [("are off it, or their coordinates were not found (state coordinates= or starts=)", found[0][1])]
    return found


def _angular(manifold: ChartManifold) -> list[bool]:
    return [period is not None for period in manifold.periods]


@geometry.raw_dim.register(ChartManifold)
def _(manifold: ChartManifold, point_shape: Shape) -> int:
    return manifold.dim + sum(_angular(manifold))


@geometry.from_raw.register(ChartManifold)
def _(manifold: ChartManifold, raw: Tensor, point_shape: Shape) -> Tensor:
    # two reals, a cosine and a sine, for a periodic coordinate; a logit for a bounded one
    columns, parts = list(raw.unbind(-1)), []
    for side, period in zip(manifold.box, manifold.periods, strict=True):
        first = columns.pop(0)
        if period is not None:
            parts.append(torch.atan2(columns.pop(0), first) * (period / (2 * math.pi)))
        else:
            parts.append(first if side is None else side[0] + (side[1] - side[0]) * torch.sigmoid(first))
    return manifold.embedding(torch.stack(parts, dim=-1))


@geometry.to_raw.register(ChartManifold)
def _(manifold: ChartManifold, x: Tensor) -> Tensor:
    parts, u = [], manifold.coordinates(x)
    for i, (side, period) in enumerate(zip(manifold.box, manifold.periods, strict=True)):
        v = u[..., i]
        if period is not None:
            angle = v * (2 * math.pi / period)
            parts += [angle.cos(), angle.sin()]
        else:
            parts.append(v if side is None else torch.logit((v - side[0]) / (side[1] - side[0])))
    return torch.stack(parts, dim=-1)


@register_measure(ChartManifold, "chart")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    wide = x.double()  # an ill-conditioned embedding has no digit of its determinant in float32
    return -manifold.half_logdet(manifold.coordinates(wide)).to(x.dtype)
