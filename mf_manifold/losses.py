"""Objectives: what a fit minimises. An objective is any callable ``objective(model, batch) -> scalar loss``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import geoopt
import torch
from torch import Tensor

from . import starts
from .distributions import as_measure
from .geometry import Shape
from .measure import Measure, log_ratio
from .mixture import Mixture

if TYPE_CHECKING:
    from .estimator import LazyDistribution


class Batch(NamedTuple):
    """What an objective sees of a step.

    Attributes:
        x: points (n,*E), or None in a fit without data.
        context: contexts (n,*C), or None.
        generator: the source of all randomness of the step.
        n_components: components to draw.
        progress: share of the run that is done, in [0, 1]; 1 in validations.
    """

    x: Tensor | None
    context: Tensor | None
    generator: torch.Generator
    n_components: int
    progress: float

    def draw(self, model: LazyDistribution) -> Any:
        """The model's distribution for this batch, a mixture of fresh components in the case of a marginal flow."""
        return model(self.context, self.n_components, self.generator)


Objective = Callable[["LazyDistribution", Batch], Tensor]
Target = Callable[..., Tensor]


def described(objective: Objective) -> list[Any]:
    """What a resumed run compares of an objective: its name, and what its ``identity()`` tells, if it has one.

    Numbers of other objectives may change in the run.
    """
    name = getattr(objective, "__qualname__", type(objective).__name__)
    return [name, *(objective.identity() if hasattr(objective, "identity") else [])]


@runtime_checkable
class Starts(Protocol):
    """An objective that knows where components should begin in a fit without data."""

    def start(
        self, manifold: geoopt.Manifold, point_shape: Shape, n: int, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Points (n,*E) onto which the network, which is on that device, is regressed before the first step."""


def forward_kl(model: LazyDistribution, batch: Batch) -> Tensor:
    r"""Mean negative log-likelihood of the data: forward Kullback-Leibler divergence up to the data's entropy.

    .. math:: L(\theta) = -\frac1n \sum_i \log \sum_c \pi_c \, q(x_i \mid f_\theta(z_c))

    In expectation over the components it is an upper bound of the loss of the infinite mixture.

    Raises:
        ValueError: a fit without data.
    """
    if batch.x is None:
        raise ValueError("Expected data x for the forward Kullback-Leibler divergence. Pass fit(x), or another objective.")
    distribution = batch.draw(model)
    distribution._validate_args = False  # the data were checked once, and checks of matrices cost as much as their densities
    return -distribution.log_prob(batch.x).mean()


def log_density(target: Target, x: Tensor, measure: Measure | str | None, mixture: Mixture, *context: Tensor) -> Tensor:
    """The target's log density by the Riemannian volume, checked; (n,*B,*E) -> (n,*B).

    Raises:
        ValueError: values of another shape, values that are not finite, or values without the gradients of ``x``.
    """
    value = by_volume(target, x, measure, mixture.manifold, mixture.kernel.point_shape, *context)
    bad = ~torch.isfinite(value.detach())
    if bad.any():
        raise ValueError(
            f"Expected a target that is finite where the kernel has mass, but {int(bad.sum())} of {bad.numel()} values are "
            f"not, such as {float(value.detach()[bad][0])}. Use a kernel on the target's support, or give the target tails."
        )
    if x.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
        raise ValueError("Expected a target that is differentiable in x, got values without gradients. Write it in torch.")
    return value


def by_volume(
    target: Target, x: Tensor, measure: Measure | str | None, manifold: geoopt.Manifold, point_shape: Shape, *context: Tensor
) -> Tensor:
    """A target given by any measure as log density by the Riemannian volume; ``ValueError`` for values of another shape."""
    value, shape = target(x, *context), x.shape[: x.ndim - len(point_shape)]
    if value.shape != shape:
        raise ValueError(f"Expected a target with one log density a point, shape {tuple(shape)}, got {tuple(value.shape)}.")
    reference = as_measure(manifold, measure)
    return value if reference.kind == "riemannian" else value - log_ratio(Measure(manifold), reference, x)


class ReverseKL:
    r"""Reverse Kullback-Leibler divergence to an unnormalised density, up to its log normaliser.

    .. math:: \sum_c \pi_c \frac1K \sum_k \Bigl[\log q_W(x_{ck}) - \tfrac1T \log p(x_{ck})\Bigr],
              \quad x_{ck} \sim q(\cdot \mid w_c) \text{ pathwise}

    Every component of the drawn mixture W is sampled and counts with its weight, which has the gradient of learned weights
    without a score function. ``log q_W`` is evaluated with its parameters held fixed: their score has mean zero, and leaving it
    out makes the gradient's variance vanish where q equals p. Points come from the same draw W that scores them; so the loss
    is in expectation an upper bound of ``KL(q || p) - log Z`` for the infinite mixture q and never below ``-log Z``
    (:func:`mf_manifold.reverse_kl_bounds` brackets the truth).

    The temperature falls geometrically, ``T = temperature ** max(0, 1 - progress / anneal)``, and is 1 from the share
    ``anneal`` of the run on: a flat target early lets components move between its modes.

    **Measure**: of the target, ``measure``; the Riemannian volume by default. Tempering refers to the Riemannian volume; on
    spaces of infinite volume the tempered target has to be integrable (a Wishart law with df / T <= p - 1 is not).

    Args:
        target: ``target(x) -> log density``, (n,*E) -> (n), differentiable, up to a constant; ``target(x, context)`` with
            points (n,*B,*E) for a flow with contexts (*B,*C).
        n_per_component: K.
        temperature: T at the start.
        anneal: share of the run after which T is 1.
        measure: what the target is a density of.
        spread: standard deviation of the start on spaces of infinite volume, see :meth:`start`; a few times the target's.

    Raises:
        NotImplementedError: when called with a flow whose kernel has no pathwise samples, or a model that draws no mixtures.
        ValueError: ``n_per_component < 1``, ``temperature < 1`` or an ``anneal`` outside (0, 1]; targets that return other
            shapes, values that are not finite, or no gradients.

    References: Negri et al. (2025), Marginal Flow, arXiv 2509.26221, section 2.3; Roeder, Wu, Duvenaud (2017), Sticking the
        landing, eq. (8).

    >>> import geoopt, torch, mf_manifold as mf
    >>> flow = mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=64)
    >>> objective = ReverseKL(lambda x: 5 * x[:, 2], temperature=4.0)
    >>> objective.temperature_at(0.0), objective.temperature_at(0.25), objective.temperature_at(1.0)
    (4.0, 2.0, 1.0)
    >>> batch = Batch(None, None, torch.Generator().manual_seed(0), n_components=64, progress=1.0)
    >>> bool(objective(flow, batch) > -torch.tensor(4 * torch.pi * 148.41 / 10).log())           # log Z = log(4 pi sinh(5) / 5)
    True
    """

    def __init__(
        self,
        target: Target,
        n_per_component: int = 1,
        temperature: float = 1.0,
        anneal: float = 0.5,
        measure: Measure | str | None = None,
        spread: float = 2.0,
    ) -> None:
        if n_per_component < 1 or not temperature >= 1 or not 0 < anneal <= 1:
            raise ValueError(
                "Expected n_per_component >= 1, temperature >= 1 and 0 < anneal <= 1, "
                f"got {n_per_component}, {temperature} and {anneal}."
            )
        self.target, self.n_per_component, self.measure = target, n_per_component, measure
        self.temperature, self.anneal, self.spread = temperature, anneal, spread

    def temperature_at(self, progress: float) -> float:
        """T at a share of the run."""
        return float(self.temperature ** max(0.0, 1 - progress / self.anneal))

    def start(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        n: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Points (n,*E) at which components begin: spread over the manifold, more of them where the target has more mass.

        They are resampled from the uniform law of a compact manifold, elsewhere from a bump of standard deviation ``spread``
        (:func:`mf_manifold.starts.spread_points`). Modes that no candidate reaches are found only by chance.
        """
        law = starts.covering_law(manifold, point_shape, self.spread)

        def log_p(x: Tensor) -> Tensor:  # candidates are drawn on the CPU; the target may live elsewhere
            return by_volume(self.target, x.to(device), self.measure, manifold, point_shape).to(x.device)

        return starts.spread_points(law, log_p, n, generator)

    def identity(self) -> list[Any]:
        """The numbers that a resumed run must share; targets cannot be compared."""
        measure = None if self.measure is None else str(self.measure)
        return [self.n_per_component, self.temperature, self.anneal, self.spread, measure]

    def __call__(self, flow: LazyDistribution, batch: Batch) -> Tensor:
        mixture = batch.draw(flow)
        if not hasattr(mixture, "rsample_stratified"):
            raise NotImplementedError(
                f"Expected a model with stratified samples, such as MarginalFlow, got {type(flow).__name__}."
            )
        context = () if batch.context is None else (batch.context,)
        x, weights = mixture.rsample_stratified(self.n_per_component, batch.generator)
        log_p = log_density(self.target, x, self.measure, mixture, *context)
        log_q = mixture.detach(validate_args=False).log_prob(x, "riemannian")
        return (weights * (log_q - log_p / self.temperature_at(batch.progress))).sum(0).mean()


class Sum:
    """A weighted sum of objectives, such as the forward divergence to few data with the reverse one to a model of them.

    Args:
        objectives: any objectives.
        weights: one factor each; None for 1.

    Raises:
        ValueError: no objectives, or another number of weights.

    >>> both = Sum(forward_kl, ReverseKL(lambda x: 5 * x[:, 2]), weights=[1.0, 0.1])
    """

    def __init__(self, *objectives: Objective, weights: Sequence[float] | None = None) -> None:
        self.objectives, self.weights = objectives, [1.0] * len(objectives) if weights is None else list(weights)
        if not objectives or len(self.weights) != len(objectives):
            raise ValueError(f"Expected objectives and as many weights, got {len(objectives)} and {len(self.weights)}.")
        for objective in objectives:
            if isinstance(objective, Starts):  # a fit without data begins where the first of them says
                self.start = objective.start
                break

    def identity(self) -> list[Any]:
        """What a resumed run must share."""
        return [self.weights, [described(part) for part in self.objectives]]

    def __call__(self, flow: LazyDistribution, batch: Batch) -> Tensor:
        terms = [weight * objective(flow, batch) for weight, objective in zip(self.weights, self.objectives, strict=True)]
        return torch.stack(terms).sum()
