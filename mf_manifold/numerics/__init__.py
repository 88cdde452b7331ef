"""Numerics that laws and manifolds share: special functions, normalisers, matrix functions, quadrature, optimisation."""
