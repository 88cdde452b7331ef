"""Logistic normal distribution on the simplex: a normal law of isometric log-ratios."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernel import register_kernel
from ..manifolds.simplex import Simplex, from_log_ratio_coordinates, log_ratio_coordinates
from .coordinate_normal import CoordinateNormal


@register_kernel(Simplex, "logistic_normal", default=True)
class LogisticNormal(CoordinateNormal):
    r"""Law of ``softmax(H^T V)`` with V normal, H the orthonormal contrasts of the isometric log-ratio.

    .. math:: q(x) = N(H \log x; H \log loc, \Sigma), \qquad q_{leb}(x) = q(x) \,/\, (\sqrt K \textstyle\prod_i x_i)

    The rows of H (K-1,K) are ``(1,...,1,-j,0,...) / sqrt(j(j+1))`` with j ones; ``scale`` of one number is the standard
    deviation along every direction and does not depend on them. It is the logistic normal of Aitchison and Shen;
    ``torch.distributions.LogisticNormal`` is another law, a normal pushed through a stick-breaking map.

    **Measure**: Aitchison volume by default, by which the density is exactly the normal. **Exactness**: closed form.
    **Range**: any positive scale; parts down to the smallest normal number of the dtype. **Mean**: Fréchet, ``loc``.
    **Sampler**: pathwise.

    Shapes: ``loc`` (*B,K); ``scale`` (*B,K-1) or (*B,1); ``covariance_matrix`` (*B,K-1,K-1).

    Raises:
        ValueError: ``loc`` off the open simplex, a scale that is not positive.

    References:
        Aitchison, Shen (1980), Logistic-normal distributions: some properties and uses.
        Egozcue et al. (2003), Isometric logratio transformations for compositional data analysis.

    >>> import torch, mf_manifold as mf
    >>> loc = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    >>> d = mf.distribution(mf.manifolds.Simplex(), "logistic_normal", loc=loc, scale=0.5)
    >>> round(float(d.log_prob(loc).exp()), 6)                  # 1 / (2 pi 0.5^2)
    0.63662
    """

    mean_kind = "frechet"
    log_scale_range = (-7.0, 3.0)

    def coordinates(self, x: Tensor) -> Tensor:
        return log_ratio_coordinates(x.double())

    def from_coordinates(self, v: Tensor) -> Tensor:
        return from_log_ratio_coordinates(v)

    def rounded(self, x: Tensor, like: Tensor) -> Tensor:
        return x.to(like).clamp_min(torch.finfo(like.dtype).tiny)
