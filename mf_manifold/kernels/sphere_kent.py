"""Kent distribution (Fisher-Bingham with five parameters) on the sphere S^2."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from .maximise import climb, mean_direction, weighted
from .rejection import accepted
from .tangent_normal import Spread, TangentKernel, precision_matrix
from .zonal import unit

_NODES = 256
MAX_CONDITION = 1e6


class _Shape(NamedTuple):
    """Concentration, squared ovalness."""

    kappa: Tensor
    beta2: Tensor


@register_kernel(geoopt.Sphere, "kent")
class Kent(TangentKernel):
    r"""Elliptic relative of the von Mises-Fisher law on S^2, an exponential family: different widths along two tangent axes.

    .. math:: q(x) = \frac{1}{C(\kappa, \beta)}
              \exp\big(\kappa\, \gamma_1 \cdot x + \beta\,[(\gamma_2 \cdot x)^2 - (\gamma_3 \cdot x)^2]\big), \quad
              0 \le 2 \beta < \kappa.

    The parameters are those of its tangent normal limit: ``loc`` is :math:`\gamma_1`, and the part of the ambient matrix
    ``covariance_matrix`` that is tangent at ``loc`` has the eigenvectors :math:`\gamma_2, \gamma_3` and the eigenvalues
    :math:`1 / (\kappa - 2\beta)` and :math:`1 / (\kappa + 2\beta)`. So :math:`\kappa = (a + b) / 2` and
    :math:`\beta = (b - a) / 4` for eigenvalues 1/a >= 1/b: the constraint :math:`2\beta < \kappa` is positive definiteness, no
    frame jumps where the axes are equal, and the parameters of the other normal laws of the sphere can be taken over.
    Equal eigenvalues give the von Mises-Fisher law of concentration :math:`\kappa`.

    In these terms :math:`\log q = -\tfrac12 x^T B x - \tfrac{\kappa}{2} (1 - \gamma_1 \cdot x)^2 - \log (C e^{-\kappa})` with
    the tangent precision B: a sum in which nothing cancels.

    **Measure**: surface of the unit sphere. **Exactness**: the normaliser is an integral of a Bessel function over one
    variable, by a trapezoidal rule with errors below 3e-10. **Range**: :math:`\kappa` in [0, 1e6] (variances from 5e-7),
    condition numbers of the tangent covariance up to 1e6. **Mean**: extrinsic, ``loc``. **Sampler**: exact, rejection from a
    normal law in the equal-area plane, where the von Mises-Fisher law is a truncated normal one; no gradients.

    Entropy and divergence are by the same quadrature. The fit maximises the likelihood by Newton's method from a moment
    estimate; where it grows until :math:`2\beta` reaches :math:`\kappa`, as for points with two modes, the result is next to
    that border, its condition number 1e6 at most.

    Shapes: ``loc`` (*B,3), ``covariance_matrix`` (*B,3,3).

    Raises:
        ValueError: points that are not of S^2; a tangent covariance that is not positive definite; a fit to points
            that lie on a circle.

    References:
        Kent (1982), The Fisher-Bingham distribution on the sphere, J. R. Statist. Soc. B 44, 71-80.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> cov = torch.diag(torch.tensor([0.02, 0.01, 1.0], dtype=torch.float64))        # kappa = 75, beta = 12.5
    >>> d = mf.distribution(geoopt.Sphere(), "kent", loc=loc, covariance_matrix=cov)
    >>> round(float(d.log_prob(loc)), 4), round(-math.log(2 * math.pi * 0.0002**0.5), 4)
    (2.4235, 2.4207)
    """

    parameter_names = ("loc", "covariance_matrix")
    covariances = ("full",)
    exactness = "quadrature"
    mean_kind = "extrinsic"
    has_rsample = False
    log_scale_range = (-7.0, 1.0)

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str | None = None) -> None:
        super().__init__(manifold, point_shape, covariance)
        if self.dim != 2:
            raise ValueError(f"Expected points of S^2, of shape (3,), for the Kent law, got {self.point_shape}.")

    @property
    def options(self) -> dict[str, Any]:
        return {}

    def _terms(self, spread: Spread) -> tuple[Any, ...]:
        shape = _shape(spread)
        return shape.kappa, _log_normalizer(shape)

    def _from_chords(self, near2: Tensor, far2: Tensor, along: Tensor, *terms: Any) -> Tensor:
        kappa, log_norm = terms
        return -near2 * far2 * along / 8 - kappa / 8 * near2.square() - log_norm

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        spread = self._spread(w)
        shape, axes = _shape(spread), torch.linalg.eigh(spread.tangent).eigenvectors.to(w["loc"].dtype)
        flat = [t.expand((*sample_shape, *spread.variance.shape)).reshape(-1) for t in (*shape, *_envelope(shape))]

        def propose(rows: Tensor) -> tuple[Tensor, Tensor]:
            _, beta2, precision, flatness, center, narrowing = (t[rows] for t in flat)
            noise = torch.randn(2, len(rows), generator=generator, dtype=beta2.dtype, device=beta2.device)
            z2 = torch.stack([noise[0] / precision.sqrt(), noise[1] / flatness.sqrt()]).square()
            r2, quartic = z2.sum(0), 8 * beta2.sqrt()
            level = quartic * ((z2[0] - center).square() + z2[1] * (1 - z2[1])) + narrowing * (1 - r2)
            z = noise / torch.stack([precision, flatness]).sqrt()
            return z.mT, torch.where(r2 <= 1, -level / 2, torch.full_like(level, -math.inf))

        z = accepted(propose, flat[0], generator).reshape(*sample_shape, *spread.variance.shape, 2)
        r2, z = z.square().sum(-1, keepdim=True).to(axes.dtype), z.to(axes.dtype)
        # ascending eigenvalues: along loc, minor axis, major axis
        tangent = z[..., :1] * axes[..., 2] + z[..., 1:] * axes[..., 1]
        x = (1 - 2 * r2) * w["loc"] + 2 * (1 - r2).clamp_min(0.0).sqrt() * tangent
        return geometry.project(self.manifold, x)

    def mean(self, w: Params) -> Tensor:
        return w["loc"].expand(*self.batch_shape(w), *self.point_shape)

    def entropy(self, w: Params) -> Tensor:
        return self._cross_entropy(w, w).expand(self.batch_shape(w)).to(w["loc"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, Kent):
            return super().kl_divergence(w, other, v)
        return (self._cross_entropy(w, v) - self._cross_entropy(w, w)).to(w["loc"].dtype)

    def _cross_entropy(self, w: Params, v: Params) -> Tensor:
        """-E log q_v(X) for X of the law w."""
        mean, second = _moments(unit(w["loc"]), self._spread(w))
        spread = self._spread(v)
        return _mean_energy(unit(v["loc"]), precision_matrix(unit(v["loc"]), spread), mean, second) + _log_normalizer(
            _shape(spread)
        )

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        points, a = weighted(x, weights)
        mean, second = a @ points, (points.mT * a) @ points
        loc = mean_direction(points, a)
        frame = geometry.from_coords(self.manifold, loc, torch.eye(2, dtype=a.dtype, device=a.device))
        # the two small directions by differences from loc, which keep the digits of narrow data
        short = (points - loc) @ frame.mT
        spread = (short.mT * a) @ short
        if not bool(torch.linalg.eigvalsh(spread)[0] > 1e-14 * spread.trace()):
            raise ValueError("Expected points that spread in two directions around their mean; all of them lie on a circle.")
        start = {"loc": loc, "precision": torch.linalg.inv(spread)}

        def value(state: Params) -> Tensor:
            tangent = geometry.from_coords(self.manifold, state["loc"], torch.eye(2, dtype=a.dtype, device=a.device))
            matrix = tangent.mT @ state["precision"] @ tangent
            log_norm = _log_normalizer(_shape_of(state["precision"]))
            return -_mean_energy(state["loc"], matrix, mean, second) - log_norm

        best = climb(value, self._moved, start, 5)
        loc, (values, axes) = best["loc"], torch.linalg.eigh(best["precision"])
        axes = axes.mT @ geometry.from_coords(self.manifold, loc, torch.eye(2, dtype=a.dtype, device=a.device))
        variances = 1 / torch.maximum(values, values[1] / MAX_CONDITION)
        # completed along loc, so that it is positive definite
        covariance = (axes.mT * variances) @ axes + variances.mean() * loc.unsqueeze(-1) * loc
        return {"loc": loc.to(x.dtype), "covariance_matrix": covariance.to(x.dtype)}

    def _moved(self, state: Params, delta: Tensor) -> Params:
        """The state moved by standard deviations of loc and by relative changes of the precision, in frames that turn along."""
        factor = torch.linalg.cholesky(state["precision"])
        step = torch.linalg.solve_triangular(factor.mT, delta[:2].unsqueeze(-1), upper=True).squeeze(-1)
        loc = geometry.expmap(self.manifold, state["loc"], geometry.from_coords(self.manifold, state["loc"], step))
        change = torch.stack([delta[2], delta[3], delta[3], delta[4]]).reshape(2, 2)
        return {"loc": loc, "precision": factor @ torch.linalg.matrix_exp(change) @ factor.mT}


def _shape(spread: Spread) -> _Shape:
    """kappa and beta^2 as smooth functions of the tangent covariance, also where its eigenvalues are equal."""
    assert spread.tangent is not None
    determinant = torch.exp(2 * spread.half_log_det)
    # the squared gap of the eigenvalues, from the traceless part, which vanishes with it
    gap2 = 2 * spread.tangent.square().sum((-2, -1)) - (2 * spread.variance).square()
    return _Shape(spread.variance / determinant, (gap2 / (16 * determinant.square())).clamp_min(0.0))


def _shape_of(precision: Tensor) -> _Shape:
    """kappa and beta^2 from a tangent precision (2,2) in a frame."""
    gap2 = (precision[0, 0] - precision[1, 1]).square() + 4 * precision[0, 1].square()
    return _Shape(precision.diagonal().sum() / 2, gap2 / 16)


def _nodes(shape: _Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Depths y = 1 - cos(angle), y (2 - y), and log weights for the integral over (0, 2); trapezoidal in log(y / (2 - y))."""
    kappa, beta = shape.kappa.detach(), shape.beta2.detach().sqrt()
    wide = (kappa - 2 * beta).clamp_min(1e-12 * kappa)
    lowest = -26.0 - (1 + wide).log() / 2 - (1 + kappa).log() / 2
    longest = torch.minimum(30 / (wide + 1e-300), (30 / (beta + 1e-300)).sqrt())
    end = longest.clamp_max(1.0)
    highest = torch.where(longest < 1, torch.log(end / (2 - end)), torch.full_like(wide, 30.0))
    step = (highest - lowest) / (_NODES - 1)
    t = lowest.unsqueeze(-1) + step.unsqueeze(-1) * torch.arange(_NODES, dtype=wide.dtype, device=wide.device)
    depth, sine2 = 2 * torch.sigmoid(t), 4 * torch.sigmoid(t) * torch.sigmoid(-t)
    return depth, sine2, (sine2 / 2).log() + step.unsqueeze(-1).log()


def _log_terms(shape: _Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Depths, squared sines, and the logarithms of the terms that add up to C exp(-kappa)."""
    depth, sine2, log_weight = _nodes(shape)
    kappa, beta2 = shape.kappa.unsqueeze(-1), shape.beta2.unsqueeze(-1)
    # almost round: the root of beta^2 has no derivative at 0, but the Bessel function needs only its square
    around = beta2 < (1e-3 * (kappa + 1)).square()
    square = torch.where(around, beta2, torch.zeros_like(beta2)) * sine2.square()
    near = torch.log1p(square / 4 + square.square() / 64 + square**3 / 2304) - kappa * depth
    beta = torch.where(around, torch.ones_like(beta2), beta2).sqrt()
    bessel = torch.special.i0e(beta * sine2).log()
    far = bessel - (kappa - 2 * beta) * depth - beta * depth.square()
    return depth, sine2, torch.where(around, near, far) + log_weight + math.log(2 * math.pi)


def _log_normalizer(shape: _Shape) -> Tensor:
    """log C(kappa, beta) - kappa: the integral over the azimuth is a Bessel function, the one over the angle a sum."""
    return torch.logsumexp(_log_terms(shape)[2], dim=-1)


def _moments(loc: Tensor, spread: Spread) -> tuple[Tensor, Tensor]:
    """E X (*B,3) and E X X' (*B,3,3)."""
    shape = _shape(spread)
    depth, sine2, log_terms = _log_terms(shape)
    weight = torch.softmax(log_terms, dim=-1)
    determinant = torch.exp(2 * spread.half_log_det)
    # I1 / (z I0), whose limit at z = 0 is 1/2: the traceless part of E X X' is this times beta times the traceless precision
    z = shape.beta2.unsqueeze(-1).clamp_min(1e-300).sqrt() * sine2
    tiny = z < 1e-4
    safe = torch.where(tiny, torch.ones_like(z), z)
    quotient = torch.where(tiny, 0.5 - z.square() / 16, torch.special.i1e(safe) / (safe * torch.special.i0e(safe)))
    round_part, oval_part = (weight * sine2).sum(-1) / 2, (weight * sine2.square() * quotient).sum(-1) / 2
    projector = torch.eye(3, dtype=loc.dtype, device=loc.device) - loc.unsqueeze(-1) * loc.unsqueeze(-2)
    assert spread.tangent is not None
    # beta (g2 g2' - g3 g3') is the traceless part of the covariance over twice its determinant
    oval = (spread.tangent - spread.variance[..., None, None] * projector) / (2 * determinant[..., None, None])
    second = round_part[..., None, None] * projector + oval_part[..., None, None] * oval
    cosine2 = 1 - 2 * round_part
    second = second + cosine2[..., None, None] * loc.unsqueeze(-1) * loc.unsqueeze(-2)
    return (1 - (weight * depth).sum(-1)).unsqueeze(-1) * loc, second


def _mean_energy(loc: Tensor, precision: Tensor, mean: Tensor, second: Tensor) -> Tensor:
    """E [x' B x + kappa (1 - loc.x)^2] / 2 from the first two moments of x."""
    kappa = precision.diagonal(dim1=-2, dim2=-1).sum(-1) / 2
    gap2 = 1 - 2 * (loc * mean).sum(-1) + (loc.unsqueeze(-2) @ second @ loc.unsqueeze(-1)).squeeze((-2, -1))
    return ((precision * second).sum((-2, -1)) + kappa * gap2) / 2


def _envelope(shape: _Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Precisions along both axes, the point at which the quartic term is touched, and the narrowing to the unit disc.

    In the equal-area plane the law is exp(-(a z1^2 + b z2^2 + g (z1^4 - z2^4)) / 2) on the unit disc with a = 4 (kappa - 2
    beta), b = 4 (kappa + 2 beta), g = 8 beta. Bounds: z1^4 >= 2 c z1^2 - c^2, z2^4 <= z2^2, and r^2 <= 1.
    """
    beta = shape.beta2.sqrt()
    a, g = 4 * (shape.kappa - 2 * beta).clamp_min(0.0), 8 * beta
    low, high = torch.zeros_like(a), torch.full_like(a, 2.0)
    for _ in range(40):
        middle = (low + high) / 2
        narrow = 1 / _touching(a + middle, g)[0] + 1 / (4 * shape.kappa + middle) < 1
        low, high = torch.where(narrow, low, middle), torch.where(narrow, middle, high)
    precision, center = _touching(a + high, g)
    return precision, 4 * shape.kappa + high, center, high


def _touching(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The precision p = a + 2 g c and the c = 1 / p at which it is best to touch g z^4."""
    precision = (a + torch.sqrt(a.square() + 8 * g)) / 2
    return precision, 1 / precision
