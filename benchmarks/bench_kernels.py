"""Every registered kernel: samples per second, and pairwise log densities against broadcasting ``log_prob``.

    python benchmarks/bench_kernels.py --spaces sphere2 spd3 --json kernels.json

One thread, float32 unless the kernel trains in float64 only; parameters are those of an untrained network. A speed-up is the
median over interleaved rounds of the ratio of CPU seconds within a round, so that a busy machine disturbs both sides.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import geoopt
import torch

import mf_manifold as mf
from mf_manifold.kernel import Kernel, Params

SPACES: dict[str, tuple[geoopt.Manifold, tuple[int, ...]]] = {
    "sphere2": (geoopt.Sphere(), (3,)),
    "sphere15": (geoopt.Sphere(), (16,)),
    "torus2": (mf.manifolds.Torus(), (2,)),
    "spd2": (geoopt.SymmetricPositiveDefinite(), (2, 2)),
    "spd3": (geoopt.SymmetricPositiveDefinite(), (3, 3)),
    "spd5": (geoopt.SymmetricPositiveDefinite(), (5, 5)),
    "rotations3": (mf.manifolds.SpecialOrthogonal(), (3, 3)),
    "quaternions": (mf.manifolds.UnitQuaternions(), (4,)),
    "lorentz2": (geoopt.Lorentz(), (3,)),
    "ball2": (geoopt.PoincareBall(), (2,)),
    "stiefel3x2": (geoopt.EuclideanStiefel(), (3, 2)),
    "grassmann4x2": (mf.manifolds.Grassmann(), (4, 2)),
    "simplex3": (mf.manifolds.Simplex(), (3,)),
    "correlation3": (mf.manifolds.Correlation(), (3, 3)),
    "ellipsoid2": (mf.manifolds.Ellipsoid([1.5, 1.0, 1.0]), (3,)),
    "ring": (mf.manifolds.TorusOfRevolution(2.0, 0.7), (3,)),
    "bowl": (mf.manifolds.surface("paraboloid"), (3,)),
    "euclidean3": (geoopt.Euclidean(ndim=1), (3,)),
}


def kernel_names(manifold: geoopt.Manifold) -> list[str]:
    """Names that are registered for the class of a manifold or one that it inherits from."""
    classes = {cls.__name__ for cls in type(manifold).__mro__}
    return [info.name for info in mf.registered_kernels() if info.manifold in classes]


def cpu_seconds(function: Callable[[], object], least: float) -> float:
    """CPU seconds of one call, averaged over as many as take ``least`` seconds."""
    calls, start = 0, time.process_time()
    while calls == 0 or time.process_time() - start < least:
        function()
        calls += 1
    return (time.process_time() - start) / calls


def components(kernel: Kernel, count: int, dtype: torch.dtype) -> Params:
    """Parameters of a network before training, without gradients."""
    raw = 0.3 * torch.randn(count, kernel.num_raw, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return {k: v.detach() for k, v in kernel.params(raw).items()}


def sampler_rate(kernel: Kernel, dtype: torch.dtype, draws: int, least: float) -> float:
    """Samples per CPU second of one component."""
    one = {k: v[0] for k, v in components(kernel, 1, dtype).items()}
    dist = mf.KernelDistribution(kernel, one, validate_args=False)
    dist.sample((16,))
    return draws / cpu_seconds(lambda: dist.sample((draws,)), least)


def pairwise_speed_up(kernel: Kernel, dtype: torch.dtype, size: int, rounds: int, least: float) -> tuple[float, float]:
    """CPU seconds of ``pairwise_log_prob`` for size x size pairs, and how many times longer broadcasting takes."""
    w = components(kernel, size, dtype)
    x = kernel.rsample(components(kernel, size, dtype), (), torch.Generator().manual_seed(1)).detach()
    broadcast = lambda: kernel.log_prob(x.unsqueeze(1), w)  # noqa: E731
    product = lambda: kernel.pairwise_log_prob(x, w)  # noqa: E731
    times = []
    with torch.no_grad():
        product()  # what is made once and kept
        for _ in range(rounds):
            times.append((cpu_seconds(product, least), cpu_seconds(broadcast, 0.0)))
    return statistics.median(a for a, _ in times), statistics.median(b / a for a, b in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="*", default=list(SPACES), choices=list(SPACES))
    parser.add_argument("--kernels", nargs="*", help="registry names; all by default")
    parser.add_argument("--size", type=int, default=2000, help="points and components of the pairwise comparison")
    parser.add_argument("--draws", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.2, help="seconds that a timing takes at least")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, N = M = {args.size}")
    print(f"{'space':<16}{'kernel':<34}{'dtype':<9}{'samples/s':>11}{'pairwise':>11}{'broadcast/pairwise':>20}")
    rows = []
    for space in args.spaces:
        manifold, shape = SPACES[space]
        for name in args.kernels or kernel_names(manifold):
            try:
                kernel = mf.kernel_for(manifold, shape, name)
            except (ValueError, NotImplementedError):  # other dimensions, such as Kent's, or a chart without bounds
                continue
            if not kernel.event_shapes:
                continue
            dtype = torch.float64 if kernel.needs_double else torch.float32
            rate = sampler_rate(kernel, dtype, args.draws, args.least)
            seconds, ratio = pairwise_speed_up(kernel, dtype, args.size, args.rounds, args.least)
            kind = str(dtype).removeprefix("torch.")
            print(f"{space:<16}{name:<34}{kind:<9}{rate:>11.2e}{1e3 * seconds:>8.1f} ms{ratio:>20.1f}", flush=True)
            row = {"space": space, "kernel": name, "dtype": kind, "samples_per_second": rate}
            rows.append({**row, "pairwise_seconds": seconds, "broadcast_over_pairwise": ratio})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
