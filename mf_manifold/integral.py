"""The total mass of a fitted mixture, computed by rules that do not know how its density was made.

On circles, S^2 and T^2 it is an adaptive Gauss quadrature over the whole manifold. On SPD matrices it is importance sampling
whose proposals and their density by Lebesgue measure are written out here, with torch's normal law and the textbook Jacobian
of the matrix logarithm; they share nothing with the kernel and the measures under test.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import geoopt
import torch
from torch import Tensor
from torch.distributions import Normal

from . import manifolds
from .kernel import Params
from .mixture import Mixture
from .quadrature import integrate_cube

SCOUTS = 20_000  # samples that show where the quadrature must be fine; they enter no sum
FEWEST, MOST, EFFORT = 2**12, 2**16, 3e8  # proposals, and coordinates of components compared with them
WIDENING = 1.05  # of the proposals relative to the components, so that no weight is large
ROWS = 128  # proposals scored at once


class TotalMass(NamedTuple):
    """An integral of a density over its manifold.

    Attributes:
        value: the integral; 1 for a normalised density.
        error: bound estimate of the quadrature, or standard error of the sampling.
        method: how it was computed.
    """

    value: float
    error: float
    method: str


def total_mass(mixture: Mixture, *, seed: int = 0) -> TotalMass:
    """Integral of a mixture over S^1, S^2, T^1, T^2 (adaptive quadrature) or SPD matrices (importance sampling).

    **Measure**: the Riemannian volume on spheres and tori; Lebesgue measure of the entries i <= j on SPD matrices, so that the
    conversion between the two is tested as well.

    Args:
        seed: of the samples that refine the quadrature, or of the proposals.

    Raises:
        ValueError: a manifold or kernel that no rule covers.

    >>> import geoopt, torch, mf_manifold as mf
    >>> kernel = mf.kernel_for(geoopt.Sphere(), (3,))
    >>> mix = mf.Mixture(kernel, {"loc": torch.eye(3).double(), "concentration": torch.full((3,), 200.0).double()})
    >>> mass = total_mass(mix)
    >>> abs(mass.value - 1) < 1e-4
    True
    """
    generator = torch.Generator(_like(mixture).device).manual_seed(seed)
    manifold, dimension = mixture.manifold, mixture.kernel.dim
    if isinstance(manifold, geoopt.SymmetricPositiveDefinite) and {"scale", "covariance_matrix"} & mixture.params.keys():
        return _by_sampling(mixture, generator)
    if isinstance(manifold, geoopt.Sphere | manifolds.Torus) and dimension <= 2:
        return _by_quadrature(mixture, generator)
    raise ValueError(
        "Expected a mixture on S^1, S^2, T^1, T^2, or one with a loc and a scale or covariance on SPD matrices, got "
        f"{mixture.kernel.name} of dimension {dimension} on {manifold.name}."
    )


def _like(mixture: Mixture) -> Tensor:
    return next(iter(mixture.params.values()))


def _to_cube(mixture: Mixture, x: Tensor) -> Tensor:
    """Angles, or latitude and longitude, as coordinates in [0, 1); (N,*E) -> (N,d)."""
    if isinstance(mixture.manifold, manifolds.Torus):
        return torch.remainder(x / (2 * math.pi), 1)
    turn = torch.remainder(torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi), 1).unsqueeze(-1)
    if x.shape[1] == 2:
        return turn
    latitude = torch.atan2(x[:, 2], torch.hypot(x[:, 0], x[:, 1]))
    return torch.cat([latitude.unsqueeze(-1) / math.pi + 0.5, turn], dim=-1)


def _from_cube(mixture: Mixture, u: Tensor) -> tuple[Tensor, Tensor]:
    """Points, and the density there of the uniform distribution in these coordinates; (N,d) -> (N,*E), (N)."""
    ones = torch.ones_like(u[:, 0])
    if isinstance(mixture.manifold, manifolds.Torus):
        return 2 * math.pi * (u - (u > 0.5).to(u)), ones
    angle = 2 * math.pi * u[:, -1:]
    circle = torch.cat([angle.cos(), angle.sin()], dim=-1)
    if u.shape[1] == 1:
        return circle, ones
    latitude = math.pi * (u[:, :1] - 0.5)
    cosine = latitude.cos()
    return torch.cat([cosine * circle, latitude.sin()], dim=-1), cosine.squeeze(-1) * (math.pi / 2)


@torch.no_grad()
def _by_quadrature(mixture: Mixture, generator: torch.Generator) -> TotalMass:
    def density(u: Tensor) -> Tensor:
        x, uniform = _from_cube(mixture, u)
        return mixture.log_prob(x.to(_like(mixture)), "normalized").double().exp() * uniform

    scouts = mixture.sample((SCOUTS,), generator).double()
    value, error = integrate_cube(density, _to_cube(mixture, scouts))
    return TotalMass(value, error, "adaptive Gauss quadrature")


@torch.no_grad()
def _by_sampling(mixture: Mixture, generator: torch.Generator) -> TotalMass:
    """Mean of q / r over samples of r, a mixture of normal laws of the matrix logarithm."""
    exact = mixture.to(torch.float64)
    locations, factors, weights = _bumps(exact)
    values, vectors = torch.linalg.eigh(locations)
    below = torch.tril_indices(values.shape[-1], values.shape[-1], offset=-1, device=values.device)
    means = _coordinates((vectors * values.log().unsqueeze(-2)) @ vectors.mT, below)
    factors = WIDENING * factors
    count = int(min(MOST, max(FEWEST, EFFORT / means.numel())))
    chosen = torch.multinomial(weights.exp(), count, replacement=True, generator=generator)
    noise = torch.randn(means[chosen].shape, generator=generator, dtype=means.dtype, device=means.device)
    points = means[chosen] + (factors[chosen] @ noise.unsqueeze(-1)).squeeze(-1)
    inverse = torch.linalg.inv(factors)
    heights = weights.log_softmax(0) + torch.linalg.slogdet(inverse).logabsdet

    def log_density(rows: Tensor) -> Tensor:
        white = torch.einsum("mij,nmj->nmi", inverse, rows.unsqueeze(1) - means)
        return (Normal(0.0, 1.0).log_prob(white).sum(-1) + heights).logsumexp(1)

    log_proposal = torch.cat([log_density(rows) for rows in points.split(ROWS)])
    log_values, vectors = torch.linalg.eigh(_symmetric(points, below))
    x = (vectors * log_values.exp().unsqueeze(-2)) @ vectors.mT
    ratio = (exact.log_prob(x, "lebesgue") - log_proposal - _log_jacobian(log_values, below)).exp()
    return TotalMass(float(ratio.mean()), float(ratio.std()) / math.sqrt(count), "importance sampling")


def _bumps(mixture: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    """Locations, triangular factors of the covariances and log weights of all bumps, the background's among them."""
    locations, weights = mixture.params["loc"], mixture.log_weights
    weights = locations.new_zeros(mixture.n_components) if weights is None else weights
    factors = _factors(mixture.params, mixture.n_components, mixture.kernel.dim)
    if mixture.background is None:
        return locations, factors, weights
    wide, share = mixture.background.params, mixture.background_weight
    locations = torch.cat([locations, wide["loc"].reshape(1, *locations.shape[1:])])
    factors = torch.cat([factors, _factors(wide, 1, mixture.kernel.dim)])
    return locations, factors, torch.cat([weights.log_softmax(0) + torch.log1p(-share), share.log().reshape(1)])


def _factors(params: Params, count: int, dim: int) -> Tensor:
    """Triangular factors (count,d,d) of the covariances."""
    if "scale" in params:
        return torch.diag_embed(params["scale"].reshape(-1, params["scale"].shape[-1]).expand(count, dim))
    return torch.linalg.cholesky(params["covariance_matrix"].reshape(-1, dim, dim)).expand(count, dim, dim)


def _coordinates(s: Tensor, below: Tensor) -> Tensor:
    """Diagonal and sqrt 2 times the lower triangle, row by row, of symmetric matrices: orthonormal coordinates."""
    return torch.cat([s.diagonal(dim1=-2, dim2=-1), math.sqrt(2) * s[..., below[0], below[1]]], dim=-1)


def _symmetric(v: Tensor, below: Tensor) -> Tensor:
    """Inverse of :func:`_coordinates`."""
    p = v.shape[-1] - below.shape[1]
    s = torch.diag_embed(v[..., :p] / 2)
    s[..., below[0], below[1]] = v[..., p:] / math.sqrt(2)
    return s + s.mT


def _log_jacobian(log_values: Tensor, below: Tensor) -> Tensor:
    """Log volume of ``d svec(log X) / dX``, X by its entries i <= j, from the logarithms of the eigenvalues of X.

    It is ``2^(p(p-1)/4) prod_i 1 / x_i prod_{i<j} (log x_i - log x_j) / (x_i - x_j)``.
    """
    low, high = log_values[..., below[1]], log_values[..., below[0]]  # eigenvalues increase
    half_gap = ((high - low) / 2).clamp_min(torch.finfo(low.dtype).eps)
    quotients = (half_gap / half_gap.sinh()).log() - (low + high) / 2
    return below.shape[1] / 2 * math.log(2) - log_values.sum(-1) + quotients.sum(-1)
