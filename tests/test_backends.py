"""The streaming reduction against the dense one in float64, and what it promises about memory and special values."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mf_manifold.backends import Bilinear, PairwiseKernel, mixture_log_prob, tiles
from mf_manifold.backends.bilinear import product_dtype

Params = dict[str, Tensor]
Case = tuple[PairwiseKernel, Tensor, Params]


class VonMisesFisher(nn.Module):
    """On S^2, with features that cancel, in float64."""

    def log_norm(self, k: Tensor) -> Tensor:
        return (k / (2 * math.pi)).log() - torch.log1p(-torch.exp(-2 * k))

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        return ((x[:, None] * w["loc"]).sum(-1) - 1) * w["k"] + self.log_norm(w["k"])

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        k = w["k"].double()[:, None]
        phi = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
        return Bilinear(phi, torch.cat([k * w["loc"], -k], 1), self.log_norm(w["k"]), x.new_zeros(len(x)))


class Linear(nn.Module):
    """log q = offset + bias + x.psi, where the offset is the first coordinate of x."""

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        return x[:, :1] + w["bias"] + x[:, 1:] @ w["psi"].T

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        return Bilinear(x[:, 1:], w["psi"], w["bias"], x[:, 0])


class Normal(nn.Module):
    """Isotropic in R^d, one scale per component, no bilinear form; zero outside the half-space x_0 > -9."""

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        square = ((x[:, None] - w["loc"]) ** 2).sum(-1)
        inside = -0.5 * square / w["scale"] ** 2 - x.shape[1] * w["scale"].log()
        return inside.masked_fill(x[:, :1] <= -9, -torch.inf)

    def bilinear(self, x: Tensor, w: Params) -> None:
        return None


class Tilted(Normal):
    """With a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tilt = nn.Parameter(torch.zeros(()))

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        return super().pairwise_log_prob(x, w) + self.tilt


def vmf_case(n: int, m: int, k: int, concentration: float) -> Case:
    loc = normalize(torch.randn(m, k), dim=1)
    w = {"loc": loc, "k": concentration * (0.5 + torch.rand(m))}
    return VonMisesFisher(), normalize(torch.randn(n, k), dim=1), w


def linear_case(n: int, m: int, k: int, size: float) -> Case:
    return Linear(), torch.randn(n, k + 1), {"psi": size * torch.randn(m, k), "bias": torch.randn(m)}


def normal_case(n: int, m: int, k: int, scale: float) -> Case:
    return Normal(), torch.randn(n, k), {"loc": torch.randn(m, k), "scale": scale * (0.5 + torch.rand(m))}


CASES: dict[str, tuple[Callable[[int, int, int, float], Case], int, float]] = {
    "vmf-wide": (vmf_case, 3, 2.0),
    "vmf-narrow": (vmf_case, 3, 1e4),
    "vmf-points": (vmf_case, 3, 1e6),
    "vmf-36": (vmf_case, 36, 300.0),
    "linear": (linear_case, 3, 1.0),
    "linear-steep": (linear_case, 36, 50.0),
    "normal": (normal_case, 2, 1.0),
    "normal-narrow": (normal_case, 3, 0.02),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    before = torch.get_num_threads()
    monkeypatch.setattr(tiles, "PAIRS_PER_THREAD", 1)
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def evaluate(
    kernel: PairwiseKernel,
    x: Tensor,
    w: Params,
    log_weights: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> list[Tensor]:
    """Values and the gradients of a random combination of them, in float64."""
    leaves = {name: value.to(dtype).detach().requires_grad_() for name, value in {"x": x, **w}.items()}
    if log_weights is not None:
        leaves["log_weights"] = log_weights.to(dtype).detach().requires_grad_()
    params = {name: leaves[name] for name in w}
    value = mixture_log_prob(kernel, leaves["x"], params, leaves.get("log_weights"), **options)
    assert value.dtype == dtype and value.shape == (len(x),)
    cotangent = torch.linspace(-1, 2, len(x), dtype=dtype, device=x.device)
    grads = torch.autograd.grad(value, list(leaves.values()), cotangent)
    return [tensor.double() for tensor in (value.detach(), *grads)]


@pytest.mark.parametrize("name", CASES)
def test_float32_is_as_close_to_float64_as_dense(name: str, threads: int) -> None:
    make, k, size = CASES[name]
    kernel, x, w = make(300, 2000, k, size)
    exact = evaluate(kernel, x, w, backend="dense")
    dense = evaluate(kernel, x, w, backend="dense", dtype=torch.float32)
    chunked = evaluate(kernel, x, w, backend="chunked", dtype=torch.float32)
    eps = torch.finfo(torch.float32).eps
    for reference, rival, value in zip(exact, dense, chunked, strict=True):
        allowed = 3 * (rival - reference).abs().max() + 20 * eps * reference.abs().max()
        assert (value - reference).abs().max() <= allowed


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 10**6])
@pytest.mark.parametrize(("n", "m"), [(0, 5), (1, 1), (1, 60), (60, 1), (33, 70)])
@pytest.mark.parametrize("name", ["vmf-narrow", "linear", "normal"])
def test_any_shape_and_chunk_size(name: str, n: int, m: int, chunk_size: int | None, threads: int) -> None:
    make, k, size = CASES[name]
    kernel, x, w = make(n, m, k, size)
    exact = evaluate(kernel, x, w, backend="dense")
    chunked = evaluate(kernel, x, w, backend="chunked", chunk_size=chunk_size)
    torch.testing.assert_close(chunked, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_power_and_weights(name: str) -> None:
    make, k, size = CASES[name]
    kernel, x, w = make(40, 90, k, size)
    log_weights = torch.randn(90).log_softmax(0).index_fill(0, torch.tensor([0, 17]), -torch.inf)
    exact = evaluate(kernel, x, w, log_weights, backend="dense", power=2.0)
    chunked = evaluate(kernel, x, w, log_weights, backend="chunked", power=2.0, chunk_size=16)
    torch.testing.assert_close(chunked, exact, rtol=1e-9, atol=1e-9)
    double = {key: value.double() for key, value in w.items()}
    logits = kernel.pairwise_log_prob(x.double(), double) + log_weights
    torch.testing.assert_close(exact[0], torch.logsumexp(2 * logits, 1))
    assert all(grad[..., [0, 17]].eq(0).all() for grad in chunked[-1:])


@pytest.mark.parametrize("name", CASES)
def test_inference_mode(name: str, threads: int) -> None:
    make, k, size = CASES[name]
    kernel, x, w = make(300, 700, k, size)
    expected = mixture_log_prob(kernel, x, w, backend="chunked")
    with torch.inference_mode():
        assert mixture_log_prob(kernel, x, w, backend="chunked").equal(expected)


@pytest.mark.parametrize("name", ["vmf-wide", "normal"])
def test_gradcheck(name: str) -> None:
    make, k, size = CASES[name]
    kernel, x, w = make(4, 6, k, size)
    inputs = [t.double().requires_grad_() for t in (x, *w.values())]

    def function(x: Tensor, *params: Tensor) -> Tensor:
        return mixture_log_prob(kernel, x, dict(zip(w, params, strict=True)), backend="chunked", chunk_size=4)

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["linear", "normal"])
def test_what_contributes_nothing_has_no_gradient(name: str, dtype: torch.dtype) -> None:
    kernel, x, w = CASES[name][0](20, 30, 3, 1.0)
    w["psi" if name == "linear" else "loc"][7:] = 1e3
    x = x.abs().neg()
    _, _, *grads = evaluate(kernel, x, w, backend="chunked", dtype=dtype, chunk_size=8)
    assert all(grad[7:].eq(0).all() and grad[:7].ne(0).all() for grad in grads)


def test_shared_parameter_and_strided_inputs() -> None:
    kernel, x, w = normal_case(31, 50, 3, 1.0)
    x, w["loc"], w["scale"] = x.t().contiguous().t(), w["loc"].repeat(1, 2)[:, ::2], w["scale"][:1]
    exact = evaluate(kernel, x, w, backend="dense")
    chunked = evaluate(kernel, x, w, backend="chunked", chunk_size=8)
    assert chunked[-1].shape == (1,)
    torch.testing.assert_close(chunked, exact)


@pytest.mark.parametrize("backend", ["dense", "chunked"])
@pytest.mark.parametrize("kind", ["linear", "normal"])
def test_uncovered_points_have_minus_infinity_and_no_gradient(kind: str, backend: str) -> None:
    kernel, x, w = CASES[kind][0](8, 12, 3, 1.0)
    x[3, 0] = -torch.inf if kind == "linear" else -10.0
    value, grad_x, *grads = evaluate(kernel, x, w, backend=backend, chunk_size=5)
    assert value.isinf().nonzero().tolist() == [[3]] and value[3] < 0
    assert grad_x[3].eq(0).all() and all(grad.isfinite().all() for grad in (grad_x, *grads))
    keep = torch.arange(8) != 3
    cotangent_free = evaluate(kernel, x[keep], w, backend=backend)[0]
    torch.testing.assert_close(value[keep], cotangent_free)


@pytest.mark.parametrize("backend", ["dense", "chunked"])
@pytest.mark.parametrize("kind", ["linear", "normal"])
def test_components_without_weight_cover_nothing(kind: str, backend: str) -> None:
    kernel, x, w = CASES[kind][0](8, 12, 3, 1.0)
    value, *grads = evaluate(kernel, x, w, torch.full((12,), -torch.inf), backend=backend)
    assert value.eq(-torch.inf).all() and all(grad.eq(0).all() for grad in grads)


@pytest.mark.parametrize("backend", ["dense", "chunked"])
@pytest.mark.parametrize("kind", ["linear", "normal"])
def test_nan_and_infinity_are_not_hidden(kind: str, backend: str) -> None:
    kernel, x, w = CASES[kind][0](6, 9, 3, 1.0)
    x[2, 1] = torch.nan
    value, grad_x, *_ = evaluate(kernel, x, w, backend=backend, chunk_size=4)
    assert value.isnan().nonzero().tolist() == [[2]] and grad_x[2].isnan().any()
    name = "bias" if kind == "linear" else "scale"
    w[name][5] = torch.nan
    assert evaluate(kernel, x, w, backend=backend, chunk_size=4)[0].isnan().all()


@pytest.mark.parametrize("start", [0, 7])
def test_infinite_bias_gives_an_infinite_density(start: int) -> None:
    kernel, x, w = linear_case(6, 9, 3, 1.0)
    w["bias"][start] = torch.inf
    value, grad_x, *_ = evaluate(kernel, x, w, backend="chunked", chunk_size=2)
    assert value.eq(torch.inf).all() and grad_x.isnan().any(1).all()


def test_nan_in_one_row_does_not_hide_an_overflow_in_another() -> None:
    kernel, x, w = linear_case(6, 9, 3, 1.0)
    x[:, 1:], x[2] = 1.0, torch.nan
    w["psi"][-1] = 1e4
    value = mixture_log_prob(kernel, x, w, backend="chunked", chunk_size=2)
    torch.testing.assert_close(value, mixture_log_prob(kernel, x, w, backend="dense"), equal_nan=True)


def test_sums_of_almost_overflowing_tiles_do_not_overflow() -> None:
    x, w = torch.tensor([[0.0, 1.0]]), {"psi": torch.full((9, 1), 88.0), "bias": torch.zeros(9)}
    w["psi"][0], w["bias"][0] = 0.0, 1.0  # the largest bias is the first guess of the maximum
    value = mixture_log_prob(Linear(), x, w, backend="chunked", chunk_size=1)
    torch.testing.assert_close(value, mixture_log_prob(Linear(), x, w, backend="dense"))


def test_chunked_allocates_no_matrix_of_pairs() -> None:
    if sys.platform != "linux":
        pytest.skip("reads the peak memory from /proc")
    script = """
import re, torch
from tests.test_backends import linear_case, normal_case
from mf_manifold.backends import mixture_log_prob
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
torch.set_num_threads(2)
def run(make, n, m):
    kernel, x, w = make(n, m, 3, 1.0)
    for value in w.values():
        value.requires_grad_()
    mixture_log_prob(kernel, x, w, backend="chunked").sum().backward()
for make, n, m in [(linear_case, 8192, 16384), (normal_case, 2048, 8192)]:
    run(make, 300, 700)
    before = peak()
    run(make, n, m)
    print(peak() - before, n * m * 4 / 2**20)
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    measured = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert len(measured) == 2 and all(extra < 48 < pairs for extra, pairs in measured), measured


@pytest.mark.parametrize("backend", ["dense", "chunked"])
@pytest.mark.parametrize("name", ["vmf-narrow", "linear", "normal"])
def test_tensors_are_made_on_the_device_of_the_inputs(name: str, backend: str) -> None:
    make, k, size = CASES[name]
    case = make(20, 30, k, size)
    expected = evaluate(*case, backend=backend)
    with torch.device("meta"):
        found = evaluate(*case, backend=backend)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", ["dense", "chunked"])
@pytest.mark.parametrize("name", ["vmf-wide", "linear", "normal"])
def test_autocast_does_not_lower_the_precision(name: str, backend: str) -> None:
    make, k, size = CASES[name]
    kernel, x, w = make(30, 40, k, size)
    expected = mixture_log_prob(kernel, x, w, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(mixture_log_prob(kernel, x, w, backend=backend), expected)


def test_product_is_float64_where_float32_would_err() -> None:
    small, large, bias = torch.full((4, 3), 1.0), torch.full((5, 3), 200.0), torch.zeros(5)
    assert product_dtype(small, small, bias[:4], torch.float32) == torch.float32
    assert product_dtype(small, large, bias, torch.float32) == torch.float64
    assert product_dtype(small, small, bias[:4] - 1e4, torch.float32) == torch.float64
    assert product_dtype(small, small, bias[:4] - torch.inf, torch.float32) == torch.float32
    assert product_dtype(small, small, bias[:4], torch.float64) == torch.float64


def test_product_is_float64_where_float32_may_be_rounded() -> None:
    ones, setting = torch.ones(4, 3), torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "bf16"
        assert product_dtype(ones, ones, torch.zeros(4), torch.float32) == torch.float64
    finally:
        setting.fp32_precision = before
    assert product_dtype(ones, ones, torch.zeros(4), torch.float32) == torch.float32


@pytest.mark.parametrize("name", ["linear", "normal"])
def test_dense_can_be_differentiated_twice_and_chunked_says_that_it_cannot(name: str) -> None:
    kernel, x, w = CASES[name][0](3, 4, 2, 1.0)
    w = {name: value.double() for name, value in w.items()}
    x = x.double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: mixture_log_prob(kernel, x, w, backend="dense"), x)
    value = mixture_log_prob(kernel, x, w, backend="chunked").sum()
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="Use backend='dense'"):
        grad.sum().backward()


def test_auto_falls_back_where_chunked_has_reasons() -> None:
    kernel, (_, x, w) = Tilted(), normal_case(300, 300, 2, 1.0)
    mixture_log_prob(kernel, x, w).sum().backward()
    assert kernel.tilt.grad == 300
    with pytest.raises(ValueError, match=r"'chunked' cannot run here: the kernel has parameters"):
        mixture_log_prob(kernel, x, w, backend="chunked")
    with torch.no_grad():
        torch.testing.assert_close(
            mixture_log_prob(kernel, x, w, backend="chunked"), mixture_log_prob(kernel, x, w, backend="dense")
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "fused"}, "Unknown backend 'fused'"),
        ({"chunk_size": 0}, "chunk_size >= 1"),
        ({"power": 0.0}, "power > 0"),
        ({"x": torch.tensor(1.0)}, "got a scalar"),
        ({"log_weights": torch.zeros(3)}, r"shape \(4,\), got \(3,\)"),
        ({"w": {"loc": torch.zeros(4, 2), "scale": torch.ones(3)}}, "one leading dimension M"),
        ({"w": {"loc": torch.zeros(0, 2), "scale": torch.ones(1)}}, "one leading dimension M"),
        ({"w": {"loc": torch.zeros(4, 2), "scale": torch.tensor(1.0)}}, "'scale'"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": torch.zeros(5, 2), "w": {"loc": torch.zeros(4, 2), "scale": torch.ones(4)}}
    with pytest.raises(ValueError, match=message):
        mixture_log_prob(Normal(), **{**arguments, **change})
