"""Check of the reductions over components: every backend against a loop."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..backends import BACKENDS, mixture_log_prob
from ..kernel import Kernel, Params
from .density import generator_for, kernel_density, to_dtype
from .perturb import derivatives
from .report import demand, named_check
from .structure import batch_with, demand_close, select

COMPONENTS, POINTS = 5, 6
CHUNK_SIZES = (2, 1000)


def _reference(kernel: Kernel, x: Tensor, w: Params, log_weights: Tensor, power: float) -> Tensor:
    columns = [kernel.log_prob(x, select(w, j)) + log_weights[j] for j in range(len(log_weights))]
    return (power * torch.stack(columns, dim=1)).logsumexp(1)


def _with_gradients(value: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = torch.linspace(0.5, 1.5, len(value), dtype=value.dtype)
    slopes = derivatives((weights * value).sum(), leaves)
    return {"value": value, **{f"derivative by {name}": slope for name, slope in slopes.items()}}


def _leaves(x: Tensor, w: Params, log_weights: Tensor) -> dict[str, Tensor]:
    leaves = {"x": x, "log_weights": log_weights, **w}
    return {name: value.detach().clone().requires_grad_() for name, value in leaves.items()}


@named_check("backends")
def check_backends(kernel: Kernel, params: Params, *, tolerance: float = 1e-8, seed: int = 0) -> None:
    """Every backend, at any chunk size and at powers 1 and 2, equals a loop over components, in value and gradient."""
    w = batch_with(kernel, params, COMPONENTS, seed)
    x = kernel_density(kernel, params).sample(POINTS, generator_for(seed))
    log_weights = torch.randn(COMPONENTS, dtype=torch.float64, generator=generator_for(seed)).log_softmax(0)
    leaves = _leaves(x, w, log_weights)
    points, weights, components = leaves["x"], leaves["log_weights"], {name: leaves[name] for name in w}
    for power, backend, size in itertools.product((1.0, 2.0), (*BACKENDS, "auto"), CHUNK_SIZES):
        expected = _with_gradients(_reference(kernel, points, components, weights, power), leaves)
        value = mixture_log_prob(kernel, points, components, weights, backend=backend, chunk_size=size, power=power)
        for name, result in _with_gradients(value, leaves).items():
            scale = 1 + expected[name].abs().max()
            what = f"{name} by {backend} in chunks of {size} at power {power:g}"
            demand_close(result / scale, expected[name] / scale, what, tolerance)
    _demand_uniform_default(kernel, x, w)
    _demand_float32(kernel, x, w, log_weights)


def _demand_uniform_default(kernel: Kernel, x: Tensor, w: Params) -> None:
    uniform = torch.full((COMPONENTS,), -math.log(COMPONENTS), dtype=torch.float64)
    expected = _reference(kernel, x, w, uniform, 1.0)
    for backend in BACKENDS:
        demand_close(mixture_log_prob(kernel, x, w, backend=backend), expected, f"{backend} without weights", 1e-8)


def _demand_float32(kernel: Kernel, x: Tensor, w: Params, log_weights: Tensor) -> None:
    """The streamed sums must not lose more than the kernel's own float32 log densities do."""
    x32, w32, weights32 = x.float(), to_dtype(w, torch.float32), log_weights.float()
    expected = _reference(kernel, x32, w32, weights32, 1.0)
    for backend in BACKENDS:
        value = mixture_log_prob(kernel, x32, w32, weights32, backend=backend)
        demand(value.dtype == torch.float32, f"{backend} returns {value.dtype} for float32")
        demand_close(value, expected, f"{backend} in float32", 1e-4)
