"""First derivatives that are computed by hand and cannot be differentiated again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]
CHUNKED = (
    "Expected at most one derivative of a mixture's log density in the 'chunked' backend, got a second one. "
    "Use backend='dense', which holds all pairs of points and components in memory."
)


def first_derivative(compute: Callable[..., Gradients], *inputs: Tensor, message: str = CHUNKED) -> Gradients:
    """compute(*inputs); the result depends on the inputs in the graph, but to differentiate it raises.

    torch.autograd.function.once_differentiable is no substitute: unless the incoming gradient itself requires one
    it returns constants, and second derivatives would be missing without an error.
    """
    result: Gradients = _FirstDerivative.apply(compute, message, *inputs)  # type: ignore[no-untyped-call]
    return result


class _FirstDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Gradients], message: str, *inputs: Tensor) -> Gradients:
        ctx.message = message
        return compute(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(ctx.message)
