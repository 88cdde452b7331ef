"""Scalar special functions and Bessel functions against mpmath, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from torch import Tensor

from mf_manifold.numerics import bessel, circular, special

mp.mp.dps = 50
DTYPES = [torch.float64, torch.float32]
DOUBLE = torch.float64


def tolerance(dtype: torch.dtype, ulps: float) -> float:
    return ulps * torch.finfo(dtype).eps


def value_and_derivatives(function: Callable[[Tensor], Tensor], x: Tensor) -> list[list[float]]:
    x = x.clone().requires_grad_()
    value = function(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return [value.tolist(), first.tolist(), second.tolist()]


def worst(found: list[float], expected: list[mp.mpf], floor: float = 0.0) -> float:
    return max(float(abs(a - b) / max(abs(b), floor)) for a, b in zip(found, expected, strict=True))


def assert_derivatives(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    assert torch.autograd.gradcheck(function, inputs, eps=1e-7, rtol=1e-5)
    assert torch.autograd.gradgradcheck(function, inputs, eps=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_sinhc_and_its_derivatives_match_mpmath(dtype: torch.dtype) -> None:
    x = torch.tensor([1e-12, 1e-6, 1e-3, 0.1, 0.999, 1.0, 1.001, 3.0, 30.0, 300.0], dtype=dtype)
    points = [mp.mpf(v) for v in x.tolist()]
    expected = [
        [mp.log(mp.sinh(v) / v) for v in points],
        [mp.coth(v) - 1 / v for v in points],
        [1 / v**2 - mp.csch(v) ** 2 for v in points],
    ]
    for found, reference in zip(value_and_derivatives(special.log_sinhc, x), expected, strict=True):
        assert worst(found, reference, 1e-20) < tolerance(dtype, 20)
    assert torch.equal(special.log_sinhc(-x), special.log_sinhc(x))
    assert worst(special.sinhc(x[:-2]).tolist(), [mp.sinh(v) / v for v in points[:-2]]) < tolerance(dtype, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_sinc_abs_and_its_derivatives_match_mpmath(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e-6, 1e-3, 0.1, 0.999, 1.0, -1.001, 2.0, 3.0, 3.14, 7.0, -20.0], dtype=dtype)
    points = [mp.mpf(v) for v in x.tolist()]
    expected = [
        [mp.log(abs(mp.sin(v) / v)) for v in points],
        [mp.cot(v) - 1 / v for v in points],
        [1 / v**2 - mp.csc(v) ** 2 for v in points],
    ]
    for found, reference in zip(value_and_derivatives(special.log_sinc_abs, x), expected, strict=True):
        assert worst(found, reference) < tolerance(dtype, 20)


@pytest.mark.parametrize("function", [special.log_sinhc, special.sinhc, special.log_sinc_abs])
def test_even_functions_are_smooth_at_zero(function: Callable[[Tensor], Tensor]) -> None:
    curvature = -1 / 3 if function is special.log_sinc_abs else 1 / 3
    value, first, second = value_and_derivatives(function, torch.zeros(1, dtype=DOUBLE))
    assert value == [1.0 if function is special.sinhc else 0.0]
    assert first == [0.0]
    assert second == pytest.approx([curvature], rel=1e-15)
    x = torch.tensor([-3.0, -1.01, -0.99, -1e-3, 0.0, 0.4, 2.0], dtype=DOUBLE, requires_grad=True)
    assert_derivatives(function, x)


def test_log_sinhc_does_not_overflow_and_log_sinc_falls_at_a_multiple_of_pi() -> None:
    x = torch.tensor([1e30, -1e30], requires_grad=True)
    value = special.log_sinhc(x)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert x.grad is not None and x.grad.tolist() == [1.0, -1.0]
    assert special.log_sinc_abs(torch.tensor(math.pi, dtype=DOUBLE)).item() < -36.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_angles_from_chords_match_mpmath(dtype: torch.dtype) -> None:
    chord2 = torch.tensor([1e-30, 1e-12, 1e-3, 0.0999, 0.1001, 2.0, 3.9, 3.9999], dtype=dtype)
    angles = [2 * mp.asin(mp.sqrt(mp.mpf(c)) / 2) for c in chord2.tolist()]
    squared = value_and_derivatives(special.angle2_from_chord2, chord2)
    second = [(mp.sin(t) - t * mp.cos(t)) / (2 * mp.sin(t) ** 3) for t in angles[1:]]
    assert worst(squared[0], [t**2 for t in angles]) < tolerance(dtype, 4)
    assert worst(squared[1], [t / mp.sin(t) for t in angles]) < tolerance(dtype, 4)
    assert worst(squared[2][1:], second) < tolerance(dtype, 100)


@pytest.mark.parametrize("dtype", DTYPES)
def test_angles_at_the_ends_and_outside(dtype: torch.dtype) -> None:
    chord2 = torch.tensor([-1e-6, 0.0, 4.0, 4.0 + 1e-6, -0.1, 4.1], dtype=dtype, requires_grad=True)
    squared = special.angle2_from_chord2(chord2)
    (slope2,) = torch.autograd.grad(squared[:4].sum(), chord2)
    assert squared[:2].tolist() == [0.0, 0.0]
    assert squared[2:4].tolist() == pytest.approx([math.pi**2] * 2, rel=1e-6)
    assert slope2[:4].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert squared[4:].isnan().all()
    (curvature,) = torch.autograd.functional.hessian(special.angle2_from_chord2, chord2.detach()[1:2])
    assert curvature.item() == pytest.approx(1 / 6, rel=1e-6)


def wishart_reference(df: float, p: int) -> list[mp.mpf]:
    nu, pairs = mp.mpf(df), mp.mpf(p * (p - 1)) / 4
    halves = [(nu - j) / 2 for j in range(p)]
    log_gamma_p = pairs * mp.log(mp.pi) + sum(mp.loggamma(z) for z in halves)
    value = nu * p / 2 * mp.log(nu / 2) - nu * p / 2 - log_gamma_p - pairs * mp.log(2)
    first = mp.mpf(p) / 2 * mp.log(nu / 2) - sum(mp.digamma(z) for z in halves) / 2
    return [value, first, mp.mpf(p) / (2 * nu) - sum(mp.psi(1, z) for z in halves) / 4]


@pytest.mark.parametrize("p", [1, 2, 5, 10])
@pytest.mark.parametrize("dtype", DTYPES)
def test_wishart_constant_matches_mpmath(dtype: torch.dtype, p: int) -> None:
    df = torch.tensor([p - 1 + 1e-3, p - 0.5, p + 5.0, 20.0 + p, 100.0, 1e3, 1e5, 1e7], dtype=dtype)
    expected = [wishart_reference(v, p) for v in df.tolist()]
    found = value_and_derivatives(lambda x: special.wishart_log_constant(x, p), df)
    limits = (1e-12, 1e-11, 1e-11) if dtype == DOUBLE else (3e-5, 2e-7, 2e-7)
    assert max(abs(a - b[0]) for a, b in zip(found[0], expected, strict=True)) < limits[0]
    assert worst(found[1], [b[1] for b in expected]) < limits[1]
    assert worst(found[2], [b[2] for b in expected]) < limits[2]


def test_wishart_constant_rejects_bad_input() -> None:
    assert special.wishart_log_constant(torch.tensor([2.9, 1.0, -3.0]), 4).isnan().all()
    with pytest.raises(ValueError, match="p must be a positive integer"):
        special.wishart_log_constant(torch.tensor(3.0), 0)


def wrapped_reference(delta: mp.mpf, scale: mp.mpf) -> list[mp.mpf]:
    """Log-density, its gradients in delta and in scale."""
    delta = delta - 2 * mp.pi * mp.nint(delta / (2 * mp.pi))
    if scale < 3:
        r = [delta + 2 * mp.pi * k for k in range(-9, 10)]
        terms = [mp.exp(-(v**2) / (2 * scale**2)) for v in r]
        mass = sum(terms)
        first, second = (sum(t * v**n for t, v in zip(terms, r, strict=True)) / mass for n in (1, 2))
        value = mp.log(mass) - mp.log(scale * mp.sqrt(2 * mp.pi))
        return [value, -first / scale**2, second / scale**3 - 1 / scale]
    waves = [(m, 2 * mp.exp(-(m**2) * scale**2 / 2)) for m in range(1, 12)]
    mass = 1 + sum(a * mp.cos(m * delta) for m, a in waves)
    slope = -sum(m * a * mp.sin(m * delta) for m, a in waves) / mass
    bend = -sum(m * m * a * mp.cos(m * delta) for m, a in waves) / mass
    return [mp.log(mass / (2 * mp.pi)), slope, scale * bend]


SCALES = [1e-4, 1e-2, 0.3, 0.7, 0.8, 1.5, 2.5, 2.51, 4.0, 9.0, 1e3]
DELTAS = [-20.0, -3.14159, -1.3, -1e-4, 0.0, 0.5, 2.0, 3.1, 6.2, 9.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrapped_normal_matches_mpmath_at_every_scale(dtype: torch.dtype) -> None:
    delta = torch.tensor(DELTAS, dtype=dtype, requires_grad=True)
    for s in SCALES:
        scale = torch.full_like(delta, s).requires_grad_()
        value = circular.log_wrapped_normal_1d(delta, scale)
        found = [value, *torch.autograd.grad(value.sum(), (delta, scale))]
        pairs = zip(delta.tolist(), scale.tolist(), strict=True)
        expected = [wrapped_reference(mp.mpf(a), mp.mpf(b)) for a, b in pairs]
        floors = (1.0, *([1.0 / s] * 2 if s < 2.6 else [2.0 * math.exp(-s * s / 2)] * 2))
        limits = (tolerance(dtype, 10), tolerance(dtype, 600), tolerance(dtype, 600))
        for i, (floor, limit) in enumerate(zip(floors, limits, strict=True)):
            assert worst(found[i].tolist(), [e[i] for e in expected], max(floor, 1e-300)) < limit, (s, i)


def test_wrapped_normal_integrates_to_one() -> None:
    delta = -math.pi + 2 * math.pi * torch.arange(20000, dtype=DOUBLE) / 20000
    scale = torch.tensor([0.01, 0.5, 2.0, 2.6, 10.0], dtype=DOUBLE)
    mass = circular.log_wrapped_normal_1d(delta[:, None], scale).exp().mean(0) * 2 * math.pi
    assert torch.allclose(mass, torch.ones_like(mass), rtol=0, atol=1e-13)


@pytest.mark.parametrize("scales", [[0.2, 0.7], [1.0, 2.4], [2.6, 5.0], [0.3, 2.5, 2.51, 4.0]])
def test_wrapped_normal_derivatives_in_each_mix_of_regimes(scales: list[float]) -> None:
    delta = torch.tensor([[-9.0], [-3.1], [0.0], [0.3], [3.14]], dtype=DOUBLE, requires_grad=True)
    scale = torch.tensor(scales, dtype=DOUBLE, requires_grad=True)
    assert_derivatives(circular.log_wrapped_normal_1d, delta, scale)


def test_wrapped_normal_mixed_scales_agree_with_each_scale_alone() -> None:
    delta = torch.tensor(DELTAS, dtype=DOUBLE)
    scale = torch.tensor(SCALES, dtype=DOUBLE)[:, None]
    together = circular.log_wrapped_normal_1d(delta, scale)
    alone = torch.stack([circular.log_wrapped_normal_1d(delta, s) for s in SCALES])
    assert torch.allclose(together, alone, rtol=1e-15, atol=1e-15)
    stated = circular.log_wrapped_normal_1d(delta, scale, scale_range=(1e-4, 1e3))
    assert torch.equal(stated, together)


@pytest.mark.parametrize(
    ("dtype", "narrow", "most"), [(torch.float64, 0.74, (6, 3)), (torch.float32, 1.1, (4, 2))]
)
def test_wrapped_normal_sums_only_the_terms_that_count(
    dtype: torch.dtype, narrow: float, most: tuple[int, int]
) -> None:
    eps = torch.finfo(dtype).eps
    assert circular._term_counts(1e-4, narrow, eps) == (1, 0)
    assert circular._term_counts(1e-4, 1.02 * narrow, eps) == (2, 0)
    assert circular._term_counts(1e-4, 1e3, eps) == most
    assert circular._term_counts(12.0, 1e3, eps) == (0, 1)


def test_wrapped_normal_rejects_a_scale_that_is_not_positive() -> None:
    for scale in (0.0, -1.0, torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="scale must be positive"):
            circular.log_wrapped_normal_1d(torch.zeros(2), scale)


KAPPAS = [1e-6, 1e-3, 0.1, 1.0, 3.0, 10.0, 50.0, 300.0, 1e3, 1e5, 1e8]


@pytest.mark.parametrize("dim", [2, 3, 4, 7, 21, 50, 64, 257, 1000])
def test_vmf_normalizer_matches_mpmath(dim: int) -> None:
    nu = mp.mpf(dim) / 2 - 1
    points = [mp.mpf(k) for k in KAPPAS]
    bessels = [mp.besseli(nu, k) for k in points]
    ratios = [mp.besseli(nu + 1, k) / i for k, i in zip(points, bessels, strict=True)]
    log_area = (nu + 1) * mp.log(2 * mp.pi)
    expected = [nu * mp.log(k) - log_area - mp.log(i) + k for k, i in zip(points, bessels, strict=True)]
    second = [-(1 - a**2 - (dim - 1) * a / k) for k, a in zip(points, ratios, strict=True)]
    kappa = torch.tensor(KAPPAS, dtype=DOUBLE)
    found = value_and_derivatives(lambda k: bessel.log_vmf_normalizer(dim, k), kappa)
    assert worst(found[0], expected, 1.0) < 1e-13
    assert worst(found[1], [1 - a for a in ratios]) < 1e-13
    assert worst(found[2], second) < 1e-12
    assert worst(bessel.bessel_ratio(dim, kappa).tolist(), ratios) < 1e-13
    assert worst(bessel.one_minus_bessel_ratio(dim, kappa).tolist(), [1 - a for a in ratios]) < 1e-13
    single = bessel.log_vmf_normalizer(dim, kappa.float())
    rounded = bessel.log_vmf_normalizer(dim, kappa.float().double())
    assert single.dtype == torch.float32 and torch.equal(single, rounded.float())


@pytest.mark.parametrize("dim", [2, 3, 10, 1000])
def test_vmf_normalizer_at_zero_concentration(dim: int) -> None:
    value, first, second = value_and_derivatives(
        lambda k: bessel.log_vmf_normalizer(dim, k), torch.zeros(1, dtype=DOUBLE)
    )
    half = mp.mpf(dim) / 2
    assert value == pytest.approx([float(mp.loggamma(half) - mp.log(2) - half * mp.log(mp.pi))], rel=1e-14)
    assert first == [1.0]
    assert second == pytest.approx([-1.0 / dim], rel=1e-13)
    ratio = value_and_derivatives(lambda k: bessel.bessel_ratio(dim, k), torch.zeros(1, dtype=DOUBLE))
    assert ratio[0] == [0.0] and ratio[1] == pytest.approx([1.0 / dim], rel=1e-13)


@pytest.mark.parametrize("nu", [-0.5, 0.0, 0.3, 1.0, 7.5, 511.5])
def test_log_iv_matches_mpmath(nu: float) -> None:
    kappa = torch.tensor([1e-6, 0.1, 1.0, 20.0, 1e3, 1e5], dtype=DOUBLE)
    points = [mp.mpf(k) for k in kappa.tolist()]
    found = value_and_derivatives(lambda k: bessel.log_iv(nu, k), kappa)
    slopes = [mp.besseli(nu + 1, k) / mp.besseli(nu, k) + mp.mpf(nu) / k for k in points]
    assert worst(found[0], [mp.log(mp.besseli(nu, k)) for k in points], 1.0) < 1e-13
    assert worst(found[1], slopes, 1e-3) < 1e-12


def test_bessel_functions_reject_bad_orders_and_accept_zero() -> None:
    zero = torch.zeros((), dtype=DOUBLE)
    assert bessel.log_iv(0.0, zero).item() == 0.0
    assert bessel.log_iv(1.0, zero).item() == -math.inf
    with pytest.raises(ValueError, match="nu must be at least"):
        bessel.log_iv(-0.6, zero)
    for function in (bessel.log_vmf_normalizer, bessel.bessel_ratio, bessel.one_minus_bessel_ratio):
        with pytest.raises(ValueError, match="ambient dimension"):
            function(1, zero)


def test_second_derivatives_of_the_bessel_functions() -> None:
    kappa = torch.tensor([0.0, 0.5, 5.0, 50.0], dtype=DOUBLE, requires_grad=True)
    for dim in (2, 3, 30):
        assert_derivatives(lambda k, dim=dim: bessel.log_vmf_normalizer(dim, k), kappa)
        assert_derivatives(lambda k, dim=dim: bessel.bessel_ratio(dim, k), kappa)


ELEMENTWISE: list[Callable[[Tensor], Tensor]] = [
    special.log_sinhc,
    special.sinhc,
    special.log_sinc_abs,
    special.angle2_from_chord2,
    lambda x: special.wishart_log_constant(x + 3.0, 3),
    lambda x: circular.log_wrapped_normal_1d(x, 1.0 + x, scale_range=(1.0, 4.0)),
    lambda x: bessel.log_vmf_normalizer(3, x),
    lambda x: bessel.log_iv(1.0, x),
]


@pytest.mark.parametrize("function", ELEMENTWISE)
def test_default_device_and_function_transforms(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([0.02, 0.7, 2.9], dtype=DOUBLE, requires_grad=True)
    (expected,) = torch.autograd.grad(function(x).sum(), x)
    with torch.device("meta"):
        value = function(x)
        (found,) = torch.autograd.grad(value.sum(), x)
    assert value.device.type == found.device.type == "cpu"
    assert torch.equal(found, expected)
    mapped = torch.func.vmap(torch.func.grad(function))(x.detach())
    assert torch.allclose(mapped, expected, rtol=1e-14)
    assert function(x.float()).dtype == torch.float32
    assert function(x.reshape(3, 1)).shape == (3, 1)
