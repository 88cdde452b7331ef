"""Log densities against stored values of arbitrary precision; `tests/references/` has the scripts that made them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from table import CASES  # registers the surfaces that references name
from torch import Tensor

import mf_manifold as mf
from mf_manifold.manifolds import from_config

assert CASES
FILES = sorted((Path(__file__).parent / "references").glob("*.json"))
Row = dict[str, Any]


def _groups() -> dict[str, tuple[float, list[Row]]]:
    """Tolerance and rows by file, manifold and kernel."""
    groups: dict[str, tuple[float, list[Row]]] = {}
    for file in FILES:
        content = json.loads(file.read_text())
        for row in content["rows"]:
            name = f"{file.stem}-{row['manifold']['type']}-{row['kernel']}"
            groups.setdefault(name, (content["tolerance"], []))[1].append(row)
    return groups


GROUPS = _groups()


def log_prob(row: Row, dtype: torch.dtype, through: torch.dtype) -> float:
    """Log density in ``dtype`` at inputs rounded to ``through``."""

    def tensor(value: Any) -> Tensor:
        return torch.tensor(value, dtype=torch.float64).to(through).to(dtype)

    params, x = {k: tensor(v) for k, v in row["params"].items()}, tensor(row["x"])
    manifold = from_config(row["manifold"])
    law = mf.distribution(
        manifold, row["kernel"], measure=row["measure"], point_shape=tuple(x.shape), validate_args=False, **params
    )
    return float(law.log_prob(x))


Value = Callable[[Row], float]


def failures(rows: list[Row], value: Value, exact: Value, bound: Callable[[float], float]) -> str:
    """One line for each row whose value is farther from the exact one than the bound."""
    lines = []
    for row in rows:
        found, wanted = value(row), exact(row)
        if not (found == wanted or abs(found - wanted) <= bound(wanted)):
            lines.append(f"{found!r}, expected {wanted!r} at {row['params']}, x = {row['x']}")
    return "\n".join(lines)


@pytest.mark.parametrize("group", GROUPS)
def test_log_prob_equals_the_reference(group: str) -> None:
    tolerance, rows = GROUPS[group]
    wrong = failures(
        rows,
        lambda row: log_prob(row, torch.float64, torch.float64),
        lambda row: row["log_prob"],
        lambda exact: tolerance * max(1.0, abs(exact)),
    )
    assert not wrong, wrong


@pytest.mark.parametrize("group", GROUPS)
def test_float32_keeps_its_digits(group: str) -> None:
    wrong = failures(
        GROUPS[group][1],
        lambda row: log_prob(row, torch.float32, torch.float32),
        lambda row: log_prob(row, torch.float64, torch.float32),
        # a float32 result of 1000 nats is rounded by 6e-5 already
        lambda exact: max(1e-4, 1e-7 * abs(exact)),
    )
    assert not wrong, wrong
