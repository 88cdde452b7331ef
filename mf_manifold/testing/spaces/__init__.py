"""What the checks need to know of each manifold, one file a space: quadrature, degenerate points, isometries, coordinates."""

from . import (
    composite,
    correlation,
    embedded,
    euclidean,
    grassmann,
    hyperbolic,
    simplex,
    spd,
    special_orthogonal,
    sphere,
    stiefel,
    torus,
)

__all__ = [
    "composite",
    "correlation",
    "embedded",
    "euclidean",
    "grassmann",
    "hyperbolic",
    "simplex",
    "spd",
    "special_orthogonal",
    "sphere",
    "stiefel",
    "torus",
]
