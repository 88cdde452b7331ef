"""Streaming over tiles of points x components: memory of order N + M, every tile computed again for the gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .bilinear import Bilinear, bilinear_log_sum_exp
from .online import LN2, LOG2E, absorb, exponent_floor, slices, tile_shape
from .problem import PairwiseKernel, Problem

# Pairs per tile and components per tile of a kernel without a bilinear form, so that a dozen temporaries stay in the cache.
CPU_PAIRS, DEVICE_PAIRS, COLUMNS = 2**16, 2**22, 1024


def reasons_not(problem: Problem) -> list[str]:
    if torch.is_grad_enabled() and any(p.requires_grad for p in problem.kernel.parameters()):
        return ["the kernel has parameters of its own that require gradients, which recomputed tiles do not deliver"]
    return []


def reduce(problem: Problem) -> Tensor:
    form = problem.kernel.bilinear(problem.x, problem.w)
    if form is not None:
        return bilinear_log_sum_exp(_weighted(form, problem), problem.chunk_size)
    plan = _Plan(problem.kernel, tuple(problem.w), problem.power, problem.chunk_size)
    result: Tensor = _PairwiseLogSumExp.apply(  # type: ignore[no-untyped-call]
        plan, problem.x, problem.log_weights, *problem.w.values()
    )
    return result


def _weighted(form: Bilinear, problem: Problem) -> Bilinear:
    m, power = len(problem.log_weights), problem.power
    psi, bias = form.psi.expand(m, -1), form.bias + problem.log_weights
    if power == 1:
        return Bilinear(form.phi, psi, bias, form.offset)
    return Bilinear(form.phi, power * psi, power * bias, power * form.offset)


class _Plan(NamedTuple):
    """What stays the same in all tiles."""

    kernel: PairwiseKernel
    names: tuple[str, ...]
    power: float
    chunk_size: int | None

    def logits(self, x: Tensor, log_weights: Tensor, *params: Tensor) -> Tensor:
        w = dict(zip(self.names, params, strict=True))
        return self.power * (self.kernel.pairwise_log_prob(x, w) + log_weights)

    def blocks(self, x: Tensor, m: int) -> tuple[list[slice], list[slice]]:
        pairs = CPU_PAIRS if x.device.type == "cpu" else DEVICE_PAIRS
        rows, columns = tile_shape(len(x), m, self.chunk_size or COLUMNS, pairs)
        return slices(len(x), rows), slices(m, columns)


def _part(value: Tensor, columns: slice) -> Tensor:
    """The components of one tile; a leading dimension of 1 is shared by all tiles."""
    return value if value.shape[0] == 1 else value[columns]


class _PairwiseLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, log_weights: Tensor, *params: Tensor) -> Tensor:
        top = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        total = torch.zeros_like(top)
        row_blocks, column_blocks = plan.blocks(x, len(log_weights))
        for rows in row_blocks:
            for columns in column_blocks:
                logits = plan.logits(x[rows], log_weights[columns], *(_part(p, columns) for p in params))
                top[rows], total[rows] = absorb(top[rows], total[rows], logits * LOG2E)
        value = (top + total.log2()) * LN2
        ctx.plan = plan
        ctx.save_for_backward(value, x, log_weights, *params)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, x, *rest = ctx.saved_tensors
        uncovered = value == -torch.inf
        grad, value = grad.masked_fill(uncovered, 0.0), value.masked_fill(uncovered, 0.0)
        needs = ctx.needs_input_grad[1:]
        grads = [torch.zeros_like(t) if need else None for t, need in zip([x, *rest], needs, strict=True)]
        row_blocks, column_blocks = ctx.plan.blocks(x, len(rest[0]))
        for rows in row_blocks:
            for columns in column_blocks:
                inputs = [x[rows], *(_part(t, columns) for t in rest)]
                targets = [None if g is None else g[rows] if i == 0 else _part(g, columns) for i, g in enumerate(grads)]
                _accumulate(ctx.plan, inputs, targets, value[rows, None], grad[rows, None])
        return (None, *grads)


def _accumulate(plan: _Plan, inputs: list[Tensor], targets: list[Tensor | None], value: Tensor, grad: Tensor) -> None:
    """Add one tile's part of the gradients to `targets`, in place."""
    leaves = [t.detach().requires_grad_(g is not None) for t, g in zip(inputs, targets, strict=True)]
    with torch.enable_grad():
        logits = plan.logits(*leaves)
    exponents = (logits.detach() - value) * LOG2E
    floor = exponent_floor(exponents.dtype)
    softmax = exponents.clamp(min=floor).exp2_().masked_fill_(exponents < floor, 0.0)
    wanted = [(leaf, target) for leaf, target in zip(leaves, targets, strict=True) if target is not None]
    parts = torch.autograd.grad(logits, [leaf for leaf, _ in wanted], softmax * grad, allow_unused=True)
    for (_, target), part in zip(wanted, parts, strict=True):
        if part is not None:
            target += part
