"""ReopenDrawer: close the drawer that is open, press the button, open the same one again.

Kin: MemoryBench's "reopen drawer" (SAM2Act, 2025); a re-creation with phase lamp, snapping
gates, balanced cues and a jittered cabinet of two to six drawers. At go all are shut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.task import CUE, TaskInfo
from sims.memory_bench import levels, parts_drawers
from sims.memory_bench.abstract import Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.manipulation import (
    CARRY,
    LEAVE,
    PRESS,
    REACH,
    SAFE_Z_M,
    SHOWN_RGB,
    ButtonTask,
    nearness,
)
from sims.memory_bench.parts import TABLE_TOP_M, Part
from sims.memory_bench.task import CLOSE, OPEN, Waypoint

CABINET = "cabinet"
SHUT_M, CHOSEN_M, OPEN_SHARE = 0.02, 0.04, 0.8
"""A drawer counts as shut below 2 cm, as chosen beyond 4 cm, as open beyond 80 % of its travel."""

_FRONT_Y_M = {1: 0.16, 2: 0.24}
_CENTRE_X_M, _JITTER_X_M, _JITTER_Y_M, _JITTER_YAW_RAD = -0.03, 0.025, 0.015, 0.06
_BUTTON_X_M, _BUTTON_Y_M = (-0.02, 0.10), (-0.305, -0.285)
_ABOVE_M, _LOST_M, _SHIFTED_M = 0.07, 0.045, 0.02


INFO = TaskInfo(
    name="reopen_drawer",
    env_id="MemoryBench/ReopenDrawer-v0",
    entry="sims.memory_bench.tasks.reopen_drawer:ReopenDrawer",
    summary="close the open drawer of K, press the button, open the same drawer again",
    levels=levels.four({"K": 3}, {"K": 4}, {"K": 5}, {"K": 6}, cue_s=15.0, execute_s=8.0),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=levels.horizon_s,
    published_keyframes=10,
)


class ReopenDrawer(ButtonTask):
    """The cue is the drawer that stands open at the start."""

    info = INFO
    instructions = (
        "close the open drawer, press the button, then open the same drawer again",
        "shut the drawer that is open, push the button and reopen that drawer",
        "push the opened drawer in, hit the button, then pull the same drawer out again",
        "after closing the drawer and pressing the button, open the drawer that was open before",
    )
    n_steps = 1

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, 6)
        super().__init__(knobs)
        self.k = int(knobs["K"])
        self._joints = [parts_drawers.joint_name(CABINET, i) for i in range(self.k)]
        self._handles = [parts_drawers.handle_pos_m(self.k, i) for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """Two steps in plain view, then one choice of K."""
        return cue_then_choice(cls.info.name, int(knobs["K"]), ("close", "press"), held=False)

    def parts(self) -> Sequence[Part]:
        """The cabinet, button and distractors."""
        return [parts_drawers.cabinet(CABINET, self.k), *self.common_parts()]

    def entities(self) -> Sequence[Entity]:
        """One row a drawer (its scalar is how far it is open), button, distractors."""
        drawers = [
            Entity(f"drawer{i}", "drawer", CABINET, body=f"{CABINET}_drawer{i}")
            for i in range(self.k)
        ]
        return [*drawers, *self.common_entities()]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Pose of the cabinet, place of the button, how far the drawer is open at the start."""
        front = _FRONT_Y_M[parts_drawers.row_count(self.k)]
        return {
            "cabinet": np.array(
                [
                    _CENTRE_X_M + rng.uniform(-_JITTER_X_M, _JITTER_X_M),
                    front + rng.uniform(-_JITTER_Y_M, _JITTER_Y_M),
                    TABLE_TOP_M,
                ]
            ),
            "yaw": rng.uniform(-_JITTER_YAW_RAD, _JITTER_YAW_RAD),
            "opening": rng.uniform(0.85, 1.0) * parts_drawers.TRAVEL_M,
            "button": np.array([rng.uniform(*_BUTTON_X_M), rng.uniform(*_BUTTON_Y_M)]),
            **self.draw_common(rng),
        }

    def show(self) -> None:
        """The cabinet; in the cue phase with the cue's drawer open, later all shut."""
        scene = self.scene
        scene.place(CABINET, self.plan["cabinet"], self.plan["yaw"])
        if self.phase == CUE:
            scene.set_joint(self._joints[self.cue], self.plan["opening"])
        if self.knobs.visible_cue:
            for piece in ("geom", "bar"):
                scene.paint(CABINET, SHOWN_RGB, f"{CABINET}_drawer{self.cue}_{piece}")

    def _opening(self, drawer: int) -> float:
        return self.scene.get_joint(self._joints[drawer])

    def _handle(self, drawer: int, opening_m: float) -> np.ndarray:
        """Returns where a drawer's handle is at an opening, world [3]."""
        cos, sin = np.cos(self.plan["yaw"]), np.sin(self.plan["yaw"])
        x, y, z = self._handles[drawer] + (0.0, -opening_m, 0.0)
        return self.plan["cabinet"] + (cos * x - sin * y, sin * x + cos * y, z)

    def step_done(self) -> bool:
        """The drawer that was open is shut."""
        return self._opening(self.cue) < SHUT_M

    def execute_tick(self) -> None:
        """The first drawer pulled out is the choice; the right one must then open wide."""
        openings = np.array([self._opening(i) for i in range(self.k)])
        chosen = np.flatnonzero(openings > CHOSEN_M)
        wrong = chosen[chosen != self.cue]
        if len(wrong):
            # Another drawer pulled after the right choice is clumsiness, not forgetting.
            self.commit(
                self.committed or f"drawer{wrong[0]}",
                False,
                "motor" if self.committed else "wrong_choice",
            )
        elif len(chosen):
            self.committed = self.target()
            if openings[self.cue] > OPEN_SHARE * parts_drawers.TRAVEL_M:
                self.commit(self.target(), True)

    def choice_order(self) -> Sequence[int]:
        """The drawers, as the cabinet has them."""
        return range(self.k)

    def target(self) -> str:
        """The drawer that was open at the start."""
        return f"drawer{self.cue}"

    def entity_scalars(self) -> Mapping[str, float]:
        """How far each drawer is open, and the button pressed."""
        travel = parts_drawers.TRAVEL_M
        drawers = {
            f"drawer{i}": min(max(self._opening(i) / travel, 0.0), 1.0) for i in range(self.k)
        }
        return {**super().entity_scalars(), **drawers}

    def step_progress(self) -> float:
        """A third for reaching the handle, the rest for how far the drawer is shut."""
        share = self._opening(self.cue) / self.plan["opening"]
        return self._reached() / 3 + min(max(1 - share, 0.0), 1.0) * 2 / 3

    def execute_progress(self) -> float:
        """A third for reaching the right handle, the rest for how far it is open."""
        share = self._opening(self.cue) / (OPEN_SHARE * parts_drawers.TRAVEL_M)
        return self._reached() / 3 + min(max(share, 0.0), 1.0) * 2 / 3

    def _reached(self) -> float:
        return nearness(self.scene.eef_pos() - self._handle(self.cue, self._opening(self.cue)))

    # -- the expert -----------------------------------------------------------------------

    def _drag_path(self, opening_m: float) -> list[Waypoint]:
        """Takes the cue's handle from above and drags it until the drawer is open so far."""
        start = self._handle(self.cue, self._opening(self.cue))
        end = self._handle(self.cue, opening_m)
        rise = np.array([0.0, 0.0, _ABOVE_M])
        above, up = start + rise, end + rise
        here, path = self.scene.eef_pos(), []
        if self.strayed(above[:2], above[2], 0.03):
            lift = (float(here[0]), float(here[1]), float(above[2]))
            path = [Waypoint(lift, gripper=OPEN, tol_m=0.03, keyframe=False, stage=LEAVE)]
        return [
            *path,
            Waypoint(tuple(above), gripper=OPEN, tol_m=0.02, speed=0.5, stage=REACH),
            Waypoint(
                tuple(start), gripper=CLOSE, tol_m=0.012, dwell_ticks=4, speed=0.38, stage=REACH
            ),
            Waypoint(tuple(end), gripper=OPEN, tol_m=0.02, dwell_ticks=4, stage=CARRY),
            Waypoint(tuple(up), tol_m=0.03, keyframe=False, stage=LEAVE),
        ]

    def waypoints(self) -> Sequence[Waypoint]:
        """Shut the drawer, press; after go, open it wide."""
        if self.phase != CUE:
            return self._drag_path(0.95 * parts_drawers.TRAVEL_M)
        if self.vars["steps_done"] or self.step_done():
            return self.press_path()
        return [*self._drag_path(0.0), *self.press_path()[-2:]]

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Starts anew when the hand was led astray, the drawer slid away, the handle was lost,
        or the drawer isn't shut.
        """
        handle = self._handle(self.cue, self._opening(self.cue))
        safe_z_m = SAFE_Z_M if stage == PRESS else handle[2] + _ABOVE_M
        if stage in (REACH, PRESS) and self.strayed(goal_world_m[:2], safe_z_m):
            return self.waypoints()
        if stage == REACH and np.abs(handle - goal_world_m)[:2].max() > _SHIFTED_M:
            return self.waypoints()
        if stage == CARRY and np.linalg.norm(handle - self.scene.eef_pos()) > _LOST_M:
            return self.waypoints()
        if stage == PRESS and not self.vars["steps_done"] and not self.step_done():
            return self.waypoints()
        return None
