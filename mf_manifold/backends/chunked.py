"""Streaming over tiles of points x components: memory of order N + M, each tile made again for the gradient."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .bilinear import Bilinear, bilinear_log_sum_exp
from .derivative import Gradients, first_derivative
from .online import LN2, LOG2E, absorb, drop_floor_, exponent_floor
from .problem import PairwiseKernel, Problem
from .tiles import Tiles, tile

# Components and coordinates of pairs per tile of a kernel without a bilinear form. Some dozen temporaries of that size
# live until a tile's gradient is done. Few components, that what depends on points or components alone is seldom redone.
CPU_TILE, DEVICE_TILE = (256, 2**17), (2048, 2**22)


def reasons_not(problem: Problem) -> list[str]:
    if torch.is_grad_enabled() and any(p.requires_grad for p in problem.kernel.parameters()):
        return ["the kernel has parameters of its own that require gradients, which it does not deliver"]
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
    """What all tiles have in common."""

    kernel: PairwiseKernel
    names: tuple[str, ...]
    power: float
    chunk_size: int | None

    def logits(self, x: Tensor, log_weights: Tensor, *params: Tensor) -> Tensor:
        w = dict(zip(self.names, params, strict=True))
        return self.power * (self.kernel.pairwise_log_prob(x, w) + log_weights)

    def tiles(self, x: Tensor, m: int) -> Tiles:
        columns, coordinates = CPU_TILE if x.device.type == "cpu" else DEVICE_TILE
        return tile(len(x), m, self.chunk_size or columns, coordinates // x.shape[1:].numel(), x.device)


def _part(value: Tensor, columns: slice) -> Tensor:
    """The components of one tile; a leading dimension of 1 is shared by all tiles."""
    return value if value.shape[0] == 1 else value[columns]


class _PairwiseLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, *rest: Tensor) -> Tensor:
        top = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        total = torch.zeros_like(top)
        tiles = plan.tiles(x, len(rest[0]))

        def work(blocks: list[slice]) -> None:
            for rows in blocks:
                for columns in tiles.columns:
                    logits = plan.logits(x[rows], *(_part(t, columns) for t in rest))
                    top[rows], total[rows] = absorb(top[rows], total[rows], logits * LOG2E)

        tiles.map(work)
        value = (top + total.log2()) * LN2
        ctx.plan = plan
        ctx.save_for_backward(value, x, *rest)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        compute = partial(_gradients, ctx.plan, ctx.needs_input_grad[1:])
        return (None, *first_derivative(compute, grad, *ctx.saved_tensors))


def _gradients(plan: _Plan, needs: tuple[bool, ...], grad: Tensor, value: Tensor, x: Tensor, *rest: Tensor) -> Gradients:
    """Gradients of x, the log weights and the parameters, None for those not needed."""
    uncovered = value == -torch.inf
    value, grad = value.masked_fill(uncovered, 0.0), grad.masked_fill(uncovered, 0.0)
    tiles = plan.tiles(x, len(rest[0]))
    grad_x = torch.zeros_like(x) if needs[0] else None

    def work(blocks: list[slice]) -> Gradients:
        grads = tuple(torch.zeros_like(t) if need else None for t, need in zip(rest, needs[1:], strict=True))
        for rows in blocks:
            for columns in tiles.columns:
                inputs = [x[rows], *(_part(t, columns) for t in rest)]
                sums = [None if grad_x is None else grad_x[rows]]
                sums += [None if g is None else _part(g, columns) for g in grads]
                _accumulate(plan, inputs, sums, value[rows, None], grad[rows, None])
        return grads

    return (grad_x, *(_sum(parts) for parts in zip(*tiles.map(work), strict=True)))


def _sum(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    wanted = [part for part in parts if part is not None]
    return torch.stack(wanted).sum(0) if wanted else None


def _accumulate(plan: _Plan, inputs: list[Tensor], sums: list[Tensor | None], value: Tensor, grad: Tensor) -> None:
    """Add one tile's part of the gradients to `sums`, in place."""
    leaves = [t.detach().requires_grad_(g is not None) for t, g in zip(inputs, sums, strict=True)]
    with torch.enable_grad():
        logits = plan.logits(*leaves)
    if not logits.requires_grad:
        return
    exponents = (logits.detach() - value) * LOG2E
    softmax = drop_floor_(exponents.clamp_(min=exponent_floor(exponents.dtype)).exp2_())
    wanted = [(leaf, total) for leaf, total in zip(leaves, sums, strict=True) if total is not None]
    parts = torch.autograd.grad(logits, [leaf for leaf, _ in wanted], softmax * grad, allow_unused=True)
    for (_, total), part in zip(wanted, parts, strict=True):
        if part is not None:
            total += part
