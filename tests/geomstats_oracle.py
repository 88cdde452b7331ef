"""Reference values of geomstats, computed by a process of its own because its backend is fixed at the first import.

Reads arrays from the file named first and writes results to the file named second.
"""

from __future__ import annotations

import sys

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.spd_matrices import SPDAffineMetric, SPDLogEuclideanMetric, SPDMatrices
from geomstats.geometry.special_orthogonal import SpecialOrthogonal


def maps(metric: object, x: np.ndarray, y: np.ndarray, u: np.ndarray) -> dict[str, np.ndarray]:
    """exp, log and distance of one metric."""
    return {
        "exp": metric.exp(u, base_point=x),
        "log": metric.log(y, base_point=x),
        "dist": metric.dist(x, y),
        "length": metric.norm(u, base_point=x),
    }


def free_entry_gram(metric: object, x: np.ndarray) -> np.ndarray:
    """Log volume of the free entries' unit cube, from inner products of the coordinate vectors."""
    p = x.shape[-1]
    basis = []
    for i in range(p):
        for j in range(i + 1):
            e = np.zeros((p, p))
            e[i, j] = e[j, i] = 1.0
            basis.append(e)
    gram = np.array([[metric.inner_product(a, b, base_point=x) for a in basis] for b in basis])
    return np.linalg.slogdet(np.moveaxis(gram, -1, 0))[1] / 2


def main(inputs: str, outputs: str) -> None:
    """Answer every question of the input file."""
    assert gs.__name__ == "geomstats.numpy" or gs.array([1.0]).__class__ is np.ndarray
    data, results = np.load(inputs), {}
    for name in sorted({key.rsplit("/", 1)[0] for key in data.files}):
        x, y, u = (data[f"{name}/{key}"] for key in "xyu")
        if name.startswith("sphere"):
            found = maps(Hypersphere(dim=x.shape[-1] - 1).metric, x, y, u)
        elif name.startswith("so"):
            found = maps(SpecialOrthogonal(n=x.shape[-1], point_type="matrix").metric, x, y, u)
        else:
            metric_class = SPDLogEuclideanMetric if "lem" in name else SPDAffineMetric
            metric = metric_class(SPDMatrices(n=x.shape[-1], equip=False))
            found = {**maps(metric, x, y, u), "log_volume": free_entry_gram(metric, x)}
        results.update({f"{name}/{key}": value for key, value in found.items()})
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
