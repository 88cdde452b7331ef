"""Every check of the public suite on every row of the table, and on kernels that are wrong on purpose."""

from __future__ import annotations

from types import SimpleNamespace

import geoopt
import pytest
from table import CASES, MANIFOLDS
from table.common import SPD, Case
from wrong import MUTANTS
from wrong.common import Mutant
from wrong.machinery import frobenius_for_lebesgue, reduce_without_weights
from wrong.manifolds import MANIFOLD_MUTANTS

import mf_manifold as mf
from mf_manifold import backends, measure
from mf_manifold.testing import KERNEL_CHECKS, MANIFOLD_CHECKS, ConformanceError, check_kernel, check_manifold


def _check_id(name: str) -> str:
    return name.replace(" ", "_")


PAIRS = [
    pytest.param(case, check, id=f"{case.id}-{_check_id(check)}")
    for case in CASES
    for check in case.checks or KERNEL_CHECKS
]


@pytest.mark.parametrize(("case", "check"), PAIRS)
def test_kernel(case: Case, check: str) -> None:
    check_kernel(case.kernel, case.params, only=[check], options=case.options)


@pytest.mark.parametrize("check", MANIFOLD_CHECKS, ids=_check_id)
@pytest.mark.parametrize("name", MANIFOLDS)
def test_manifold(name: str, check: str) -> None:
    manifold, point_shape = MANIFOLDS[name]
    check_manifold(manifold, point_shape, only=[check])


def test_every_registered_kernel_has_a_row() -> None:
    covered = {(cls.__name__, case.kernel.name) for case in CASES for cls in type(case.kernel.manifold).__mro__}
    missing = {(info.manifold, info.name) for info in mf.registered_kernels()} - covered
    assert not missing


def test_unknown_check_lists_the_known_ones() -> None:
    case = CASES[0]
    with pytest.raises(ValueError, match=r"normalisation.*got integral"):
        check_kernel(case.kernel, case.params, only=["integral"])
    with pytest.raises(ValueError, match=r"volume.*got colour"):
        check_manifold(geoopt.Sphere(), (3,), options={"colour": {}})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: type(mutant.kernel).__name__)
def test_named_check_catches(mutant: Mutant) -> None:
    with pytest.raises(ConformanceError, match=f"{mutant.check} of {type(mutant.kernel).__name__}") as caught:
        check_kernel(mutant.kernel, mutant.params, only=[mutant.check])
    assert caught.value.check == mutant.check


@pytest.mark.parametrize("manifold_class", MANIFOLD_MUTANTS, ids=lambda cls: cls.__name__)
def test_named_check_catches_manifold(manifold_class: type[geoopt.Sphere]) -> None:
    check = MANIFOLD_MUTANTS[manifold_class]
    with pytest.raises(ConformanceError, match=f"{check} of"):
        check_manifold(manifold_class(), (3,), only=[check])


def _row(id: str) -> Case:
    return next(case for case in CASES if case.id == id)


def test_backends_catches_forgotten_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = SimpleNamespace(reduce=reduce_without_weights, reasons_not=lambda problem: [])
    monkeypatch.setitem(backends.BACKENDS, "dense", wrong)
    case = _row("sphere2-von_mises_fisher_5")
    with pytest.raises(ConformanceError, match=r"backends of .* by dense"):
        check_kernel(case.kernel, case.params, only=["backends"])


def test_measures_catches_wrong_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure._REGISTRY, (type(SPD), "lebesgue"), frobenius_for_lebesgue)
    case = _row("spd2-wishart_7.5")
    with pytest.raises(ConformanceError, match=r"measures of .* lebesgue"):
        check_kernel(case.kernel, case.params, only=["measures"])
