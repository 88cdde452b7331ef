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
from ..manifolds.spd import is_log_euclidean
from ..numerics.linalg import log_det_spd, svec
from ..numerics.special import multivariate_digamma_minus_log, wishart_log_constant
from .shares import average, shares
from .stein import bartlett, exact_difference, inverse_spd, mean_volume_ratio, rounded_up, stein_loss, whitened

MAX_DF = 1e8  # of fits: equal matrices would have infinitely many degrees of freedom
NEWTON_STEPS = 30


class SteinFamily(Kernel):
    """``log q(X) = c(nu, p) - (nu / 2) S`` by the affine-invariant volume, S the Stein loss between X and the mode.

    A subclass gives the mode and says which of the two the loss is relative to.
    """

    base_measure = "affine_invariant"
    mean_kind = "extrinsic"
    needs_double = True  # float32 matrices are singular to rounding from condition numbers of 1e7, which training passes
    log_scale_range = (-5.0, 1.0)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"df": (), self.location: self.point_shape}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        matrix = OnManifold(self.manifold, self.point_shape)
        return {"df": constraints.greater_than(self.point_shape[0] - 1), self.location: matrix}

    def mode(self, w: Params) -> Tensor:
        """The mode by the affine-invariant volume, float64."""
        raise NotImplementedError

    def loss(self, x: Tensor, w: Params) -> Tensor:
        """The Stein loss between float64 points and modes."""
        raise NotImplementedError

    def with_mode(self, mode: Tensor, df: Tensor) -> Params:
        """The parameters of a given mode."""
        raise NotImplementedError

    def best_mode(self, x: Tensor, share: Tensor) -> Tensor:
        """The mode of largest likelihood, whatever the degrees of freedom; (N,p,p), (N) -> (p,p), float64."""
        raise NotImplementedError

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        df = w["df"].double()
        return (wishart_log_constant(df, self.point_shape[0]) - df / 2 * self.loss(x.double(), w)).to(x.dtype)

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        # for narrow scales the law is the affine-invariant normal with variance 2 / df; p - 1 keeps wide ones proper
        return self.with_mode(points, 2 * scale.pow(-2) + (self.point_shape[0] - 1))

    def _log_det_excess(self, df: Tensor) -> Tensor:
        """E log of the determinant of a Wishart matrix of mean 1; negative."""
        return multivariate_digamma_minus_log(df.double() / 2, self.point_shape[0])

    def entropy(self, w: Params) -> Tensor:
        if is_log_euclidean(self.manifold):
            return super().entropy(w)
        df = w["df"].double()
        entropy = -df / 2 * self._log_det_excess(df) - wishart_log_constant(df, self.point_shape[0])
        return entropy.to(w["df"].dtype)

    def mean_log_det(self, w: Params) -> Tensor:
        """``E log|X|``, float64."""
        raise NotImplementedError

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        ratio = mean_volume_ratio(self.mean_log_det(w), self.point_shape[0], kind)
        return super().mean_log_ratio(w, kind) if ratio is None or is_log_euclidean(self.manifold) else ratio

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if type(other) is not type(self):
            return super().kl_divergence(w, other, v)
        df, target, p = w["df"].double(), v["df"].double(), self.point_shape[0]
        constants = wishart_log_constant(df, p) - wishart_log_constant(target, p)
        moved = target / 2 * self.loss(self.mode(w), v)
        return (constants + (df - target) / 2 * self._log_det_excess(df) + moved).to(w["df"].dtype)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        wide, share = x.double(), shares(x, weights)
        mode = self.best_mode(wide, share)
        losses = self.loss(wide, self.with_mode(mode, torch.ones_like(mode[0, 0])))
        spread = share @ losses  # their traces average to p at this mode
        df = self._df_from_spread(spread)
        return {name: value.to(x) for name, value in self.with_mode(mode, df).items()}

    def _df_from_spread(self, spread: Tensor) -> Tensor:
        """Degrees of freedom at which the mean loss is ``spread``, by Newton steps for its logarithm.

        ``log spread`` falls with ``log(df - p + 1)`` by slopes that are -1 at both ends.
        """
        low = self.point_shape[0] - 1
        target = spread.clamp_min(torch.finfo(torch.float64).tiny).log()
        log_above = (self.dim * 2 / spread.clamp_min(1e-300)).clamp(1e-6, MAX_DF).log()
        for _ in range(NEWTON_STEPS):
            here = log_above.clone().requires_grad_()
            with torch.enable_grad():
                value = (-self._log_det_excess(here.exp() + low)).log()
                (slope,) = torch.autograd.grad(value, here)
            log_above = (log_above - (value.detach() - target) / slope).clamp(-20.0, 25.0)
        return (log_above.exp() + low).clamp_max(MAX_DF)


@register_kernel(geoopt.SymmetricPositiveDefinite, "wishart")
class SPDWishart(SteinFamily):
    r"""Law of a sum of outer products of normal vectors, real ``df > p - 1``: sample covariances, and a narrow or wide bump.

    .. math:: q(X) \propto |X|^{(\nu-p-1)/2} \exp(-\mathrm{tr}(V^{-1} X) / 2)

    with respect to Lebesgue measure on the entries i <= j, with scale matrix V: the textbook density. It is evaluated in
    Stein's form with respect to the affine-invariant volume, where the mean ``M = nu V`` is the mode,
    ``log q(X) = c(nu, p) - (nu / 2) (tr(M^-1 X) - log|M^-1 X| - p)``, from differences ``X - M`` near the mean and from factors
    far from it, in float64.

    **Measure**: Riemannian volume by default, ``measure="lebesgue"`` for the textbook's. **Exactness**: closed form.

    **Range**: every df above p - 1 (checked from p - 1 + 1e-6 to 1e8), matrices to 20 x 20 with condition numbers to 1e6.
    **Mean**: extrinsic, ``df V``. **Sampler**: Bartlett's decomposition in float64, pathwise; the diagonal is rounded up, by a
    few units in the last place, so that float32 samples of few degrees of freedom stay positive definite. ``fit`` takes the
    average for the mean and solves for df by Newton steps on a monotone equation; matrices that are all equal give df = 1e8.
    Entropies exist for the affine-invariant metric, by its volume, by ``lebesgue`` and by ``frobenius``.

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

    def mode(self, w: Params) -> Tensor:
        return w["df"].double()[..., None, None] * w["covariance_matrix"].double()

    def loss(self, x: Tensor, w: Params) -> Tensor:
        df, scale = w["df"].double(), w["covariance_matrix"].double()
        return stein_loss(x, self.mode(w), exact_difference(torch.ones_like(df), x, df, scale))

    def with_mode(self, mode: Tensor, df: Tensor) -> Params:
        return {"df": df, "covariance_matrix": mode / df[..., None, None]}

    def best_mode(self, x: Tensor, share: Tensor) -> Tensor:
        return average(share, x)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear:
        w = self.expand(w, self.batch_shape(w))
        df, p = w["df"].double(), self.point_shape[0]
        white, mode = whitened(x.double(), self.mode(w))
        inverse, eye = inverse_spd(mode), torch.eye(p, dtype=mode.dtype, device=mode.device)
        phi = torch.cat([svec(white - eye), log_det_spd(white).unsqueeze(-1)], dim=-1)
        half_df = (df / 2).unsqueeze(-1)
        psi = half_df * torch.cat([-svec(inverse), torch.ones_like(half_df)], dim=-1)
        bias = wishart_log_constant(df, p) - df / 2 * ((inverse - eye).diagonal(dim1=-2, dim2=-1).sum(-1) + log_det_spd(mode))
        return Bilinear(phi, psi, bias, self._base_ratio(x))

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        df = w["df"].expand((*sample_shape, *w["df"].shape))
        root = torch.linalg.cholesky(w["covariance_matrix"].double()) @ bartlett(df, self.point_shape[0], generator)
        return rounded_up(root @ root.mT, w["covariance_matrix"])

    def mean(self, w: Params) -> Tensor:
        return self.mode(w).to(w["covariance_matrix"].dtype)

    def mean_log_det(self, w: Params) -> Tensor:
        return log_det_spd(self.mode(w)) + self._log_det_excess(w["df"])
