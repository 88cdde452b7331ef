"""What the checks need to know of each manifold, one file a space: quadrature, degenerate points, isometries, coordinates."""

from . import composite, euclidean, hyperbolic, spd, sphere, torus

__all__ = ["composite", "euclidean", "hyperbolic", "spd", "sphere", "torus"]
