"""Two robots without a simulator, that take displacements as the real ones do.

A *commanding* robot adds a displacement to a commanded pose, which the hand follows; a *forgetting*
one sets a goal from where the hand is, and reaches only part of the way within a tick.
"""

from __future__ import annotations

import numpy as np

from embodied.core.specs import KEYFRAME, ActionSpec, PolicySpec
from embodied.evaluate.executors.motion import normalized, rotation_between

COMMANDS, FORGETS = "commands", "forgets"
DOWN = np.array([1.0, 1.0, 0.0, 0.0]) / np.sqrt(2)
KEYFRAME_SPEC = PolicySpec({}, ActionSpec(KEYFRAME, 9, 1), 20.0, "decision", 0.4, (1,))


def times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Products of quaternions xyzw [B, 4]."""
    a, b, v, w = left[:, :3], right[:, :3], left[:, 3:], right[:, 3:]
    real = v * w - (a * b).sum(1, keepdims=True)
    return np.hstack((v * b + w * a + np.cross(a, b), real))


def turned(quat: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Quaternions [B, 4] turned by world rotation vectors [B, 3]."""
    angle = np.linalg.norm(vector, axis=1, keepdims=True)
    axis = vector / np.maximum(angle, 1e-12)
    return normalized(times(np.hstack((np.sin(angle / 2) * axis, np.cos(angle / 2))), quat))


class Robot:
    """B hands over a floor, with fingers that close on something `width` wide.

    Args:
      kind: ``"commands"`` or ``"forgets"``.
      batch: B.
      floor_m: Height that stops a hand.
      width: Opening 0..1 at which something between the fingers stops them.
      deaf_ticks: How long fingers take to start moving after a change.
      load_m: How much a load slows a forgetting hand down (and pulls it down) in a tick.
    """

    def __init__(
        self,
        kind: str,
        batch: int = 1,
        floor_m: float = 0.0,
        width: float = 0.0,
        deaf_ticks: int = 0,
        load_m: float = 0.0,
    ) -> None:
        self.load_m = load_m
        self.kind, self.batch, self.floor_m, self.width = kind, batch, floor_m, width
        self.pos, self.quat = np.tile([0.0, 0.0, 1.0], (batch, 1)), np.tile(DOWN, (batch, 1))
        self.command, self.command_quat = self.pos.copy(), self.quat.copy()
        self.speed, self.spin = np.zeros((batch, 3)), np.zeros((batch, 3))
        self.opening, self.gripper = np.ones(batch), np.zeros(batch)
        self.deaf, self.deaf_ticks = np.zeros(batch, int), deaf_ticks

    def observation(self) -> dict[str, np.ndarray]:
        return {
            "eef_pos_world_m": self.pos.astype(np.float32),
            "eef_quat_xyzw": self.quat.astype(np.float32),
            "gripper_opening": self.opening[:, None].astype(np.float32),
        }

    def step(self, action: np.ndarray, rows: np.ndarray | None = None) -> None:
        assert action.shape == (self.batch, 7) and action.dtype == np.float32
        assert np.isfinite(action).all() and np.abs(action).max() <= 1
        rows = np.ones(self.batch, bool) if rows is None else rows
        move, turn = 0.05 * action[:, :3].astype(float), 0.5 * action[:, 3:6].astype(float)
        old = self.pos.copy(), self.quat.copy()
        if self.kind == COMMANDS:
            lead = self.command + move - self.pos
            far = np.maximum(np.linalg.norm(lead, axis=1, keepdims=True) / 0.06, 1)
            self.command = np.where(rows[:, None], self.pos + lead / far, self.command)
            self.command_quat = np.where(
                rows[:, None], turned(self.command_quat, turn), self.command_quat
            )
            self.pos = self.pos + 0.6 * (self.command - self.pos)
            self.quat = turned(self.quat, 0.6 * rotation_between(self.quat, self.command_quat))
        else:
            self.speed = 0.5 * self.speed + 0.5 * 0.26 * move
            self.speed[:, 2] -= self.load_m
            self.spin = 0.5 * self.spin + 0.5 * 0.2 * turn
            self.pos, self.quat = self.pos + self.speed, turned(self.quat, self.spin)
        self.pos[:, 2] = np.maximum(self.pos[:, 2], self.floor_m)
        self.pos = np.where(rows[:, None], self.pos, old[0])
        self.quat = np.where(rows[:, None], self.quat, old[1])
        self._move_fingers(action[:, 6], rows)

    def _move_fingers(self, gripper: np.ndarray, rows: np.ndarray) -> None:
        changes = rows & (gripper != 0) & (gripper != self.gripper)
        self.gripper = np.where(changes, gripper, self.gripper)
        self.deaf = np.where(changes, self.deaf_ticks, np.maximum(self.deaf - rows, 0))
        moving = rows & (self.deaf == 0)
        opening = np.clip(self.opening - 0.2 * self.gripper, self.width, 1.0)
        self.opening = np.where(moving, opening, self.opening)
