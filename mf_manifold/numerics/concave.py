"""Maxima of smooth concave functions, for fits of exponential families and their like."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS, _HALVINGS = 100, 40

Derivatives = tuple[Tensor, Tensor, Tensor]


def maximise(function: Callable[[Tensor], Derivatives], start: Tensor) -> Tensor:
    """The maximum of a strictly concave function of R^n by Newton's method, its steps halved until they gain.

    ``function`` gives value (), gradient (n) and Hessian (n,n). It ends where a full step promises less than rounding.

    >>> def parabola(x):
    ...     return -(x - 2).square().sum(), -2 * (x - 2), -2 * torch.eye(2, dtype=x.dtype)
    >>> maximise(parabola, torch.zeros(2, dtype=torch.float64)).tolist()
    [2.0, 2.0]
    """
    x = start
    value, gradient, hessian = function(x)
    for _ in range(_STEPS):
        step = torch.linalg.solve(-hessian, gradient)
        for _ in range(_HALVINGS):
            following = function(x + step)
            if float(following[0]) >= float(value):
                break
            step = step / 2
        else:
            return x
        done = float(gradient @ step) <= 1e-15 * (1 + abs(float(value)))
        x, (value, gradient, hessian) = x + step, following
        if done:
            return x
    return x
