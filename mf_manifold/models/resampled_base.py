"""The resampled base: a law thinned by a learned acceptance probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import geoopt
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .. import checkpoint, geometry
from ..estimator import LazyDistribution
from ..geometry import Shape
from ..manifolds import from_config
from ..nets import FourierFeatures, Unconditional
from . import proposals
from .proposals import Law
from .resampled import ResampledDistribution, log_weight

CHUNK = 2**14  # proposals scored at once
SETTLED, SETTLING = 0.01, 2**20  # relative error of Z in validations, and the most proposals for it
SEED = 1  # of those proposals; others estimate Z for reports, because validation prefers weights for which these say too little


class Normalizer(NamedTuple):
    """A Monte Carlo estimate of Z.

    Attributes:
        value: the estimate.
        standard_error: of it.
        n_samples: proposals that it took.
    """

    value: float
    standard_error: float
    n_samples: int


@checkpoint.register_model
class ResampledBase(LazyDistribution):
    r"""A proposal thinned by a learned acceptance probability: a simple law gets gaps, modes and rims.

    .. math:: p(x) = \pi(x) \left[(1 - \alpha_T)\,\frac{a(x)}{Z} + \alpha_T\right], \quad
              Z = E_\pi\,a, \quad \alpha_T = (1 - Z)^{T - 1}

    the law of the first accepted one of at most T proposals. It stands for itself, or as ``base=`` of a
    :class:`Flow`, of a ``zuko.flows.Flow`` and of a :class:`mf_manifold.MarginalFlow`.

    Z is a number kept with the weights. A fit moves it with every step, and estimates it anew for the weights that are
    validated and kept, to one per cent; :meth:`estimate_normalizer` makes it as exact as wanted. Nothing else changes it:
    evaluation is deterministic. Wherever gradients are recorded, those of Z come from fresh proposals, while its value stays.
    In a training loop of your own, call :meth:`track` before every step and :meth:`settle` at the end.

    **Measure**: Riemannian volume of the manifold's metric.

    Args:
        manifold: a geoopt manifold.
        point_shape: shape of a point, such as (3,) on S^2.
        proposal: a :class:`mf_manifold.KernelDistribution` or :class:`mf_manifold.Mixture`, which stays fixed; or the name of a
            kernel whose parameters are learned, from the data's centre and spread, such as ``"normal"``; None for the standard
            normal law of R^d, the uniform law of a compact manifold, a bump of scale 1 elsewhere.
        truncation: T; None for no limit, 1 for the proposal itself.
        hidden: widths of the acceptance network, which sees standardised coordinates of the points.
        n_frequencies, bandwidth: random Fourier features of these coordinates, see
            :class:`mf_manifold.nets.FourierFeatures`; 0 for none.
        min_acceptance: floor of a, and so of Z.
        decay: share of the newest estimate in the moving average of Z.
        n_proposals: proposals of an estimate in training.

    Raises:
        ValueError: a proposal on another space, numbers out of range.

    Reference: Stimper, Schölkopf, Hernández-Lobato (2022), Resampling Base Distributions of Normalizing Flows, arXiv
        2110.15828; Bauer, Mnih (2019), Resampled Priors for Variational Autoencoders, arXiv 1810.11428, section 3. Manifolds,
        proposals other than normal laws and the floor are additions of this library.

    >>> import geoopt, torch, mf_manifold as mf
    >>> base = mf.models.ResampledBase(geoopt.Sphere(), (3,), hidden=(16,))
    >>> x = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).abs(), dim=-1)
    >>> base = base.fit(x, max_steps=500, progress=False)
    >>> bool(base.log_prob(x).mean() > -1.2)                        # uniform on an eighth of the sphere: -0.45; on all: -2.53
    True
    >>> base.estimate_normalizer(0.01).value < 0.3
    True
    """

    normalizer: Tensor
    normalizer_error: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        proposal: Law | str | None = None,
        *,
        truncation: int | None = 100,
        hidden: Sequence[int] = (64, 64),
        n_frequencies: int = 32,
        bandwidth: float = 0.25,
        min_acceptance: float = 0.0,
        decay: float = 0.1,
        n_proposals: int = 1024,
    ) -> None:
        super().__init__(manifold, point_shape)
        if (
            not (0 <= min_acceptance < 1 and 0 < decay <= 1)
            or min(n_proposals, *hidden, 1 if truncation is None else truncation) < 1
        ):
            raise ValueError(
                "Expected min_acceptance in [0, 1), decay in (0, 1], positive truncation, widths and n_proposals, "
                f"got {min_acceptance}, {decay}, {truncation}, {tuple(hidden)} and {n_proposals}."
            )
        self.proposal = proposals.proposal_for(manifold, self.point_shape, proposal)
        self.truncation, self.hidden, self.min_acceptance = truncation, tuple(hidden), min_acceptance
        self.n_frequencies, self.bandwidth = n_frequencies, bandwidth
        self.decay, self.n_proposals = decay, n_proposals
        self.register_buffer("normalizer", torch.ones(()))
        self.register_buffer("normalizer_error", torch.zeros(()))
        self.build_network()
        given = [] if proposal is None or isinstance(proposal, str) else list(proposal.params.values())
        double = self.proposal.kernel.needs_double or any(value.dtype == torch.float64 for value in given)
        self.to(torch.float64 if double else torch.get_default_dtype())
        self.settle()

    def build_network(self) -> None:
        """Make the acceptance network anew, from torch's global random state."""
        features = FourierFeatures(self.proposal.size, self.n_frequencies, self.bandwidth)
        self.network = Unconditional(features, self.hidden, 1)

    def log_acceptance(self, x: Tensor) -> Tensor:
        """Logarithm of a; (*S,*E) -> (*S)."""
        log_a = logsigmoid(self.network(self.proposal.features(x)).squeeze(-1))
        if not self.min_acceptance:
            return log_a
        floor, rest = math.log(self.min_acceptance), math.log1p(-self.min_acceptance)
        return torch.logaddexp(log_a + rest, torch.full_like(log_a, floor))

    def forward(
        self, context: Tensor | None = None, n_components: int | None = None, generator: torch.Generator | None = None
    ) -> ResampledDistribution:
        """The law, the same for all contexts; where gradients are recorded, the generator draws proposals for those of Z."""
        law = self.proposal.law()
        normalizer = self.normalizer.clone()
        if torch.is_grad_enabled():
            estimate = self.estimate(law, self.n_proposals, generator)
            normalizer = normalizer + (estimate - estimate.detach())
        error = self.normalizer_error.clone()
        return ResampledDistribution(law, self.log_acceptance, normalizer, self.truncation, error)

    def estimate(self, law: Law, n: int, generator: torch.Generator | None) -> Tensor:
        """Mean acceptance of n fresh proposals, with the gradients of Z in the network and in the proposal's parameters."""
        pathwise = bool(law.has_rsample)
        x = self.proposal.propose(law, n, generator, pathwise=pathwise)
        a = self.log_acceptance(x).exp()
        if pathwise or not any(value.requires_grad for value in law.params.values()):
            return a.mean()
        log_q = law.log_prob(x)  # no pathwise samples: the score stands for the path
        return (a + (a - a.mean()).detach() * (log_q - log_q.detach())).mean()

    @torch.no_grad()
    def track(self, generator: torch.Generator) -> None:
        """Move Z towards an estimate from fresh proposals by the share ``decay``; every step of a fit does it."""
        fresh = self.estimate(self.proposal.law(), self.n_proposals, generator)
        self.normalizer.lerp_(fresh.to(self.normalizer), self.decay)

    def settle(self) -> None:
        """Estimate Z for the present weights to one per cent, with proposals that are always the same."""
        self.estimate_normalizer(SETTLED, max_samples=SETTLING, seed=SEED)

    @torch.no_grad()
    def estimate_normalizer(self, relative_error: float = 1e-3, *, max_samples: int = 2**27, seed: int = 0) -> Normalizer:
        r"""Estimate Z by Monte Carlo until its standard error is this share of it; kept, with its standard error.

        .. math:: \mathrm{Var}\,\hat Z / Z^2 \le (1 - Z) / (S Z)

        bounds the number S of proposals; smooth acceptance needs fewer, and sampling stops by the measured variance.
        :meth:`ResampledDistribution.log_prob_error` turns the standard error into one of log densities.

        Raises:
            RuntimeError: no proposal is accepted at all.
            ValueError: a relative error that is not positive.
        """
        if not relative_error > 0:
            raise ValueError(f"Expected a positive relative_error, got {relative_error}.")
        generator, law = torch.Generator().manual_seed(seed), self.proposal.law()
        n, total, squares = 0, 0.0, 0.0
        mean = error = 0.0
        while n < max_samples:
            size = min(CHUNK, max_samples - n)
            a = self.log_acceptance(self.proposal.propose(law, size, generator)).double().exp()
            n, total, squares = n + size, total + float(a.sum()), squares + float(a.square().sum())
            mean = total / n
            error = math.sqrt(max(squares / n - mean**2, 0.0) / n)
            if mean > 0 and error <= relative_error * mean:
                break
        if not mean > 0:
            raise RuntimeError(
                f"Expected some acceptance, got none in {n} proposals: it has collapsed. Fit anew with min_acceptance, or with "
                "AcceptanceReward in the objective."
            )
        self.normalizer.fill_(mean)
        self.normalizer_error.fill_(error)
        return Normalizer(mean, error, n)

    def reset(self, x: Tensor | None, background: float) -> None:
        """A new acceptance network and proposal; ``background`` is not used: truncation leaves the proposal everywhere."""
        like = self.normalizer
        self.proposal.reset()
        self.build_network()
        self.to(like)
        self.settle()

    def begin(
        self, x: Tensor | None, context: Tensor | None, generator: torch.Generator, steps: int, stop: Callable[[], bool]
    ) -> None:
        """Start a learned proposal at the data."""
        if x is not None:
            self.proposal.begin(x)
        self.settle()

    def propose(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Points of the proposal, not resampled, pathwise where gradients are recorded and the family has them; (n,*E)."""
        law = self.proposal.law()
        return self.proposal.propose(law, n, generator, pathwise=bool(law.has_rsample) and torch.is_grad_enabled())

    def log_weight(self, x: Tensor) -> Tensor:
        """Log weights ``log[(1 - alpha) a / Z + alpha]`` of points of the proposal under this law; (n,*E) -> (n).

        Means over the proposal with these weights are means over this law. The gradient of Z is that of the mean acceptance of
        the points.
        """
        log_a = self.log_acceptance(x.to(self.normalizer))
        mean = log_a.exp().mean()
        return log_weight(log_a, self.normalizer + (mean - mean.detach()), self.truncation)

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        names = ("truncation", "hidden", "n_frequencies", "bandwidth", "min_acceptance", "decay", "n_proposals")
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "proposal": self.proposal.config(),
            "options": {name: getattr(self, name) for name in names},
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Rebuild what :meth:`save` wrote."""
        manifold, shape = from_config(config["manifold"]), tuple(config["point_shape"])
        base = cls(manifold, shape, **config["options"])
        base.proposal = proposals.from_config(manifold, shape, config["proposal"], checkpoint.part(tensors, "proposal"))
        base.to(tensors["normalizer"].dtype).load_state_dict(tensors)
        base.history = config["history"]
        return base
