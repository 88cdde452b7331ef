"""How well a mixture stands for a density known up to a constant: importance sampling and bounds of the reverse divergence."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .losses import Target, log_density
from .measure import Measure
from .mixture import Mixture

TRUSTED = 0.7  # k-hat above which importance sampling errors are not what they say
ROWS = 2**14  # points scored at once


class ImportanceReport(NamedTuple):
    """What importance sampling with a mixture says of a target.

    Attributes:
        n: number of samples.
        log_normalizer: estimate of ``log Z = log of the integral of the target``.
        standard_error: of ``log_normalizer``, by the delta method.
        effective_sample_size: ``(sum w)^2 / sum w^2``; n for an exact mixture.
        pareto_k: tail index of the weights; above 0.7 the error and the sample size are not to be trusted.
        log_weights: ``log target(x_i) - log q(x_i)``, (n).
    """

    n: int
    log_normalizer: float
    standard_error: float
    effective_sample_size: float
    pareto_k: float
    log_weights: Tensor

    @property
    def efficiency(self) -> float:
        """Effective sample size over n, in (0, 1]."""
        return self.effective_sample_size / self.n


@torch.no_grad()
def importance(
    mixture: Mixture, target: Target, n: int = 10_000, seed: int = 0, *, measure: Measure | str | None = None
) -> ImportanceReport:
    r"""Importance sampling of an unnormalised density with a frozen mixture as proposal.

    .. math:: w_i = \frac{p(x_i)}{q(x_i)}, \quad x_i \sim q, \quad
              \log \hat Z = \log \frac1n \sum_i w_i, \quad
              n_{\mathrm{eff}} = \frac{(\sum w)^2}{\sum w^2}, \quad
              \mathrm{se}(\log \hat Z) = \sqrt{\frac{1}{n_{\mathrm{eff}}} - \frac1n}

    **Measure**: of the target, ``measure``; the Riemannian volume by default.

    A warning is given where the weights' tail index k-hat exceeds 0.7: then the mixture misses a part of the target's mass, the
    largest weights decide, and error and sample size are too good to be true. Modes without any sample cannot be noticed from
    samples of q, however many.

    Args:
        mixture: the proposal, such as ``flow.freeze()``.
        target: log density up to a constant, (n,*E) -> (n).
        n: number of samples.
        seed: of the samples.
        measure: what the target is a density of.

    Raises:
        ValueError: fewer than 2 samples; values of the target of another shape or not finite.

    References: Kish (1965), Survey Sampling, section 11.7; Vehtari, Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed
        importance sampling, section 2.

    >>> import geoopt, torch, mf_manifold as mf
    >>> line = mf.kernel_for(geoopt.Euclidean(ndim=1), (1,))
    >>> mix = mf.Mixture(line, {"loc": torch.zeros(1, 1).double(), "scale": torch.ones(1, 1).double()})
    >>> report = importance(mix, lambda x: -x[:, 0] ** 2 / 2, n=1000)
    >>> round(report.log_normalizer, 4), round(report.effective_sample_size)         # log sqrt(2 pi), and every sample counts
    (0.9189, 1000)
    """
    if n < 2:
        raise ValueError(f"Expected at least 2 samples, got n={n}.")
    like = next(iter(mixture.params.values()))
    x = mixture.sample((n,), torch.Generator(like.device).manual_seed(seed))
    exact = mixture.detach(validate_args=False)
    log_w = torch.cat(
        [log_density(target, rows, measure, mixture) - exact.log_prob(rows, "riemannian") for rows in x.split(ROWS)]
    ).double()
    first, second = log_w.logsumexp(0), (2 * log_w).logsumexp(0)
    effective = float(torch.exp(2 * first - second))
    error = math.sqrt(max(0.0, 1 / effective - 1 / n))
    k = pareto_k(log_w)
    if k > TRUSTED:
        largest = float((log_w.max() - first).exp())
        warnings.warn(
            f"The importance weights have the tail index {k:.2f} > {TRUSTED}, and the largest holds {largest:.0%} of "
            "their sum: the mixture misses mass of the target. Train longer, with more components or from a wider start.",
            stacklevel=2,
        )
    return ImportanceReport(n, float(first) - math.log(n), error, effective, k, log_w)


def pareto_k(log_weights: Tensor) -> float:
    r"""Tail index k-hat of importance weights: a generalised Pareto law fitted to the largest ``min(n / 5, 3 sqrt n)``.

    Moments of order above ``1 / k`` are infinite; below 0.5 the variance exists, above 0.7 no practical n suffices. Weights
    that are all equal have no tail, ``-inf``; fewer than 25 are too few to tell, ``nan``.

    References: Zhang, Stephens (2009), A new and efficient estimation method for the generalized Pareto distribution; Vehtari,
        Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed importance sampling, whose weak prior at 0.5 is used too.

    >>> import torch
    >>> u = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> abs(pareto_k(-0.5 * u.log()) - 0.5) < 0.1                          # weights u^-k have the index k
    True
    """
    n = len(log_weights)
    count = int(min(0.2 * n, 3 * math.sqrt(n)))
    if count < 5:
        return math.nan
    ordered = log_weights.double().cpu().sort().values
    weights = (ordered[-count - 1 :] - ordered[-1]).exp()
    excess = weights[1:] - weights[0]
    if float(excess[0]) <= 0:
        # ties at the threshold: only what exceeds it is a tail
        excess = excess[excess > 0]
    if len(excess) < 5 or float(excess[-1]) < 1e-9:  # a spread of the size of rounding is no tail
        return -math.inf
    k, m = _fit_pareto(excess), len(excess)
    return (m * k + 10 * 0.5) / (m + 10)


def _fit_pareto(x: Tensor) -> float:
    """Shape of a generalised Pareto law from sorted positive data, by Zhang and Stephens's posterior mean."""
    n, grid = len(x), 30 + int(math.sqrt(len(x)))
    quartile = x[int(n / 4 + 0.5) - 1]
    steps = torch.arange(1, grid + 1, dtype=x.dtype) - 0.5
    theta = 1 / x[-1] + (1 - (grid / steps).sqrt()) / (3 * quartile)

    def shape(b: Tensor) -> Tensor:
        return torch.log1p(-b.unsqueeze(-1) * x).mean(-1)

    k = shape(theta)
    profile = n * ((-theta / k).log() - k - 1)
    mean = (torch.softmax(profile, 0) * theta).sum()
    return float(shape(mean))


class ReverseKLBounds(NamedTuple):
    """Two-sided bounds in expectation of ``KL(q || p)`` with their standard errors."""

    lower: float
    lower_error: float
    upper: float
    upper_error: float


@torch.no_grad()
def reverse_kl_bounds(
    flow: Any,
    target: Target,
    *,
    log_normalizer: float = 0.0,
    n_components: int | None = None,
    n_draws: int = 64,
    n_per_component: int = 1,
    seed: int = 0,
    measure: Measure | str | None = None,
) -> ReverseKLBounds:
    r"""Bounds of the reverse divergence of the infinite mixture ``q = E q_W`` that a flow stands for.

    .. math:: E \bigl[\log q_{W'}(x) - \log p(x)\bigr] \;\le\; KL(q \,\|\, p) \;\le\; E \bigl[\log q_W(x) - \log p(x)\bigr],
              \quad x \sim q_W

    with independent draws W, W' of the components. The upper bound, which :class:`mf_manifold.losses.ReverseKL` minimises,
    scores points with the components that made them (convexity of the divergence); the lower bound scores with fresh ones
    (Jensen). Both tighten as the number of components grows. Means and standard errors are over the draws. With learned
    weights, which each draw normalises by itself, q is the mean of the drawn mixtures at this number of components.

    **Measure**: of the target, ``measure``; the Riemannian volume by default.

    Args:
        flow: called as ``flow(n_components=, generator=)`` for a mixture.
        target: log density up to a constant, (n,*E) -> (n).
        log_normalizer: log of the target's integral; with 0 the bounds are of ``KL(q || p) - log Z``.
        n_components: of each draw; None takes the flow's own number.
        n_draws: pairs of draws.
        n_per_component: points of each component.
        seed: of the draws.
        measure: what the target is a density of.

    Raises:
        ValueError: fewer than 2 draws.
        NotImplementedError: the kernel has no pathwise samples.

    >>> import geoopt, torch, mf_manifold as mf
    >>> flow = mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=64)
    >>> bounds = reverse_kl_bounds(flow, lambda x: 0 * x[:, 0], log_normalizer=mf.geometry.log_volume(geoopt.Sphere(), (3,)))
    >>> bounds.lower < bounds.upper
    True
    """
    if n_draws < 2:
        raise ValueError(f"Expected at least 2 draws for a standard error, got n_draws={n_draws}.")
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n_draws):
        own, fresh = (flow(n_components=n_components, generator=generator) for _ in range(2))
        x, weights = own.rsample_stratified(n_per_component, generator)
        log_p = log_density(target, x, measure, own)
        log_q = [mixture.detach(validate_args=False).log_prob(x, "riemannian") for mixture in (fresh, own)]
        rows.append([float(weights @ (value - log_p)) for value in log_q])
    values = torch.tensor(rows, dtype=torch.float64) + log_normalizer
    mean, error = values.mean(0).tolist(), (values.std(0) / math.sqrt(n_draws)).tolist()
    return ReverseKLBounds(mean[0], error[0], mean[1], error[1])
