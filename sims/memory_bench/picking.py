"""Taking one free thing between the fingers: the expert's path, and when it no longer fits."""

from __future__ import annotations

import numpy as np

from sims.memory_bench.manipulation import CARRY, LEAVE, REACH, SAFE_Z_M
from sims.memory_bench.task import CLOSE, OPEN, Task, Waypoint

_SHIFTED_M, _LOST_M = 0.012, 0.05


def pick_path(task: Task, name: str, yaw_rad: float) -> list[Waypoint]:
    """From wherever the hand is: take a thing by its middle and raise it.

    Args:
      task: The task; its scene says where hand and thing are.
      name: Name of the part to take.
      yaw_rad: The hand's yaw; at 0 the fingers open along y.
    """
    x, y, z = task.scene.pos(name)
    here = task.scene.eef_pos()
    up = (float(here[0]), float(here[1]), SAFE_Z_M)
    low = task.strayed((x, y), SAFE_Z_M, 0.03)
    return [
        *([Waypoint(up, yaw_rad, OPEN, 0.03, keyframe=False, stage=LEAVE)] if low else []),
        Waypoint((x, y, SAFE_Z_M), yaw_rad, OPEN, 0.02, speed=0.5, stage=REACH),
        Waypoint((x, y, z), yaw_rad, CLOSE, 0.01, dwell_ticks=8, speed=0.38, stage=REACH),
        Waypoint((x, y, SAFE_Z_M), yaw_rad, tol_m=0.03, stage=CARRY),
    ]


def pick_failed(task: Task, name: str, stage: int, goal_world_m: np.ndarray) -> bool:
    """Returns whether a path of `pick_path` no longer fits: the thing was pushed away or lost, or
    the hand led astray.
    """
    pos = task.scene.pos(name)
    if stage == REACH:
        shifted = np.abs(pos[:2] - goal_world_m[:2]).max() > _SHIFTED_M
        return bool(shifted or task.strayed(goal_world_m[:2], SAFE_Z_M))
    return stage == CARRY and bool(np.linalg.norm(pos - task.scene.eef_pos()) > _LOST_M)
