"""Neural spline flows with exact densities on R^d, tori, S^2 and SPD matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import geoopt
import torch
from torch import Tensor, nn
from zuko.flows import NSF
from zuko.nn import MLP, MaskedMLP
from zuko.transforms import MonotonicRQSTransform

import mf_manifold as mf
from mf_manifold import geometry
from mf_manifold.geometry import Shape

from .training import Rival

AUTOREGRESSIVE = 16  # dimensions up to which the Euclidean flow is autoregressive; above it couples halves
COORDINATES = 2**20  # scored at once, which bounds the memory of the splines


class SplineFlow(Rival):
    r"""Neural spline flow on a manifold through coordinates with a known volume.

    R^d: the coordinates themselves. SPD matrices: the entries of the matrix logarithm (log-Euclidean measure, converted by
    :func:`mf_manifold.log_ratio`). Both are whitened, and the base is the normal law. Torus: the angles. S^2: longitude
    and sine of the latitude, which keep the area. There the base is uniform, the splines close up on circles, and the
    networks see angles by cosine and sine only, so that the density is continuous across the seam.

    **Measure**: Riemannian volume.

    Args:
        transforms, bins, hidden: layers, bins of a spline, widths of the hidden layers of each conditioner.

    Reference: Durkan, Bekasov, Murray, Papamakarios (2019), Neural Spline Flows, arXiv 1906.04032; on tori and spheres Rezende
        et al. (2020), arXiv 2002.02428.
    """

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        *,
        transforms: int = 5,
        bins: int = 8,
        hidden: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        self.manifold, self.point_shape = manifold, tuple(point_shape)
        self.options = {"transforms": transforms, "bins": bins, "hidden": tuple(hidden)}
        self.chart = _chart(manifold, self.point_shape)
        self.flow = self.chart.flow(**self.options)

    @property
    def rows(self) -> int:
        """Points scored at once."""
        return min(4096, max(16, COORDINATES // self.chart.dim))

    def prepare(self, x: Tensor) -> Tensor:
        self.chart.calibrate(x)
        self.flow = self.chart.flow(**self.options)
        return self.coordinates(x)

    def coordinates(self, x: Tensor) -> Tensor:
        return self.chart.coordinates(x)

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        return -self.flow.log_prob(batch).mean()

    def validation_loss(self, held_out: Tensor) -> float:
        return -float(torch.cat([self.flow.log_prob(rows) for rows in held_out.split(self.rows)]).mean())

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        return torch.cat(
            [self.flow.log_prob(self.coordinates(rows)).to(x) + self.chart.log_volume(rows) for rows in x.split(self.rows)]
        )

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        z = self.flow.noise(n, torch.Generator().manual_seed(seed))
        return self.chart.points(self.flow.inverse(z))


class _Chart(nn.Module):
    """Coordinates of points, and the log density of the coordinates' Lebesgue measure by the Riemannian volume."""

    dim: int

    def calibrate(self, x: Tensor) -> None:
        """Read scales off the data."""

    def coordinates(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def points(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def log_volume(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def flow(self, transforms: int, bins: int, hidden: Sequence[int]) -> nn.Module:
        raise NotImplementedError


class _FlatChart(_Chart):
    """Whitened R^d, or matrix logarithms on SPD."""

    center: Tensor
    factor: Tensor  # lower triangular (d,d), or (d) where only variances are estimated

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__()
        self.manifold, self.point_shape = manifold, point_shape
        self.dim = geometry.raw_dim(manifold, point_shape)
        self.register_buffer("center", torch.zeros(self.dim, dtype=torch.float64))
        self.register_buffer("factor", torch.ones(self.dim, dtype=torch.float64))

    def calibrate(self, x: Tensor) -> None:
        raw = geometry.to_raw(self.manifold, x).double()
        self.center, self.factor = raw.mean(0), raw.std(0).clamp_min(1e-9)
        if len(x) > 5 * self.dim and self.dim <= 200:
            covariance = torch.cov(raw.T).reshape(self.dim, self.dim)
            self.factor = torch.linalg.cholesky(
                covariance + 1e-8 * covariance.trace() / self.dim * torch.eye(self.dim).double()
            )

    def coordinates(self, x: Tensor) -> Tensor:
        raw = geometry.to_raw(self.manifold, x).double() - self.center
        white = raw / self.factor if self.factor.ndim == 1 else torch.linalg.solve_triangular(self.factor, raw.T, upper=False).T
        return white.float()

    def points(self, u: Tensor) -> Tensor:
        spread = u.double() * self.factor if self.factor.ndim == 1 else u.double() @ self.factor.T
        return geometry.from_raw(self.manifold, self.center + spread, self.point_shape)

    def log_volume(self, x: Tensor) -> Tensor:
        diagonal = self.factor if self.factor.ndim == 1 else self.factor.diagonal()
        ratio = -diagonal.log().sum().to(x)
        if isinstance(self.manifold, geoopt.SymmetricPositiveDefinite):
            ratio = ratio + mf.log_ratio(mf.Measure(self.manifold, "log_euclidean"), mf.Measure(self.manifold), x)
        return ratio

    def flow(self, transforms: int, bins: int, hidden: Sequence[int]) -> nn.Module:
        if self.dim <= AUTOREGRESSIVE:
            return _Autoregressive(self.dim, transforms, bins, hidden)
        return _Coupling(self.dim, transforms, bins, hidden)


class _BoxChart(_Chart):
    """Coordinates in [-pi, pi]^d: the angles of a torus, or longitude and pi times the sine of the latitude on S^2."""

    def __init__(self, dim: int, *, sphere: bool) -> None:
        super().__init__()
        self.dim, self.sphere = dim, sphere

    def coordinates(self, x: Tensor) -> Tensor:
        if not self.sphere:
            return torch.remainder(x + math.pi, 2 * math.pi).float() - math.pi
        return torch.stack([torch.atan2(x[:, 1], x[:, 0]), math.pi * x[:, 2].clamp(-1, 1)], dim=-1).float()

    def points(self, u: Tensor) -> Tensor:
        u = u.double()
        if not self.sphere:
            return u
        height = (u[:, 1] / math.pi).clamp(-1, 1)
        radius = (1 - height.square()).sqrt()
        return torch.stack([radius * u[:, 0].cos(), radius * u[:, 0].sin(), height], dim=-1)

    def log_volume(self, x: Tensor) -> Tensor:
        return torch.full_like(x[:, 0], math.log(math.pi) if self.sphere else 0.0)

    def flow(self, transforms: int, bins: int, hidden: Sequence[int]) -> nn.Module:
        circular = torch.ones(self.dim, dtype=torch.bool)
        circular[1:] = not self.sphere
        return _BoxFlow(circular, transforms, bins, hidden)


def _chart(manifold: geoopt.Manifold, point_shape: Shape) -> _Chart:
    if isinstance(manifold, mf.manifolds.Torus):
        return _BoxChart(point_shape[0], sphere=False)
    if isinstance(manifold, geoopt.Sphere) and point_shape == (3,):
        return _BoxChart(2, sphere=True)
    if isinstance(manifold, geoopt.Euclidean | geoopt.SymmetricPositiveDefinite):
        return _FlatChart(manifold, point_shape)
    raise ValueError(f"Expected R^d, a torus, S^2 or SPD matrices, got {manifold.name} with points of shape {point_shape}.")


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


class _Autoregressive(nn.Module):
    """zuko's autoregressive spline flow; a sample takes as many passes as dimensions."""

    def __init__(self, dim: int, transforms: int, bins: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.dim = dim
        self.nsf = NSF(dim, transforms=transforms, bins=bins, hidden_features=tuple(hidden))

    def log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self.nsf.transform().call_and_ladj(x)
        return _log_normal(z) + log_det

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.dim, generator=generator)

    def inverse(self, z: Tensor) -> Tensor:
        return self.nsf.transform().inv(z)


class _Coupling(nn.Module):
    """Spline couplings of random halves of the coordinates: one pass for a density and for a sample."""

    def __init__(self, dim: int, transforms: int, bins: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.bins = dim, bins
        transforms += transforms % 2  # so that each coordinate is moved equally often
        orders = [torch.randperm(dim) for _ in range(transforms // 2)]
        self.register_buffer("orders", torch.stack([order for one in orders for order in (one, one.flip(0))]))
        self.sizes = [dim - dim // 2, dim // 2] * (transforms // 2)  # coordinates moved
        self.nets = nn.ModuleList(MLP(dim - n, n * (3 * bins - 1), hidden_features=tuple(hidden)) for n in self.sizes)

    def _layer(self, i: int, x: Tensor) -> tuple[Tensor, MonotonicRQSTransform]:
        order: Tensor = self.orders[i]
        fixed, moved = order[self.sizes[i] :], order[: self.sizes[i]]
        phi = self.nets[i](x[:, fixed]).unflatten(-1, (len(moved), -1))
        return moved, MonotonicRQSTransform(*phi.split([self.bins, self.bins, self.bins - 1], dim=-1))

    def log_prob(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        for i in range(len(self.nets)):
            moved, spline = self._layer(i, x)
            y, log_det = spline.call_and_ladj(x[:, moved])
            x, total = x.index_copy(1, moved, y), total + log_det.sum(-1)
        return _log_normal(x) + total

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.dim, generator=generator)

    def inverse(self, z: Tensor) -> Tensor:
        for i in reversed(range(len(self.nets))):
            moved, spline = self._layer(i, z)
            z = z.index_copy(1, moved, spline.inv(z[:, moved]))
        return z


class _BoxSpline(MonotonicRQSTransform):
    """Spline of [-pi, pi] onto itself with free slopes at the ends, equal ones where the interval is a circle."""

    def __init__(self, widths: Tensor, heights: Tensor, slopes: Tensor, circular: Tensor) -> None:
        last = torch.where(circular, slopes[..., 0], slopes[..., -1]).unsqueeze(-1)
        super().__init__(widths, heights, slopes[..., 1:-1], bound=math.pi)
        ends = torch.cat([slopes[..., :1], last], -1)
        ends = torch.exp(ends / (1 + abs(ends / math.log(1e-3))))
        self.derivatives = torch.cat([ends[..., :1], self.derivatives[..., 1:-1], ends[..., 1:]], -1)


class _BoxLayer(nn.Module):
    """One autoregressive layer: a rotation of the circular coordinates and a spline of each, given those before it."""

    circular: Tensor

    def __init__(self, circular: Tensor, backwards: bool, bins: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("circular", circular)
        self.bins, dim = bins, len(circular)
        rank = torch.arange(dim).flip(0) if backwards else torch.arange(dim)
        before = rank[:, None] > rank
        inputs = torch.cat([torch.ones(dim, 1, dtype=torch.bool), before, before], dim=1)  # a constant, and two features each
        self.net = MaskedMLP(inputs.repeat_interleave(3 * bins + 2, dim=0), hidden_features=tuple(hidden), activation=nn.SiLU)

    def _at(self, x: Tensor) -> tuple[Tensor, _BoxSpline]:
        first = torch.where(self.circular, x.cos(), x / math.pi)
        second = torch.where(self.circular, x.sin(), torch.zeros_like(x))
        phi = self.net(torch.cat([torch.ones_like(x[:, :1]), first, second], dim=-1)).unflatten(-1, (x.shape[1], -1))
        turn, widths, heights, slopes = phi.split([1, self.bins, self.bins, self.bins + 1], dim=-1)
        return turn.squeeze(-1) * self.circular, _BoxSpline(widths, heights, slopes, self.circular)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        turn, spline = self._at(x)
        y, log_det = spline.call_and_ladj(self._wrap(x + turn))
        return y, log_det.sum(-1)

    def inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[1]):
            turn, spline = self._at(x)
            x = self._wrap(spline.inv(y) - turn)
        return x

    def _wrap(self, x: Tensor) -> Tensor:
        return torch.where(self.circular, torch.remainder(x + math.pi, 2 * math.pi) - math.pi, x)


class _BoxFlow(nn.Module):
    """Layers in alternating order on a uniform base."""

    def __init__(self, circular: Tensor, transforms: int, bins: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.dim = len(circular)
        self.layers = nn.ModuleList(_BoxLayer(circular, i % 2 == 1, bins, hidden) for i in range(transforms))

    def log_prob(self, x: Tensor) -> Tensor:
        total = torch.full_like(x[:, 0], -self.dim * math.log(2 * math.pi))
        for layer in self.layers:
            x, log_det = layer.call_and_ladj(x)
            total = total + log_det
        return total

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        return math.pi * (2 * torch.rand(n, self.dim, generator=generator) - 1)

    def inverse(self, z: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            z = layer.inverse(z)
        return z
