"""Lift: raise the cube. Needs no memory.

Kin: robosuite's Lift; a re-creation in this package's scene, with its cube (half size 0.020 to
0.022 m), its start (a square of 6 cm, any yaw) and its condition of success. Higher levels have
smaller cubes in larger squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embodied.core.task import TaskInfo
from sims.memory_bench import cubes
from sims.memory_bench.manipulation import nearness
from sims.memory_bench.parts import PALETTE, TABLE_TOP_M
from sims.memory_bench.picking import pick_failed, pick_path
from sims.memory_bench.task import Waypoint

CUBE = "cube"

INFO = TaskInfo(
    name="lift",
    env_id="MemoryBench/Lift-v0",
    entry="sims.memory_bench.tasks.lift:Lift",
    summary="lift a cube (needs no memory)",
    levels={
        "easy": cubes.level(0.03, 8.0, half_m=0.021),
        "medium": cubes.level(0.08, 8.0, half_m=0.021),
        "hard": cubes.level(0.12, 8.0, half_m=0.018),
        "extreme": cubes.level(0.16, 8.0, half_m=0.015),
    },
    ceiling=cubes.ceiling,
    cues=cubes.cues,
    horizon_s=cubes.horizon_s,
)


class Lift(cubes.CubeTask):
    """One cube, to be lifted."""

    info = INFO
    instructions = (
        "lift the cube",
        "pick up the red cube",
        "take the cube off the table",
        "grasp the red cube and raise it",
    )

    def cubes(self) -> Mapping[str, tuple[float, tuple[float, float, float]]]:
        """A red one."""
        return {CUBE: (self.knobs.half_m, PALETTE["red"])}

    def goal_reached(self) -> bool:
        """Its centre is 4 cm above the table."""
        return self.lifted(CUBE)

    def target(self) -> str:
        """The cube."""
        return CUBE

    def potential(self) -> float:
        """Half for reaching the cube, half for how high it is."""
        if self.success:
            return 1.0
        if self.failure_kind:
            return 0.0
        pos = self.scene.pos(CUBE)
        rest = TABLE_TOP_M + self.knobs.half_m
        high = (pos[2] - rest) / (TABLE_TOP_M + cubes.LIFTED_M - rest)
        return 0.45 * nearness(self.scene.eef_pos() - pos) + 0.5 * min(max(float(high), 0.0), 1.0)

    def waypoints(self) -> Sequence[Waypoint]:
        """Above, down, close, up."""
        return pick_path(self, CUBE, self.grip_yaw(CUBE))

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Starts anew when the cube was pushed away or lost, or the hand was led astray."""
        return self.waypoints() if pick_failed(self, CUBE, stage, goal_world_m) else None
