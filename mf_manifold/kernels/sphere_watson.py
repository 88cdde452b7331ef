"""Watson law on the sphere S^d of any dimension: bipolar or girdle."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..backends.bilinear import Bilinear
from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.sphere import chord2
from ..numerics.concave import maximise
from ..numerics.contour import log_quadratic_excess, quadratic_moments
from .quadratic import sample_axes
from .shares import shares
from .sphere_angular_central_gaussian import squares

MAX_CONCENTRATION = 1e8


@register_kernel(geoopt.Sphere, "watson")
class Watson(Kernel):
    r"""Bingham law with rotational symmetry around an axis: two poles for ``concentration > 0``, a girdle for < 0.

    .. math:: q(x) = \frac{\Gamma(D/2)}{2 \pi^{D/2}} \frac{\exp(\kappa (x \cdot loc)^2)}{{}_1F_1(1/2; D/2; \kappa)}

    ``loc`` and ``-loc`` are the same law, and so are x and -x. A large positive concentration is a pair of bumps at ``loc``
    and ``-loc`` with standard deviation :math:`(2 \kappa)^{-1/2}` each.

    **Measure**: surface of the unit sphere. **Exactness**: numeric normaliser; the confluent hypergeometric function is a
    contour integral by a fixed rule, to 1e-13.

    **Range**: concentrations from -1e8 to 1e8, D up to 64. Pairs at once, by a matrix product, err by eps times the
    concentration. **Mean**: not available, x and -x are equally likely. **Sampler**: exact, by rejection from an angular
    central Gaussian envelope, not pathwise.

    The fit compares the law around the first principal axis with that around the last one, their concentrations by Newton's
    method on a concave function. A network's components are bipolar.

    Shapes: ``loc`` (*B,D), ``concentration`` (*B) in [-1e8, 1e8].

    Raises:
        ValueError: a concentration outside the range, ``loc`` off the sphere, a fit to copies of one axis or to a great circle.

    References:
        Mardia, Jupp (2000), Directional Statistics, section 9.4.2.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.tensor([0., 0., 1.], dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Sphere(), "watson", loc=loc, concentration=0.0)
    >>> round(float(d.log_prob(loc)), 6)                  # uniform: -log(4 pi)
    -2.531024
    """

    parameter_names = ("loc", "concentration")
    exactness = "numeric normaliser"
    antipodal = True
    has_rsample = False
    log_scale_range = (-7.0, 1.5)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, "concentration": ()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        around = OnManifold(self.manifold, self.point_shape)
        return {"loc": around, "concentration": constraints.interval(-MAX_CONCENTRATION, MAX_CONCENTRATION)}

    @property
    def _counts(self) -> tuple[int, int]:
        return 1, self.point_shape[0] - 1

    def _excess(self, kappa: Tensor) -> Tensor:
        """Log normaliser less max(kappa, 0), in float64: it grows like a logarithm only."""
        top = _positive(kappa.double())
        return log_quadratic_excess(_values(kappa), self._counts) + (top.detach() - top)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        unit, loc = (geometry.project(self.manifold, v.double()) for v in (x, w["loc"]))
        kappa = w["concentration"].double()
        sine2 = chord2(unit, loc) * chord2(unit, -loc) / 4
        exponent = torch.where(kappa > 0, -kappa * sine2, kappa * (unit * loc).sum(-1).square())
        return (exponent - self._excess(kappa)).to(x.dtype)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        w = self.expand(w, self.batch_shape(w))
        unit, loc = (geometry.project(self.manifold, v.double()) for v in (x, w["loc"]))
        kappa = w["concentration"].double()
        bias = -self._excess(kappa) - _positive(kappa)

        def block(rows: slice) -> Tensor:
            return ((unit[rows] @ loc.mT).square() * kappa + bias).to(x.dtype)

        return by_blocks(block, len(x), len(loc), x)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        w = self.expand(w, self.batch_shape(w))
        unit, loc = (geometry.project(self.manifold, v.double()) for v in (x, w["loc"]))
        kappa = w["concentration"].double()
        bias = -self._excess(kappa) - _positive(kappa)
        return Bilinear(squares(unit), kappa.unsqueeze(-1) * squares(loc), bias, self._base_ratio(x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        w = self.expand(w, self.batch_shape(w))
        values = _values(w["concentration"])[..., [0] + [1] * self.dim]
        axes = sample_axes(values.amax(-1, keepdim=True) - values, sample_shape, generator).to(w["loc"].dtype)
        tangent = geometry.from_coords(self.manifold, w["loc"].expand(axes.shape), axes[..., 1:])
        return geometry.project(self.manifold, axes[..., :1] * w["loc"] + tangent)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "concentration": scale.pow(-2) / 2}

    def _moments(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """E (x.loc)^2 and E (x.e)^2 for a unit vector e across; in float64."""
        return quadratic_moments(_values(kappa), self._counts).second.unbind(-1)  # type: ignore[return-value]

    def entropy(self, w: Params) -> Tensor:
        kappa = w["concentration"].double()
        return (self._excess(kappa) - self._mean_exponent(kappa, kappa, torch.zeros_like(kappa))).to(w["loc"].dtype)

    def _mean_exponent(self, own: Tensor, kappa: Tensor, sine2: Tensor) -> Tensor:
        """E [kappa (x.e)^2 - max(kappa, 0)] under the concentration ``own``, e at an angle to ``loc``."""
        along, across = self._moments(own)
        square = along * (1 - sine2) + across * sine2
        rest = self.dim * across * (1 - sine2) + (along + (self.dim - 1) * across) * sine2
        return torch.where(kappa > 0, -kappa * rest, kappa * square)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, Watson):
            return super().kl_divergence(w, other, v)
        own, theirs = w["concentration"].double(), v["concentration"].double()
        one, two = (geometry.project(self.manifold, p["loc"].double()) for p in (w, v))
        sine2 = chord2(one, two) * chord2(one, -two) / 4
        entropy = self._excess(own) - self._mean_exponent(own, own, torch.zeros_like(own))
        return (self._excess(theirs) - self._mean_exponent(own, theirs, sine2) - entropy).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        unit = geometry.project(self.manifold, x.double())
        share = shares(x, weights)
        second, axes = torch.linalg.eigh(unit.mT @ (share.unsqueeze(-1) * unit))
        found = []
        for axis, along, across in ((-1, second[-1], second[:-1].sum()), (0, second[0], second[1:].sum())):
            if float(torch.minimum(along, across)) < 1 / MAX_CONCENTRATION:
                raise ValueError(
                    "Expected points that are neither copies of one axis nor all on a great subsphere for a fit of watson, got "
                    f"mean squares of {float(along):.1e} along and {float(across):.1e} across a principal axis."
                )
            kappa = maximise(lambda k, a=along, b=across: self._likelihood(k, a, b), self._guess(along, across))  # type: ignore[misc]
            found.append((float(self._likelihood(kappa, along, across)[0]), axes[:, axis], kappa[0]))
        _, loc, kappa = max(found, key=lambda row: row[0])
        return {"loc": loc.to(x.dtype), "concentration": kappa.to(x.dtype)}

    def _guess(self, along: Tensor, across: Tensor) -> Tensor:
        return ((self.point_shape[0] * along - 1) / (2 * along * across)).reshape(1)

    def _likelihood(self, kappa: Tensor, along: Tensor, across: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean log density for mean squares ``along`` loc and ``across`` it, with derivatives by kappa (1)."""
        m, rest = quadratic_moments(_values(kappa[0]), self._counts), self.dim
        positive = bool(kappa > 0)
        value = -kappa[0] * across if positive else kappa[0] * along
        slope = rest * m.second[1] - across if positive else along - m.second[0]
        # the variance of the square along loc, which is that of the squares across it
        spread = rest * (rest + 2) * m.fourth[1, 1] - (rest * m.second[1]) ** 2
        spread = spread if positive else 3 * m.fourth[0, 0] - m.second[0] ** 2
        return value - m.log_excess, slope.reshape(1), -spread.reshape(1, 1)


def _positive(kappa: Tensor) -> Tensor:
    return torch.where(kappa > 0, kappa, torch.zeros_like(kappa))


def _values(kappa: Tensor) -> Tensor:
    """The two different eigenvalues of the quadratic form; (*B) -> (*B,2)."""
    return torch.stack([kappa, torch.zeros_like(kappa)], dim=-1)
