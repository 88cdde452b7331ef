"""Mean directions of angles and the concentrations that they imply, for fits on the torus."""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics.bessel import bessel_ratio, one_minus_bessel_ratio

NEWTON_STEPS = 12


def mean_angles(x: Tensor, share: Tensor) -> Tensor:
    """Mean direction of each angle, in float64; (N,d), (N) -> (d).

    A second pass around the first result keeps the digits of data that lie close together.
    """
    mean = torch.atan2(share @ x.sin(), share @ x.cos())
    around = x - mean
    return mean + torch.atan2(share @ around.sin(), share @ around.cos())


def concentration_from_deficit(deficit: Tensor, largest: float) -> Tensor:
    """The concentration at which the mean of ``1 - cos`` is ``deficit``, at most ``largest``; elementwise, float64.

    Newton steps for ``logit A`` as a function of ``log k``: its slope is between 1 and 1.2, so they converge from anywhere.
    """
    tiny = torch.finfo(torch.float64).tiny
    share = 1 - deficit
    target = share.clamp_min(tiny).log() - deficit.clamp_min(tiny).log()
    log_kappa = target
    for _ in range(NEWTON_STEPS):
        kappa = log_kappa.exp().clamp(1e-300, 10 * largest)
        ratio, gap = bessel_ratio(2, kappa), one_minus_bessel_ratio(2, kappa)
        slope = (kappa * gap * (1 + ratio) - ratio) / (ratio * gap)
        log_kappa = kappa.log() - (ratio.log() - gap.log() - target) / slope.clamp(0.5, 2)
    return torch.where(share > 0, log_kappa.exp(), torch.zeros_like(share)).clamp_max(largest)
