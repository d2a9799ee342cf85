"""Three orthographic pictures of a point cloud, drawn by plain tensor operations.

Each virtual camera looks along one axis of the cube and covers [-1, 1] across. What is nearest
wins a pixel; a 64-bit key of depth and point number makes that one deterministic scatter.

Shape letters: B rows, N points, V = 3 views, C = 10 channels, S side of a view in pixels.

Source: SAM2Act (arXiv 2501.18564) after RVT (arXiv 2306.14896), whose virtual cameras and
channels these are. Deviations: points behind a camera are left out (in the published renderer
their negative depth becomes an unsigned number), and small views get a wider splat.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied.core.errors import ConfigError
from policies.sam2act.cloud import Cloud

VIEWS = ("top", "front", "right")
"""Order of the views everywhere."""

CHANNELS = 10
XYZ, RGB, DEPTH, PLACE = slice(0, 3), slice(3, 6), 6, slice(7, 10)
"""Channels of a view: coordinates, colour, depth, and constants (view, row, column)."""

RIGHT_EYE = 0.5
"""Where the published right camera stands on the cube's y axis. The others stand at 1."""

SPLAT = 0.012
"""Radius of a point in cube units (RVT)."""

MIN_SPLAT_PX = 1.01
"""Least radius of a point in pixels: itself and its four neighbours. RVT draws 224 px, where
`SPLAT` is 1.34; below 169 px it alone would leave single pixels, and holes between them."""

DEPTH_STEP = 1e-3
"""Depths are compared in these steps of cube units; the first point wins a tie (RVT)."""

_POINTS_AT_ONCE = 2**17
# On a CPU rows are drawn in groups of about so many points, which stay in its caches.

_INDEX_BITS = 32
_EMPTY = 2**62


def axes(
    xyz: Sequence[Tensor], right_eye: float = RIGHT_EYE
) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """Returns for each view where points lie in it: right, down, depth in front of its camera.

    Args:
      xyz: Three coordinates in the cube frame, each of any shape, as the results.
      right_eye: Where the right camera stands on y.
    """
    x, y, z = xyz
    top = (x, -y, 1 - z)
    front = (y, -z, 1 - x)
    right = (-x, -z, right_eye - y)
    return top, front, right


@torch.no_grad()
def render(cloud: Cloud, side: int, right_eye: float = RIGHT_EYE, splat: float = SPLAT) -> Tensor:
    """Draws the three views.

    Channels: xyz over the largest |coordinate| of the row's valid points (3), colour (3), depth
    less its mean over the filled pixels of the view (1), then view number, row and column, each
    evenly from -1 to 1 (3). An empty pixel has 0 in the first six and -1 as depth.

    Args:
      cloud: xyz [B, N, 3], rgb [B, N, 3], valid [B, N]; N < 2^32. Points outside a view's
        square, or behind its camera, are not drawn in it.
      side: S.
      right_eye: Where the right camera stands on y. The published 0.5 hides all beyond it; 1
        sees the whole cube.
      splat: Radius of a point in cube units, but at least `MIN_SPLAT_PX`.

    Returns:
      float32 [B, V, C, S, S], without gradient. Pixel (row, column) holds points with
      down and right in [row, row + 1) and [column, column + 1), in pixels.
    """
    if side < 2:
        raise ConfigError(f"side of a view: expected at least 2 pixels, got {side}")
    B, N = cloud.valid.shape
    together = max(1, _POINTS_AT_ONCE // N) if cloud.xyz.device.type == "cpu" else B
    parts = (rows.split(together) for rows in (cloud.xyz, cloud.rgb, cloud.valid))
    images = [
        _render(xyz, rgb, valid, side, right_eye, splat)
        for xyz, rgb, valid in zip(*parts, strict=True)
    ]
    return images[0] if len(images) == 1 else torch.cat(images)


def _render(
    xyz_BN3: Tensor, rgb_BN3: Tensor, valid_BN: Tensor, side: int, right_eye: float, splat: float
) -> Tensor:
    xyz = torch.where(valid_BN.unsqueeze(-1), xyz_BN3, 0.0).float().transpose(1, 2).contiguous()
    radius = max(splat * side / 2, MIN_SPLAT_PX)
    boards = [_nearest(*view, valid_BN, side) for view in axes(xyz.unbind(dim=1), right_eye)]
    keys = torch.stack([_splat(board, radius) for board in boards], dim=1)
    filled = keys != _EMPTY

    # Winners' features, gathered by plane; a zero behind the last point is for empty pixels.
    B, V, N = xyz.shape[0], len(VIEWS), xyz.shape[2]
    largest = xyz.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    planes = torch.cat((xyz / largest, rgb_BN3.float().transpose(1, 2)), dim=1)
    winner = torch.where(filled, keys & (2**_INDEX_BITS - 1), N).view(B, 1, -1)
    seen = F.pad(planes, (0, 1)).gather(2, winner.expand(-1, 6, -1))

    depth = (keys >> _INDEX_BITS).float() * DEPTH_STEP
    count = filled.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean = torch.where(filled, depth, 0.0).sum(dim=(2, 3), keepdim=True) / count
    images = xyz.new_empty(B, V, CHANNELS, side, side)
    images[:, :, :DEPTH] = seen.view(B, 6, V, side, side).transpose(1, 2)
    images[:, :, DEPTH] = torch.where(filled, depth - mean, -1.0)
    images[:, :, PLACE] = _place(side, xyz.device)
    return images


def _nearest(right: Tensor, down: Tensor, depth: Tensor, valid: Tensor, side: int) -> Tensor:
    """Returns int64 [B, S, S]: the smallest key of the points in each pixel of one view.

    Args:
      right: [B, N] float32, finite, in cube units; likewise `down` and `depth`.
      down: See `axes`.
      depth: See `axes`.
      valid: [B, N].
      side: S.
    """
    B, N = valid.shape
    half = side / 2
    column, row = right * half + half, down * half + half
    drawn = valid & (column >= 0) & (column < side) & (row >= 0) & (row < side) & (depth >= 0)
    # Whole numbers below 2^24 are exact in float32, so one conversion does.
    pixel = torch.where(drawn, row.floor() * side + column.floor(), side * side).long()
    number = torch.arange(N, device=valid.device)
    key = (depth / DEPTH_STEP).long() * 2**_INDEX_BITS + number
    board = number.new_full((B, side * side + 1), _EMPTY)
    board = board.scatter_reduce(1, pixel, key, "amin")
    return board[:, :-1].reshape(B, side, side)


def _splat(keys: Tensor, radius: float) -> Tensor:
    """Returns the smallest key within `radius` pixels of each pixel of [B, S, S]."""
    reach, side = math.ceil(radius) - 1, keys.shape[-1]
    padded = F.pad(keys, (reach, reach, reach, reach), value=_EMPTY)
    span = range(-reach, reach + 1)
    for row, column in itertools.product(span, span):
        if (row, column) != (0, 0) and math.hypot(row, column) < radius:
            top, left = reach + row, reach + column
            keys = torch.minimum(keys, padded[:, top : top + side, left : left + side])
    return keys


def _place(side: int, device: torch.device) -> Tensor:
    """Returns the constant channels [V, 3, S, S]: number of the view, row, column."""
    V = len(VIEWS)
    line = torch.linspace(-1, 1, side, device=device)
    view = torch.linspace(-1, 1, V, device=device)[:, None, None].expand(V, side, side)
    row = line[:, None].expand(V, side, side)
    return torch.stack((view, row, line.expand(V, side, side)), dim=1)
