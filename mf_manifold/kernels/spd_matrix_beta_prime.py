"""Matrix beta prime distribution on SPD matrices, the law of a ratio of Wishart matrices."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor
from torch.distributions import constraints

from ..backends.pairs import by_blocks
from ..geometry import Shape
from ..kernel import Kernel, OnManifold, Params, register_kernel
from ..manifolds.spd import is_log_euclidean
from ..numerics.climb import climb
from ..numerics.linalg import congruence, log_det_spd, sym
from ..numerics.special import multivariate_digamma_minus_log, wishart_log_constant
from .covariance import cholesky_logdet
from .shares import average, shares
from .stein import bartlett, exact_difference, excess_loss, inverse_spd, mean_volume_ratio, relative, rounded_up, whitened

MAX_SHAPE = 1e6  # of fits, where the law is a Wishart or an inverse Wishart law already


@register_kernel(geoopt.SymmetricPositiveDefinite, "matrix_beta_prime")
class SPDMatrixBetaPrime(Kernel):
    r"""Law of ``S^(1/2) W S^(1/2)`` for a Wishart matrix W and an inverse Wishart matrix S: heavy tails both ways.

    .. math:: q(X) = \frac{|M^{-1} X|^a \, |I + M^{-1} X|^{-(a+b)}}{2^{p(p-1)/4} B_p(a, b)}, \quad
              B_p(a, b) = \frac{\Gamma_p(a) \Gamma_p(b)}{\Gamma_p(a + b)}

    with respect to the affine-invariant volume, with scale matrix M. Also called matrix F law, with 2a and 2b degrees of
    freedom; ``X^-1`` has the same law with a and b exchanged and ``M^-1``. The determinants are taken relative to the mode
    ``(a/b) M``, around which their linear parts cancel exactly.

    **Measure**: Riemannian volume by default, ``measure="lebesgue"`` for the textbook's. **Exactness**: closed form.

    **Range**: a and b above (p - 1)/2 to 1e6, matrices to 20 x 20 with condition numbers to 1e6. **Mean**: extrinsic,
    ``M a / (b - (p + 1)/2)``, infinite up to b = (p + 1)/2. **Sampler**: a ratio of Wishart matrices, in float64, pathwise.
    ``fit`` climbs the likelihood in all parameters (L-BFGS, in coordinates whitened by the average); a and b stay below 1e6.
    Divergences have no closed form. Entropies exist for the affine-invariant metric, by its volume, by ``lebesgue`` and by
    ``frobenius``.

    Shapes: ``a``, ``b`` (*B) above (p - 1)/2; ``scale_matrix`` M (*B,p,p).

    Raises:
        ValueError: a or b not above (p - 1)/2, a scale matrix that is not SPD, the mean of a law that has none.

    References:
        Gupta, Nagar (2000), Matrix Variate Distributions, definition 5.2.2 (M = I); Olkin, Rubin (1964), Multivariate beta
        distributions and independence properties of the Wishart distribution.

    >>> import geoopt, torch, mf_manifold as mf
    >>> spd, one = geoopt.SymmetricPositiveDefinite(), torch.eye(1, dtype=torch.float64)
    >>> d = mf.distribution(spd, "matrix_beta_prime", a=2.0, b=3.0, scale_matrix=one, measure="lebesgue")
    >>> round(float(d.log_prob(one).exp()), 6)            # scipy.stats.betaprime(2, 3).pdf(1)
    0.375
    """

    parameter_names = ("a", "b", "scale_matrix")
    location = "scale_matrix"
    base_measure = "affine_invariant"
    mean_kind = "extrinsic"
    needs_double = True  # float32 matrices are singular to rounding from condition numbers of 1e7, which training passes
    log_scale_range = (-5.0, 1.0)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        return {"a": (), "b": (), "scale_matrix": self.point_shape}

    @property
    def _lowest(self) -> float:
        return (self.point_shape[0] - 1) / 2

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        above = constraints.greater_than(self._lowest)
        return {"a": above, "b": above, "scale_matrix": OnManifold(self.manifold, self.point_shape)}

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        a, b, scale = w["a"].double(), w["b"].double(), w["scale_matrix"].double()
        difference = exact_difference(b, x.double(), a, scale) / b[..., None, None]
        pair, share = relative(x.double(), (a / b)[..., None, None] * scale, difference), a / (a + b)
        near = (a + b) * excess_loss(share[..., None, None] * pair.excess) - a * excess_loss(pair.excess)
        eye = torch.eye(self.point_shape[0], dtype=scale.dtype, device=scale.device)
        both = (b / (a + b))[..., None, None] * eye + share[..., None, None] * (pair.factor @ pair.factor.mT)
        far = 2 * a * cholesky_logdet(pair.factor) - (a + b) * log_det_spd(both)
        return (pair.choose(near, far) + self._log_constant(a, b)).to(x.dtype)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        # one determinant a pair, of a sum of two matrices of order one; where a > b of inverses, whose law has them exchanged
        w = self.expand(w, self.batch_shape(w))
        a, b, scale = w["a"].double(), w["b"].double(), w["scale_matrix"].double()
        points, modes = whitened(x.double(), (a / b)[..., None, None] * scale)
        inverse, turned, low, high = inverse_spd(points), (a > b)[..., None, None], torch.minimum(a, b), torch.maximum(a, b)
        log_det = log_det_spd(points).unsqueeze(1) * torch.where(a > b, -low, low)
        own, part = torch.where(turned, inverse_spd(modes), modes), (low / (a + b))[..., None, None]
        bias = high * log_det_spd(own) + self._log_constant(a, b)
        own, offset = (high / (a + b))[..., None, None] * own, self._base_ratio(x).unsqueeze(1)

        def block(rows: slice) -> Tensor:
            both = own + part * torch.where(turned, inverse[rows].unsqueeze(1), points[rows].unsqueeze(1))
            return (bias + log_det[rows] - (a + b) * log_det_spd(both)).to(x.dtype) + offset[rows]

        return by_blocks(block, len(x), len(modes), x)

    def _log_constant(self, a: Tensor, b: Tensor) -> Tensor:
        """Log density at the mode."""
        p = self.point_shape[0]
        return wishart_log_constant(2 * a, p) + wishart_log_constant(2 * b, p) - wishart_log_constant(2 * (a + b), p)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        above, below = (
            bartlett(2 * w[name].expand((*sample_shape, *w[name].shape)), self.point_shape[0], generator) for name in ("a", "b")
        )
        scale = torch.linalg.cholesky(w["scale_matrix"].double())
        # scale below^-T above: the square of its first two factors is the inverse Wishart matrix
        root = torch.linalg.solve_triangular(below, scale.mT, upper=False).mT @ above
        return rounded_up(root @ root.mT, w["scale_matrix"])

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        # for narrow scales the law is the affine-invariant normal with variance 1/a + 1/b
        a = 2 * scale.pow(-2) + self._lowest
        return {"a": a, "b": a, "scale_matrix": points}

    @property
    def num_raw_shape(self) -> int:
        return 2

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        a, b = (2 * self.scale_from_raw(shape).pow(-2) + self._lowest).unbind(-1)
        return {"a": a, "b": b, "scale_matrix": (b / a)[..., None, None] * points}

    def mean(self, w: Params) -> Tensor:
        a, above = w["a"].double(), w["b"].double() - (self.point_shape[0] + 1) / 2
        if not above.is_meta and bool((above <= 0).any()):
            raise ValueError(
                f"Expected b above (p + 1)/2 = {(self.point_shape[0] + 1) / 2:g} for the mean of matrix_beta_prime, got "
                f"{float(w['b'].min()):g}: up to there the mean is infinite."
            )
        return ((a / above)[..., None, None] * w["scale_matrix"].double()).to(w["scale_matrix"].dtype)

    def entropy(self, w: Params) -> Tensor:
        if is_log_euclidean(self.manifold):
            return super().entropy(w)
        a, b = w["a"].double(), w["b"].double()
        parts = sum(sign * v * self._log_det_excess(v) for sign, v in ((-1, a), (-1, b), (1, a + b)))
        return (parts - self._log_constant(a, b)).to(w["a"].dtype)

    def _log_det_excess(self, a: Tensor) -> Tensor:
        return multivariate_digamma_minus_log(a, self.point_shape[0])

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        a, b, p = w["a"].double(), w["b"].double(), self.point_shape[0]
        mean = log_det_spd(w["scale_matrix"].double()) + p * torch.log(a / b)
        ratio = mean_volume_ratio(mean + self._log_det_excess(a) - self._log_det_excess(b), p, kind)
        return super().mean_log_ratio(w, kind) if ratio is None or is_log_euclidean(self.manifold) else ratio

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        share, p = shares(x, weights), self.point_shape[0]
        root = torch.linalg.cholesky(average(share, x.double()))
        white = torch.linalg.solve_triangular(root, x.double(), upper=False)
        white = sym(torch.linalg.solve_triangular(root, white.mT, upper=False))
        log_det = share @ log_det_spd(white)
        rows, columns = torch.tril_indices(p, p, device=x.device)

        def params(theta: Tensor) -> Params:
            # beyond the bound only the bound counts, and the likelihood is flat
            a, b = (theta[:2].exp() + self._lowest).clamp_max(MAX_SHAPE).unbind(-1)
            factor = torch.zeros_like(root).index_put((rows, columns), theta[2:])
            factor = factor.tril(-1) + torch.diag_embed(factor.diagonal().exp())
            return {"a": a, "b": b, "scale_matrix": (b / a) * (factor @ factor.mT)}

        def likelihood(theta: Tensor) -> Tensor:
            a, b, scale = params(theta).values()
            p_logs = p * (a * a.log() + b * b.log() - (a + b) * (a + b).log())  # of the constant, which is that at the mode
            both = b * log_det_spd(scale) - (a + b) * (share @ log_det_spd(white + scale))
            return a * log_det + both + self._log_constant(a, b) - p_logs

        start = torch.zeros(2 + len(rows), dtype=torch.float64, device=x.device)
        start[:2] = 1.0
        found = params(climb(likelihood, start))
        found["scale_matrix"] = congruence(root, found["scale_matrix"])
        return {name: value.to(x) for name, value in found.items()}
