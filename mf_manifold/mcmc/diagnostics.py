"""How much Markov chains agree with each other, and how many independent draws they are worth."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

Array = np.ndarray


def rhat(x: Tensor) -> Tensor:
    r"""Rank-normalised split R-hat, the larger one of values and of their distances to the median: 1 where chains agree.

    Each chain is halved, values are replaced by normal scores of their ranks among all, and then

    .. math:: \hat R = \sqrt{\frac{\frac{n-1}{n} W + \frac1n B}{W}}

    with the variance W within the halves of n draws and B/n of their means. Above 1.01 the chains are not to be trusted.
    Numbers that do not vary have none, NaN.

    Args:
        x: numbers of m chains of n draws each.

    Shapes: (m,n,*F) -> (*F), float64.

    Raises:
        ValueError: fewer than 4 draws, or numbers that are not finite.

    Reference: Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), Rank-normalization, folding, and localization: an improved
        R-hat, section 3.1, 3.2, 4.1, 4.2.

    >>> x = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    >>> bool(rhat(x) < 1.01), bool(rhat(x + 2 * torch.arange(4.0)[:, None]) > 1.5)
    (True, True)
    """
    halves = _split(_array(x))
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return _tensor(np.maximum(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded))), x)


def ess(x: Tensor) -> Tensor:
    r"""Effective sample size for the mean: as many independent draws would estimate it as well.

    .. math:: n_{\mathrm{eff}} = \frac{m n}{1 + 2 \sum_t \rho_t}

    with autocorrelations of the split chains that count disagreement between chains, summed in pairs as long as those are
    positive, and made monotone. Chains that alternate can be worth more than their draws; at most ``m n log10(m n)``.

    Shapes: (m,n,*F) -> (*F), float64; NaN for numbers that do not vary.

    Raises:
        ValueError: fewer than 4 draws, or numbers that are not finite.

    Reference: Vehtari et al. (2021), section 3.2, eqs. (10) to (13); Geyer (1992), Practical Markov chain Monte Carlo,
        section 3.3.

    >>> x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    >>> bool(3000 < ess(x) < 5000)
    True
    """
    return _tensor(_ess(_split(_array(x))), x)


def bulk_ess(x: Tensor) -> Tensor:
    """Effective sample size of normal scores of the ranks, which exists for laws without moments; (m,n,*F) -> (*F).

    Raises:
        ValueError: fewer than 4 draws, or numbers that are not finite.

    Reference: Vehtari et al. (2021), section 4.3.

    >>> x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    >>> bool(torch.isclose(bulk_ess(x), bulk_ess(x.exp())))
    True
    """
    return _tensor(_ess(_normal_scores(_split(_array(x)))), x)


def _array(x: Tensor) -> Array:
    """Chains (m,n,f) in float64."""
    if x.ndim < 2 or x.shape[1] < 4:
        raise ValueError(f"Expected chains of at least 4 draws, (chains, draws, ...), got shape {tuple(x.shape)}.")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"Expected finite numbers in the chains, got {int((~torch.isfinite(x)).sum())} that are not.")
    return x.detach().double().cpu().reshape(*x.shape[:2], -1).numpy()


def _tensor(values: Array, x: Tensor) -> Tensor:
    return torch.as_tensor(values).reshape(x.shape[2:])


def _split(x: Array) -> Array:
    """Each chain as two; the middle draw of an odd number is left out."""
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def _normal_scores(x: Array) -> Array:
    """Normal quantiles of the ranks among all chains, ties sharing their mean rank."""
    ranks = stats.rankdata(x.reshape(-1, x.shape[2]), method="average", axis=0)
    return stats.norm.ppf((ranks - 3 / 8) / (len(ranks) + 1 / 4)).reshape(x.shape)


def _variances(x: Array) -> tuple[Array, Array]:
    """Variance within chains, and the one of all draws that also counts that of the chains' means; (f) each."""
    n = x.shape[1]
    within = x.var(axis=1, ddof=1).mean(0)
    return within, (n - 1) / n * within + x.mean(1).var(axis=0, ddof=1)


def _rhat(x: Array) -> Array:
    within, total = _variances(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(total / within)


def _ess(x: Array) -> Array:
    m, n, _ = x.shape
    within, total = _variances(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1 - (within - _autocovariances(x).mean(0) * n / (n - 1)) / total
    rho[0] = 1.0
    pairs = rho[: n - n % 2].reshape(n // 2, 2, -1).sum(1)
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    falling = np.minimum.accumulate(np.where(positive, pairs, 0.0), axis=0)
    times = np.maximum(2 * falling.sum(0) - 1, 1 / np.log10(m * n))
    return np.where(within > 0, m * n / times, np.nan)


def _autocovariances(x: Array) -> Array:
    """Autocovariances at every lag of every chain, divided by n; (m,n,f)."""
    n = x.shape[1]
    power = np.abs(np.fft.rfft(x - x.mean(1, keepdims=True), 2 * n, axis=1)) ** 2
    return np.fft.irfft(power, axis=1)[:, :n] / n
