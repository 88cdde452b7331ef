"""Log densities against stored values of arbitrary precision; `tests/references/` has the scripts that made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mf_manifold as mf
from mf_manifold.manifolds import from_config

FILES = sorted((Path(__file__).parent / "references").glob("*.json"))
ROWS = [
    pytest.param(row, content["tolerance"], id=f"{file.stem}-{i}-{row['kernel']}")
    for file in FILES
    for content in [json.loads(file.read_text())]
    for i, row in enumerate(content["rows"])
]


def log_prob(row: dict[str, Any], dtype: torch.dtype, through: torch.dtype) -> float:
    """Log density in ``dtype`` at inputs rounded to ``through``."""

    def tensor(value: Any) -> Tensor:
        return torch.tensor(value, dtype=torch.float64).to(through).to(dtype)

    params, x = {k: tensor(v) for k, v in row["params"].items()}, tensor(row["x"])
    manifold = from_config(row["manifold"])
    law = mf.distribution(
        manifold, row["kernel"], measure=row["measure"], point_shape=tuple(x.shape), validate_args=False, **params
    )
    return float(law.log_prob(x))


@pytest.mark.parametrize(("row", "tolerance"), ROWS)
def test_log_prob_equals_the_reference(row: dict[str, Any], tolerance: float) -> None:
    exact = row["log_prob"]
    assert abs(log_prob(row, torch.float64, torch.float64) - exact) <= tolerance * max(1.0, abs(exact))


@pytest.mark.parametrize(("row", "tolerance"), ROWS)
def test_float32_keeps_its_digits(row: dict[str, Any], tolerance: float) -> None:
    exact = log_prob(row, torch.float64, torch.float32)
    # a float32 result of 1000 nats is rounded by 6e-5 already
    assert abs(log_prob(row, torch.float32, torch.float32) - exact) <= max(1e-4, 1e-7 * abs(exact))
