"""Local maxima of smooth functions of few variables, for fits without a closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STEPS, SLOPE = 500, 1e-10


def climb(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """A local maximum near ``start`` of a function of a vector (K) in float64, whose entries should be of order one.

    L-BFGS with a line search that obeys the strong Wolfe conditions.

    >>> top = climb(lambda t: -(t - 2).square().sum(), torch.zeros(1, dtype=torch.float64))
    >>> round(float(top), 9)
    2.0
    """
    point = start.detach().clone().requires_grad_()
    search = torch.optim.LBFGS(
        [point],
        max_iter=STEPS,
        tolerance_grad=SLOPE,
        tolerance_change=1e-15,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            loss = -function(point)
            loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call,arg-type]
    return point.detach()
