"""Normal laws of the ambient space, projected to the closest point of a surface whose medial axis is known."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds.ellipsoid import Ellipsoid
from ..manifolds.torus_of_revolution import TorusOfRevolution
from ..numerics.truncated_moments import log_truncated_moment
from .ambient_normal import AmbientNormal, result_type


@register_kernel(TorusOfRevolution, "projected_normal", default=True)
@register_kernel(Ellipsoid, "projected_normal", default=True)
class SurfaceProjectedNormal(AmbientNormal):
    r"""Law of the point of a surface that is closest to a normal vector ``Y`` of the ambient space.

    .. math:: q(x) = \int_{t_-(x)}^{t_+(x)} N(x + t n; loc, \Sigma) \prod_i (1 + t \kappa_i(x)) \, dt

    with the outward unit normal ``n`` and the principal curvatures :math:`\kappa_i`. The ends are where the normal line meets
    the medial axis, beyond which another point of the surface is closer. They come before the centres of curvature: integrated
    up to those, an ellipse with axes 2 and 1 would have a mass up to 1.5. On an ellipsoid the inner end is
    :math:`-a_{min}^2 \sqrt{\sum_i x_i^2 / a_i^4}`, the outer one is infinity; on a torus of revolution they are the circle
    inside the tube and the axis, if the normal points there. The integrand is a polynomial times a Gaussian, positive between
    the ends, integrated by one Gauss rule without cancellation.

    **Measure**: area of the surface. **Exactness**: quadrature, of one positive analytic function, to 1e-11 nats.

    **Range**: ``scale``, or the root of every eigenvalue of ``covariance_matrix``, from 1e-5 to 1e3 times the smallest radius
    or semi-axis, condition numbers up to 1e6, ``loc`` within 1e3 scales of the surface; ellipsoids in up to 20 dimensions.
    **Mean**: not available. **Sampler**: exact; the closest point by a safeguarded Newton method. Pathwise, differentiated
    implicitly to first order, on tori and on ellipsoids whose shortest axis is not unique; on others the closest point jumps
    across the medial axis, a piece of a hyperplane, and derivatives along paths would miss what the jumps contribute.

    Shapes: ``loc`` (*B,D), on the surface or not; ``scale`` (*B); ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a scale or an eigenvalue of the covariance that is not positive.

    References:
        Eberly (2013), Distance from a Point to an Ellipse, an Ellipsoid, or a Hyperellipsoid (bracket of the sampler's root);
        Gray (2004), Tubes, 2nd ed., lemma 3.14 (volume along normals).

    >>> import torch, mf_manifold as mf
    >>> ellipse = mf.manifolds.Ellipsoid([2.0, 1.0])
    >>> d = mf.distribution(ellipse, "projected_normal", loc=torch.tensor([2.0, 0.0], dtype=torch.float64), scale=0.01)
    >>> round(float(d.log_prob(d.loc)), 4)                # -log(sqrt(2 pi) 0.01)
    3.6862
    """

    exactness = "quadrature"

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the closest point is continuous along almost every path."""
        return bool(self.manifold.continuous_projection)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        fibre = self.manifold.fibre(x.double())
        line = self.along(x.double(), fibre.normal, w)
        moment = log_truncated_moment(fibre.coefficients, line.center - fibre.start, line.width, fibre.length)
        return (line.log_top + moment).to(result_type(x, w))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        y = self.ambient_draws(w, sample_shape, generator)
        return self.manifold.closest(y.double()).to(y.dtype)
