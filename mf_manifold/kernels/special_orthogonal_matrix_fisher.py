"""Matrix Fisher distribution on rotations of space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..manifolds import SpecialOrthogonal, UnitQuaternions
from ..numerics import quaternions
from ..numerics.contour import log_quadratic_excess, log_quadratic_normalizer, quadratic_moments
from ..numerics.linalg import svec, sym
from ..numerics.orthogonal import hat, nearest_rotation, proper_singular_values, proper_svd
from .covariance import covariance_from_raw, num_covariance_raw
from .rejection import accepted
from .rotation import SpaceRotationKernel
from .shares import shares

LOG_VOLUME = math.log(8 * math.pi**2)
LOG_SPHERE = math.log(2 * math.pi**2)  # area of the unit quaternions
MOST_CONCENTRATED = 1e6
NEWTON_STEPS = 60


class _Shape(NamedTuple):
    """Mode (*B,3,3) and symmetric factor of F, both without gradient, and the logarithm of the normaliser less tr S."""

    mode: Tensor
    factor: Tensor
    log_norm: Tensor


def _below_top(s: Tensor) -> Tensor:
    """Exponents (*B,4), the largest 0, of the quaternion's squares in the frame of proper singular values (*B,3)."""
    a, b, c = s.unbind(-1)
    return torch.stack([torch.zeros_like(a), -2 * (b + c), -2 * (a + c), -2 * (a + b)], dim=-1)


def _shape(f: Tensor) -> _Shape:
    mode = nearest_rotation(f.detach())
    log_norm = log_quadratic_excess(_below_top(proper_singular_values(f))) - LOG_SPHERE
    return _Shape(mode, sym(mode.mT @ f.detach()), log_norm + LOG_VOLUME)


@register_kernel(UnitQuaternions, "matrix_fisher")
@register_kernel(SpecialOrthogonal, "matrix_fisher")
class MatrixFisher(SpaceRotationKernel):
    r"""Exponential family of the matrix entries of rotations: all concentrations and their axes, normaliser exact.

    .. math:: q(R) = \exp(\mathrm{tr}(F^T R)) / (8\pi^2\, c(F))

    With the singular value decomposition :math:`F = U S V^T` with rotations U, V and :math:`s_1 \ge s_2 \ge |s_3|`, the mode
    is :math:`U V^T`, and around it the rotation vector is normal with the precisions :math:`s_2 + s_3, s_1 + s_3, s_1 + s_2`
    about the axes V. ``F = loc / (2 scale^2)`` is isotropic. For quaternions it is the Bingham law. The exponent is evaluated
    from the difference of R and the mode, against :math:`c(F) e^{-\mathrm{tr} S}`, so that nothing cancels at high
    concentrations.

    **Measure**: Riemannian volume, that of the angle metric; ``measure="haar"`` for densities against the uniform law.
    **Exactness**: numeric normaliser: a contour integral by a fixed rule, to 1e-13.

    **Range**: singular values from 0 to 1e6, either sign of the determinant. **Mean**: Fréchet, ``U V^T``.
    **Sampler**: rejection from an angular central Gaussian law of quaternions, acceptance from 0.45; no pathwise gradient.
    ``fit`` maximises the concave likelihood of the eigenvalues of ``E q q^T`` by Newton's method, concentrations capped at 1e6.

    Shapes: ``concentration_matrix`` F (*B,3,3), also for quaternions.

    Raises:
        ValueError: a concentration that is not finite, n other than 3.

    References:
        Downs (1972), Orientation statistics.
        Kent, Ganeiban, Mardia (2018), A new unified approach for the simulation of a wide class of directional distributions,
            for the sampler.

    >>> import torch, mf_manifold as mf
    >>> f = torch.zeros(3, 3, dtype=torch.float64)
    >>> d = mf.distribution(mf.manifolds.SpecialOrthogonal(), "matrix_fisher", concentration_matrix=f, measure="haar")
    >>> round(float(d.log_prob(torch.eye(3).double())) + 0.0, 6)    # uniform
    0.0
    """

    parameter_names = ("concentration_matrix",)
    location = "concentration_matrix"
    exactness = "numeric normaliser"
    mean_kind = "frechet"
    has_rsample = False
    log_scale_range = (-6.5, 1.0)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"concentration_matrix": (3, 3)}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"concentration_matrix": constraints.independent(constraints.real, 2)}

    def _matrix(self, x: Tensor) -> Tensor:
        if isinstance(self.manifold, SpecialOrthogonal):
            return x.double()
        return quaternions.to_matrix(self.quaternion(x))

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        f = w["concentration_matrix"].double()
        shape = _shape(f)
        away = self._matrix(x) - shape.mode
        exponent = -((away @ shape.factor) * away).sum((-2, -1)) / 2
        # the factors of F carry no gradient: this term of value 0 has that of tr(F^T R)
        slope = ((f - f.detach()) * away).sum((-2, -1)) if f.requires_grad else 0.0
        return (exponent + slope - shape.log_norm).to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        # the quadratic form of _log_prob multiplied out
        f, r = self.expand(w, self.batch_shape(w))["concentration_matrix"].double(), self._matrix(x)
        shape = _shape(f)
        phi = torch.cat([r.flatten(1), svec(r.mT @ r)], dim=-1)
        psi = torch.cat([f.flatten(1), -svec(shape.factor) / 2], dim=-1)
        constant = (shape.factor * (shape.mode.mT @ shape.mode)).sum((-2, -1)) / 2
        bias = -constant - ((f - f.detach()) * shape.mode).sum((-2, -1)) - shape.log_norm
        return Bilinear(phi, psi, bias, self._base_ratio(x))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"concentration_matrix": self._matrix(points).to(points.dtype) / (2 * scale.square()[..., None, None])}

    @property
    def num_raw_shape(self) -> int:
        return num_covariance_raw(3)

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        # the covariance of the rotation vector at the mode: F = loc (tr(P) / 2 - P) for the precision P
        precision = torch.linalg.inv(covariance_from_raw(self, shape, 3).double())
        eye = torch.eye(3, dtype=precision.dtype, device=points.device)
        trace = precision.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        return {"concentration_matrix": (self._matrix(points) @ (trace / 2 * eye - precision)).to(points.dtype)}

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        f = w["concentration_matrix"].detach()
        u, s, v = proper_svd(f.double())
        shape = (*sample_shape, *f.shape[:-2])
        rates = -_below_top(s)
        q = _bingham(rates.expand(*shape, 4).reshape(-1, 4), _envelope(rates).expand(shape).reshape(-1), generator)
        r = u @ quaternions.to_matrix(q.reshape(*shape, 4)) @ v.mT
        return (r if isinstance(self.manifold, SpecialOrthogonal) else quaternions.from_matrix(r)).to(f.dtype)

    def mean(self, w: Params) -> Tensor:
        mode = nearest_rotation(w["concentration_matrix"])
        return mode if isinstance(self.manifold, SpecialOrthogonal) else quaternions.from_matrix(mode)

    def entropy(self, w: Params) -> Tensor:
        a = _below_top(proper_singular_values(w["concentration_matrix"].double()))
        moments = quadratic_moments(a)
        entropy = moments.log_excess - LOG_SPHERE + LOG_VOLUME - (a * moments.second).sum(-1)
        return entropy.to(w["concentration_matrix"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, MatrixFisher):
            return super().kl_divergence(w, other, v)
        f, g = w["concentration_matrix"].double(), v["concentration_matrix"].double()
        target = _shape(g)
        away = _mean_matrix(f) - target.mode
        exponent = (target.factor * (target.mode.mT @ away)).sum((-2, -1)) + ((g - g.detach()) * away).sum((-2, -1))
        return (target.log_norm - exponent).to(w["concentration_matrix"].dtype) - self.entropy(w)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        q = self.quaternion(x)
        moments, axes = torch.linalg.eigh(q.mT @ (shares(q, weights).unsqueeze(-1) * q))
        floor = 1 / (8 * MOST_CONCENTRATED)
        second = moments.clamp_min(floor) / moments.clamp_min(floor).sum()
        rates = torch.nn.functional.pad(_bingham_rates(second[:3]), (0, 1))
        form = (axes * (rates.mean() - rates)) @ axes.mT
        return {"concentration_matrix": _from_form(form).to(x.dtype)}


def _from_form(form: Tensor) -> Tensor:
    """The matrix F with ``tr(F^T R(q)) = q^T form q`` for a traceless form (*B,4,4)."""
    eye = torch.eye(3, dtype=form.dtype, device=form.device)
    return (form[..., 1:, 1:] + form[..., :1, :1] * eye + hat(form[..., 0, 1:], 3)) / 2


_SIGNS = ((1.0, 1.0, -1.0, -1.0), (1.0, -1.0, 1.0, -1.0), (1.0, -1.0, -1.0, 1.0))  # diagonal of R from w2, x2, y2, z2


class _MeanMatrix(torch.autograd.Function):
    """E R as a function of F; its derivative, the covariance of R, is made of fourth moments of the quaternion."""

    @staticmethod
    def forward(ctx: Any, f: Tensor) -> Tensor:
        u, s, v = proper_svd(f)
        moments = quadratic_moments(_below_top(s))
        ctx.save_for_backward(u, v, moments.second, moments.fourth)
        _, x, y, z = moments.second.unbind(-1)
        # not by the signs: concentrated laws need the digits of 1 - E R
        return (u * (1 - 2 * torch.stack([y + z, x + z, x + y], dim=-1)).unsqueeze(-2)) @ v.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        u, v, second, products = ctx.saved_tensors
        signs = torch.tensor(_SIGNS, dtype=u.dtype, device=u.device)
        fourth = products + 2 * torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))
        spread = signs @ (fourth - second.unsqueeze(-1) * second.unsqueeze(-2)) @ signs.mT
        inner = u.mT @ grads[0] @ v
        # off the diagonal R_ij = 2 (p_i p_j -+ p_0 p_k), with k the third index
        plane = products[..., 1:, 1:]
        third = products[..., 0, torch.tensor([[1, 3, 2], [3, 2, 1], [2, 1, 3]], device=u.device)]
        off = 4 * ((plane + third) * inner + (plane - third) * inner.mT)
        diagonal = (spread @ inner.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).squeeze(-1)
        eye = torch.eye(3, dtype=torch.bool, device=u.device)
        return u @ torch.where(eye, torch.diag_embed(diagonal), off) @ v.mT


def _mean_matrix(f: Tensor) -> Tensor:
    result: Tensor = _MeanMatrix.apply(f)  # type: ignore[no-untyped-call]
    return result


def _bingham_rates(second: Tensor) -> Tensor:
    """Rates a (3) of ``exp(-sum a_i x_i^2)`` on the sphere of R^4 with these E x_i^2: a convex problem, by Newton's method."""

    def objective(a: Tensor) -> Tensor:
        return log_quadratic_normalizer(torch.nn.functional.pad(-a, (0, 1))) + (a * second).sum()

    rates = 1 / (2 * second) - 2
    value = objective(rates)
    for _ in range(NEWTON_STEPS):
        moments = quadratic_moments(torch.nn.functional.pad(-rates, (0, 1)))
        mean, products = moments.second[:3], moments.fourth[:3, :3]
        spread = products + 2 * torch.diag_embed(products.diagonal()) - mean.unsqueeze(-1) * mean
        step = torch.linalg.solve(spread, mean - second)
        size = 1.0
        while bool((trial := objective(rates + size * step)) > value) and size > 1e-10:
            size /= 2
        rates = rates + size * step
        if abs(float(trial - value)) < 1e-15 * max(1.0, abs(float(value))):
            break
        value = trial
    return rates


def _envelope(rates: Tensor) -> Tensor:
    """The b in [1, 4] with ``sum_i 1 / (b + 2 rates_i) = 1`` for rates (*B,4) whose least is 0, by bisection; -> (*B)."""
    low, high = torch.ones_like(rates[..., 0]), torch.full_like(rates[..., 0], 4.0)
    for _ in range(50):
        b = (low + high) / 2
        excess = (1 / (b.unsqueeze(-1) + 2 * rates)).sum(-1) > 1
        low, high = torch.where(excess, b, low), torch.where(excess, high, b)
    return (low + high) / 2


def _bingham(rates: Tensor, b: Tensor, generator: torch.Generator | None) -> Tensor:
    """Unit quaternions (N,4) of density ``exp(-sum rates_i q_i^2)``, by rejection (Kent, Ganeiban, Mardia 2018)."""
    stretch, bound = 1 + 2 * rates / b.unsqueeze(-1), (4 - b) / 2 - 2 * torch.log(4 / b)

    def propose(rows: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(len(rows), 4, generator=generator, dtype=rates.dtype, device=rates.device)
        q = quaternions.unit(noise * stretch[rows].rsqrt())
        square = q.square()
        log_keep = bound[rows] - (rates[rows] * square).sum(-1) + 2 * (stretch[rows] * square).sum(-1).log()
        return q, log_keep

    return accepted(propose, rates, generator)
