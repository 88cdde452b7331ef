"""Log-Euclidean normal on SPD matrices: a normal law of the matrix logarithm."""

from __future__ import annotations

import geoopt
from torch import Tensor

from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds.spd import is_log_euclidean
from ..numerics.linalg import svec, sym_expm, sym_logm, unsvec
from .coordinate_normal import CoordinateNormal
from .stein import rounded_up


@register_kernel(geoopt.SymmetricPositiveDefinite, "log_normal", default=True)
class SPDLogNormal(CoordinateNormal):
    r"""Law of ``exp(S)`` with ``svec S`` normal around ``svec log loc``.

    .. math:: q(X) = N(\mathrm{svec} \log X; \mathrm{svec} \log loc, \Sigma) \;
              \frac{d\,vol_{LE}}{d\mu}(X)

    ``svec`` are the orthonormal coordinates of symmetric matrices (diagonal, then sqrt 2 times the entries below it), so
    that ``scale`` is the standard deviation along any unit direction and ``scale^2 I`` is invariant under rotations.

    **Measure**: Riemannian volume of the manifold's metric; with respect to the log-Euclidean volume the density is
    exactly the normal. **Exactness**: closed form.

    **Range**: scales from 1e-4, matrices to 20 x 20 with condition numbers to 1e6; logarithms are taken in float64. **Mean**:
    Fréchet, equal to ``loc``, by the log-Euclidean metric; by the affine-invariant one not available. **Sampler**: the
    exponential of normal noise, pathwise. ``fit`` takes the mean and the variances or covariance of the logarithms. Entropies
    exist for the log-Euclidean metric.

    Shapes: ``loc`` (*B,p,p); ``scale`` (*B,m) or (*B,1) with m = p(p+1)/2; ``covariance_matrix`` (*B,m,m).

    Raises:
        ValueError: ``loc`` not SPD, a scale that is not positive, a covariance that is not positive definite.

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

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape, covariance: str = "diagonal") -> None:
        super().__init__(manifold, point_shape, covariance)
        self.mean_kind = "frechet" if is_log_euclidean(manifold) else None

    def coordinates(self, x: Tensor) -> Tensor:
        return svec(sym_logm(x.double()))

    def from_coordinates(self, v: Tensor) -> Tensor:
        return sym_expm(unsvec(v))

    def rounded(self, x: Tensor, like: Tensor) -> Tensor:
        return rounded_up(x, like)

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        own = is_log_euclidean(self.manifold) and kind == "log_euclidean"
        return super().mean_log_ratio(w, "riemannian" if own else kind)
