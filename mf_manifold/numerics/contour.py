r"""Integrals of exponentials of quadratic forms over the sphere, by inversion of a Laplace transform.

.. math:: \int_{S^{D-1}} e^{\sum_i a_i x_i^2} dx = 2 \pi^{D/2} \frac{1}{2 \pi i} \int e^s \prod_i (s - a_i)^{-1/2} ds

on the parabola s = v - q + (sqrt q + i t)^2 around the singularities, which passes through the saddle point v. There the
logarithm of the integrand has the second derivative 1 / q, so that the integrand falls like exp(-2 t^2) at first, and the
trapezoidal rule in t converges exponentially. A narrower parabola (q = v, say) comes too close to eigenvalues of high
multiplicity: the integrand rises again there.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .linalg import congruence, sym_eigvals

_NODES, _END = 96, 9.0
_NEWTON_STEPS = 14


class _Contour(NamedTuple):
    """Points s - a (*B,n,K), and the terms (*B,K) whose real parts add up to exp(log_sum)."""

    gaps: Tensor
    terms: Tensor
    log_sum: Tensor


def _saddle(b: Tensor, halves: Tensor) -> Tensor:
    """The v at which v - sum halves log(v + b) is least, b >= 0: 1 = sum halves / (v + b), by Newton's method from the left."""
    v = (halves * (b == 0)).sum(-1)
    for _ in range(_NEWTON_STEPS):
        inverse = 1.0 / (v.unsqueeze(-1) + b)
        excess = (halves * inverse).sum(-1) - 1.0
        v = v + excess / (halves * inverse.square()).sum(-1)
    return v


def _contour(a: Tensor, halves: Tensor) -> _Contour:
    """The rule for values a (*B,n), the largest of them 0, with exponents -halves (n)."""
    b = -a.detach()
    v = _saddle(b, halves).unsqueeze(-1)
    root = (halves / (v + b).square()).sum(-1, keepdim=True).rsqrt()
    t = torch.linspace(0.0, _END, _NODES + 1, dtype=torch.float64, device=a.device)
    # half a weight at t = 0, because the other points stand for their conjugates too
    weight = torch.cat([torch.full_like(t[:1], 0.5), torch.ones_like(t[1:])]) * (2.0 * _END / _NODES / math.pi)
    s = torch.complex(v - t.square(), 2.0 * root * t)
    gaps = s.unsqueeze(-2) - a.unsqueeze(-1)
    log_terms = s - (halves.unsqueeze(-1) * gaps.log()).sum(-2)
    top = log_terms[..., :1].real.detach()
    terms = torch.exp(log_terms - top) * torch.complex(root.expand(*v.shape[:-1], len(t)), t.expand(*v.shape[:-1], -1)) * weight
    return _Contour(gaps, terms, torch.log(terms.real.sum(-1)) + top.squeeze(-1))


class QuadraticMoments(NamedTuple):
    """``log_excess`` (*B) is log c - max a; ``second`` (*B,n) holds E x_i^2, ``fourth`` (*B,n,n) E x_i^2 x_j^2, E x_i^4 / 3."""

    log_excess: Tensor
    second: Tensor
    fourth: Tensor


def _shifted(a: Tensor, multiplicities: tuple[int, ...] | None) -> tuple[Tensor, Tensor, Tensor, int]:
    """Values below the largest one, which is returned too, the exponents, and the dimension D."""
    wide = a.double()
    counts = multiplicities or (1,) * a.shape[-1]
    top = wide.detach().amax(-1, keepdim=True)
    return wide - top, top.squeeze(-1), torch.tensor(counts, dtype=torch.float64, device=a.device) / 2.0, sum(counts)


def log_quadratic_excess(a: Tensor, multiplicities: tuple[int, ...] | None = None) -> Tensor:
    """:func:`log_quadratic_normalizer` less the largest a_i, which is a constant to gradients; float64.

    The part that grows like a logarithm only. Its gradient by a_i is still E x_i^2: subtract max a, detached, elsewhere too.
    """
    values, _, halves, dim = _shifted(a, multiplicities)
    return _contour(values, halves).log_sum + math.log(2.0) + dim / 2.0 * math.log(math.pi)


def log_quadratic_normalizer(a: Tensor, multiplicities: tuple[int, ...] | None = None) -> Tensor:
    """log int exp(sum_i a_i x_i^2) dx over the surface of the unit sphere of R^D, D >= 2.

    Repeated values may be given once, with how often they occur. Errors are about 1e-13 for spreads of the values from 0
    to 1e8 and D to 64, relative to max(1, |a|); 1e-10 at D = 128. Differentiable any number of times: the gradient by a_i
    is E x_i^2, summed over its repetitions. Shapes: (*B,n) -> (*B), computed in float64, returned in the dtype of a.

    Reference: Kume, Wood (2005), Saddlepoint approximations for the Bingham and
    Fisher-Bingham normalising constants.

    >>> a = torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64)
    >>> round(log_quadratic_normalizer(a).item(), 9)                  # log(4 pi)
    2.531024247
    """
    top = a.detach().amax(-1)
    return (log_quadratic_excess(a, multiplicities) + top.double()).to(a.dtype)


def quadratic_moments(a: Tensor, multiplicities: tuple[int, ...] | None = None) -> QuadraticMoments:
    """The normaliser and the moments of the law proportional to exp(sum_i a_i x_i^2) on the sphere, in float64.

    Moments keep their relative accuracy where a_i is far below the others and E x_i^2 is about 1 / (2 (max a - a_i)).
    The diagonal of ``fourth`` is E x_i^4 / 3, which is also E x_i^2 x_j^2 for equal values a_i = a_j.
    Shapes and ``multiplicities`` are those of :func:`log_quadratic_normalizer`; differentiable.

    >>> m = quadratic_moments(torch.tensor([0.0, 0.0], dtype=torch.float64), (1, 2))
    >>> [round(v, 6) for v in m.second.tolist()], round(m.fourth[0, 1].item() * 15, 6)
    ([0.333333, 0.333333], 1.0)
    """
    values, _, halves, dim = _shifted(a, multiplicities)
    rule = _contour(values, halves)
    share = rule.terms / rule.terms.real.sum(-1, keepdim=True)
    inverse = 0.5 / rule.gaps
    second = (share.unsqueeze(-2) * inverse).real.sum(-1)
    fourth = ((share.unsqueeze(-2) * inverse) @ inverse.mT).real
    return QuadraticMoments(rule.log_sum + math.log(2.0) + dim / 2.0 * math.log(math.pi), second, fourth)


def second_moment_matrix(a: Tensor) -> Tensor:
    """E x x^T of the law proportional to exp(x^T a x) on the sphere, for symmetric a; (*B,D,D) -> (*B,D,D), float64.

    The contour integral of resolvents (s - a)^-1 / 2: no eigenvector, so that gradients exist at repeated eigenvalues.

    >>> second_moment_matrix(torch.zeros(2, 2, dtype=torch.float64)).mul(2).round(decimals=9).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    wide = a.double()
    values = sym_eigvals(wide)
    shifted, top, halves, _ = _shifted(values, None)
    rule = _contour(shifted, halves)
    share = rule.terms / rule.terms.real.sum(-1, keepdim=True)
    eye = torch.eye(a.shape[-1], dtype=torch.float64, device=a.device)
    s = (rule.gaps + shifted.unsqueeze(-1))[..., 0, :]
    resolvents = torch.linalg.inv(s[..., None, None] * eye - (wide - top[..., None, None] * eye).unsqueeze(-3))
    return (0.5 * share[..., None, None] * resolvents).sum(-3).real


class _LogMatrixNormalizer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return log_quadratic_normalizer(torch.linalg.eigvalsh(a))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return grad[..., None, None] * second_moment_matrix(a)
        values, vectors = torch.linalg.eigh(a)
        return congruence(vectors, torch.diag_embed(grad.unsqueeze(-1) * quadratic_moments(values).second))


def log_matrix_normalizer(a: Tensor) -> Tensor:
    """log int exp(x^T a x) dx over the sphere for symmetric a, twice differentiable where eigenvalues repeat too.

    Shapes: float64 (*B,D,D) -> (*B).
    """
    result: Tensor = _LogMatrixNormalizer.apply(a)  # type: ignore[no-untyped-call]
    return result


_LOG_START, _LOG_END, _LOG_STEP = -38.0, 76.0, 0.5


def mean_log_quadratic_form(values: Tensor) -> Tensor:
    """E log(sum_i v_i u_i^2) for u uniform on the unit sphere of R^D, D >= 2, and v_i > 0; differentiable.

    The trapezoidal rule for int [(1 + 2 e^y)^(-D/2) - prod (1 + 2 v_i e^y)^(-1/2)] dy, whose integrand is analytic for
    |Im y| < pi: errors are below 1e-14 for ratios of the v_i up to 1e12. Shapes: (*B,D) -> (*B), float64.

    >>> v = torch.tensor([1.0, 4.0], dtype=torch.float64)
    >>> round(mean_log_quadratic_form(v).item(), 9), round(2 * math.log(1.5), 9)   # 2 log((sqrt v_1 + sqrt v_2) / 2)
    (0.810930216, 0.810930216)
    """
    wide = values.double()
    top = wide.detach().amax(-1)
    y = torch.arange(_LOG_START, _LOG_END, _LOG_STEP, dtype=torch.float64, device=values.device)
    ratios = (wide / top.unsqueeze(-1)).unsqueeze(-2)
    ours = torch.log1p(2.0 * y.exp().unsqueeze(-1) * ratios).sum(-1) / 2.0
    unit = values.shape[-1] / 2.0 * torch.log1p(2.0 * y.exp())
    return _LOG_STEP * (torch.exp(-unit) - torch.exp(-ours)).sum(-1) + top.log()
