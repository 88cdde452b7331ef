"""Wishart distribution on SPD matrices, real degrees of freedom."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.bilinear import Bilinear
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..linalg import log_det_spd, svec
from ..special import wishart_log_constant
from .covariance import cholesky_logdet


@register_kernel(geoopt.SymmetricPositiveDefinite, "wishart")
class SPDWishart(Kernel):
    r"""Law of a sum of outer products of normal vectors, real ``df > p - 1``.

    With respect to Lebesgue measure on the entries i <= j it is the textbook density with scale matrix V,

    .. math:: q(X) \propto |X|^{(\nu-p-1)/2} \exp(-\mathrm{tr}(V^{-1} X) / 2),

    which is evaluated in Stein's form with respect to the affine-invariant volume, where the mean ``M = nu V`` is the mode:

    .. math:: \log q(X) = -\tfrac{\nu}{2} [\mathrm{tr}(M^{-1}X) - \log|M^{-1}X| - p] + c(\nu, p).

    **Measure**: Riemannian volume by default, ``measure="lebesgue"`` for the textbook's. **Exactness**: closed form.
    Matrices are handled in float64 inside, because the bracket cancels to second order around the mean.

    Shapes: ``df`` (*B) above p - 1; ``covariance_matrix`` the scale matrix V (*B,p,p), named as in torch.

    Raises:
        ValueError: ``df`` not above p - 1, a scale matrix that is not SPD.

    References:
        Muirhead (1982), Aspects of Multivariate Statistical Theory, theorem 3.2.1; sampling by Bartlett's theorem 3.2.14.

    >>> import geoopt, torch, mf_manifold as mf
    >>> spd, eye = geoopt.SymmetricPositiveDefinite(), torch.eye(2, dtype=torch.float64)
    >>> d = mf.distribution(spd, "wishart", df=5.0, covariance_matrix=eye, measure="lebesgue")
    >>> round(float(d.log_prob(eye)), 6)                  # scipy.stats.wishart(5, eye).logpdf(eye)
    -5.322784
    """

    parameter_names = ("df", "covariance_matrix")
    location = "covariance_matrix"
    base_measure = "affine_invariant"
    needs_double = True  # float32 matrices are singular to rounding from condition numbers of 1e7, which training passes
    log_scale_range = (-5.0, 1.0)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"df": (), "covariance_matrix": self.point_shape}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        matrix = OnManifold(self.manifold, self.point_shape)
        return {"df": constraints.greater_than(self.point_shape[0] - 1), "covariance_matrix": matrix}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        df, p = w["df"].double(), self.point_shape[0]
        mean = df[..., None, None] * w["covariance_matrix"].double()
        factor = torch.linalg.cholesky(mean)
        half = torch.linalg.solve_triangular(factor, x.double() - mean, upper=False)
        excess = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        log_det = log_det_spd(x.double()) - 2 * cholesky_logdet(factor)
        bracket = excess.diagonal(dim1=-2, dim2=-1).sum(-1) - log_det
        return (wishart_log_constant(df, p) - df / 2 * bracket).to(x.dtype)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        w = self.expand(w, self.batch_shape(w))
        df, p, wide = w["df"].double(), self.point_shape[0], x.double()
        mean = df[..., None, None] * w["covariance_matrix"].double()
        factor = torch.linalg.cholesky(mean)
        phi = torch.cat([svec(wide), log_det_spd(wide).unsqueeze(-1)], dim=-1)
        half_df = (df / 2).unsqueeze(-1)
        psi = half_df * torch.cat([-svec(torch.cholesky_inverse(factor)), torch.ones_like(half_df)], dim=-1)
        bias = wishart_log_constant(df, p) + df / 2 * (p - 2 * cholesky_logdet(factor))
        return Bilinear(phi, psi, bias, self._base_ratio(x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        scale_factor = torch.linalg.cholesky(w["covariance_matrix"])
        p = self.point_shape[0]
        df = w["df"].expand((*sample_shape, *w["df"].shape)).unsqueeze(-1)
        half = (df - torch.arange(p, dtype=df.dtype, device=df.device)) / 2
        chi = (2 * torch._standard_gamma(half, generator=generator)).clamp_min(torch.finfo(df.dtype).tiny).sqrt()
        shape = (*half.shape[:-1], p, p)
        below = torch.randn(shape, generator=generator, dtype=df.dtype, device=df.device).tril(-1)
        bartlett = scale_factor @ (below + torch.diag_embed(chi))
        return bartlett @ bartlett.mT

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        # for narrow scales the law is the affine-invariant normal with variance 2 / df; p - 1 keeps wide ones proper
        df = 2 * scale.pow(-2) + (self.point_shape[0] - 1)
        return {"df": df, "covariance_matrix": points / df[..., None, None]}
