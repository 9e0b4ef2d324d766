"""Rotations as axis-angle, matrix, quaternion (w, x, y, z) and 6D, with gradients that are right at every angle.

Axis-angle vectors are radians along the axis; matrices turn column vectors (v' = R v); quaternions are Hamilton's.
All functions take any leading dimensions and keep dtype and device.
"""

from __future__ import annotations

import torch
from torch import Tensor

SERIES_BELOW = 0.01  # squared angle under which Taylor series replace the quotients: five terms reach 1e-17 there


def _over(numerator: Tensor, denominator: Tensor, small: Tensor, series: Tensor) -> Tensor:
    """numerator / denominator, or `series` where `small`, without the 0/0 that would poison the gradient."""
    return torch.where(small, series, numerator / torch.where(small, torch.ones_like(denominator), denominator))


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula, R = (1 - b s) I + a [w]x + b w w^T with s = |w|^2. [..., 3] radians to [..., 3, 3]."""
    s = (axis_angle * axis_angle).sum(-1, keepdim=True)
    small = s < SERIES_BELOW
    angle = torch.where(small, torch.ones_like(s), s).sqrt()
    a = _over(angle.sin(), angle, small, 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72))))
    half = (angle / 2).sin()
    b = _over(2 * half * half, s, small, (1 - s / 12 * (1 - s / 30 * (1 - s / 56 * (1 - s / 90)))) / 2)
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*axis_angle.shape[:-1], 3, 3)
    outer = axis_angle[..., :, None] * axis_angle[..., None, :]
    eye = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return (1 - b * s)[..., None] * eye + a[..., None] * cross + b[..., None] * outer


def axis_angle_to_quat(axis_angle: Tensor) -> Tensor:
    """Unit quaternion (cos(angle / 2), axis sin(angle / 2)). [..., 3] radians to [..., 4] wxyz."""
    s = (axis_angle * axis_angle).sum(-1, keepdim=True) / 4
    small = s < SERIES_BELOW
    half = torch.where(small, torch.ones_like(s), s).sqrt()
    sinc = _over(half.sin(), half, small, 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72))))
    cosine = torch.where(small, 1 - s / 2 * (1 - s / 12 * (1 - s / 30 * (1 - s / 56 * (1 - s / 90)))), half.cos())
    return torch.cat([cosine, sinc / 2 * axis_angle], -1)


def quat_to_axis_angle(quats: Tensor) -> Tensor:
    """The shorter of the two turns, at most pi radians; any non-zero length. [..., 4] wxyz to [..., 3] radians."""
    quats = torch.where(quats[..., :1] < 0, -quats, quats)
    w, xyz = quats[..., :1], quats[..., 1:]
    square = (xyz * xyz).sum(-1, keepdim=True)
    small = square < SERIES_BELOW * w * w
    length = torch.where(small, torch.ones_like(square), square).sqrt()
    safe_w = torch.where(small, w, torch.ones_like(w))
    t = square / (safe_w * safe_w)
    series = 2 / safe_w * (1 - t * (1 / 3 - t * (1 / 5 - t * (1 / 7 - t * (1 / 9 - t * (1 / 11 - t / 13))))))
    return _over(2 * torch.atan2(length, w), length, small, series) * xyz


def quat_to_matrix(quats: Tensor) -> Tensor:
    """Rotation matrix of a quaternion of any non-zero length. [..., 4] wxyz to [..., 3, 3]."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*quats.shape[:-1], 3, 3)


def matrix_to_quat(matrices: Tensor) -> Tensor:
    """Unit quaternion with w >= 0 of a rotation matrix. [..., 3, 3] to [..., 4] wxyz.

    Shepperd 1978: of the four equal expressions the one with the largest divisor is taken, so none is ever near 0/0.
    """
    m = matrices
    trace, d0, d1, d2 = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2], m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    zy, xz, yx = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz_sum, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    scaled = torch.stack(  # row i is the quaternion times four times its component i
        [
            torch.stack([1 + trace, zy, xz, yx], -1),
            torch.stack([zy, 1 + 2 * d0 - trace, xy, xz_sum], -1),
            torch.stack([xz, xy, 1 + 2 * d1 - trace, yz], -1),
            torch.stack([yx, xz_sum, yz, 1 + 2 * d2 - trace], -1),
        ],
        -2,
    )
    best = scaled.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = scaled.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    quats = torch.nn.functional.normalize(row, dim=-1)
    return torch.where(quats[..., :1] < 0, -quats, quats)


def matrix_to_axis_angle(matrices: Tensor) -> Tensor:
    """Axis-angle of a rotation matrix, at most pi radians. [..., 3, 3] to [..., 3] radians."""
    return quat_to_axis_angle(matrix_to_quat(matrices))


def matrix_to_rotation_6d(matrices: Tensor) -> Tensor:
    """First two columns of a rotation matrix, one after the other (Zhou et al. 2019). [..., 3, 3] to [..., 6]."""
    return torch.cat([matrices[..., :, 0], matrices[..., :, 1]], -1)


def rotation_6d_to_matrix(rotation_6d: Tensor) -> Tensor:
    """Gram-Schmidt on two column vectors (Zhou et al. 2019, section 4). [..., 6] to [..., 3, 3].

    The vectors must be neither zero nor parallel.
    """
    x = torch.nn.functional.normalize(rotation_6d[..., :3], dim=-1)
    y = rotation_6d[..., 3:]
    y = torch.nn.functional.normalize(y - (x * y).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def quat_multiply(first: Tensor, second: Tensor) -> Tensor:
    """Hamilton product: turning by `second`, then by `first`. Both [..., 4] wxyz, broadcast."""
    w1, x1, y1, z1 = first.unbind(-1)
    w2, x2, y2, z2 = second.unbind(-1)
    return torch.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        -1,
    )


def quat_conjugate(quats: Tensor) -> Tensor:
    """The opposite turn of unit quaternions. [..., 4] wxyz."""
    return torch.cat([quats[..., :1], -quats[..., 1:]], -1)
