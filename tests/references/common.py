"""What the scripts of references share: rows of their files, and normal laws by mpmath."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mpmath import mp, mpf

mp.dps = 50
Row = dict[str, Any]


def row(manifold: str, kernel: str, params: dict[str, Any], x: Any, measure: str, log_prob: Any) -> Row:
    """One line of the file; parameters and points are float64."""
    plain = {k: np.asarray(v, dtype=float).tolist() for k, v in params.items()}
    point = np.asarray(x, dtype=float).tolist()
    return {
        "manifold": {"type": manifold},
        "kernel": kernel,
        "params": plain,
        "x": point,
        "measure": measure,
        "log_prob": float(log_prob),
    }


def exact(values: Any) -> Any:
    """Float64 numbers as mpmath numbers."""
    array = np.asarray(values, dtype=float)
    return mp.matrix(array.tolist()) if array.ndim == 2 else [mpf(float(v)) for v in array]


def normal(delta: list[Any], covariance: Any) -> Any:
    vector = mp.matrix(delta)
    exponent = (vector.T * mp.lu_solve(covariance, vector))[0]
    return -exponent / 2 - mp.log(mp.det(covariance)) / 2 - len(delta) * mp.log(2 * mp.pi) / 2


def difference(a: list[Any], b: list[Any]) -> list[Any]:
    return [u - v for u, v in zip(a, b, strict=True)]


def diagonal(scale: Any, size: int) -> Any:
    s = np.broadcast_to(np.asarray(scale, dtype=float), (size,))
    return mp.diag([mpf(float(v)) ** 2 for v in s])


def write(script: str, rows: list[Row]) -> None:
    """The file of rows next to the script."""
    content = {"tolerance": 1e-9, "rows": rows}
    Path(script).with_suffix(".json").write_text(json.dumps(content).replace('}, {"manifold', '},\n{"manifold'))
