"""Angular central Gaussian law of unit quaternions, a law of rotations of space."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds import SpecialOrthogonal, UnitQuaternions
from ..numerics import quaternions
from ..numerics.contour import mean_log_quadratic_form
from ..numerics.linalg import svec, sym_eigvals
from .covariance import cholesky_logdet, covariance_from_raw, num_covariance_raw
from .rotation import SpaceRotationKernel, whiten
from .shares import shares
from .special_orthogonal_projected_normal import in_body_frame

LOG_VOLUME = math.log(8 * math.pi**2)
FIT_STEPS, TOLERANCE, WORST_CONDITION = 5000, 1e-13, 1e12


@register_kernel(UnitQuaternions, "angular_central_gaussian")
@register_kernel(SpecialOrthogonal, "angular_central_gaussian")
class RotationACG(SpaceRotationKernel):
    r"""Law of the rotation of the quaternion Y / |Y| for Y normal in R^4 around 0: closed form, heavy tails, all correlations.

    .. math:: q(x) = \frac{1}{8 \pi^2}\, |\Sigma|^{-1/2}\, (q^T \Sigma^{-1} q)^{-2}

    for a quaternion q of the rotation; q and -q are alike by nature. A multiple of the covariance gives the same law. If the
    largest eigenvalue of the covariance stands out, its eigenvector is the mode, around which half the rotation vector has the
    tails of a Cauchy law: ``centered`` matches the curvature of a normal law at the mode, not the mean squared distance.

    **Measure**: Riemannian volume, that of the angle metric; ``measure="haar"`` for densities against the uniform law.
    **Exactness**: closed form.

    **Range**: condition numbers of the covariance to 1e6, that is ``centered`` with scales from 1e-3.
    **Mean**: Fréchet, the rotation of the leading eigenvector.
    **Sampler**: the definition, pathwise. ``fit`` iterates Tyler's fixed-point equation; points in a subspace have no maximum.

    Shapes: ``covariance_matrix`` (*B,4,4) of quaternions, scalar part first.

    Raises:
        ValueError: a covariance that is not positive definite, n other than 3.

    References:
        Tyler (1987), Statistical analysis for the angular central Gaussian distribution on the sphere, eqs. (1) and (3).

    >>> import torch, mf_manifold as mf
    >>> so3, eye = mf.manifolds.SpecialOrthogonal(), torch.eye(3).double()
    >>> s = torch.diag(torch.tensor([16., 1., 1., 1.]).double())
    >>> d = mf.distribution(so3, "angular_central_gaussian", covariance_matrix=s, measure="haar")
    >>> round(float(d.log_prob(eye).exp()), 6)                      # 16^(-1/2) (1/16)^(-2)
    64.0
    """

    parameter_names = ("covariance_matrix",)
    location = "covariance_matrix"
    mean_kind = "frechet"
    log_scale_range = (-5.0, 0.5)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"covariance_matrix": (4, 4)}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        return {"covariance_matrix": constraints.positive_definite}

    def _factor(self, w: Params) -> Tensor:
        return torch.linalg.cholesky(w["covariance_matrix"].double())

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        factor = self._factor(w)
        size2 = whiten(factor, self.quaternion(x)).square().sum(-1)
        return (-2 * size2.log() - cholesky_logdet(factor) - LOG_VOLUME).to(x.dtype)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        q, factor = self.quaternion(x), self._factor(w)
        squares, features = svec(q.unsqueeze(-1) * q.unsqueeze(-2)), svec(torch.cholesky_inverse(factor))
        bias = (-cholesky_logdet(factor) - LOG_VOLUME).to(x.dtype)

        def block(rows: slice) -> Tensor:
            return bias - 2 * (squares[rows] @ features.mT).to(x.dtype).log()

        return by_blocks(block, len(q), len(features), x)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        covariance = w["covariance_matrix"]
        shape = (*sample_shape, *covariance.shape[:-1])
        noise = torch.randn(shape, generator=generator, dtype=covariance.dtype, device=covariance.device)
        y = self._factor(w).to(covariance.dtype) @ noise.unsqueeze(-1)
        return self.point(quaternions.unit(y.squeeze(-1)))

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        eye = torch.eye(3, dtype=points.dtype, device=points.device)
        q = self.quaternion(points).to(points.dtype)
        return {"covariance_matrix": in_body_frame(q, torch.ones_like(scale), scale.square()[..., None, None] * eye)}

    @property
    def num_raw_shape(self) -> int:
        return num_covariance_raw(3)

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        q, core = self.quaternion(points).to(points.dtype), covariance_from_raw(self, shape, 3)
        return {"covariance_matrix": in_body_frame(q, torch.ones_like(core[..., 0, 0]), core)}

    def mean(self, w: Params) -> Tensor:
        return self.point(torch.linalg.eigh(w["covariance_matrix"])[1][..., -1])

    def entropy(self, w: Params) -> Tensor:
        values = sym_eigvals(w["covariance_matrix"].double())
        entropy = LOG_VOLUME + values.log().sum(-1) / 2 - 2 * mean_log_quadratic_form(values)
        return entropy.to(w["covariance_matrix"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        q = self.quaternion(x)
        share = shares(q, weights)
        covariance = torch.eye(4, dtype=q.dtype, device=q.device)
        for _ in range(FIT_STEPS):
            size2 = (q @ torch.linalg.inv(covariance) * q).sum(-1)
            update = 4 * q.mT @ ((share / size2).unsqueeze(-1) * q)
            update = update * (4 / update.trace())
            values = torch.linalg.eigvalsh(update)
            if bool(values[0] < values[-1] / WORST_CONDITION):
                raise ValueError(
                    "Expected quaternions that span R^4 with less than half their weight in any plane of it: an angular "
                    "central Gaussian law has no largest likelihood for the others."
                )
            change = float((update - covariance).abs().max())
            covariance = update
            if change < TOLERANCE * float(values[-1]):
                break
        return {"covariance_matrix": covariance.to(x.dtype)}
