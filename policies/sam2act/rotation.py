"""Orientations as three bins of five degrees, and back to quaternions.

Angles are roll, pitch, yaw about the fixed axes x, y, z ("xyz", extrinsic): R = Rz Ry Rx, with
pitch in [-90, 90]. Bin b stands for 5 b - 180 degrees; -180 and 180 are the same bin 0, so the
roll of a hand that points straight down (180) has one label whichever side noise puts it on.
Quaternions are xyzw.

Source: SAM2Act (arXiv 2501.18564), its code, after PerAct (arXiv 2209.05451).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BIN_DEG = 5.0
"""Width of a bin (PerAct)."""

BINS = 72
"""Bins of a full turn. Pitch reaches bins 18 to 54 alone."""

GIMBAL_DEG = 1.0
"""Pitches nearer than this to straight up or down are snapped to it (SAM2Act's code). There
roll and yaw turn about one axis and noise would share it out between them at random."""


def canonical(quat_xyzw: Tensor) -> Tensor:
    """Returns [..., 4] of unit length and with w >= 0; zeros (padding) become no rotation."""
    length = torch.linalg.vector_norm(quat_xyzw, dim=-1, keepdim=True)
    unit = quat_xyzw / length.clamp(min=1e-12)
    unit = torch.where(unit[..., 3:] < 0, -unit, unit)
    none = torch.zeros_like(unit)
    none[..., 3] = 1.0
    return torch.where(length > 1e-6, unit, none)


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Returns the rotation by `right`, then by `left`; quaternions [..., 4], broadcast."""
    ax, ay, az, aw = left.unbind(dim=-1)
    bx, by, bz, bw = right.unbind(dim=-1)
    return torch.stack(
        (
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ),
        dim=-1,
    )


def yaw_quat(angle_rad: Tensor) -> Tensor:
    """Returns the quaternions [..., 4] of turns about z by angles [...]."""
    zero = torch.zeros_like(angle_rad)
    half = angle_rad / 2
    return torch.stack((zero, zero, torch.sin(half), torch.cos(half)), dim=-1)


def quat_to_euler_deg(quat_xyzw: Tensor) -> Tensor:
    """Returns roll, pitch, yaw [..., 3] in degrees, within [-180, 180], pitch [-90, 90].

    Within `GIMBAL_DEG` of pitch -90 or 90, pitch is exactly that, yaw is 0 and roll does all
    the turning that is left, as in scipy.
    """
    x, y, z, w = canonical(quat_xyzw).unbind(dim=-1)
    r00, r10 = 1 - 2 * (y * y + z * z), 2 * (x * y + z * w)
    r20, r21, r22 = 2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)
    r11, r12 = 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)
    roll, yaw = torch.atan2(r21, r22), torch.atan2(r10, r00)
    # asin would lose half the digits near the ends.
    pitch = torch.atan2(-r20, torch.hypot(r00, r10))
    locked = pitch.abs() > math.radians(90 - GIMBAL_DEG)
    roll = torch.where(locked, torch.atan2(-r12, r11), roll)
    yaw = torch.where(locked, 0.0, yaw)
    pitch = torch.where(locked, torch.copysign(torch.full_like(pitch, math.pi / 2), pitch), pitch)
    return torch.rad2deg(torch.stack((roll, pitch, yaw), dim=-1))


def euler_deg_to_quat(euler_deg: Tensor) -> Tensor:
    """Returns quaternions [..., 4] with w >= 0 of roll, pitch, yaw [..., 3] in degrees."""
    half = torch.deg2rad(euler_deg) / 2
    (sr, sp, sy), (cr, cp, cy) = torch.sin(half).unbind(-1), torch.cos(half).unbind(-1)
    quat = torch.stack(
        (
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
            cr * cp * cy + sr * sp * sy,
        ),
        dim=-1,
    )
    return canonical(quat)


def quat_to_bins(quat_xyzw: Tensor) -> Tensor:
    """Returns int64 [..., 3] in [0, 72): the bins of roll, pitch and yaw of [..., 4]."""
    return torch.round((quat_to_euler_deg(quat_xyzw) + 180) / BIN_DEG).long() % BINS


def bins_to_quat(bins: Tensor) -> Tensor:
    """Returns float32 [..., 4], w >= 0: the orientation at the middle of bins [..., 3].

    A pitch bin outside 18 to 54, which no label has, is a turn beyond straight up or down.
    """
    return euler_deg_to_quat(bins.float() * BIN_DEG - 180)
