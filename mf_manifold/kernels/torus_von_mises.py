"""Von Mises laws on the torus T^d: independent angles, each with its own concentration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.torus import Torus, wrap
from ..numerics.bessel import bessel_ratio, log_vmf_normalizer, one_minus_bessel_ratio
from ..quadrature import gauss_legendre
from .circular_statistics import concentration_from_deficit, mean_angles
from .rejection import accepted
from .shares import shares

MAX_CONCENTRATION = 1e8


@register_kernel(Torus, "von_mises")
class VonMises(Kernel):
    r"""Product of von Mises laws, the circular normals: closed form, bounded, smooth, one matrix product.

    .. math:: q(x) = \prod_{i=1}^d \frac{\exp(\kappa_i \cos(x_i - loc_i))}{2 \pi I_0(\kappa_i)}

    The exponent is evaluated as :math:`-2 \kappa \sin^2((x - loc)/2)` in float64 against the logarithm of ``exp(-k) I_0(k)``,
    so that concentrations of 1e8 keep their digits.

    **Measure**: Lebesgue in radians. **Exactness**: closed form. **Units**: radians.

    **Range**: concentrations from 0 to 1e8. **Mean**: Fréchet, equal to ``loc``. **Sampler**: rejection from a wrapped Cauchy
    law (Best and Fisher), in a form that does not cancel at large concentrations; pathwise by implicit differentiation of the
    distribution function. ``fit`` takes mean directions and solves ``I_1(k) / I_0(k) = R`` for each angle by Newton steps;
    angles that are all equal give the concentration 1e8.

    Shapes: ``loc`` (*B,d); ``concentration`` (*B,d) or (*B,1), each in [0, 1e8].

    Raises:
        ValueError: a concentration outside [0, 1e8].

    References:
        Mardia, Jupp (2000), Directional Statistics, eq. (3.5.17); Best, Fisher (1979), Efficient simulation of the von Mises
        distribution; Figurnov, Mohamed, Mnih (2018), Implicit reparameterization gradients.

    >>> import torch, mf_manifold as mf
    >>> loc = torch.zeros(2, dtype=torch.float64)
    >>> d = mf.distribution(mf.manifolds.Torus(), "von_mises", loc=loc, concentration=0.0)
    >>> round(float(d.log_prob(loc)), 6)                  # uniform: -2 log(2 pi)
    -3.675754
    """

    parameter_names = ("loc", "concentration")
    mean_kind = "frechet"

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"loc": self.point_shape, "concentration": self.point_shape}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        bounded = constraints.independent(constraints.interval(0.0, MAX_CONCENTRATION), 1)
        return {"loc": OnManifold(self.manifold, self.point_shape), "concentration": bounded}

    def _concentration(self, w: Params) -> Tensor:
        return w["concentration"].double().expand(*w["concentration"].shape[:-1], self.dim)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        kappa = self._concentration(w)
        exponent = -2 * kappa * torch.sin((x.double() - w["loc"].double()) / 2).square()
        return (exponent.sum(-1) + log_vmf_normalizer(2, kappa).sum(-1)).to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        w = self.expand(w, self.batch_shape(w))
        kappa, loc, wide = self._concentration(w), w["loc"].double(), x.double()
        phi = torch.cat([wide.cos(), wide.sin()], dim=-1)
        psi = torch.cat([kappa * loc.cos(), kappa * loc.sin()], dim=-1)
        return Bilinear(phi, psi, (log_vmf_normalizer(2, kappa) - kappa).sum(-1), self._base_ratio(x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        shape = (*sample_shape, *torch.broadcast_shapes(w["loc"].shape, w["concentration"].shape))
        kappa = w["concentration"].expand(shape)
        return wrap(w["loc"] + von_mises_angles(kappa, generator))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        return {"loc": points, "concentration": scale.pow(-2).unsqueeze(-1)}

    @property
    def num_raw_shape(self) -> int:
        return self.dim

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        return {"loc": points, "concentration": self.scale_from_raw(shape).pow(-2)}

    def mean(self, w: Params) -> Tensor:
        return wrap(w["loc"])

    def entropy(self, w: Params) -> Tensor:
        kappa = self._concentration(w)
        entropy = kappa * one_minus_bessel_ratio(2, kappa) - log_vmf_normalizer(2, kappa)
        return entropy.sum(-1).to(w["loc"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, VonMises):
            return super().kl_divergence(w, other, v)
        kappa, target = self._concentration(w), other._concentration(v)
        chord = 2 * torch.sin((w["loc"].double() - v["loc"].double()) / 2).square()
        spread = one_minus_bessel_ratio(2, kappa)
        constants = log_vmf_normalizer(2, kappa) - log_vmf_normalizer(2, target)
        divergence = constants + (target - kappa) * spread + target * chord * bessel_ratio(2, kappa)
        return divergence.sum(-1).to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        share, wide = shares(x, weights), x.double()
        loc = mean_angles(wide, share)
        deficit = share @ (2 * torch.sin((wide - loc) / 2).square())
        return {"loc": loc.to(x), "concentration": concentration_from_deficit(deficit, MAX_CONCENTRATION).to(x)}


def von_mises_angles(kappa: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent angles around 0 with concentrations of any shape, pathwise differentiable."""
    flat = kappa.detach().reshape(-1)
    # the wrapped Cauchy law has tan(angle / 2) = sqrt(b) times a Cauchy variable
    b = 1 / (2 * flat + torch.sqrt(4 * flat.square() + 1))

    def propose(rows: Tensor) -> tuple[Tensor, Tensor]:
        k, squeeze = flat[rows], b[rows]
        u = torch.rand(k.shape, generator=generator, dtype=k.dtype, device=k.device)
        tangent = squeeze.sqrt() * torch.tan(math.pi * (u - 0.5))
        square = tangent.square()
        depth = 2 * square / (1 + square)  # 1 - cos(angle), with all its digits
        relative = (2 * squeeze + (1 - squeeze) * depth) * (1 + squeeze) / (4 * squeeze)
        return 2 * torch.atan(tangent), k * (2 * squeeze / (1 + squeeze) - depth) + torch.log(relative)

    angles = accepted(propose, flat, generator).reshape(kappa.shape)
    result: Tensor = _ImplicitAngle.apply(angles, kappa)  # type: ignore[no-untyped-call]
    return result


class _ImplicitAngle(torch.autograd.Function):
    """The sampled angle as a function of its concentration, along which its distribution function stays constant."""

    @staticmethod
    def forward(ctx: Any, angle: Tensor, kappa: Tensor) -> Tensor:
        sample = angle.clone()
        ctx.save_for_backward(sample, kappa)  # the output, so that second derivatives see it move
        return sample

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        angle, kappa = ctx.saved_tensors
        return None, grads[0] * angle.sign() * _angle_slope(angle.abs().double(), kappa.double()).to(angle.dtype)


def _angle_slope(t: Tensor, kappa: Tensor) -> Tensor:
    """``-(dF/dk) / f`` at 0 <= t <= pi: the integral of ``(cos s - A) exp(k (cos s - cos t))`` over s from t to pi."""
    nodes, weights = gauss_legendre(32, t)
    reach = torch.minimum(math.pi - t, 10 / kappa.clamp_min(1e-9).sqrt())  # beyond it the exponential is below 1e-20
    ahead = reach.unsqueeze(-1) * (nodes + 1) / 2
    depth = 2 * torch.sin((t.unsqueeze(-1) + ahead) / 2).square()
    fall = 2 * torch.sin(ahead / 2) * torch.sin(t.unsqueeze(-1) + ahead / 2)
    gap = one_minus_bessel_ratio(2, kappa).unsqueeze(-1) - depth
    return (gap * torch.exp(-kappa.unsqueeze(-1) * fall) * weights).sum(-1) * reach / 2
