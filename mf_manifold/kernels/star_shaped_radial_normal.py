"""Normal laws of the ambient space, projected to a star-shaped surface along the rays from the origin."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds.embedded import hypersurface_frame
from ..manifolds.star_shaped import StarShaped
from ..numerics.truncated_moments import log_truncated_moment
from .ambient_normal import AmbientNormal, result_type


@register_kernel(StarShaped, "radial_normal", default=True)
class RadialNormal(AmbientNormal):
    r"""Law of ``radius(Y/|Y|) Y/|Y|`` for a normal vector ``Y``: rays from the origin collapse to their points of the surface.

    .. math:: q(x) = \frac{x \cdot n}{|x|^D} \int_0^\infty r^{D-1} N(r x / |x|; loc, \Sigma) \, dr

    with the outward unit normal ``n``: the projected normal density of the direction, times the solid angle that a unit of area
    fills, of which the factor :math:`x \cdot n / |x|`, the cosine of the angle between ray and normal, is part. Of the positive
    integrand no digit cancels, whether ``loc`` is on this side of the origin or on the other.

    **Measure**: area of the surface; ``solid_angle`` is the other. **Exactness**: quadrature, of one positive analytic
    function, to 1e-11 nats.

    **Range**: ``scale``, or the root of every eigenvalue of ``covariance_matrix``, from 1e-5 to 1e3 radii, condition numbers up
    to 1e6, ``loc`` within 1e3 scales of the surface; D up to 64. Where ``loc`` is at the origin the law is symmetric.
    **Mean**: not available. **Sampler**: exact and pathwise.

    Shapes: ``loc`` (*B,D), on the surface or not; ``scale`` (*B); ``covariance_matrix`` (*B,D,D).

    Raises:
        ValueError: a scale or an eigenvalue of the covariance that is not positive.

    References:
        Mardia, Jupp (2000), Directional Statistics, section 3.5.6 (the law of the direction).

    >>> import torch, mf_manifold as mf
    >>> egg = mf.manifolds.Ellipsoid([2.0, 1.0, 1.0])
    >>> d = mf.distribution(egg, "radial_normal", loc=torch.zeros(3, dtype=torch.float64), scale=1.0)
    >>> pole, side = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    >>> round(float((d.log_prob(side) - d.log_prob(pole)).exp()), 6)      # solid angles per unit of area: 1 against 1/4
    4.0
    """

    exactness = "quadrature"
    base_measure = "solid_angle"

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        ray = torch.nn.functional.normalize(x.double(), dim=-1, eps=0.0)
        line = self.along(torch.zeros_like(ray), ray, w)
        power = [0.0] * (self.point_shape[0] - 1) + [1.0]
        coefficients = torch.tensor(power, dtype=ray.dtype, device=ray.device)
        return (line.log_top + log_truncated_moment(coefficients, line.center, line.width)).to(result_type(x, w))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        return self.manifold.on_ray(self.ambient_draws(w, sample_shape, generator))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        # a ray that is oblique to the surface stretches what it projects
        normal, ray = self.manifold.normal(points), torch.nn.functional.normalize(points, dim=-1, eps=0.0)
        if self.covariance == "isotropic":
            stretch = 1 + ((normal * ray).sum(-1).pow(-2) - 1) / self.dim
            return {"loc": points, "scale": scale * stretch.rsqrt()}
        frame = torch.cat([hypersurface_frame(normal), ray.unsqueeze(-1)], dim=-1)  # round on the surface, along it the ray
        return {"loc": points, "covariance_matrix": scale.square()[..., None, None] * (frame @ frame.mT)}
