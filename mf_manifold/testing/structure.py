"""Checks of what a density must be whatever its formula: shapes, dtypes, devices, the life cycle of its objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..distributions import KernelDistribution
from ..geometry import Shape
from ..kernel import Kernel, Params, kernel_for
from .density import generator_for, kernel_density, to_dtype
from .report import demand, named_check


def random_params(kernel: Kernel, count: int, seed: int, dtype: torch.dtype = torch.float64) -> Params:
    """Parameters of `count` components as a network would output them; -> batch shape (count)."""
    return kernel.params(torch.randn(count, kernel.num_raw, generator=generator_for(seed), dtype=dtype))


def select(params: Params, index: int) -> Params:
    """One component of batched parameters."""
    return {name: value[index] for name, value in params.items()}


def batch_with(kernel: Kernel, params: Params, count: int, seed: int) -> Params:
    """Batched float64 parameters: the given ones first, then random ones."""
    others, own, shapes = random_params(kernel, count - 1, seed), to_dtype(params, torch.float64), kernel.event_shapes
    full = {k: v.expand((*v.shape[: v.ndim - len(shapes[k])], *shapes[k])) for k, v in {**own, **others}.items()}
    return {k: torch.cat([own[k].expand((1, *shapes[k])), full[k]]) for k in own}


def demand_close(a: Tensor, b: Tensor, what: str, tolerance: float) -> None:
    """Demand equal shapes, and values that agree to ``tolerance`` relative to max(1, |b|)."""
    demand(a.shape == b.shape, f"{what}: shape {tuple(a.shape)}, expected {tuple(b.shape)}")
    if a.numel():
        a, b = a.detach(), b.detach()
        error = (a - b).abs() / b.abs().clamp_min(1)
        same = torch.where(a == b, torch.zeros_like(error), error).nan_to_num(torch.inf, torch.inf)
        worst = int(same.argmax())
        message = f"{what}: {float(a.flatten()[worst]):.9g}, expected {float(b.flatten()[worst]):.9g}"
        demand(float(same.max()) <= tolerance, f"{message} (tolerance {tolerance:.0e})")


@named_check("shapes")
def check_shapes(kernel: Kernel, params: Params, *, seed: int = 0) -> None:
    """Broadcasting equals a Python loop; empty, expanded and non-contiguous inputs work; samples have their shapes."""
    w, event = batch_with(kernel, params, 3, seed), kernel.point_shape
    x = kernel_density(kernel, params).sample(4, generator_for(seed))
    loop = torch.stack([torch.stack([kernel.log_prob(one, select(w, j)) for j in range(3)]) for one in x])
    tall = x.unsqueeze(1)
    demand_close(kernel.log_prob(tall, w), loop, "log_prob of (4,1) points and 3 components against a loop", 1e-9)
    demand_close(kernel.pairwise_log_prob(x, w), loop, "pairwise_log_prob against a loop", 1e-9)
    demand_close(kernel.log_prob(tall.expand(4, 3, *event), w), loop, "log_prob of expanded points", 1e-9)
    strided = x.movedim(0, -1).contiguous().movedim(-1, 0).unsqueeze(1)
    demand_close(kernel.log_prob(strided, w), loop, "log_prob of non-contiguous points", 1e-9)
    grid = kernel.log_prob(x.reshape(2, 2, 1, *event), w)
    demand_close(grid, loop.reshape(2, 2, 3), "log_prob of a (2,2,1) batch", 1e-9)
    _demand_sample_shapes(kernel, w, loop.new_zeros(0), seed)


def _demand_sample_shapes(kernel: Kernel, w: Params, empty: Tensor, seed: int) -> None:
    event, one = kernel.point_shape, select(w, 0)
    demand_close(kernel.log_prob(empty.reshape(0, *event), one), empty, "log_prob of no points", 0)
    demand_close(kernel.log_prob(empty.reshape(0, 1, *event), w), empty.reshape(0, 3), "log_prob of no points", 0)
    dist, single = KernelDistribution(kernel, w), KernelDistribution(kernel, one)
    wanted: list[tuple[KernelDistribution, Shape, Shape]] = [(dist, s, (3,)) for s in ((2, 5), (), (0,))]
    for law, sample_shape, batch in [*wanted, (single, (7,), ()), (single, (), ())]:
        draw = law.sample(sample_shape, generator=generator_for(seed))
        expected = (*sample_shape, *batch, *event)
        demand(tuple(draw.shape) == expected, f"sample({sample_shape}) has shape {tuple(draw.shape)}, expected {expected}")
        demand(law.log_prob(draw).shape == (*sample_shape, *batch), f"log_prob of sample({sample_shape}) has a wrong shape")
    draws = dist.expand((2, 3)).sample((), generator=generator_for(seed))
    demand(not bool(torch.equal(draws[0], draws[1])), "expanded distributions drew the same points twice")
    again = [dist.sample((2,), generator=generator_for(seed)) for _ in range(2)]
    demand(bool(torch.equal(*again)), "two samples with equally seeded generators differ")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@named_check("dtypes")
def check_dtypes(kernel: Kernel, params: Params, *, tolerance: float = 1e-4, seed: int = 0) -> None:
    """float32 agrees with float64 at the same rounded points and parameters, and nothing depends on the default dtype."""
    w32 = to_dtype(params, torch.float32)
    w64 = to_dtype(w32, torch.float64)
    x32 = kernel_density(kernel, w64).sample(512, generator_for(seed)).float()
    expected = kernel.log_prob(x32.double(), w64)
    for default in (torch.float32, torch.float64):
        with _default_dtype(default):
            draw = kernel.rsample(w32, (2,), generator_for(seed))
            results = [kernel.log_prob(x32, w32), kernel.log_prob(x32.double(), w64), draw]
            many = {k: v.unsqueeze(0) for k, v in w32.items()}
            results.append(kernel.pairwise_log_prob(x32, many).squeeze(1))
        types = [r.dtype for r in results]
        wanted = [torch.float32, torch.float64, torch.float32, torch.float32]
        demand(types == wanted, f"dtypes {types} of log_prob, log_prob, rsample, pairwise_log_prob, expected {wanted}")
        for what, value in (("log_prob", results[0]), ("pairwise_log_prob", results[3])):
            error = float((value.double() - expected).abs().nan_to_num(torch.inf).max())
            demand(error <= tolerance, f"{what} in float32 is off by {error:.2e} nats > {tolerance:.0e}")


@named_check("device")
def check_device(kernel: Kernel, params: Params, *, device: str = "cpu", seed: int = 0) -> None:
    """Results stay on the inputs' device: under ``torch.device("meta")`` a factory call that forgets it shows itself."""
    w = {k: v.to(device) for k, v in batch_with(kernel, params, 3, seed).items()}
    x = kernel_density(kernel, params).sample(5, generator_for(seed)).to(device)
    expected = kernel.pairwise_log_prob(x, w)
    with torch.device("meta"):
        results = [kernel.pairwise_log_prob(x, w), kernel.log_prob(x.unsqueeze(1), w)]
        form = kernel.bilinear(x, w)
        if form is not None:
            results.append(form.phi @ form.psi.mT + form.bias + form.offset.unsqueeze(1))
        draw = kernel.rsample(w, (2,), torch.Generator(device).manual_seed(seed))
        bump = kernel.centered(x, x.flatten(1)[:, 0].abs() * 0 + 0.1) if kernel.has_location else {}
    for value in results:
        demand(value.device == x.device, f"a result is on {value.device}, its inputs on {x.device}")
        demand_close(value.to(expected.dtype), expected, "log density under another default device", 1e-6)
    for name, value in {"rsample": draw, **bump}.items():
        demand(value.device == x.device, f"{name} is on {value.device}, its inputs on {x.device}")


@named_check("life cycle")
def check_life_cycle(kernel: Kernel, params: Params, *, seed: int = 0) -> None:
    """Copies and rebuilt kernels agree, parameters from a network satisfy their constraints, each gets a gradient."""
    x = kernel_density(kernel, params).sample(6, generator_for(seed))
    raw = torch.randn(6, kernel.num_raw, generator=generator_for(seed), dtype=torch.float64, requires_grad=True)
    w = kernel.params(raw)
    KernelDistribution(kernel, {k: v.detach() for k, v in w.items()}, validate_args=True)
    log_q = kernel.log_prob(x, w)
    (slope,) = torch.autograd.grad(log_q.sum(), raw)
    dead = (slope.abs().amax(0) == 0).nonzero().flatten().tolist()
    demand(not dead, f"network outputs {dead} of {kernel.num_raw} do not change log_prob")
    demand(bool(torch.isfinite(slope).all()), "the derivative by network outputs is not finite")
    rebuilt = kernel_for(kernel.manifold, kernel.point_shape, kernel.name, **kernel.options)
    demand(type(rebuilt) is type(kernel), f"the registry has {type(rebuilt).__name__} under the name {kernel.name!r}")
    for what, other in {"deepcopy": copy.deepcopy(kernel), "kernel rebuilt from its options": rebuilt}.items():
        demand_close(other.log_prob(x, w), log_q, what, 0)
    own = KernelDistribution(kernel, to_dtype(params, torch.float64))
    demand(kernel.name in repr(own), f"repr {own!r} does not name the kernel")
    demand_close(copy.deepcopy(own).log_prob(x), own.log_prob(x), "deepcopy of the distribution", 0)
