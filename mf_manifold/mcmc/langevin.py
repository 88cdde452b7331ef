"""Proposals along the gradient, and the ratio that makes them exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..distributions import KernelDistribution, ManifoldDistribution
from ..geometry import Shape
from ..kernel import Kernel, kernel_class_for, kernel_for
from ..neighbors import length_unit

LONGEST = 10.0  # a drift's length in typical lengths of the noise: in the tails it would leave the numbers' range

LogDensity = Callable[[Tensor], Tensor]


class State(NamedTuple):
    """Points of all chains and what proposals from them need.

    Attributes:
        x: points (m,*E).
        log_prob: log density of the target (m).
        velocity: orthonormal coordinates of its gradient, divided by the metric if there is one (m,d).
        length: the gradient's length (m).
        covariance: inverse of the metric in orthonormal coordinates (m,d,d), or None.
        broken: where density, gradient or metric are not numbers (m).
    """

    x: Tensor
    log_prob: Tensor
    velocity: Tensor
    length: Tensor
    covariance: Tensor | None
    broken: Tensor


def proposal_kernel(manifold: geoopt.Manifold, point_shape: Shape, name: str | None = None, **options: Any) -> Kernel:
    """The kernel of proposals: the named one, else the wrapped normal law where there is one, else the manifold's default."""
    if name is None and isinstance(manifold, geoopt.ProductManifold):
        parts = [proposal_kernel(p, s) for p, s in zip(manifold.manifolds, manifold.shapes, strict=True)]
        variants = [part.options for part in parts]
        return kernel_for(manifold, point_shape, "product", kernels=[part.name for part in parts], part_options=variants)
    if name is None:
        try:
            kernel_class_for(manifold, "wrapped_normal")
            name = "wrapped_normal"
        except ValueError:
            pass
    return kernel_for(manifold, point_shape, name, **options)


class Langevin:
    r"""Moves ``x' ~ q(. | m(x))`` of a kernel around a point up the gradient, of covariance :math:`h^2 G^{-1}`.

    .. math:: m(x) = \exp_x\Bigl(\frac{h^2}{2} G(x)^{-1} \nabla \log \pi(x)\Bigr)

    A drift of more than ``10 sqrt d`` standard deviations of the noise is cut to that length. Whatever the map m is, the ratio
    has the exact density of the kernel, normaliser included.

    Args:
        log_prob: of the target, by the Riemannian volume, (m,*E) -> (m).
        kernel: of the proposals.
        metric: (m,*E) -> (m,d,d) in the orthonormal coordinates of the manifold's metric; None for the identity.
    """

    def __init__(self, log_prob: LogDensity, kernel: Kernel, metric: Callable[[Tensor], Tensor] | None = None) -> None:
        self.log_prob, self.kernel, self.metric, self.manifold = log_prob, kernel, metric, kernel.manifold

    def at(self, x: Tensor) -> State:
        """Everything about points (m,*E)."""
        log_prob, gradient = self.value_and_gradient(x)
        velocity, covariance = gradient, None
        broken = log_prob.isnan() | (log_prob == math.inf) | ((log_prob > -math.inf) & ~gradient.isfinite().all(-1))
        if self.metric is not None:
            covariance, bad = inverse(self.metric(x))
            velocity, broken = (covariance @ gradient.unsqueeze(-1)).squeeze(-1), broken | bad
        unusable = broken | (log_prob == -math.inf)  # never moved to: its proposals need only exist
        velocity = torch.where(unusable.unsqueeze(-1), 0.0, velocity)
        length = torch.where(unusable, 0.0, (velocity * gradient).sum(-1)).clamp_min(0).sqrt()
        return State(x, torch.where(broken, -math.inf, log_prob), velocity, length, covariance, broken)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (m), and the orthonormal coordinates (m,d) of its Riemannian gradient."""
        with torch.enable_grad():
            v = x.new_zeros(len(x), self.kernel.dim, requires_grad=True)
            value = self.log_prob(x + geometry.from_coords(self.manifold, x, v))  # at x: only the derivative leaves the space
            if not value.requires_grad:
                raise ValueError("Expected a log density that is differentiable in x, got no gradients. Write it in torch.")
            (gradient,) = torch.autograd.grad(value.sum(), v)
        return value.detach(), gradient

    def law(self, state: State, step: float) -> KernelDistribution:
        """The law of the proposals from a state."""
        reach = LONGEST * math.sqrt(self.kernel.dim) / (step / 2 * state.length).clamp_min(1e-30)
        drift = (step**2 / 2 * reach.clamp_max(1.0)).unsqueeze(-1) * state.velocity
        middle = geometry.expmap(self.manifold, state.x, geometry.from_coords(self.manifold, state.x, drift))
        if state.covariance is None:
            params = self.kernel.centered(middle, torch.full_like(state.log_prob, step / length_unit(self.manifold)))
        else:
            params = self.kernel.around(middle, step**2 * state.covariance)
        return KernelDistribution(self.kernel, params, validate_args=False)

    def propose(self, old: State, step: float, generator: torch.Generator | None) -> tuple[State, Tensor]:
        """A proposal from every point, and the log of its Metropolis-Hastings ratio (m)."""
        law = self.law(old, step)
        new = self.reached(law.sample((), generator), old)
        return new, self.log_ratio(old, new, law, self.law(new, step))

    def log_ratio(self, old: State, new: State, forward: KernelDistribution, backward: KernelDistribution) -> Tensor:
        """``log pi(y) q(x | y) - log pi(x) q(y | x)``."""
        return new.log_prob - old.log_prob + backward.log_prob(old.x) - forward.log_prob(new.x)

    def jump(self, old: State, law: ManifoldDistribution, generator: torch.Generator | None) -> tuple[State, Tensor]:
        """The same with draws of a law that do not depend on the old points."""
        new = self.reached(law.sample((len(old.x),), generator).to(old.x), old)
        return new, new.log_prob - old.log_prob + law.log_prob(old.x, "riemannian") - law.log_prob(new.x, "riemannian")

    def reached(self, points: Tensor, old: State) -> State:
        """The state at proposed points (m,*E); where their numbers overflowed, a broken one that is never accepted."""
        finite = points.flatten(1).isfinite().all(1)
        state = self.at(torch.where(finite.reshape(-1, *(1,) * (points.ndim - 1)), points, old.x))
        return state._replace(log_prob=torch.where(finite, state.log_prob, -math.inf), broken=state.broken | ~finite)


def inverse(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses of positive definite matrices (m,d,d), and where there is none (m); the identity stands there."""
    eye = torch.eye(metric.shape[-1], dtype=metric.dtype, device=metric.device)
    factor, info = torch.linalg.cholesky_ex(torch.where(metric.isfinite().all(-1).all(-1)[:, None, None], metric, -eye))
    bad = info > 0
    return torch.cholesky_inverse(torch.where(bad[:, None, None], eye, factor)), bad
