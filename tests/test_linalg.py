"""Symmetric-matrix functions: values, derivatives also at repeated eigenvalues, coordinates, determinants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from torch import Tensor

from mf_manifold.numerics import divided_differences, linalg

DOUBLE = torch.float64
DTYPES = [torch.float64, torch.float32]
FUNCTIONS = {
    "log": (linalg.sym_logm, divided_differences.LOG, mp.log),
    "exp": (linalg.sym_expm, divided_differences.EXP, mp.exp),
    "sqrt": (linalg.sym_sqrtm, divided_differences.SQRT, mp.sqrt),
    "inv_sqrt": (linalg.sym_inv_sqrtm, divided_differences.INV_SQRT, lambda v: 1 / mp.sqrt(v)),
}
NODES = [1e-3, 0.5, 0.9, 1.0, 1.0 + 1e-6, 1.1, 1.21, 3.0, 30.0]


def rotation(p: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q: Tensor = torch.linalg.qr(torch.randn(p, p, dtype=DOUBLE, generator=generator)).Q
    return q


def with_eigenvalues(values: list[float], seed: int = 0) -> Tensor:
    q = rotation(len(values), seed)
    return linalg.sym((q * torch.tensor(values, dtype=DOUBLE)) @ q.T)


SPECTRA = [[1.0, 1.0, 1.0], [2.0, 0.5, 2.0], [1.0, 1.0 + 1e-7, 3.0], [0.3, 1.7, 4.0], [1.0, 1.15, 1.3]]


def divided_difference(function: Callable[[mp.mpf], mp.mpf], nodes: list[float]) -> mp.mpf:
    """Divided difference with coincident nodes spread by 1e-25 at 100 digits."""
    with mp.workdps(100):
        table = [mp.mpf(v) + i * mp.mpf(10) ** -25 for i, v in enumerate(sorted(nodes))]
        points, column = table, [function(v) for v in table]
        for order in range(1, len(points)):
            column = [
                (column[i + 1] - column[i]) / (points[i + order] - points[i]) for i in range(len(column) - 1)
            ]
        return column[0]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_divided_differences_match_mpmath(name: str, dtype: torch.dtype) -> None:
    _, spectral, reference = FUNCTIONS[name]
    nodes = torch.tensor(NODES, dtype=dtype)
    for order, function in ((2, spectral.first), (3, spectral.second)):
        choices = list(itertools.combinations_with_replacement(range(len(NODES)), order))
        index = torch.tensor(choices).T
        found = function(*(nodes[i] for i in index)).tolist()
        expected = [divided_difference(reference, [nodes[i].item() for i in choice]) for choice in choices]
        error = max(float(abs(a / b - 1)) for a, b in zip(found, expected, strict=True))
        assert error < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", FUNCTIONS)
def test_matrix_functions_have_two_derivatives_also_at_repeated_eigenvalues(name: str) -> None:
    function = FUNCTIONS[name][0]
    x = torch.stack([with_eigenvalues(v) for v in SPECTRA]).requires_grad_()
    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))
    single = torch.tensor([[2.0]], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(function, (single,))


def test_matrix_functions_invert_each_other() -> None:
    x = torch.stack([with_eigenvalues(v, seed) for seed, v in enumerate(SPECTRA)])
    identity = torch.eye(3, dtype=DOUBLE)
    assert torch.allclose(linalg.sym_expm(linalg.sym_logm(x)), x, rtol=1e-13)
    assert torch.allclose(linalg.sym_sqrtm(x) @ linalg.sym_sqrtm(x), x, rtol=1e-13)
    assert torch.allclose(linalg.congruence(linalg.sym_inv_sqrtm(x), x), identity.expand_as(x), atol=1e-13)
    assert torch.allclose(linalg.sym_expm(x), torch.linalg.matrix_exp(x), rtol=1e-12)
    assert linalg.sym_logm(-x).isnan().all()


@pytest.mark.parametrize("gap", [0.0, 1e-7, 3e-5, 1e-3])
def test_float32_gradients_at_close_eigenvalues(gap: float) -> None:
    x = with_eigenvalues([1.0, 1.0 + gap, 2.5])
    weight = rotation(3, 5)
    for function, *_ in FUNCTIONS.values():
        gradients = []
        for dtype in DTYPES:
            point = x.to(dtype).requires_grad_()
            (gradient,) = torch.autograd.grad((function(point) * weight.to(dtype)).sum(), point)
            gradients.append(gradient.double())
        assert (gradients[0] - gradients[1]).abs().max() < 3e-6 * gradients[0].abs().max()


@pytest.mark.parametrize(
    ("derivative", "function"), [(linalg.sym_dlogm, linalg.sym_logm), (linalg.sym_dexpm, linalg.sym_expm)]
)
def test_directional_derivatives(
    derivative: Callable[[Tensor, Tensor], Tensor], function: Callable[[Tensor], Tensor]
) -> None:
    x = torch.stack([with_eigenvalues(v) for v in SPECTRA])
    h = linalg.sym(rotation(3, 7))
    step = 1e-5
    slope = (function(x + step * h) - function(x - step * h)) / (2 * step)
    assert torch.allclose(derivative(x, h), slope, rtol=1e-6, atol=1e-8)
    inputs = (x.requires_grad_(), h.requires_grad_())
    assert torch.autograd.gradcheck(derivative, inputs)


def test_svec_is_an_isometry_with_the_documented_order() -> None:
    x = torch.tensor([[1.0, 4.0, 5.0], [4.0, 2.0, 6.0], [5.0, 6.0, 3.0]], dtype=DOUBLE)
    root = math.sqrt(2.0)
    expected = torch.tensor([1.0, 2.0, 3.0, 4.0 * root, 5.0 * root, 6.0 * root], dtype=DOUBLE)
    assert torch.allclose(linalg.svec(x), expected, rtol=1e-15)
    for p in (1, 2, 5):
        y = linalg.sym(torch.randn(2, 3, p, p, dtype=DOUBLE, generator=torch.Generator().manual_seed(p)))
        v = linalg.svec(y)
        assert v.shape == (2, 3, p * (p + 1) // 2)
        assert torch.allclose(linalg.unsvec(v), y, rtol=1e-15, atol=1e-15)
        assert torch.allclose(v.square().sum(-1), y.square().sum((-2, -1)), rtol=1e-13)
        assert linalg.unsvec(v.float()).dtype == torch.float32
    skew = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert linalg.svec(skew).tolist() == [0.0, 0.0, 0.0]
    assert torch.autograd.gradcheck(linalg.svec, (x.requires_grad_(),))
    assert torch.autograd.gradcheck(linalg.unsvec, (expected.requires_grad_(),))


def test_unsvec_rejects_a_size_that_is_not_triangular() -> None:
    with pytest.raises(ValueError, match="got 4"):
        linalg.unsvec(torch.zeros(4))


def test_eigenvalue_gradients_are_exact_at_repeated_eigenvalues() -> None:
    x = torch.stack([with_eigenvalues(v) for v in SPECTRA]).requires_grad_()
    total = linalg.sym_eigvals(x).log().square().sum()
    (gradient,) = torch.autograd.grad(total, x)
    expected = 2 * linalg.sym_logm(x) @ torch.linalg.inv(x)
    assert torch.allclose(gradient, expected, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(linalg.sym_eigvals(x), torch.linalg.eigvalsh(x), atol=1e-14)


def test_eigenvalue_second_derivatives_at_distinct_eigenvalues_and_nan_at_ties() -> None:
    x = with_eigenvalues([0.3, 1.7, 4.0]).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda y: linalg.sym_eigvals(y).pow(3), (x,))
    tie = torch.eye(3, dtype=DOUBLE)
    hessian = torch.autograd.functional.hessian(lambda y: linalg.sym_eigvals(y).pow(3).sum(), tie)
    assert hessian.isnan().any()


@pytest.mark.parametrize("p", [1, 2, 4])
def test_log_det_of_the_exponential_derivative(p: int) -> None:
    for values in ([0.3, -1.2, 0.9, 2.0][:p], [0.7, 0.7, 0.7, -1.0][:p]):
        s = with_eigenvalues(values)
        coordinates = linalg.svec(s)
        jacobian = torch.autograd.functional.jacobian(
            lambda v: linalg.svec(linalg.sym_expm(linalg.unsvec(v))), coordinates
        )
        assert linalg.log_det_dexpm(s).item() == pytest.approx(jacobian.logdet().item(), rel=1e-11, abs=1e-12)
        assert torch.autograd.gradcheck(linalg.log_det_dexpm, (s.requires_grad_(),))


def test_sum_log_sinhc_gaps_is_symmetric_and_smooth_at_ties() -> None:
    values = torch.tensor(
        [[0.2, -1.0, 3.0], [1.0, 1.0, 2.0], [0.5, 0.5, 0.5]], dtype=DOUBLE, requires_grad=True
    )
    found = linalg.sum_log_sinhc_gaps(values)
    assert torch.allclose(found, linalg.sum_log_sinhc_gaps(values.flip(-1)), rtol=1e-14)
    gaps = [mp.mpf(g) / 2 for g in (1.2, 2.8, 4.0)]
    assert found[0].item() == pytest.approx(float(sum(mp.log(mp.sinh(g) / g) for g in gaps)), rel=1e-14)
    assert found[2].item() == 0.0
    assert torch.autograd.gradcheck(linalg.sum_log_sinhc_gaps, (values,))
    assert torch.autograd.gradgradcheck(linalg.sum_log_sinhc_gaps, (values,))
    assert linalg.sum_log_sinhc_gaps(values[:, :1]).tolist() == [0.0] * 3


def test_log_det_spd_and_its_failure() -> None:
    x = torch.stack([with_eigenvalues(v) for v in SPECTRA]).requires_grad_()
    expected = torch.tensor([math.log(math.prod(v)) for v in SPECTRA], dtype=DOUBLE)
    value = linalg.log_det_spd(x)
    assert torch.allclose(value, expected, atol=1e-13)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert torch.allclose(linalg.sym(gradient), torch.linalg.inv(x), atol=1e-12)
    with pytest.raises(torch.linalg.LinAlgError):
        linalg.log_det_spd(-x)


def test_congruence_broadcasts() -> None:
    a, x = rotation(3, 1)[:2], with_eigenvalues([1.0, 2.0, 3.0])
    found = linalg.congruence(a, x.expand(4, 3, 3))
    assert found.shape == (4, 2, 2)
    assert torch.allclose(found[0], a @ x @ a.T)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: linalg.sym_logm(x).square().sum((-2, -1)),
        lambda x: linalg.sym_eigvals(x).log().sum(-1),
        lambda x: linalg.unsvec(linalg.svec(x)).square().sum((-2, -1)),
        linalg.log_det_dexpm,
        linalg.log_det_spd,
    ],
)
def test_default_device_and_function_transforms(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.stack([with_eigenvalues(v) for v in SPECTRA]).requires_grad_()
    (expected,) = torch.autograd.grad(function(x).sum(), x)
    with torch.device("meta"):
        (found,) = torch.autograd.grad(function(x).sum(), x)
    assert found.device.type == "cpu" and torch.equal(found, expected)
    mapped = torch.func.vmap(torch.func.grad(function))(x.detach())
    assert torch.allclose(mapped, expected, atol=1e-12)
