"""Spherical Cauchy distribution on the sphere S^d of any dimension."""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..manifolds.sphere import chord2
from .maximise import mean_direction, weighted
from .zonal import ZonalKernel, chords, unit

MIN_SCALE = 1e-8


@register_kernel(geoopt.Sphere, "spherical_cauchy")
class SphericalCauchy(ZonalKernel):
    r"""Image of the uniform law under a Moebius map of the sphere: heavy tails, pathwise samples; on S^1 the wrapped Cauchy.

    .. math:: q(x) = \frac{1}{A_d} \Big(\frac{s}{s^2 \cos^2(\theta/2) + \sin^2(\theta/2)}\Big)^d, \quad
              \theta = \angle(loc, x), \quad A_d = \mathrm{area}(S^d).

    ``scale`` is :math:`s = (1 - \rho) / (1 + \rho)` in terms of the usual concentration :math:`\rho \in [0, 1)`, in which the
    density reads :math:`((1 - \rho^2) / (1 + \rho^2 - 2 \rho \cos\theta))^d / A_d`. It keeps its digits for narrow laws, which
    float32 cannot do for :math:`\rho` next to 1, and it has a meaning: half the mass lies within the angle
    :math:`2 \arctan s` of ``loc``. ``scale`` 1 is the uniform law. Narrow laws look like a Student t law with d degrees of
    freedom in the tangent space, so no standard deviation tells their width: :meth:`centered` makes the *median* distance that
    of a normal law of the given scale.

    **Measure**: surface of the unit sphere. **Exactness**: closed form; entropy and divergence by a quadrature that is exact to
    rounding. **Range**: ``scale`` in [1e-8, 1], any dimension. **Mean**: Fréchet, ``loc``, also the projected extrinsic mean.
    **Sampler**: exact, a Moebius map of a uniform point; pathwise in both parameters.

    The fit finds the maximum of the likelihood, which is unique, by Newton's method in the hyperbolic ball of the parameters:
    the concave problem of the conformal barycentre. There is no maximum if one point has half of the weight.

    Shapes: ``loc`` (*B,D), ``scale`` (*B) in [1e-8, 1].

    Raises:
        ValueError: a scale outside [1e-8, 1], ``loc`` off the sphere, a fit to points half of which are equal.

    References:
        Kato, McCullagh (2020), Some properties of a Cauchy family on the sphere derived from the Moebius transformations,
        Bernoulli 26, 3224-3248.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Sphere(), "spherical_cauchy", loc=loc, scale=0.1)
    >>> round(float(d.log_prob(loc).exp() * 4 * math.pi), 6)         # s^-d
    100.0
    """

    parameter_names = ("loc", "scale")
    width = "scale"
    width_constraint = constraints.interval(MIN_SCALE, 1.0)

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__(manifold, point_shape)
        # Wilson and Hilferty's approximation of the median of a chi variate, right within 2 % for d = 1 and better beyond
        self._median = math.sqrt(self.dim) * (1 - 2 / (9 * self.dim)) ** 1.5
        self.max_scale = math.pi / 2 / self._median
        self.log_scale_range = (-7.0, math.log(self.max_scale))

    @property
    def _log_area(self) -> float:
        return geometry.log_volume(geoopt.Sphere(), self.point_shape)

    def _shape(self, width: Tensor) -> tuple[Tensor, ...]:
        return width.square(), self.dim * width.log() - self._log_area

    def _from_chords(self, near2: Tensor, far2: Tensor, *shape: Tensor) -> Tensor:
        scale2, log_norm = shape
        return log_norm - self.dim * torch.log((scale2 * far2 + near2) / 4)

    def _slope(self, width: Tensor) -> Tensor:
        return self.dim / (4 * width.square())

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        shape = (*sample_shape, *w["loc"].shape)
        dtype, device = w["loc"].dtype, w["loc"].device
        uniform = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        return _stretched(geometry.project(self.manifold, uniform), w["loc"], w["scale"])

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "scale": torch.tan((self._median / 2 * scale).clamp_max(math.pi / 4))}

    def entropy(self, w: Params) -> Tensor:
        entropy = self._log_area - self._from_uniform(((1 / w["scale"].double() - w["scale"].double()) / 2).square())
        return entropy.expand(self.batch_shape(w)).to(w["loc"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, SphericalCauchy):
            return super().kl_divergence(w, other, v)
        # a Moebius map takes the one law to the uniform one and the other to a law at the hyperbolic distance of the two
        s, t = w["scale"].double(), v["scale"].double()
        half_turn = chord2(unit(w["loc"]), unit(v["loc"])) / 4
        half = (s - t).square() / (4 * s * t) + (1 / s - s) * (1 / t - t) / 4 * half_turn
        return self._from_uniform(4 * half * (1 + half)).to(w["loc"].dtype)

    def _from_uniform(self, sinh2: Tensor) -> Tensor:
        """Divergence between the uniform law and one at hyperbolic distance r, from sinh(r)^2; also in the other direction.

        d/2 times the mean of log(1 + sinh(r)^2 (1 - c^2)) for c = cos(angle), by the trapezoidal rule in artanh c.
        """
        step = min(0.25, 0.7 / math.sqrt(self.dim))
        count = math.ceil(math.acosh(math.exp(min(40 / self.dim, 600))) / step)
        y = step * torch.arange(-count, count + 1, dtype=sinh2.dtype, device=sinh2.device)
        sech2 = torch.cosh(y).pow(-2)
        weight = torch.softmax(self.dim / 2 * sech2.log(), dim=0)
        return self.dim / 2 * (torch.log1p(sinh2.unsqueeze(-1) * sech2) * weight).sum(-1)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        points, a = weighted(x, weights)
        loc = mean_direction(points, a)
        scale = _middle_angle(points, a, loc).mul(0.5).tan().clamp(1e-6, 1.0)
        best = self._mean_log(points, a, loc, scale)
        for _ in range(200):
            around = _stretched(points, loc, 1 / scale)
            spread = torch.eye(len(loc), dtype=a.dtype, device=a.device) - (around.mT * a) @ around
            step = torch.linalg.solve(spread, a @ around) / 2
            if not torch.isfinite(step).all() or float(step.norm()) < 1e-13:
                break
            step = step * (0.5 / step.norm().clamp_min(0.5))
            for _ in range(40):
                moved = _composed(loc, scale, step)
                value = self._mean_log(points, a, *moved)
                if value >= best:
                    break
                step = step / 2
            if value <= best:
                break
            (loc, scale), best = moved, value
        if not MIN_SCALE < float(scale) <= 1:
            raise ValueError(
                "Expected points of which none has half of the weight: the likelihood of the spherical Cauchy law has no "
                f"maximum otherwise, its scale falls below {MIN_SCALE:g}."
            )
        return {"loc": loc.to(x.dtype), "scale": scale.to(x.dtype)}

    def _mean_log(self, points: Tensor, a: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return a @ self._from_chords(*chords(points, loc), *self._shape(scale))


def _stretched(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The Moebius map that multiplies tan(angle / 2) from ``loc`` by the scale (*B)."""
    near2, far2, scale = chord2(x, loc).unsqueeze(-1), chord2(x, -loc).unsqueeze(-1), scale.unsqueeze(-1)
    short = torch.where(near2 > far2, x + loc, x - loc)
    tangent = short - (short * loc).sum(-1, keepdim=True) * loc
    point = ((far2 - scale.square() * near2) * loc + 4 * scale * tangent) / (far2 + scale.square() * near2)
    return point / point.norm(dim=-1, keepdim=True)


def _composed(loc: Tensor, scale: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Parameters of the law at ``step`` (D), a point of the unit ball, as seen from (loc, scale) at its centre.

    In the half space over the tangent plane at loc the map from the centre is a multiplication by the scale, which keeps the
    digits of narrow laws.
    """
    along = step @ loc
    across, size2 = step - along * loc, step.square().sum()
    z, height = (t * scale / (1 + 2 * along + size2) for t in (2 * across, 1 - size2))
    z2 = z.square().sum()
    ball = (1 - z2 - height.square()) * loc + 2 * z
    above = (z2 + (1 - height).square()) / (2 * height)  # cosh - 1 of the distance from the origin
    narrow = 1 / (1 + above + torch.sqrt(above * (above + 2)))
    return torch.where(ball.norm() > 1e-15, ball / ball.norm().clamp_min(1e-300), loc), narrow


def _middle_angle(points: Tensor, a: Tensor, loc: Tensor) -> Tensor:
    """Weighted median of the angles from loc."""
    near2, far2 = chords(points, loc)
    angles, order = (2 * torch.atan2(near2.sqrt(), far2.sqrt())).sort()
    return angles[int((a[order].cumsum(0) < 0.5).sum().clamp_max(len(angles) - 1))]
