"""Devices: shapes on the meta device everywhere, the suite's own check on a real one under ``--device``."""

from __future__ import annotations

import contextlib

import pytest
import torch
from table import CASES, MANIFOLDS
from table.common import Case

import mf_manifold as mf
from mf_manifold.kernel import Kernel
from mf_manifold.testing import check_device
from mf_manifold.testing.manifold import random_points

G = mf.geometry
KERNELS = {(type(case.kernel), case.kernel.manifold, *case.params): case for case in CASES if case.params}.values()


def _on_meta(case: Case) -> tuple[Kernel, dict[str, torch.Tensor]]:
    return case.kernel, {name: value.unsqueeze(0).to("meta") for name, value in case.params.items()}


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.id)
def test_meta_tensors_give_shapes(case: Case) -> None:
    kernel, w = _on_meta(case)
    x = torch.zeros(5, 1, *kernel.point_shape, dtype=torch.float64, device="meta")
    assert kernel.log_prob(x, w).shape == (5, 1)
    assert kernel.log_prob(x, w).is_meta
    pairs = kernel.pairwise_log_prob(x[:, 0].float(), {name: value.float() for name, value in w.items()})
    assert pairs.is_meta and pairs.dtype == torch.float32
    raw = torch.zeros(4, kernel.num_raw, device="meta")
    assert all(value.is_meta and len(value) == 4 for value in kernel.params(raw).values())


@pytest.mark.parametrize("name", MANIFOLDS)
def test_geometry_keeps_the_device(name: str) -> None:
    manifold, point_shape = MANIFOLDS[name]
    x, y = random_points(manifold, point_shape, 3, 0), random_points(manifold, point_shape, 3, 1)
    v = torch.ones(3, G.intrinsic_dim(manifold, point_shape), dtype=torch.float64)
    with torch.device("meta"):
        u = G.from_coords(manifold, x, v)
        results = [u, G.project(manifold, x)]
        results += [G.from_raw(manifold, G.to_raw(manifold, x), point_shape)]
        for function, other in ((G.expmap, u), (G.logmap, y), (G.dist, y), (G.logdet_expmap, u)):
            with contextlib.suppress(NotImplementedError):  # not every space has all of them
                results.append(function(manifold, x, other))
        results += [mf.log_ratio(mf.Measure(manifold, kind), mf.Measure(manifold), x) for kind in mf.measure_kinds(manifold)]
        G.check_points(manifold, x, point_shape)
    assert {result.device.type for result in results} == {"cpu"}


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.id)
def test_mixture_keeps_the_device(case: Case) -> None:
    w = {name: torch.stack([value, value]) for name, value in case.params.items()}
    with torch.device("meta"):
        mix = mf.Mixture(case.kernel, w, torch.zeros(2, dtype=torch.float64, device="cpu"))
        x = mix.sample((3,), generator=torch.Generator("cpu").manual_seed(0))
        results = [x, mix.log_prob(x), *mix.log_prob_interval(x), mix.component_log_prob(x)]
    assert {result.device.type for result in results} == {"cpu"}


@pytest.mark.gpu
def test_on_the_real_device(device: str) -> None:
    for case in filter(lambda case: case.params, CASES):
        check_device(case.kernel, case.params, device=device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_device_agrees_with_cpu(device: str, dtype: torch.dtype) -> None:
    for case in filter(lambda case: case.params, CASES):
        w = {name: value.to(dtype) for name, value in case.params.items()}
        x = case.kernel.rsample(w, (64,), torch.Generator().manual_seed(0))
        there = case.kernel.log_prob(x.to(device), {name: value.to(device) for name, value in w.items()})
        tolerance = 1e-9 if dtype == torch.float64 else 2 * case.options.get("dtypes", {}).get("tolerance", 1e-4)
        torch.testing.assert_close(there.cpu(), case.kernel.log_prob(x, w), rtol=tolerance, atol=tolerance, msg=case.id)
