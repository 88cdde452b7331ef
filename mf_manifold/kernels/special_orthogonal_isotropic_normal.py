"""The isotropic normal law of rotations of space: Brownian motion on SO(3), in the literature IGSO(3)."""

from __future__ import annotations

import math

import geoopt
import torch
from torch import Tensor

from ..geometry import Shape
from ..kernel import Params, register_kernel
from ..manifolds import SpecialOrthogonal, UnitQuaternions
from ..numerics import quaternions
from ..numerics.curved import sinc_sqrt
from ..numerics.special import angle2_from_chord2
from .rejection import accepted
from .rotation import LOG_TWO_PI, LocationKernel

SWITCH = 1.5  # images below, characters above; both are exact to rounding well beyond
FEW_IMAGES = 0.9  # the scale up to which the images once around suffice
CHARACTERS = 8
LOG_UNIFORM = -math.log(8 * math.pi**2)


def _images(angle2: Tensor, scale: Tensor, count: int) -> Tensor:
    """Log density by images; for scales up to 1.5. The terms k and -k are joined, which cancels their poles at angle 0."""
    rate = scale.square()
    theta = torch.where(angle2 > 0, angle2, torch.ones_like(angle2)).sqrt()
    theta = torch.where(angle2 > 0, theta, torch.zeros_like(theta))
    total = torch.zeros_like(theta * rate)
    for k in range(1, count + 1):
        b, depth = 2 * math.pi * k * theta / rate, 2 * (math.pi * k) ** 2 / rate
        cosh, sinhc = _damped(b, depth)
        total = total + (2.0 if k % 2 else -2.0) * (2 * depth * sinhc - cosh)
    log_sinc = sinc_sqrt(angle2 / 4).log()
    return torch.log1p(total) - angle2 / (2 * rate) - log_sinc + rate / 8 - 1.5 * (LOG_TWO_PI + rate.log())


def _damped(b: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """``exp(-depth) cosh b`` and ``exp(-depth) sinh(b) / b`` without overflow."""
    up, down = torch.exp(b - depth), torch.exp(-b - depth)
    small = b < 0.5
    square = torch.where(small, b, torch.zeros_like(b)).square()
    series = 1 + square / 6 * (1 + square / 20 * (1 + square / 42 * (1 + square / 72 * (1 + square / 110))))
    large = torch.where(small, torch.ones_like(b), b)
    return (up + down) / 2, torch.where(small, series * torch.exp(-depth), (up - down) / (2 * large))


def _characters(chord2: Tensor, scale: Tensor) -> Tensor:
    """Log density by characters, ``sum_l (2l + 1) exp(-l (l + 1) s^2 / 2) chi_l``; for scales from 1.

    As a sum of cosines of multiples of the angle, by Chebyshev polynomials of its cosine.
    """
    cosine = 1 - chord2 * (4 - chord2) / 2
    coefficient, tails = torch.zeros_like(scale), []
    for m in range(CHARACTERS - 1, -1, -1):
        coefficient = coefficient + (2 * m + 1) * torch.exp(-m * (m + 1) * scale.square() / 2)
        tails.append(coefficient)
    first, second = torch.zeros_like(cosine * scale), torch.zeros_like(cosine * scale)
    for a in tails[:-1]:
        first, second = 2 * cosine * first - second + 2 * a, first
    # the constant term of the sum is 1 for the uniform law; the rest is what the law adds to it
    return torch.log1p(cosine * first - second + (tails[-1] - 1)) + LOG_UNIFORM


def _extremes(scale: Tensor) -> tuple[float, float]:
    """Least and largest scale, read once a call to choose the sums; where there is nothing to read, both sums are used."""
    if scale.is_meta or scale.numel() == 0:
        return 0.0, 2 * SWITCH
    low, high = torch.stack(torch.aminmax(scale.detach())).tolist()
    return low, high


def log_density(chord2: Tensor, scale: Tensor) -> Tensor:
    """Log density by the volume of the angle metric, from the squared chord 2 - 2 cos(angle / 2)."""
    low, high = _extremes(scale)
    if low >= SWITCH:
        return _characters(chord2, scale)
    angle2 = 4 * angle2_from_chord2(chord2)
    if high < SWITCH:
        return _images(angle2, scale, 1 if high < FEW_IMAGES else 2)
    narrow = scale < SWITCH
    by_images = _images(angle2, torch.where(narrow, scale, torch.ones_like(scale)), 2)
    by_characters = _characters(chord2, torch.where(narrow, torch.full_like(scale, SWITCH), scale))
    return torch.where(narrow, by_images, by_characters)


@register_kernel(UnitQuaternions, "isotropic_normal")
@register_kernel(SpecialOrthogonal, "isotropic_normal")
class IsotropicNormal(LocationKernel):
    r"""Brownian motion on SO(3) after the time scale^2, known as IGSO(3): heat kernel, smooth, bounded, uniform in the limit.

    With the angle :math:`\theta` from ``loc`` to ``x`` and :math:`s = scale`,

    .. math:: q(x) = \frac{1}{8\pi^2} \sum_{l \ge 0} (2l+1)\, e^{-l(l+1)s^2/2} \frac{\sin((l + 1/2)\theta)}{\sin(\theta/2)}
              = \frac{e^{s^2/8}}{(2\pi s^2)^{3/2}} \sum_{k \in Z} (-1)^k \frac{\theta + 2\pi k}{2\sin(\theta/2)}
                e^{-(\theta + 2\pi k)^2/2s^2}.

    The second sum is used for s < 1.5, the first one above; both to rounding. For small s it is a normal law of the rotation
    vector with standard deviation s. In the parametrisation with :math:`e^{-l(l+1)\epsilon^2}`, :math:`s = \sqrt 2\, \epsilon`.
    The convolution of two laws with scales a and b is one with :math:`\sqrt{a^2 + b^2}`.

    **Measure**: Riemannian volume, that of the angle metric; ``measure="haar"`` for densities against the uniform law.
    **Exactness**: series.

    **Range**: every scale from 1e-4. **Mean**: Fréchet, ``loc``. **Sampler**: rejection (acceptance 0.5 to 0.8), pathwise: by
    the heat equation the angle moves with the scale at the rate :math:`-s\, \partial_\theta \log q`. ``fit`` finds the
    maximum next to the mean of the data by Newton's method, with the scale in [1e-4, 10].

    Shapes: ``loc`` (*B,3,3) or quaternions (*B,4); ``scale`` (*B) positive.

    Raises:
        ValueError: a scale that is not positive, ``loc`` off SO(3), n other than 3.

    References:
        Nikolayev, Savyolov (1997), Normal distribution on the rotation group SO(3).

    >>> import torch, mf_manifold as mf
    >>> eye = torch.eye(3).double()
    >>> d = mf.distribution(mf.manifolds.SpecialOrthogonal(), "isotropic_normal", loc=eye, scale=0.5, measure="haar")
    >>> round(float(d.log_prob(eye)), 6)                            # log of 8 pi^2 exp(1/32) (pi / 2)^(-3/2)
    3.722777
    """

    exactness = "series"

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__(manifold, point_shape)
        self.require_size(3)

    def zonal(self, chord2: Tensor, scale: Tensor) -> Tensor:
        return log_density(chord2, scale)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self.by_angle(x, w)

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        return self.pairs_by_angle(x, w, x.dtype)

    def entropy(self, w: Params) -> Tensor:
        return self.angle_entropy(w)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        return self.fit_by_angle(x, weights)

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        loc, scale = w["loc"], w["scale"].expand(self.batch_shape(w))
        shape = (*sample_shape, *scale.shape)
        fixed = scale.detach().expand(shape)
        q = _draw(fixed.reshape(-1).double(), generator).reshape(*shape, 4)
        if scale.requires_grad:
            q = _moving(q, fixed.double(), scale.double())
        return self.turned(loc, q.to(loc.dtype))


def _moving(q: Tensor, fixed: Tensor, scale: Tensor) -> Tensor:
    """The same quaternions, whose angle has the gradient ``-s d log q / d angle`` by the scale.

    Mass moves as ``d F / d (s^2) = area * d q / d angle / 2``, the heat equation integrated over a ball.
    """
    sine = q[..., 1:].norm(dim=-1)
    angle = 2 * torch.atan2(sine, q[..., 0])
    with torch.enable_grad():
        theta = angle.detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_density(4 * (theta / 4).sin().square(), fixed).sum(), theta)
    angle = angle - fixed * slope * (scale - fixed)
    axis = q[..., 1:] / sine.clamp_min(torch.finfo(sine.dtype).tiny).unsqueeze(-1)
    return torch.cat([(angle / 2).cos().unsqueeze(-1), (angle / 2).sin().unsqueeze(-1) * axis], dim=-1)


def _draw(scale: Tensor, generator: torch.Generator | None) -> Tensor:
    """Quaternions (N,4), scalar part >= 0, of rotations around the identity for scales (N), by rejection.

    Narrow laws: normal rotation vectors no longer than pi, kept with probability ``sinc(angle / 2)`` times the sum of images
    relative to the first, over its bound 4 / pi, which is the value at pi. Wide laws: uniform rotations, kept with
    probability q / q(loc).
    """

    def propose(rows: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(len(rows), 4, generator=generator, dtype=scale.dtype, device=scale.device)
        return _proposal(noise, scale[rows])

    return accepted(propose, scale, generator)


def _proposal(noise: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates (N,4) with the log probabilities of keeping them."""
    narrow = s < SWITCH
    haar = quaternions.upper(quaternions.unit(noise))
    angle2 = (s.unsqueeze(-1) * noise[:, 1:]).square().sum(-1)
    inside = narrow & (angle2 < math.pi**2)
    angle2 = torch.where(inside, angle2, torch.ones_like(angle2))
    half = angle2.sqrt() / 2
    size = (half.sin() / (2 * half)).unsqueeze(-1) * s.unsqueeze(-1)
    normal = torch.cat([half.cos().unsqueeze(-1), size * noise[:, 1:]], dim=-1)
    chosen = torch.where(narrow.unsqueeze(-1), normal, haar)
    safe = torch.where(narrow, s, torch.ones_like(s))
    images = _images(angle2, safe, 2) + angle2 / (2 * safe.square()) - safe.square() / 8 + 1.5 * (LOG_TWO_PI + 2 * safe.log())
    by_images = images + 2 * sinc_sqrt(angle2 / 4).log() - math.log(4 / math.pi)
    wide = torch.where(narrow, torch.full_like(s, SWITCH), s)
    by_haar = _characters(2 - 2 * haar[:, 0], wide) - _characters(torch.zeros_like(s), wide)
    kept = torch.where(inside, by_images, torch.full_like(s, -math.inf))
    return chosen, torch.where(narrow, kept, by_haar)
