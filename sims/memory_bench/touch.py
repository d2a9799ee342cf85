"""Touching: what counts as one, and the expert's way of doing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sims.memory_bench.task import CLOSE, Task, Waypoint

if TYPE_CHECKING:
    from sims.memory_bench.scene import Scene

TOUCH_TICKS = 4
"""A touch must last longer than 0.2 s."""

HOVER_M = 0.11
"""How far above what it touches the hand moves from place to place."""

ABOVE, DOWN = 1, 2
"""Stages of the expert's path."""


def count_touches(scene: Scene, names: Sequence[str], ticks: np.ndarray) -> int | None:
    """Counts for how long each part has been touched, in place; call once a tick.

    Args:
      scene: The scene.
      names: Names of the parts.
      ticks: int64 [n], ticks in a row during which the hand touched each.

    Returns:
      The index of the part touched for longer than 0.2 s, or None.
    """
    touched = scene.touched_bodies()
    for i, name in enumerate(names):
        ticks[i] = ticks[i] + 1 if scene.body_id[name] in touched else 0
    return int(ticks.argmax()) if ticks.max() > TOUCH_TICKS else None


def touch_path(task: Task, xy: Sequence[float], top_z_m: float) -> list[Waypoint]:
    """Returns the way high above a thing, then down on its top with closed fingers.

    The hand comes down only over a thing. So a policy that can't tell which one is right wavers
    up high, where the next look still decides, and not between them.

    Args:
      task: The task; its scene says where the hand is.
      xy: Where the thing is.
      top_z_m: Height of its top in the world.
    """
    (x, y), hover = xy, top_z_m + HOVER_M
    path = [
        Waypoint((x, y, hover), gripper=CLOSE, tol_m=0.02, keyframe=False, stage=ABOVE),
        Waypoint((x, y, top_z_m), tol_m=0.02, dwell_ticks=20, speed=0.35, stage=DOWN),
    ]
    if task.strayed(xy, hover):
        here = task.scene.eef_pos()
        up = (float(here[0]), float(here[1]), hover)
        path.insert(0, Waypoint(up, gripper=CLOSE, tol_m=0.03, keyframe=False))
    return path


def touch_failed(task: Task, stage: int, goal_world_m: np.ndarray, top_z_m: float) -> bool:
    """Returns whether the hand was led astray down between the things of `touch_path`."""
    return stage in (ABOVE, DOWN) and task.strayed(goal_world_m[:2], top_z_m + HOVER_M)
