"""Rotation matrices SO(n) with the bi-invariant metric in which distances are angles."""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from .. import geometry
from ..geometry import Shape
from ..measure import register_measure, zeros_like_batch
from ..numerics import quaternions
from ..numerics.curved import sinc_sqrt
from ..numerics.orthogonal import (
    angles_between,
    hat,
    log_rotation,
    log_volume,
    nearest_rotation,
    num_skew,
    skew_phases,
    vee,
)
from ..numerics.special import log_sinc_abs
from . import register_config


class SpecialOrthogonal(geoopt.Manifold):  # type: ignore[misc]
    """Rotation matrices R with ``R^T R = 1`` and ``det R = 1``, any size n >= 2, which is that of the point shape (n, n).

    The metric is ``tr(dR^T dR) / 2``, invariant under multiplication from both sides. For n = 3 the distance of two rotations
    is the angle of the rotation between them, and the volume is 8 pi^2; in general the distance is the root of the sum of the
    squared angles of the planes that turn. A tangent vector at R is ``R A`` with A skew; its coordinates are those of A (for
    n = 3 the axis times the angle, in the frame that R turns: the body frame).

    Shapes: points (*B, n, n).

    >>> import torch, mf_manifold as mf
    >>> so3 = mf.manifolds.SpecialOrthogonal()
    >>> turn = torch.tensor([[0., -1., 0.], [1., 0., 0.], [0., 0., 1.]])
    >>> round(float(mf.geometry.dist(so3, torch.eye(3), turn)), 4)
    1.5708
    """

    name = "SpecialOrthogonal"
    ndim = 2
    reversible = True

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        worst = max((v for _, amount in geometry.violations(self, x) for v in amount.flatten().tolist()), default=0.0)
        return worst <= atol, None if worst <= atol else f"a matrix is off the rotations by {worst:.1e}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        worst = max((u - self.proju(x, u)).abs().flatten().tolist(), default=0.0)
        return worst <= atol, None if worst <= atol else f"a vector is off the tangent space by {worst:.1e}"

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return geometry.expmap(self, x, u)

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return geometry.logmap(self, x, y)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        distance = geometry.dist(self, x, y)
        return distance[..., None, None] if keepdim else distance

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return y @ x.mT @ v

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        return (u * (u if v is None else v)).sum((-2, -1), keepdim=keepdim) / 2

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return (u - x @ u.mT @ x) / 2

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return 2 * self.proju(x, u)

    def projx(self, x: Tensor) -> Tensor:
        return nearest_rotation(x)

    def random(
        self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None, **kwargs: Any
    ) -> geoopt.ManifoldTensor:
        """Independent uniform rotations of shape ``size``."""
        *batch, _, n = geoopt.utils.size2shape(*size)
        draw = geometry.sample_uniform(self, (n, n), tuple(batch), dtype=dtype, device=device, **kwargs)
        return geoopt.ManifoldTensor(draw, manifold=self)

    def origin(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        seed: int | None = 42,
    ) -> geoopt.ManifoldTensor:
        """The identity, repeated to shape ``size``."""
        shape = geoopt.utils.size2shape(*size)
        eye = torch.eye(shape[-1], dtype=dtype, device=device).expand(shape).clone()
        return geoopt.ManifoldTensor(eye, manifold=self)


register_config("SpecialOrthogonal", lambda config: SpecialOrthogonal())


@geometry.check_manifold.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, point_shape: Shape) -> None:
    if len(point_shape) != 2 or point_shape[0] != point_shape[1] or point_shape[0] < 2:
        raise ValueError(f"Expected a point shape (n, n) with n >= 2 on SO(n), got {tuple(point_shape)}.")


@geometry.to_config.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal) -> dict[str, Any]:
    return {"type": "SpecialOrthogonal"}


@geometry.intrinsic_dim.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, point_shape: Shape) -> int:
    return num_skew(point_shape[-1])


def _exp_skew(a: Tensor) -> Tensor:
    """Exponential of skew matrices; by Rodrigues' formula for n <= 3."""
    if a.shape[-1] > 3:
        result: Tensor = torch.linalg.matrix_exp(a)
        return result
    angle2 = (a.square().sum((-2, -1)) / 2)[..., None, None]
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return eye + sinc_sqrt(angle2) * a + sinc_sqrt(angle2 / 4).square() / 2 * (a @ a)


@geometry.expmap.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, x: Tensor, u: Tensor) -> Tensor:
    return x @ _exp_skew(hat(vee(x.mT @ u), x.shape[-1]))


@geometry.logmap.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, x: Tensor, y: Tensor) -> Tensor:
    x, y = torch.broadcast_tensors(x, y)
    if x.shape[-1] == 3:
        turn = quaternions.relative(quaternions.from_matrix(x), quaternions.from_matrix(y))
        return x @ hat(quaternions.rotation_vector(turn), 3)
    return x @ log_rotation(x.mT @ y)


@geometry.dist.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, x: Tensor, y: Tensor) -> Tensor:
    if x.shape[-1] == 3:
        return quaternions.angle_between(quaternions.from_matrix(x), quaternions.from_matrix(y))
    square = angles_between(x, y).square().sum(-1) / 2
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), torch.zeros_like(square))


@geometry.logdet_expmap.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, x: Tensor, u: Tensor) -> Tensor:
    phases = skew_phases(hat(vee(x.mT @ u), x.shape[-1]))
    row, column = torch.triu_indices(x.shape[-1], x.shape[-1], 1, device=u.device)
    return log_sinc_abs((phases[..., row] + phases[..., column]) / 2).sum(-1)


@geometry.from_coords.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, x: Tensor, v: Tensor) -> Tensor:
    return x @ hat(v, x.shape[-1])


@geometry.to_coords.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, x: Tensor, u: Tensor) -> Tensor:
    return vee(x.mT @ u)


@geometry.log_volume.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, point_shape: Shape) -> float:
    return log_volume(point_shape[-1])


@geometry.sample_uniform.register(SpecialOrthogonal)
def _(
    manifold: SpecialOrthogonal,
    point_shape: Shape,
    sample_shape: Shape = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    n = point_shape[-1]
    if n == 3:
        q = torch.randn((*sample_shape, 4), generator=generator, dtype=dtype, device=device)
        return quaternions.to_matrix(quaternions.unit(q))
    q, r = torch.linalg.qr(torch.randn((*sample_shape, n, n), generator=generator, dtype=dtype, device=device))
    # the signs make the law of q uniform on O(n) (Stewart 1980); one column turned around makes it a rotation
    q = q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q).unsqueeze(-2)
    return torch.cat([q[..., :1] * torch.linalg.det(q).sign()[..., None, None], q[..., 1:]], dim=-1)


@geometry.project.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, x: Tensor) -> Tensor:
    return nearest_rotation(x)


@geometry.raw_dim.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, point_shape: Shape) -> int:
    return point_shape[-1] * (point_shape[-1] - 1)


@geometry.from_raw.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, raw: Tensor, point_shape: Shape) -> Tensor:
    # Gram-Schmidt of all columns but the last, which is then given (Zhou et al. 2019, section 4)
    columns: list[Tensor] = []
    for column in raw.unflatten(-1, (point_shape[-1], point_shape[-1] - 1)).unbind(-1):
        for _ in range(2):  # once more removes what rounding leaves of nearly parallel columns
            for other in columns:
                column = column - (column * other).sum(-1, keepdim=True) * other
        columns.append(torch.nn.functional.normalize(column, dim=-1, eps=torch.finfo(raw.dtype).tiny ** 0.5))
    return torch.stack([*columns, _completed(torch.stack(columns, dim=-1))], dim=-1)


def _completed(frame: Tensor) -> Tensor:
    """The unit vector that completes n - 1 orthonormal columns to a rotation: their cofactors."""
    n = frame.shape[-2]
    minors = [torch.cat([frame[..., :i, :], frame[..., i + 1 :, :]], dim=-2) for i in range(n)]
    signs = torch.tensor([(-1.0) ** (n - 1 - i) for i in range(n)], dtype=frame.dtype, device=frame.device)
    last = signs * torch.linalg.det(torch.stack(minors, dim=-3).detach())
    # no derivatives of determinants, which are wrong where they vanish: it moves as it must to stay perpendicular
    return last - (frame @ (frame.mT @ last.unsqueeze(-1))).squeeze(-1)


@geometry.to_raw.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, x: Tensor) -> Tensor:
    return x[..., :-1].flatten(-2)


@geometry.violations.register(SpecialOrthogonal)
def _(manifold: SpecialOrthogonal, x: Tensor) -> list[tuple[str, Tensor]]:
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    mirrored = torch.linalg.det(x) < 0
    return [
        ("are not orthogonal by |R^T R - 1|", (x.mT @ x - eye).abs().amax((-2, -1))),
        ("are reflections (determinant -1)", mirrored.to(x)),
    ]


def _normalized(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) - log_volume(x.shape[-1])


register_measure(SpecialOrthogonal, "normalized")(_normalized)
register_measure(SpecialOrthogonal, "haar")(_normalized)


@register_measure(SpecialOrthogonal, "frobenius")
def _(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    return zeros_like_batch(manifold, x) + num_skew(x.shape[-1]) / 2 * math.log(2)
