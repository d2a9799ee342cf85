"""A task of one's own: a cube is shown on the left or the right; later touch the one there.

Another package offers it by an entry point in its ``pyproject.toml``; then ``embodied play
remember_side``, ``embodied collect task=remember_side`` and all the rest know it:

    [project.entry-points."embodied.tasks"]
    remember_side = "own_task:INFO"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.task import EXECUTE, TaskInfo
from sims.memory_bench.abstract import Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.levels import COMMON_KNOBS
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.parts import NEUTRAL_RGB, PALETTE, TABLE_TOP_M, Part, cube
from sims.memory_bench.task import CLOSE, Task, Waypoint

SIDES = ("left", "right")
HALF_M = 0.026
TOUCH_TICKS = 4  # a touch must last longer than 0.2 s


# Functions at module level, so that a vector environment's workers get them.
def _ceiling(knobs: Mapping[str, Any]) -> float:
    return 1.0 if knobs["visible_cue"] else 0.5


def _cues(knobs: Mapping[str, Any]) -> int:
    return len(SIDES)


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    return knobs["cue_s"] + knobs["gap_max_s"] + knobs["execute_s"]


INFO = TaskInfo(
    name="remember_side",
    env_id="Own/RememberSide-v0",
    entry=f"{__name__}:RememberSide",
    summary="see a cube on one side, then touch the cube on that side",
    levels={"easy": {**COMMON_KNOBS, "cue_s": 1.0, "execute_s": 6.0}},
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=_horizon_s,
)


class RememberSide(Task):
    """The two cubes at go are alike, wherever the first one was."""

    info = INFO
    instructions = (
        "touch the cube on the side where you saw one at the start",
        "where was the first cube? touch the one that is there now",
    )

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """What the ceiling is computed from: a side shown, then one choice of two."""
        return cue_then_choice(cls.info.name, len(SIDES), ("show",), held=True)

    def parts(self) -> Sequence[Part]:
        """Two cubes; the cue shows one of them."""
        return [cube(side, HALF_M) for side in SIDES]

    def entities(self) -> Sequence[Entity]:
        """The same two."""
        return [Entity(side, "cube", side) for side in SIDES]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Positions from the seed, never from the cue."""
        pos = np.array([[0.05, 0.16, TABLE_TOP_M + HALF_M], [0.05, -0.16, TABLE_TOP_M + HALF_M]])
        pos[:, :2] += rng.uniform(-0.03, 0.03, (2, 2))
        return {"pos": pos, "colour": int(rng.integers(len(PALETTE)))}

    def start_vars(self) -> dict[str, Any]:
        """How long each cube has been touched, in ticks."""
        return {"touch_ticks": np.zeros(len(SIDES), np.int64)}

    def setup_cue(self) -> None:
        """One cube, on the side to remember."""
        self._place(self.cue)

    def setup_gap(self) -> None:
        """Nothing; the reactive twin keeps the cue in sight."""
        if self.knobs.visible_cue:
            self._place(self.cue)

    def setup_execute(self) -> None:
        """Both cubes; nothing here depends on the cue, but in the reactive twin."""
        for i in range(len(SIDES)):
            self._place(i)
        if self.knobs.visible_cue:
            self.scene.paint(SIDES[1 - self.cue], NEUTRAL_RGB)

    def execute_tick(self) -> None:
        """The first cube touched for longer than 0.2 s decides."""
        touched, ticks = self.scene.touched_bodies(), self.vars["touch_ticks"]
        for i, side in enumerate(SIDES):
            ticks[i] = ticks[i] + 1 if self.scene.body_id[side] in touched else 0
        if ticks.max() > TOUCH_TICKS:
            chosen = int(ticks.argmax())
            self.commit(SIDES[chosen], chosen == self.cue)

    def target(self) -> str:
        """The side that was shown."""
        return SIDES[self.cue]

    def potential(self) -> float:
        """Nearness of the hand to the right cube, in the execute phase."""
        if self.phase != EXECUTE or self.failure_kind:
            return 0.0
        distance = float(np.linalg.norm(self.scene.eef_pos() - self.plan["pos"][self.cue]))
        return 1.0 if self.success else 0.9 * (1.0 - np.tanh(4.0 * distance))

    def waypoints(self) -> Sequence[Waypoint]:
        """The expert: above the right cube, then down on it with closed fingers."""
        x, y, _ = self.plan["pos"][self.cue]
        top = TABLE_TOP_M + 2 * HALF_M
        return (
            Waypoint((x, y, top + 0.07), gripper=CLOSE, tol_m=0.025, keyframe=False),
            Waypoint((x, y, top), gripper=CLOSE, tol_m=0.02, dwell_ticks=20, speed=0.35),
        )

    def _place(self, index: int) -> None:
        self.scene.place(SIDES[index], self.plan["pos"][index])
        self.scene.paint(SIDES[index], list(PALETTE.values())[self.plan["colour"]])
