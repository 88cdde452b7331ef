"""Wrapped normal on SPD matrices: a normal law in the tangent space at ``loc``, by the affine-invariant exponential map."""

from __future__ import annotations

import math
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

from ..geometry import Shape
from ..kernel import Kernel, Params, register_kernel
from ..numerics.affine_invariant import frechet_mean, radial, tangent
from ..numerics.linalg import congruence, svec, sym, sym_expm, sym_sqrtm, unsvec
from .covariance import cholesky_logdet
from .diagonal_or_full import DiagonalOrFull
from .shares import shares
from .spd_geodesic import AffineInvariantKernel
from .stein import narrowed


@register_kernel(geoopt.SymmetricPositiveDefinite, "wrapped_normal")
class SPDWrappedNormal(DiagonalOrFull, AffineInvariantKernel):
    r"""Law of ``loc^(1/2) exp(T) loc^(1/2)`` with a normal symmetric matrix T, the exponential map of a tangent normal law.

    .. math:: q(X) = N(\mathrm{svec}\, T; 0, \Sigma) \prod_{i<j} \frac{h_{ij}/2}{\sinh(h_{ij}/2)}, \quad
              T = \log(loc^{-1/2} X loc^{-1/2}),

    with the gaps h of the eigenvalues of T and orthonormal coordinates svec (diagonal, then sqrt 2 times the entries below it).
    The roots are symmetric; these are the coordinates of :func:`mf_manifold.geometry.from_coords` at ``loc``. One ``scale`` for
    all coordinates makes the law the same for every root of ``loc``, and equivariant under all congruences; several scales and
    a ``covariance_matrix`` make a different law with a Cholesky root, and are equivariant only where the root is.

    The law is that of the affine-invariant geometry also on the manifold with the log-Euclidean metric.

    **Measure**: Riemannian volume of the manifold's metric; the formula is by the affine-invariant one.
    **Exactness**: closed form, the exponential map has one inverse.
    **Range**: scales from 1e-4 to 3, condition numbers of ``loc`` and points to 1e6. Samples can be singular to
    rounding where ``2 s sqrt(2 p) > log(1 / eps)``.
    **Mean**: Fréchet, ``loc`` (affine-invariant metric).
    **Sampler**: pathwise.
    **Fit**: maximum likelihood by L-BFGS steps in the tangent space of the Fréchet mean, with the spread that is best for each
    ``loc`` in closed form.

    Shapes: ``loc`` (*B,p,p); ``scale`` (*B,m) or (*B,1) with m = p(p+1)/2; ``covariance_matrix`` (*B,m,m).

    Raises:
        ValueError: parameters that are not positive (definite); a fit to too few points.

    References:
        de Surrel, Lotte, Chevallier, Yger (2025), Wrapped Gaussian on the manifold of symmetric positive definite matrices.

    >>> import geoopt, torch, mf_manifold as mf
    >>> spd, eye = geoopt.SymmetricPositiveDefinite(), torch.eye(2, dtype=torch.float64)
    >>> d = mf.distribution(spd, "wrapped_normal", loc=4 * eye, scale=0.4)
    >>> round(float(d.log_prob(4 * eye)), 6)              # -3 log(0.4 sqrt(2 pi))
    -0.007943
    """

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        square, gaps = radial(x, w["loc"])
        if "scale" in w and w["scale"].shape[-1] == 1:
            log_scale = w["scale"].double()[..., 0].log()
            quadratic, log_det = square * torch.exp(-2 * log_scale), self.dim * log_scale
        else:
            quadratic, log_det = self._quadratic(svec(tangent(x, w["loc"])), w)
        return (-quadratic / 2 - log_det - self.dim / 2 * math.log(2 * math.pi) - gaps).to(x.dtype)

    def _quadratic(self, v: Tensor, w: Params) -> tuple[Tensor, Tensor]:
        if self.covariance == "diagonal":
            scale = w["scale"].double()
            return (v / scale).square().sum(-1), scale.log().sum(-1)
        factor = torch.linalg.cholesky(w["covariance_matrix"].double())
        white = torch.linalg.solve_triangular(factor, v.unsqueeze(-1), upper=False).squeeze(-1)
        return white.square().sum(-1), cholesky_logdet(factor)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc = w["loc"].double()
        shape = (*sample_shape, *loc.shape[:-2], self.dim)
        noise = torch.randn(shape, generator=generator, dtype=loc.dtype, device=loc.device)
        if self.covariance == "diagonal":
            v = w["scale"].double() * noise
        else:
            v = (torch.linalg.cholesky(w["covariance_matrix"].double()) @ noise.unsqueeze(-1)).squeeze(-1)
        return sym(congruence(sym_sqrtm(loc), sym_expm(unsvec(v)))).to(w["loc"].dtype)

    def entropy(self, w: Params) -> Tensor:
        if self.point_shape[0] > 1:
            return super().entropy(w)
        return (self._covariance(w)[..., 0, 0].log() / 2 + (1 + math.log(2 * math.pi)) / 2).to(w["loc"].dtype)

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        if not isinstance(other, SPDWrappedNormal):
            return super().kl_divergence(w, other, v)
        if not self._same_location(w, v):
            raise self._no_divergence()
        normals = [
            torch.distributions.MultivariateNormal(torch.zeros_like(c[..., 0]), c)
            for c in (self._covariance(w), other._covariance(v))
        ]
        return torch.distributions.kl_divergence(*normals).to(w["loc"].dtype)

    def _covariance(self, w: Params) -> Tensor:
        if self.covariance == "full":
            return w["covariance_matrix"].double()
        return torch.diag_embed(w["scale"].double().square().expand(*w["scale"].shape[:-1], self.dim))

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        share = shares(x, weights)
        loc = _minimise(lambda loc: self._profile(x, share, loc), frechet_mean(x, share))
        spread = self._spread(x, share, loc)
        shape = {"covariance_matrix": narrowed(spread, x)} if self.covariance == "full" else {"scale": spread.sqrt().to(x)}
        return {"loc": loc.to(x.dtype), **shape}

    def _spread(self, x: Tensor, share: Tensor, loc: Tensor) -> Tensor:
        """Second moments (m), or (m,m), of the coordinates of points around ``loc``."""
        v = svec(tangent(x, loc))
        if self.covariance == "diagonal":
            spread = share @ v.square()
            smallest = spread.detach().amin()
        else:
            spread = torch.einsum("n,ni,nj->ij", share, v, v)
            smallest = torch.linalg.eigvalsh(spread.detach())[0] * float((share > 0).sum() > self.dim)
        if not float(smallest) > 1e-24:
            raise ValueError(
                f"Expected points that vary in all {self.dim} coordinates, but the {int((share > 0).sum())} points with "
                "positive weight do not; more points are needed."
            )
        return spread

    def _profile(self, x: Tensor, share: Tensor, loc: Tensor) -> Tensor:
        """Mean negative log likelihood at the best spread, up to a constant."""
        spread = self._spread(x, share, loc)
        log_det = spread.log().sum() if self.covariance == "diagonal" else torch.logdet(spread)
        return log_det / 2 + share @ radial(x, loc)[1]


def _minimise(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Minimum over SPD matrices by L-BFGS in normal coordinates at ``start``, one of them after the other until none moves."""
    for _ in range(3):
        v = torch.zeros_like(svec(start), requires_grad=True)
        root = sym_sqrtm(start)
        options = {"max_iter": 100, "tolerance_grad": 1e-11, "tolerance_change": 1e-15, "line_search_fn": "strong_wolfe"}
        optimiser = torch.optim.LBFGS([v], **options)  # type: ignore[arg-type]

        def closure(v: Tensor = v, root: Tensor = root, optimiser: torch.optim.Optimizer = optimiser) -> Tensor:
            optimiser.zero_grad()
            value = function(sym(congruence(root, sym_expm(unsvec(v)))))
            value.backward()
            return value

        with torch.enable_grad():
            optimiser.step(closure)  # type: ignore[arg-type]
        start = sym(congruence(root, sym_expm(unsvec(v.detach()))))
        if float(v.detach().norm()) < 1e-9:
            break
    return start
