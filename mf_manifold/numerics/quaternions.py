"""Unit quaternions (w, x, y, z), scalar first, and the rotations of space that they describe.

Both q and -q describe one rotation. Angles come from chords of quaternions, which keep all digits from 0 to pi: an angle of
rotation is twice the angle between the lines of two quaternions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .orthogonal import arctanc_sqrt
from .special import angle2_from_chord2


def multiply(p: Tensor, q: Tensor) -> Tensor:
    """The product pq, which applies q first. Shapes: (...,4), broadcast.

    >>> i, j = torch.eye(4)[1], torch.eye(4)[2]
    >>> multiply(i, j).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    p0, q0, u, v = p[..., :1], q[..., :1], p[..., 1:], q[..., 1:]
    u, v = torch.broadcast_tensors(u, v)
    scalar = p0 * q0 - (u * v).sum(-1, keepdim=True)
    return torch.cat([scalar, p0 * v + q0 * u + torch.linalg.cross(u, v)], dim=-1)


def conjugate(q: Tensor) -> Tensor:
    """The inverse of unit quaternions. Shapes: (...,4)."""
    return torch.cat([q[..., :1], -q[..., 1:]], dim=-1)


def unit(q: Tensor) -> Tensor:
    """Quaternions scaled to unit length. Shapes: (...,4)."""
    return q / q.norm(dim=-1, keepdim=True)


def upper(q: Tensor) -> Tensor:
    """The one of q and -q whose scalar part is not negative. Shapes: (...,4)."""
    return torch.where(q[..., :1] < 0, -q, q)


def to_matrix(q: Tensor) -> Tensor:
    """Rotation matrices of unit quaternions. Shapes: (...,4) to (...,3,3).

    >>> to_matrix(torch.tensor([0.0, 0.0, 0.0, 1.0])).tolist()           # half a turn about the z axis
    [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    w, x, y, z = q.unbind(-1)
    a, b, c = 2 * x, 2 * y, 2 * z
    rows = [1 - b * y - c * z, a * y - c * w, a * z + b * w]
    rows += [a * y + c * w, 1 - a * x - c * z, b * z - a * w]
    rows += [a * z - b * w, b * z + a * w, 1 - a * x - b * y]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def from_matrix(r: Tensor) -> Tensor:
    """Unit quaternions of rotation matrices, accurate to rounding for every angle; the sign is arbitrary.

    Four times ``q q^T`` is linear in the matrix; of its columns, all multiples of q, the longest is scaled to unit length.
    Shapes: (...,3,3) to (...,4).

    >>> from_matrix(torch.diag(torch.tensor([1.0, -1.0, -1.0]))).tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in r.unbind(-2))
    columns = torch.stack(
        [
            torch.stack([1 + a + e + i, h - f, c - g, d - b], dim=-1),
            torch.stack([h - f, 1 + a - e - i, b + d, c + g], dim=-1),
            torch.stack([c - g, b + d, 1 - a + e - i, f + h], dim=-1),
            torch.stack([d - b, c + g, f + h, 1 - a - e + i], dim=-1),
        ],
        dim=-2,
    )
    longest = columns.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = columns.gather(-2, longest[..., None, None].expand(*longest.shape, 1, 4)).squeeze(-2)
    return unit(chosen)


def relative(p: Tensor, q: Tensor) -> Tensor:
    """The quaternion of the rotation from p to q, ``conjugate(p) q``, with scalar part >= 0; exact 1 where p = q.

    The vector part comes from the difference, which keeps the relative accuracy of small angles. Shapes: (...,4), broadcast.
    """
    p, q = torch.broadcast_tensors(p, q)
    cosine = (p * q).sum(-1, keepdim=True)
    q = torch.where(cosine < 0, -q, q)
    return torch.cat([cosine.abs(), multiply(conjugate(p), q - p)[..., 1:]], dim=-1)


def rotation_vector(q: Tensor) -> Tensor:
    """Axis times angle, of length <= pi, from quaternions with scalar part >= 0. Shapes: (...,4) to (...,3)."""
    w, v = q[..., :1], q[..., 1:]
    w2, v2 = w.square(), v.square().sum(-1, keepdim=True)
    near = v2 <= w2
    small = torch.where(near, v2 / torch.where(near, w2, torch.ones_like(w2)), torch.zeros_like(w2))
    size = torch.where(near, torch.ones_like(v2), v2).sqrt()
    ratio = torch.where(near, arctanc_sqrt(small) / torch.where(near, w, torch.ones_like(w)), torch.atan2(size, w) / size)
    return 2 * ratio * v


def chords2(p: Tensor, q: Tensor) -> Tensor:
    """The squared chord, in [0, 2], of the shorter way between the lines of p and q. Shapes: (...,4), broadcast, to (...)."""
    near = (p * q).sum(-1, keepdim=True) >= 0
    return torch.where(near, p - q, p + q).square().sum(-1)


def angle_between(p: Tensor, q: Tensor) -> Tensor:
    """Angle in [0, pi] of the rotation from p to q, with gradient 0 at 0. Shapes: (...,4), broadcast, to (...)."""
    half2 = angle2_from_chord2(chords2(p, q))
    apart = half2 > 0
    return torch.where(apart, 2 * torch.where(apart, half2, torch.ones_like(half2)).sqrt(), torch.zeros_like(half2))


def pair_chords2(p: Tensor, q: Tensor) -> Tensor:
    """:func:`chords2` of all pairs by one matrix product. Shapes: (N,4), (M,4) to (N,M)."""
    squares = p.square().sum(-1, keepdim=True) + q.square().sum(-1)
    return (squares - 2 * (p @ q.mT).abs()).clamp_min(0)
