"""Log-Euclidean normal on SPD matrices: a normal law of the matrix logarithm."""

from __future__ import annotations

import geoopt
from torch import Tensor

from ..kernel import register_kernel
from ..linalg import svec, sym_expm, sym_logm, unsvec
from .coordinate_normal import CoordinateNormal


@register_kernel(geoopt.SymmetricPositiveDefinite, "log_normal", default=True)
class SPDLogNormal(CoordinateNormal):
    r"""Law of ``exp(S)`` with ``svec S`` normal around ``svec log loc``.

    .. math:: q(X) = N(\mathrm{svec} \log X; \mathrm{svec} \log loc, \Sigma) \;
              \frac{d\,vol_{LE}}{d\mu}(X)

    ``svec`` are the orthonormal coordinates of symmetric matrices (diagonal, then sqrt 2 times the entries below it), so
    that ``scale`` is the standard deviation along any unit direction and ``scale^2 I`` is invariant under rotations.

    **Measure**: Riemannian volume of the manifold's metric; with respect to the log-Euclidean volume the density is
    exactly the normal. **Exactness**: closed form.

    Shapes: ``loc`` (*B,p,p); ``scale`` (*B,m) or (*B,1) with m = p(p+1)/2; ``covariance_matrix`` (*B,m,m).

    References:
        Schwartzman (2016), Lognormal distributions and geometric averages of symmetric positive definite matrices, eq. (11).

    >>> import geoopt, torch, mf_manifold as mf
    >>> spd, eye = geoopt.SymmetricPositiveDefinite(), torch.eye(2, dtype=torch.float64)
    >>> d = mf.distribution(spd, "log_normal", loc=eye, scale=0.4)
    >>> round(float(d.log_prob(eye)), 6)                  # -3 log(0.4 sqrt(2 pi)); both volumes agree at the identity
    -0.007943
    """

    base_measure = "log_euclidean"
    needs_double = True  # float32 matrices are singular to rounding from condition numbers of 1e7, which training passes
    log_scale_range = (-7.0, 3.0)

    def coordinates(self, x: Tensor) -> Tensor:
        # float32 loses as many digits of the logarithm as the matrix has in its condition number
        return svec(sym_logm(x.double())).to(x.dtype)

    def from_coordinates(self, v: Tensor) -> Tensor:
        return sym_expm(unsvec(v))
