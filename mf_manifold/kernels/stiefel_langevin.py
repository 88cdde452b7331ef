"""Matrix Langevin (von Mises-Fisher) distribution on frames of one or two vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from .. import geometry
from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.frames import polar
from ..manifolds.stiefel import is_canonical
from ..numerics.bessel import bessel_ratio
from ..numerics.langevin import log_normalizer, log_vmf_deficit
from ..numerics.linalg import svec, sym, sym_eigvals
from .covariance import covariance_from_raw, num_covariance_raw
from .shares import shares
from .sphere_von_mises_fisher import VonMisesFisher

MAX_CONCENTRATION = 1e8
NEWTON_STEPS = 100


class _Semidefinite(type(constraints.positive_semidefinite)):  # type: ignore[misc]
    """Symmetric with eigenvalues from 0 to MAX_CONCENTRATION, up to rounding: those of a matrix of rank one may be -1e-17."""

    def check(self, value: Tensor) -> Tensor:
        size = value.abs().amax((-2, -1))
        slack = 8 * value.shape[-1] * torch.finfo(value.dtype).eps * size
        values = torch.linalg.eigvalsh(value.double())
        symmetric = (value - value.mT).abs().amax((-2, -1)) <= slack
        return symmetric & (values[..., 0] >= -slack) & (values[..., -1] <= MAX_CONCENTRATION + slack)

    def __repr__(self) -> str:
        return f"Symmetric(eigenvalues from 0 to {MAX_CONCENTRATION:g})"


@register_kernel(geoopt.Stiefel, "matrix_langevin")
class MatrixLangevin(Kernel):
    r"""Exponential family of the linear statistic on frames, the von Mises-Fisher law of matrices.

    .. math:: q(X) = \exp(\mathrm{tr}\, F^T X) \, / \, {}_0F_1(n/2; F^T F / 4), \qquad F = loc \, K

    with respect to the uniform probability. ``concentration`` is a number, K = concentration times the identity;
    ``concentration_matrix`` is any symmetric positive semidefinite K (k,k), with which ``loc K`` is the polar decomposition
    of an arbitrary F. The exponent is evaluated as ``-tr K (X - loc)^T (X - loc) / 2``, so that large concentrations keep
    their digits.

    **Measure**: Riemannian volume by default, ``measure="normalized"`` for the formula above. **Exactness**: quadrature. The
    normaliser is a hypergeometric function of a matrix: closed form for one column, for two an integral over an interval of
    an analytic function, whose rule of 80 nodes is accurate to rounding. **Range**: k = 1 or 2 columns in any R^n;
    eigenvalues of K from 0 to 1e8. For three and more columns no normaliser of proven accuracy is known here, and the kernel
    refuses. **Mean**: extrinsic, ``loc``. **Sampler**: exact rejection, first column from its conditional law, second given
    the first; the acceptance was never below 0.79 over the range.

    Shapes: ``loc`` (*B,n,k); ``concentration`` (*B) or ``concentration_matrix`` (*B,k,k).

    Raises:
        ValueError: more than two columns, a concentration outside its range, ``loc`` that is no frame.

    References:
        Downs (1972), Orientation statistics.
        Khatri, Mardia (1977), The von Mises-Fisher matrix distribution in orientation statistics.
        Hoff (2009), Simulation of the matrix Bingham-von Mises-Fisher distribution, with applications to multivariate and
            relational data.
        Kent, Ganeiban, Mardia (2018), A new unified approach for the simulation of a wide class of directional distributions,
            for the envelope.

    >>> import geoopt, torch, mf_manifold as mf
    >>> loc = torch.eye(3, 2, dtype=torch.float64)
    >>> d = mf.distribution(geoopt.Stiefel(), "matrix_langevin", loc=loc, concentration=2.0, measure="normalized")
    >>> round(float(d.log_prob(loc)), 6)                                 # matrix Fisher on SO(3) with F = diag(2, 2, 0)
    2.763424
    """

    parameter_names = ("loc", "concentration | concentration_matrix")
    exactness = "quadrature"
    base_measure = "normalized"
    mean_kind = "extrinsic"
    has_rsample = False
    log_scale_range = (-7.0, 1.0)

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, concentration: str = "isotropic") -> None:
        super().__init__(manifold, point_shape)
        if self.point_shape[1] > 2:
            raise ValueError(
                f"Expected frames of one or two columns for matrix_langevin, got point shape {self.point_shape}: its "
                "normaliser is known to rounding only there. Use cayley_normal."
            )
        if concentration not in ("isotropic", "full"):
            raise ValueError(f"Expected concentration to be one of isotropic, full, got {concentration!r}.")
        self.concentration = concentration

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        return {"concentration": "full" if "concentration_matrix" in names else "isotropic"}

    @property
    def options(self) -> dict[str, Any]:
        return {"concentration": self.concentration}

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        k = self.point_shape[1]
        shape = {"concentration": ()} if self.concentration == "isotropic" else {"concentration_matrix": (k, k)}
        return {"loc": self.point_shape, **shape}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        loc = OnManifold(self.manifold, self.point_shape)
        if self.concentration == "isotropic":
            return {"loc": loc, "concentration": constraints.interval(0.0, MAX_CONCENTRATION)}
        return {"loc": loc, "concentration_matrix": _Semidefinite()}

    def _matrix(self, w: Params) -> Tensor:
        """K in float64."""
        if self.concentration == "full":
            return sym(w["concentration_matrix"].double())
        kappa = w["concentration"].double()
        return kappa[..., None, None] * torch.eye(self.point_shape[1], dtype=kappa.dtype, device=kappa.device)

    def _singular_values(self, w: Params) -> Tensor:
        if self.concentration == "full":
            return sym_eigvals(w["concentration_matrix"].double()).clamp_min(0.0)
        return w["concentration"].double().unsqueeze(-1).expand(*w["concentration"].shape, self.point_shape[1])

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        difference = x.double() - w["loc"].double()
        exponent = -(difference @ self._matrix(w) * difference).sum((-2, -1)) / 2
        return (exponent - log_normalizer(self.point_shape[0], self._singular_values(w))[0]).to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        w = self.expand(w, self.batch_shape(w))
        matrix, loc, wide = self._matrix(w), w["loc"].double(), x.double()
        # -tr K (X - loc)^T (X - loc) / 2 multiplied out; in float64, which the backend keeps only where the product needs it
        constant = -(loc @ matrix * loc).sum((-2, -1)).unsqueeze(-1) / 2
        phi = torch.cat([wide.flatten(-2), svec(wide.mT @ wide), torch.ones_like(wide[:, 0, :1])], dim=-1)
        psi = torch.cat([(loc @ matrix).flatten(-2), -svec(matrix) / 2, constant], dim=-1)
        bias = -log_normalizer(self.point_shape[0], self._singular_values(w))[0]
        return Bilinear(phi, psi, bias, self._base_ratio(x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc, (n, k) = w["loc"].double(), self.point_shape
        values, vectors = torch.linalg.eigh(self._matrix(w))
        shape = torch.Size((*sample_shape, *torch.broadcast_shapes(loc.shape[:-2], values.shape[:-1])))
        frame = (loc @ vectors).expand(*shape, n, k).reshape(-1, n, k)
        s = values.clamp_min(0.0).expand(*shape, k).reshape(-1, k)
        one = k == 1
        draw = _fisher(frame[..., 0], s[..., 0], [], generator).unsqueeze(-1) if one else _two_columns(frame, s, generator)
        return polar(draw.reshape(*shape, n, k) @ vectors.mT).to(w["loc"].dtype)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        # a narrow law is normal with variance 1 / concentration by the Euclidean metric, in which rotations within the span
        # count twice as much as in the canonical one
        k = self.point_shape[1]
        within = k * (k - 1) / 2 * (0.5 if is_canonical(self.manifold) else 0.0)
        kappa = (1 - within / self.dim) * scale.pow(-2)
        if self.concentration == "isotropic":
            return {"loc": points, "concentration": kappa}
        eye = torch.eye(k, dtype=points.dtype, device=points.device)
        return {"loc": points, "concentration_matrix": kappa[..., None, None] * eye}

    @property
    def num_raw_shape(self) -> int:
        return 1 if self.concentration == "isotropic" else num_covariance_raw(self.point_shape[1])

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        if self.concentration == "isotropic":
            return super().shaped(points, shape)
        covariance = covariance_from_raw(self, shape, self.point_shape[1])
        return {"loc": points, "concentration_matrix": torch.linalg.inv(covariance)}

    def mean(self, w: Params) -> Tensor:
        return w["loc"]

    def entropy(self, w: Params) -> Tensor:
        s = self._singular_values(w)
        value, slope = log_normalizer(self.point_shape[0], s)
        uniform = geometry.log_volume(self.manifold, self.point_shape)
        return (value - (s * slope).sum(-1) + uniform).to(w["loc"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, MatrixLangevin):
            return super().kl_divergence(w, other, v)
        n = self.point_shape[0]
        values, vectors = torch.linalg.eigh(self._matrix(w))
        log_p, slope = log_normalizer(n, values.clamp_min(0.0))
        own, theirs = w["loc"].double() @ vectors, v["loc"].double() @ vectors
        # E tr F^T X - tr K of both, with E X = loc V (1 + slope) V^T
        matrix = vectors.mT @ other._matrix(v) @ vectors
        cosine = theirs.mT @ own
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        shift = (matrix @ (cosine - eye + cosine * slope.unsqueeze(-2))).diagonal(dim1=-2, dim2=-1).sum(-1)
        log_q = log_normalizer(n, other._singular_values(v))[0]
        return ((values * slope).sum(-1) - log_p + log_q - shift).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        """Maximum likelihood: ``loc`` and axes of K by the singular vectors of the mean, eigenvalues by Newton's method."""
        mean = (shares(x, weights)[:, None, None] * x.double()).sum(0)
        left, cosines, right = torch.linalg.svd(mean, full_matrices=False)
        isotropic = self.concentration == "isotropic"
        loss = 1 - (cosines.mean().expand(1) if isotropic else cosines)
        if not bool((loss > 1e-12).all()):
            raise ValueError("Expected points that differ, got equal ones: their concentration is infinite. Give more points.")
        s = self._solve(loss)
        loc = polar(left @ right).to(x.dtype)
        if isotropic:
            return {"loc": loc, "concentration": s[0].to(x.dtype)}
        return {"loc": loc, "concentration_matrix": ((right.mT * s) @ right).to(x.dtype)}

    def _solve(self, loss: Tensor) -> Tensor:
        """Singular values at which ``1 - E cos`` are these; one number stands for all of them."""
        n, k = self.point_shape

        def gap(s: Tensor) -> Tensor:
            slope = log_normalizer(n, s.expand(k))[1]
            return loss + (slope.mean(-1, keepdim=True) if len(s) == 1 else slope)

        s = (self.dim / (2 * k * loss)).clamp_max(MAX_CONCENTRATION)
        for _ in range(NEWTON_STEPS):
            with torch.enable_grad():
                jacobian = torch.autograd.functional.jacobian(gap, s)
            step = torch.linalg.solve(jacobian, gap(s))
            new = torch.maximum(torch.minimum(s - step, 4 * s), s / 4).clamp(1e-12, MAX_CONCENTRATION)
            done, s = bool(((new - s).abs() <= 1e-13 * s).all()), new
            if done:
                break
        return s


def _fisher(middle: Tensor, kappa: Tensor, across: list[Tensor], generator: torch.Generator | None) -> Tensor:
    """Von Mises-Fisher points around unit vectors (N,n) on the unit sphere orthogonal to the unit vectors ``across``."""
    size = middle.shape[-1] - len(across)
    pole = torch.zeros((len(middle), size), dtype=middle.dtype, device=middle.device)
    pole[:, 0] = 1.0
    local = VonMisesFisher(geoopt.Sphere(), (size,)).rsample({"loc": pole, "concentration": kappa}, (), generator)
    noise = torch.randn(middle.shape, generator=generator, dtype=middle.dtype, device=middle.device)
    for axis in (*across, middle):
        noise = noise - (noise * axis).sum(-1, keepdim=True) * axis
    direction = noise / noise.norm(dim=-1, keepdim=True)
    return local[:, :1] * middle + local[:, 1:].norm(dim=-1, keepdim=True) * direction


def _two_columns(frame: Tensor, s: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws with singular vectors ``frame`` (N,n,2) and values (N,2), the second column given the first."""
    first, second = frame.unbind(-1)
    sine, cosine = (part.unsqueeze(-1) for part in _sine(frame.shape[1], s, generator))
    shorter = s * cosine
    tilted = _fisher(first, shorter[:, 0], [second], generator)
    x = sine * second + cosine * tilted
    nearest = cosine * second - sine * tilted  # the second axis projected off x, at unit length
    return torch.stack([x, _fisher(nearest, shorter[:, 1], [x], generator)], dim=-1)


def _sine(n: int, s: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """t and sqrt(1 - t^2), t the coordinate of the first column along the second axis, by rejection; (N,2) -> (N), (N).

    Its density is at most that of a Bingham girdle of rate l, the tangent of log f(k sqrt(1 - t^2)) in t^2, and that in turn is
    below an angular central Gaussian one with the bound of Kent, Ganeiban and Mardia.
    """
    rate = (s * bessel_ratio(n - 1, s)).sum(-1) / 2
    root = torch.sqrt((n - 2 * rate).square() + 8 * rate * (n - 1))
    far = n < 2 * rate
    b = torch.where(far, 4 * rate * (n - 1) / torch.where(far, 2 * rate - n + root, 1.0), (n - 2 * rate + root) / 2)
    height = log_vmf_deficit(n - 1, s).sum(-1) + (n - b) / 2 - n / 2 * torch.log(n / b)
    square, rest = torch.zeros_like(rate), torch.ones_like(rate)
    todo = torch.arange(len(rate), device=s.device)
    while len(todo):
        r, h, z = rate[todo], b[todo], torch.randn(len(todo), generator=generator, dtype=s.dtype, device=s.device)
        along = z.square() / (1 + 2 * r / h)
        across = 2 * torch._standard_gamma(torch.full_like(r, (n - 1) / 2), generator=generator)
        u, c = along / (along + across), torch.sqrt(across / (along + across))
        own = s[todo]
        target = -(own.sum(-1) * u / (1 + c)) - log_vmf_deficit(n - 1, own * c.unsqueeze(-1)).sum(-1)
        level = target + height[todo] + n / 2 * torch.log1p(2 * r * u / h)
        accept = level >= torch.log(torch.rand(len(todo), generator=generator, dtype=s.dtype, device=s.device))
        square[todo[accept]], rest[todo[accept]] = u[accept], c[accept]
        todo = todo[~accept]
    sign = torch.where(torch.rand(len(rate), generator=generator, dtype=s.dtype, device=s.device) < 0.5, -1.0, 1.0)
    return sign * square.sqrt(), rest
