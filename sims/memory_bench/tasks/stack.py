"""Stack: put the red cube on the green one. Needs no memory.

Kin: robosuite's Stack; a re-creation in this package's scene, with its cubes (half sizes 0.020
and 0.025 m), its start (a square of 16 cm, any yaw) and its condition of success, which must hold
for longer than 0.2 s. Higher levels have smaller cubes in larger squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.task import TaskInfo
from sims.memory_bench import cubes
from sims.memory_bench.manipulation import CARRY, NEXT, RELEASE_TICKS, SAFE_Z_M, nearness
from sims.memory_bench.parts import PALETTE
from sims.memory_bench.picking import pick_failed, pick_path
from sims.memory_bench.task import OPEN, Waypoint

TOP, BASE = "red_cube", "green_cube"

INFO = TaskInfo(
    name="stack",
    env_id="MemoryBench/Stack-v0",
    entry="sims.memory_bench.tasks.stack:Stack",
    summary="stack a cube on another (needs no memory)",
    levels={
        "easy": cubes.level(0.08, 15.0, half_m=0.020, base_half_m=0.025),
        "medium": cubes.level(0.12, 15.0, half_m=0.020, base_half_m=0.025),
        "hard": cubes.level(0.14, 15.0, half_m=0.018, base_half_m=0.022),
        "extreme": cubes.level(0.16, 15.0, half_m=0.016, base_half_m=0.018),
    },
    ceiling=cubes.ceiling,
    cues=cubes.cues,
    horizon_s=cubes.horizon_s,
)


class Stack(cubes.CubeTask):
    """Two cubes, the smaller one to be put on the larger."""

    info = INFO
    instructions = (
        "stack the red cube on the green cube",
        "put the red cube on top of the green one",
        "place the red cube onto the green cube",
        "pick up the red cube and set it on the green one",
    )

    def cubes(self) -> Mapping[str, tuple[float, tuple[float, float, float]]]:
        """A red one for the top, a green one for the base."""
        return {
            TOP: (self.knobs.half_m, PALETTE["red"]),
            BASE: (self.knobs.base_half_m, PALETTE["green"]),
        }

    def start_vars(self) -> dict[str, Any]:
        """For how many ticks the red cube has stood on the green one."""
        return {"stacked_ticks": 0}

    def goal_reached(self) -> bool:
        """The red cube is lifted, touches the green one and is free of the fingers."""
        stacked = self.lifted(TOP) and self._touching() and not self.grasped(TOP)
        self.vars["stacked_ticks"] = self.vars["stacked_ticks"] + 1 if stacked else 0
        return self.vars["stacked_ticks"] >= RELEASE_TICKS

    def _touching(self) -> bool:
        scene = self.scene
        if not scene.d.ncon:
            return False
        bodies = scene.m.geom_bodyid[scene.d.contact.geom]
        pair = {scene.body_id[TOP], scene.body_id[BASE]}
        return any(set(row) == pair for row in bodies.tolist())

    def target(self) -> str:
        """The red cube."""
        return TOP

    def potential(self) -> float:
        """A third for reaching the red cube, the rest for bringing it onto the green one."""
        if self.success:
            return 1.0
        if self.failure_kind:
            return 0.0
        pos = self.scene.pos(TOP)
        reached = nearness(self.scene.eef_pos() - pos)
        return 0.3 * reached + 0.65 * nearness(pos - self._place())

    def _place(self) -> np.ndarray:
        """Returns where the red cube's centre has to be [3]."""
        height = self.knobs.base_half_m + self.knobs.half_m
        return self.scene.pos(BASE) + np.array([0.0, 0.0, height])

    def waypoints(self) -> Sequence[Waypoint]:
        """Take the red cube, carry it over the green one, put it down and leave."""
        x, y, z = self._place()
        yaw = self.grip_yaw(TOP, beside_xy=(x, y))
        return [
            *pick_path(self, TOP, yaw),
            Waypoint((x, y, SAFE_Z_M), yaw, tol_m=0.02, stage=CARRY),
            Waypoint((x, y, z + 0.003), yaw, OPEN, 0.014, 6, speed=0.25, stage=CARRY),
            Waypoint((x, y, SAFE_Z_M), yaw, tol_m=0.04, keyframe=False, stage=NEXT),
        ]

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Starts anew when a cube was pushed away, lost or fell off, or the hand was led astray."""
        failed = pick_failed(self, TOP, stage, goal_world_m)
        return self.waypoints() if failed or (stage == NEXT and not self._touching()) else None
