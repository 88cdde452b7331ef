"""Kernels of the hyperboloid, the sphere or Euclidean space on their stereographic projections."""

from __future__ import annotations

import geoopt

from ..kernel import register_kernel
from .model import ModelKernel


@register_kernel(geoopt.Stereographic, "stereographic", default=True)
class StereographicKernel(ModelKernel):
    r"""The kernels of the isometric model: of ``Lorentz(1/c)`` on the ball, of ``Sphere`` on a projected sphere.

    .. math:: q(y) = q_{model}(x(y)) / R^d

    ``PoincareBall(c)``, and ``Stereographic(k)`` with k < 0, have the kernels of ``geoopt.Lorentz(1/c)``, which has the same
    metric: lengths agree and R = 1 in the formula. ``SphereProjection(k)``, and ``Stereographic(k)`` with k > 0, have those of
    the unit sphere, the origin being the point (1, 0, ..., 0): scales are angles in radians, and densities carry the radius
    :math:`R = 1 / \sqrt k`. ``Stereographic(0)`` has the normal law of Euclidean space with points ``2 y``, because its metric
    is four times the Euclidean one. Every kernel name of the model is understood.

    Parameters that are points, such as ``loc``, are points of the projection; all others mean what they mean on the model:
    matrices on the sphere have one row more than points have coordinates.

    The coordinates of a ball have few digits near its rim: float32 holds points up to 16 radii of curvature from the origin,
    float64 up to 35. Samples from farther out are put on the last sphere that the dtype tells from the rim; ``geoopt.Lorentz``
    reaches 85 and 350.

    **Measure**: Riemannian volume of the projection's metric ``4 |dy|^2 / (1 + k |y|^2)^2``; ``lebesgue`` is that of the
    coordinates y. **Exactness**: that of the model; densities are computed in float64.

    **Range**: that of the model. **Mean**: that of the model. **Sampler**: that of the model.

    Shapes: ``loc`` (*B,d), the others as on the model.

    References:
        Skopek, Ganea, Bécigneul (2020), Mixed-curvature variational autoencoders, appendix A.

    >>> import geoopt, torch, mf_manifold as mf
    >>> ball, loc = geoopt.PoincareBall(c=1.0), torch.zeros(2, dtype=torch.float64)
    >>> d = mf.distribution(ball, "wrapped_normal", loc=loc, scale=0.3)
    >>> round(float(d.log_prob(loc)), 6)                  # -log(2 pi 0.3^2)
    0.570069
    """
