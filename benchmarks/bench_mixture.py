"""The streaming mixture reduction against torch.logsumexp over all pairs: time, memory and error.

    python benchmarks/bench_mixture.py --rounds 5 --json mixture.json

One thread by default. Times are CPU seconds (wall seconds with more threads); a speed-up is the median over interleaved
rounds of the ratio within a round, so that a busy machine disturbs both sides. Extra memory is the growth of the peak
resident size during forward and backward, in a process of its own. Errors are the largest deviations from float64 of
the values (nats) and of the gradients (relative to their largest entry), for the first 512 points.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mf_manifold.backends import Bilinear, PairwiseKernel, mixture_log_prob

Params = dict[str, Tensor]
Reduction = Callable[[PairwiseKernel, Tensor, Params], Tensor]


class Cosine(nn.Module):
    """log q = concentration * (x.w - 1) on the unit sphere, the von Mises-Fisher form, as one matrix product."""

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        return x @ w["psi"].T + w["bias"]

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        return Bilinear(x, w["psi"], w["bias"], x.new_zeros(len(x)))

    def inputs(self, n: int, m: int, k: int, concentration: float) -> tuple[Tensor, Params]:
        size = concentration * (0.5 + torch.rand(m))
        return normalize(torch.randn(n, k), dim=1), {"psi": size[:, None] * normalize(torch.randn(m, k), dim=1), "bias": -size}


class WrappedNormal(nn.Module):
    """On the torus with three windings per angle; no matrix product."""

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        turns = torch.arange(-1, 2, dtype=x.dtype, device=x.device) * (2 * torch.pi)
        delta = torch.remainder(x[:, None] - w["loc"] + torch.pi, 2 * torch.pi) - torch.pi
        logits = -0.5 * ((delta[..., None] + turns) / w["scale"][:, None, None]) ** 2
        return torch.logsumexp(logits, -1).sum(-1) - x.shape[1] * w["scale"].log()

    def bilinear(self, x: Tensor, w: Params) -> None:
        return None

    def inputs(self, n: int, m: int, k: int, concentration: float) -> tuple[Tensor, Params]:
        angles = (torch.rand(n + m, k) * 2 - 1) * torch.pi
        return angles[:n], {"loc": angles[n:], "scale": concentration**-0.5 * (0.5 + torch.rand(m))}


class Case(NamedTuple):
    """N points, M components, K features (angles for the torus)."""

    kernel: type[Cosine] | type[WrappedNormal]
    n: int
    m: int
    k: int
    concentration: float

    def inputs(self, n: int) -> tuple[PairwiseKernel, Tensor, Params]:
        torch.manual_seed(0)
        kernel = self.kernel()
        return kernel, *kernel.inputs(n, self.m, self.k, self.concentration)


CASES = {
    "K=3": Case(Cosine, 8192, 16384, 3, 10.0),
    "K=36": Case(Cosine, 4096, 8192, 36, 10.0),
    "K=3 small": Case(Cosine, 1024, 2048, 3, 10.0),
    "K=3 narrow 1e4": Case(Cosine, 8192, 16384, 3, 1e4),
    "K=3 narrow 1e6": Case(Cosine, 8192, 16384, 3, 1e6),
    "K=36 narrow 1e4": Case(Cosine, 4096, 8192, 36, 1e4),
    "torus d=2": Case(WrappedNormal, 2048, 4096, 2, 10.0),
}


def dense(kernel: PairwiseKernel, x: Tensor, w: Params) -> Tensor:
    return torch.logsumexp(kernel.pairwise_log_prob(x, w), 1)


def chunked(kernel: PairwiseKernel, x: Tensor, w: Params) -> Tensor:
    return mixture_log_prob(kernel, x, w, torch.zeros_like(next(iter(w.values()))[:, 0]), backend="chunked")


METHODS: dict[str, Reduction] = {"dense": dense, "chunked": chunked}


def forward(method: Reduction, kernel: PairwiseKernel, x: Tensor, w: Params) -> None:
    with torch.no_grad():
        method(kernel, x, w)


def gradients(method: Reduction, kernel: PairwiseKernel, x: Tensor, w: Params) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in (x, *w.values())]
    value = method(kernel, leaves[0], dict(zip(w, leaves[1:], strict=True)))
    return [value.detach(), *torch.autograd.grad(value.mean(), leaves)]


def seconds(work: Callable[..., Any], *arguments: Any) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work(*arguments)
    return clock() - start


def measure_times(case: Case, rounds: int) -> dict[str, float]:
    inputs, row = case.inputs(case.n), {}
    for name, work in {"fwd": forward, "fwd+bwd": gradients}.items():
        work(chunked, *inputs)
        pairs = [(seconds(work, dense, *inputs), seconds(work, chunked, *inputs)) for _ in range(rounds)]
        row[f"{name} dense s"], row[f"{name} chunked s"] = (statistics.median(side) for side in zip(*pairs, strict=True))
        row[f"{name} speed-up"] = statistics.median(slow / fast for slow, fast in pairs)
    return row


def measure_errors(case: Case) -> dict[str, float]:
    kernel, x, w = case.inputs(512)
    exact = gradients(dense, kernel, x.double(), {name: value.double() for name, value in w.items()})
    row = {}
    for name, method in METHODS.items():
        errors = [(a - b).abs().max() for a, b in zip(gradients(method, kernel, x, w), exact, strict=True)]
        row[f"value error {name}"] = float(errors[0])
        row[f"grad error {name}"] = max(float(e / b.abs().max()) for e, b in zip(errors[1:], exact[1:], strict=True))
    return row


def peak_mib() -> float:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def print_extra_memory(case: Case, method: Reduction) -> None:
    gradients(method, *CASES["K=3 small"]._replace(m=64).inputs(64))
    inputs = case.inputs(case.n)
    before = peak_mib()
    gradients(method, *inputs)
    print(peak_mib() - before)


def measure_memory(name: str, threads: int) -> dict[str, float]:
    if not Path("/proc/self/status").exists():
        return {}
    command = [sys.executable, __file__, "--threads", str(threads), "--cases", name, "--peak"]
    return {
        f"MiB {m}": float(subprocess.run([*command, m], capture_output=True, text=True, check=True).stdout) for m in METHODS
    }


def machine(threads: int) -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    cpu = model[1] if model else platform.processor()
    return {"cpu": cpu, "torch": torch.__version__, "vector width": torch.backends.cpu.get_cpu_capability(), "threads": threads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--peak", choices=METHODS, help="only print the extra memory of one method, in MiB")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print_extra_memory(CASES[options.cases[0]], METHODS[options.peak])
        return
    result: dict[str, Any] = {"machine": machine(options.threads), "cases": {}}
    print(", ".join(f"{key}: {value}" for key, value in result["machine"].items()))
    for name in options.cases:
        case = CASES[name]
        row = {**measure_times(case, options.rounds), **measure_errors(case), **measure_memory(name, options.threads)}
        result["cases"][name] = {"N": case.n, "M": case.m, "K": case.k, "concentration": case.concentration, **row}
        print(f"\n{name}: N={case.n} M={case.m}")
        for key, value in row.items():
            print(f"  {key:<22}{value:10.3g}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
