"""From RGB-D pictures to one coloured point cloud in the cube frame.

The cube frame is the scene box brought to [-1, 1] on every axis: p' = (p - centre) * 2 / side.
Points are never removed, only marked, so shapes depend on nothing but the cameras.

Shape letters: B rows (any leading axes, for example B, T), H W picture, N points of all cameras.

Source: SAM2Act (arXiv 2501.18564) after RVT-2 (arXiv 2406.08545).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from embodied.core.errors import ConfigError, SpecMismatch

SCENE_CENTER_M = (0.0, 0.0, 0.9)
"""Centre of the default scene box, world frame."""

SCENE_SIDE_M = 0.9
"""Side of the default scene box, 0.45 to 1.35 m high. It holds the table (0.66 x 0.84 m, top at
0.8 m) with lamp and objects and all that the hand may reach (up to 1.25 m), with room to move
every target by an eighth of the side. The floor and the robot's foot are outside, and so is its
elbow when the hand is low, which would hide the table from above."""

DEPTH = "depth_m"
CAMERA_KEYS = ("image_u8", DEPTH, "intrinsics", "cam_to_world")
"""What each camera gives; see :func:`embodied.core.specs.camera_specs`."""

ZOOM = 4.0
"""How much closer the fine branch looks (SAM2Act's code)."""

UNITS_M = {
    "millimetres": 1e-3,
    "tenths of a millimetre": 1e-4,
    "centimetres": 1e-2,
}
"""Wrong units of depth that `check_clouds` recognises, in metres."""

HOLE_SHARE = 0.5
"""Largest share of a picture's pixels whose depth is unknown; what is known must show the scene."""

NEAREST_M = 1e-3
"""Smallest depth that counts as one: sensors write 0 where they know none."""

_FEW, _MANY = 0.01, 0.25
"""Shares of a camera's points in the scene box: of a wrong unit, of the right one."""


@dataclasses.dataclass(frozen=True)
class CubeFrame:
    """The scene box and the frame in which it is the cube [-1, 1] on every axis.

    Attributes:
      center_m: Centre of the box in the world frame, in metres.
      side_m: Side of the box in metres.
    """

    center_m: tuple[float, float, float] = SCENE_CENTER_M
    side_m: float = SCENE_SIDE_M

    def __post_init__(self) -> None:
        object.__setattr__(self, "center_m", tuple(float(v) for v in self.center_m))
        if len(self.center_m) != 3:
            raise ConfigError(f"scene_center_m: expected three metres, got {self.center_m}")
        if not self.side_m > 0:
            raise ConfigError(f"scene_side_m: expected a length in metres > 0, got {self.side_m}")

    @property
    def per_metre(self) -> float:
        """Cube units in a metre."""
        return 2.0 / self.side_m

    def to_cube(self, points_m: Tensor) -> Tensor:
        """World points [..., 3] in metres to cube points."""
        return (points_m - self._center(points_m)) * self.per_metre

    def to_world(self, points: Tensor) -> Tensor:
        """Cube points [..., 3] to world points in metres."""
        return points / self.per_metre + self._center(points)

    def _center(self, like: Tensor) -> Tensor:
        # Filled on the device: numbers copied there would be waited for.
        return torch.cat([like.new_full((1,), metres) for metres in self.center_m])


@dataclasses.dataclass
class Cloud:
    """Coloured points.

    Attributes:
      xyz: float32 [..., N, 3] in the cube frame; finite everywhere.
      rgb: float32 [..., N, 3] in 0..1.
      valid: bool [..., N]; False for points that are to be ignored.
    """

    xyz: Tensor
    rgb: Tensor
    valid: Tensor


def unproject(obs: Mapping[str, Tensor], cameras: Sequence[str], frame: CubeFrame) -> Cloud:
    """Returns the cloud of all cameras, one point a pixel, not cropped.

    Pixel (column i, row j) looks through (i + 0.5, j + 0.5) of the camera matrix, which is taken
    to have no skew. Pixels without a depth (NaN, infinite, zero or negative) give an invalid
    point at the origin.

    Args:
      obs: For each camera ``<camera>_image_u8`` uint8 [B, H, W, 3], ``_depth_m`` float32
        [B, H, W] along the camera's z axis, ``_intrinsics`` [B, 3, 3] in pixels and
        ``_cam_to_world`` [B, 4, 4] (x right, y down, z forward, metres).
      cameras: Camera names; their points follow each other in this order.
      frame: The scene box.
    """
    clouds = [_unproject(obs, camera, frame) for camera in cameras]
    return Cloud(
        xyz=torch.cat([c.xyz for c in clouds], dim=-2),
        rgb=torch.cat([c.rgb for c in clouds], dim=-2),
        valid=torch.cat([c.valid for c in clouds], dim=-1),
    )


def _unproject(obs: Mapping[str, Tensor], camera: str, frame: CubeFrame) -> Cloud:
    image, depth, K, pose = (obs[f"{camera}_{key}"] for key in CAMERA_KEYS)
    height, width = depth.shape[-2:]
    depth, K, pose = depth.float(), K.float()[..., None, None], pose.float()
    column = torch.arange(width, device=depth.device) + 0.5
    row = torch.arange(height, device=depth.device) + 0.5
    x = (column - K[..., 0, 2, :, :]) / K[..., 0, 0, :, :] * depth
    y = (row[:, None] - K[..., 1, 2, :, :]) / K[..., 1, 1, :, :] * depth
    in_camera = torch.stack((x, y, depth), dim=-1).flatten(-3, -2)
    to_world, position = pose[..., :3, :3], pose[..., :3, 3]
    # In autocast's narrow floats points a metre off would move by millimetres.
    with torch.autocast(depth.device.type, enabled=False):
        xyz = in_camera @ to_world.transpose(-1, -2) * frame.per_metre
    xyz = xyz + frame.to_cube(position).unsqueeze(-2)
    valid = torch.isfinite(xyz).all(dim=-1) & (depth > 0).flatten(-2)
    return Cloud(
        xyz=torch.where(valid.unsqueeze(-1), xyz, 0.0),
        rgb=image.flatten(-3, -2).float() / 255,
        valid=valid,
    )


def crop(cloud: Cloud) -> Cloud:
    """Returns the cloud with points outside the scene box marked invalid."""
    inside = (cloud.xyz.abs() <= 1).all(dim=-1)
    return dataclasses.replace(cloud, valid=cloud.valid & inside)


def make_cloud(obs: Mapping[str, Tensor], cameras: Sequence[str], frame: CubeFrame) -> Cloud:
    """Returns the cropped cloud of all cameras; arguments as in `unproject`.

    A cloud that is to be moved (see :mod:`policies.sam2act.augment`) is cropped afterwards, or
    the box's old faces would show how it was moved.
    """
    return crop(unproject(obs, cameras, frame))


def zoom(points: Tensor, center: Tensor, factor: float = ZOOM) -> Tensor:
    """Returns factor * (points - center): the frame of a crop around `center`.

    Args:
      points: [..., 3] in the cube frame.
      center: Broadcastable to `points`.
      factor: How much closer.
    """
    return factor * (points - center)


def unzoom(points: Tensor, center: Tensor, factor: float = ZOOM) -> Tensor:
    """Inverse of `zoom`."""
    return points / factor + center


def zoom_cloud(cloud: Cloud, center: Tensor, factor: float = ZOOM) -> Cloud:
    """Returns the cloud in the frame of a crop around `center` [..., 3].

    Points outside the crop stay: what is far behind it is still seen, as in the published code.
    """
    return dataclasses.replace(cloud, xyz=zoom(cloud.xyz, center.unsqueeze(-2), factor))


def every_so_many(cloud: Cloud, shapes: Sequence[tuple[int, ...]], stride: int) -> Cloud:
    """Keeps every so many-th row and column of each camera's picture.

    Args:
      cloud: [B, N, ...], as `unproject` returns it.
      shapes: (H, W) of each camera.
      stride: How many.
    """
    kept, start = [], 0
    for height, width in shapes:
        index = torch.arange(height * width, device=cloud.xyz.device) + start
        kept.append(index.view(height, width)[::stride, ::stride].flatten())
        start += height * width
    index = torch.cat(kept)
    return Cloud(
        cloud.xyz.index_select(1, index),
        cloud.rgb.index_select(1, index),
        cloud.valid.index_select(1, index),
    )


# -- checks, outside of what runs every tick ----------------------------------------------------


def check_cameras(cameras: Sequence[str], offered: Mapping[str, Any], needs: str) -> None:
    """Raises SpecMismatch unless every camera gives picture, depth and calibration.

    Args:
      cameras: Camera names.
      offered: Observation key -> spec or array, whatever it is.
      needs: Who needs them, for the message.
    """
    if not cameras:
        raise SpecMismatch(f"{needs} needs at least one camera with depth, got none")
    absent = [f"{c}_{key}" for c in cameras for key in CAMERA_KEYS if f"{c}_{key}" not in offered]
    if absent:
        whole = sorted(
            key.removesuffix("_image_u8")
            for key in offered
            if key.endswith("_image_u8")
            and all(f"{key.removesuffix('_image_u8')}_{part}" in offered for part in CAMERA_KEYS)
        )
        raise SpecMismatch(
            f"{needs} needs of each camera its picture, depth and calibration; not offered: "
            f"{', '.join(absent)}. Cameras with all of it: {', '.join(whole) or '(none)'}; "
            f"offered keys: {', '.join(sorted(offered))}. Use observation=rgbd and the same "
            "cameras on both sides"
        )


def check_clouds(
    obs: Mapping[str, Tensor],
    cameras: Sequence[str],
    frame: CubeFrame,
    *,
    needs: str = "the policy",
    gives: str = "the observation",
    hole_share: float = HOLE_SHARE,
) -> None:
    """Raises SpecMismatch for observations of which no sound cloud can be made.

    That is: a camera without depth or calibration, a camera matrix that is not one, a picture
    of which more than `hole_share` has no depth (smaller holes are left out of the cloud), depth
    in a wrong unit (nearly all points leave the scene box, and would not in the unit that
    the message names), and a row whose cloud is empty after the crop. It looks at values and
    waits for them: for tests of a data set or a new camera, not for every tick.

    Args:
      obs: As in `unproject`.
      cameras: Camera names.
      frame: The scene box.
      needs: Who reads the observation, for the message.
      gives: Where it comes from, for the message.
      hole_share: Largest share of a picture's pixels whose depth is NaN, infinite, zero or
        negative.
    """
    check_cameras(cameras, obs, needs)
    inside_rows = []
    for camera in cameras:
        depth, K = obs[f"{camera}_depth_m"].float(), obs[f"{camera}_intrinsics"].float()
        _check_calibration(camera, K, obs[f"{camera}_cam_to_world"].float(), gives)
        known = depth.isfinite() & (depth >= NEAREST_M)
        holes = 1 - float(known.float().mean((-1, -2)).min())
        if holes > hole_share:
            raise SpecMismatch(
                f"{gives}: {holes:.0%} of a picture of {camera}_depth_m is NaN, infinite, zero or "
                f"negative, expected at most {hole_share:.0%}. Check the depth sensor, or leave "
                "the camera out of `cameras`"
            )
        inside = crop(_unproject(obs, camera, frame)).valid
        _check_unit(obs, camera, frame, inside, gives)
        inside_rows.append(inside.any(dim=-1).reshape(-1))
    empty = (~torch.stack(inside_rows).any(dim=0)).nonzero().flatten().tolist()
    if empty:
        raise SpecMismatch(
            f"{gives}: no point of cameras {', '.join(cameras)} lies in the scene box (centre "
            f"{frame.center_m} m, side {frame.side_m} m) in {len(empty)} row(s), the "
            f"first is {empty[0]}; {needs} needs some. Set scene_center_m and scene_side_m "
            "to the workspace, in the frame that cam_to_world leads to"
        )


def _check_calibration(camera: str, K: Tensor, pose: Tensor, gives: str) -> None:
    focal = torch.stack((K[..., 0, 0], K[..., 1, 1]))
    if not (bool(torch.isfinite(K).all()) and bool((focal > 0).all())):
        raise SpecMismatch(
            f"{gives}: {camera}_intrinsics must be finite with focal lengths > 0 in pixels, got "
            f"{K.reshape(-1, 3, 3)[0].tolist()}. Give the camera's matrix (zeros mean that no "
            "picture has been drawn yet)"
        )
    rotation = pose[..., :3, :3]
    product = rotation @ rotation.transpose(-1, -2)
    if not bool((product - torch.eye(3, device=pose.device)).abs().max() < 1e-2):
        raise SpecMismatch(
            f"{gives}: the rotation in {camera}_cam_to_world must be orthonormal, got "
            f"{pose.reshape(-1, 4, 4)[0].tolist()}. Give the camera's pose in the world frame"
        )


def _check_unit(
    obs: Mapping[str, Tensor], camera: str, frame: CubeFrame, inside: Tensor, gives: str
) -> None:
    share = float(inside.float().mean())
    key = f"{camera}_depth_m"
    depth = obs[key].float()
    known = depth[torch.isfinite(depth) & (depth > 0)]
    # Shrunk enough, whatever a camera within the box sees lies in the box: look only where all
    # is further off than the box is wide, and is not one far plane.
    if (
        share >= _FEW
        or not len(known)
        or known.min() < 2 * frame.side_m
        or known.min() == known.max()
    ):
        return
    for unit, metres in UNITS_M.items():
        scaled = {**obs, key: depth * metres}
        would = float(crop(_unproject(scaled, camera, frame)).valid.float().mean())
        if would >= _MANY:
            raise SpecMismatch(
                f"{gives}: {key} must be in metres, but only {share:.1%} of its points lie in "
                f"the scene box (centre {frame.center_m} m, side {frame.side_m} m); read as "
                f"{unit} {would:.0%} would. Multiply the depth by {metres:g}"
            )
