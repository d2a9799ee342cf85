"""Between a robot's own terms and the policy's: names, coordinate frames, the gripper.

A policy sees and acts in the world of its training: metres and radians, z up, displacements and
rotation vectors in world axes, a gripper that opens at -1 and closes at +1 and reads 0 closed to
1 open. A robot may tell poses in the frame of its base, turn its tool's axes another way, and count
its gripper otherwise; its description says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.deploy.robot import HAND, RobotConfig

TURNED, OPENING, CAMERA = "eef_quat_xyzw", "gripper_opening", "_cam_to_world"
GRIPPER = 6
_STRAIGHT = [0.0, 0.0, 0.0, 1.0]
# Of two equal quaternions the one nearer to "pointing straight down" is shown, as in training.
_DOWN_XYZW = np.array([np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0])


class Frames:
    """One robot's terms; what its description leaves at the defaults passes bit for bit.

    Args:
      robot: The description.
    """

    def __init__(self, robot: RobotConfig) -> None:
        self._rename = robot.rename
        self._base_pos = np.asarray(robot.base_pos_world_m, np.float64)
        self._base_quat = np.asarray(robot.base_quat_xyzw, np.float64)
        self._base = matrix(self._base_quat)
        self._hand_quat = np.asarray(robot.hand_quat_tool_xyzw, np.float64)
        self._moved = robot.base_quat_xyzw != _STRAIGHT or any(robot.base_pos_world_m)
        self._turned = self._moved or robot.hand_quat_tool_xyzw != _STRAIGHT
        self._closed, self._open = robot.gripper_reading
        self._to_open, self._to_close = robot.gripper_command

    def seen(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a robot's observation by the policy's names and in its terms.

        Values that are no arrays of the expected shape pass as they are; see `fault`.
        """
        taken = {own: obs[other] for own, other in self._rename.items() if other in obs}
        found = {**{k: v for k, v in obs.items() if k not in self._rename.values()}, **taken}
        for key, value in found.items():
            if isinstance(value, np.ndarray) and value.dtype == np.float32:
                found[key] = self._converted(key, value)
        return found

    def _converted(self, key: str, value: np.ndarray) -> np.ndarray:
        if key == HAND and self._moved and value.shape == (3,):
            return (self._base_pos + self._base @ value).astype(np.float32)
        if key == TURNED and self._turned and value.shape == (4,):
            quat = product(product(self._base_quat, value), self._hand_quat)
            return (quat if quat @ _DOWN_XYZW >= 0 else -quat).astype(np.float32)
        if key.endswith(CAMERA) and self._moved and value.shape == (4, 4):
            pose = np.array(value)
            pose[:3, :3] = self._base @ value[:3, :3]
            pose[:3, 3] = self._base_pos + self._base @ value[:3, 3]
            return pose
        if key == OPENING and (self._closed, self._open) != (0.0, 1.0):
            share = (value - self._closed) / (self._open - self._closed)
            # What is not finite stays so, to be refused: clipped, it would pass as a reading.
            return np.where(np.isfinite(value), np.clip(share, 0.0, 1.0), value).astype(np.float32)
        return value

    def sent(self, action: np.ndarray) -> np.ndarray:
        """Returns an action of the policy in the robot's axes and gripper units, float32 [7]."""
        found = np.array(action, np.float32)
        if self._moved:
            found[:3] = self._base.T @ found[:3]
            found[3:GRIPPER] = self._base.T @ found[3:GRIPPER]
        if (self._to_open, self._to_close) != (-1.0, 1.0):
            share = (float(found[GRIPPER]) + 1.0) / 2.0
            found[GRIPPER] = self._to_open + share * (self._to_close - self._to_open)
        return found

    # -- the other way: what a simulated robot does to speak as its description says ---------------

    def told(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns an observation in the policy's terms as the robot would tell it."""
        found = {}
        back = self._base_quat * np.array([-1.0, -1.0, -1.0, 1.0])
        hand_back = self._hand_quat * np.array([-1.0, -1.0, -1.0, 1.0])
        for key, value in obs.items():
            own = value
            if key == HAND and self._moved:
                own = self._base.T @ (value - self._base_pos)
            elif key == TURNED and self._turned:
                own = product(product(back, value), hand_back)
            elif key.endswith(CAMERA) and self._moved:
                own = np.eye(4)
                own[:3, :3] = self._base.T @ value[:3, :3]
                own[:3, 3] = self._base.T @ (value[:3, 3] - self._base_pos)
            elif key == OPENING and (self._closed, self._open) != (0.0, 1.0):
                own = self._closed + value * (self._open - self._closed)
            found[self._rename.get(key, key)] = np.asarray(own, value.dtype)
        return found

    def taken(self, action: np.ndarray) -> np.ndarray:
        """Returns an action as the robot gets it in the policy's terms, float32 [7]."""
        found = np.array(action, np.float64)
        if self._moved:
            found[:3] = self._base @ found[:3]
            found[3:GRIPPER] = self._base @ found[3:GRIPPER]
        share = (found[GRIPPER] - self._to_open) / (self._to_close - self._to_open)
        found[GRIPPER] = 2.0 * share - 1.0
        return found.astype(np.float32)


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the product of two quaternions xyzw."""
    a, u, b, v = left[3], left[:3], right[3], right[:3]
    return np.append(a * v + b * u + np.cross(u, v), a * b - u @ v)


def matrix(quat_xyzw: np.ndarray) -> np.ndarray:
    """Returns the rotation matrix [3, 3] of a unit quaternion."""
    x, y, z, w = quat_xyzw
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
