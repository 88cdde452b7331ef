"""Every check of the public suite on every row of the table."""

from __future__ import annotations

import geoopt
import pytest
from cases import CASES, MANIFOLDS, Case

import mf_manifold as mf
from mf_manifold.testing import KERNEL_CHECKS, MANIFOLD_CHECKS, check_kernel, check_manifold


def _check_id(name: str) -> str:
    return name.replace(" ", "_")


@pytest.mark.parametrize("check", KERNEL_CHECKS, ids=_check_id)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_kernel(case: Case, check: str) -> None:
    check_kernel(case.kernel, case.params, only=[check], options=case.options)


@pytest.mark.parametrize("check", MANIFOLD_CHECKS, ids=_check_id)
@pytest.mark.parametrize("name", MANIFOLDS)
def test_manifold(name: str, check: str) -> None:
    manifold, point_shape = MANIFOLDS[name]
    check_manifold(manifold, point_shape, only=[check])


def test_every_registered_kernel_has_a_row() -> None:
    covered = {(case.kernel.manifold.__class__.__name__, case.kernel.name) for case in CASES}
    missing = {(info.manifold, info.name) for info in mf.registered_kernels()} - covered
    assert not missing


def test_unknown_check_lists_the_known_ones() -> None:
    case = CASES[0]
    with pytest.raises(ValueError, match="normalisation.*got integral"):
        check_kernel(case.kernel, case.params, only=["integral"])
    with pytest.raises(ValueError, match="volume.*got colour"):
        check_manifold(geoopt.Sphere(), (3,), options={"colour": {}})
