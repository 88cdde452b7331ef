"""Normal law of Cayley's coordinates of rotations of any size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds import SpecialOrthogonal, UnitQuaternions
from ..numerics import quaternions
from ..numerics.linalg import sym_eigvals
from ..numerics.orthogonal import hat, vee
from ..numerics.quadratic_forms import stereographic_means
from .covariance import cholesky_logdet
from .rotation import LOG_TWO_PI, CovarianceKernel, whiten


@register_kernel(UnitQuaternions, "cayley_normal", default=True)
@register_kernel(SpecialOrthogonal, "cayley_normal", default=True)
class CayleyNormal(CovarianceKernel):
    r"""Normal law of the skew matrix in Cayley's transform, the default kernel of SO(n): closed form, one preimage, bounded.

    With :math:`x = loc \, (I - A)^{-1} (I + A)` and the coordinates y of the skew matrix 2 A,

    .. math:: q(x) = N(y; 0, \Sigma) \, \det(I - A)^{n-1}.

    For small angles y is the rotation vector in the frame of ``loc``; on SO(3) it is :math:`2 \tan(\theta/2)` times the axis,
    and :math:`\det(I - A)^2 = (1 + |y|^2/4)^2`. The density vanishes where ``loc^T x`` turns a plane by pi. Coordinates are
    those of :func:`mf_manifold.geometry.from_coords` at ``loc``.

    ``loc`` is the mode for scales up to 1 on SO(3): wide laws gather at turns by pi.

    **Measure**: Riemannian volume, that of the angle metric. **Exactness**: closed form.

    **Range**: scales (roots of the variances) from 1e-4 to 100, condition numbers of the covariance to 1e6, any n.
    **Mean**: Fréchet, ``loc``, at which the mean direction vanishes by symmetry; for laws wide enough to gather at turns by
    pi, it is not the point nearest to all. **Sampler**: the definition, pathwise. ``fit`` of ``loc`` and ``scale`` on SO(3)
    finds the maximum next to the mean of the data by Newton's method, with the scale in [1e-4, 10].

    Shapes: ``loc`` (*B,n,n), or quaternions (*B,4); ``scale`` (*B), ``covariance_matrix`` (*B,d,d) with d = n (n - 1) / 2.

    Raises:
        ValueError: a scale that is not positive, a covariance that is not positive definite, ``loc`` off SO(n).

    References:
        León, Massé, Rivest (2006), A statistical model for random rotations, for Cayley's transform and its Jacobian.

    >>> import torch, mf_manifold as mf
    >>> d = mf.distribution(mf.manifolds.SpecialOrthogonal(), loc=torch.eye(4).double(), scale=0.5)
    >>> round(float(d.log_prob(torch.eye(4).double())), 6)          # -3 log(2 pi 0.25)
    -1.354748
    """

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.size == 3 and self.covariance == "isotropic":
            return self.by_angle(x, w)
        y, log_volume = self._coordinates(x, w["loc"])
        if self.covariance == "isotropic":
            scale = w["scale"].double()
            square, log_det = y.square().sum(-1) / scale.square(), self.dim * scale.log()
        else:
            factor = self.factor(w)
            square, log_det = whiten(factor, y).square().sum(-1), cholesky_logdet(factor)
        return (log_volume - square / 2 - log_det - self.dim / 2 * LOG_TWO_PI).to(x.dtype)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        if self.size == 3 and self.covariance == "isotropic":
            return self.pairs_by_angle(x, w, torch.float64)  # next to turns by pi 2 - chord^2 has no digit in float32
        return super().pairwise_log_prob(x, w)

    def zonal(self, chord2: Tensor, scale: Tensor) -> Tensor:
        cosine = (1 - chord2 / 2).clamp_min(torch.finfo(chord2.dtype).eps)
        tangent2 = chord2 * (1 - chord2 / 4) / cosine.square()
        return 2 * torch.log1p(tangent2) - 2 * tangent2 / scale.square() - 3 * scale.log() - 1.5 * LOG_TWO_PI

    def _coordinates(self, x: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        """Cayley's coordinates y (*B,d) of ``loc^T x`` and ``(n - 1) log det(I - A)``, in float64."""
        if self.size == 3:
            turn = quaternions.relative(self.quaternion(loc), self.quaternion(x))
            y = 2 * turn[..., 1:] / turn[..., :1].clamp_min(torch.finfo(turn.dtype).eps)
            return y, 2 * torch.log1p(y.square().sum(-1) / 4)
        x, loc = torch.broadcast_tensors(x.double(), loc.double())
        # A = (loc^T x + 1)^-1 (loc^T x - 1) and I - A = 2 (loc^T x + 1)^-1, without the product
        singular = torch.linalg.lu_factor_ex((x + loc).detach()).info > 0
        total = torch.where(singular[..., None, None], 2 * loc, x + loc)
        a = torch.linalg.solve(total, torch.where(singular[..., None, None], torch.zeros_like(x), x - loc))
        log_det = self.size * math.log(2) - torch.linalg.slogdet(total).logabsdet
        # exact turns by pi have no coordinates: as if half an eps away
        far = torch.where(singular, 2 / torch.finfo(x.dtype).eps, 0.0).unsqueeze(-1)
        return 2 * vee(a) + far, (self.size - 1) * log_det

    def entropy(self, w: Params) -> Tensor:
        if self.size > 3:
            return super().entropy(w)
        if self.covariance == "isotropic":
            scale = w["scale"].double()
            variances, log_det = scale.square().unsqueeze(-1).expand(*scale.shape, self.dim), self.dim * scale.log()
        else:
            variances, log_det = sym_eigvals(w["covariance_matrix"].double()), cholesky_logdet(self.factor(w))
        # det(I - A) = 1 + |y|^2 / 4 for n <= 3
        entropy = self.dim / 2 * (1 + LOG_TWO_PI) + log_det - (self.size - 1) * stereographic_means(variances)[1]
        return entropy.to(w["loc"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        isotropic = self.size == 3 and self.covariance == "isotropic"
        return self.fit_by_angle(x, weights) if isotropic else super().fit(x, weights)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        y = self.normal_coordinates(w, sample_shape, generator)
        if self.size == 3:
            return self.turned(w["loc"], quaternions.unit(torch.nn.functional.pad(y / 2, (1, 0), value=1.0)))
        a = hat(y.double() / 2, self.size)
        eye = torch.eye(self.size, dtype=a.dtype, device=a.device)
        return (w["loc"].double() @ torch.linalg.solve(eye - a, eye + a)).to(y.dtype)
