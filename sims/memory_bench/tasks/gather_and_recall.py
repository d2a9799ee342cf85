"""GatherAndRecall: a pad is lit; gather cubes until the bell lamp fires, then touch that pad.

Kin: the gathering tasks of MIKASA-VLA; a re-creation with phase lamp, snapping gates and commits.
What is to be remembered waits while other work goes on: one cube after the other has to be carried
from its patch to the tray, each within a time limit and at least one before the bell, and the gap
is as long as the work. The bell is the lamp of the execute phase, at a time drawn from the seed;
then the scene snaps to what it was when the work began, so that the lamp alone says what is wanted
now. False bells, in another colour, mean nothing: a pad touched before the bell is a failure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, EXECUTE, GAP, TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.choice import ChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.manipulation import (
    BLOCK_HALF_M,
    BLOCK_RGB,
    CENTRE_RGB,
    NEXT,
    PATCH_RGB,
    SHOWN_RGB,
    STEP_TICKS,
    Blocks,
)
from sims.memory_bench.parts import TABLE_TOP_M, Part, box, patch
from sims.memory_bench.task import LAMP_GAP, LAMP_STEPS, TICKS_PER_S, Waypoint
from sims.memory_bench.touch import count_touches

MAX_K, MAX_BELLS = 8, 4
CUBE, FEEDER, TRAY = "cube", "feeder", "tray"
PAD_RGB = (0.36, 0.20, 0.14)
FALSE_BELL = LAMP_STEPS[3]
BELL_TICKS = 20
"""How long a false bell rings."""
FIRST_S = 5.0
"""A gap of this length or longer must leave a cube on the tray; in a shorter one none need be."""

_PAD_HALF_M = (0.030, 0.030, 0.012)
_CUBE_Z_M = TABLE_TOP_M + BLOCK_HALF_M[2]
_BELLS = (0.1, 0.9)  # share of the gap within which false bells begin


def _work(k: int, bells: int, gap_min_s: float, gap_max_s: float, busy: float) -> dict[str, Any]:
    gap = {"gap_min_s": gap_min_s, "gap_max_s": gap_max_s, "busy": busy}
    return {"K": k, "bells": bells, **gap}


INFO = TaskInfo(
    name="gather_and_recall",
    env_id="MemoryBench/GatherAndRecall-v1",
    entry="sims.memory_bench.tasks.gather_and_recall:GatherAndRecall",
    summary="one of K pads is lit; gather cubes until the bell lamp fires, then touch that pad",
    levels=levels.four(
        _work(3, 0, 5.0, 10.0, 0.0),
        _work(4, 1, 12.0, 20.0, 0.0),
        _work(6, 2, 25.0, 45.0, 0.5),
        _work(8, 4, 60.0, 100.0, 1.0),
        cue_s=1.5,
        chore_s=15.0,
        tol_m=0.05,
        execute_s=8.0,
    ),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=levels.horizon_s,
)


class GatherAndRecall(ChoiceTask, Blocks):
    """The cue is the pad that was lit.

    The gap's range is how long the work lasts; `chore_s` is the time limit of each cube, `bells`
    how many false bells there are, `tol_m` how far from the tray's middle a cube may lie.
    """

    info = INFO
    instructions = (
        "gather the cubes on the tray until the bell lamp fires, then touch the pad that was lit",
        "remember the lit pad; bring cubes to the tray and at the bell touch that pad",
        "keep putting cubes on the tray; when the bell lamp comes on go to the pad lit before",
        "a pad lights up: touch it as soon as the bell fires, until then carry cubes to the tray",
    )
    gap_held = False
    half_height_m = _PAD_HALF_M[2]
    ball_height_m = 0.25
    block_names = (CUBE,)

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_K)
        levels.check_whole(self.info.name, knobs, "bells", 0, MAX_BELLS)
        if not 8.0 <= knobs["chore_s"] <= 60.0:
            raise ConfigError(
                f"knob chore_s of {self.info.name}: expected 8 to 60 s, got {knobs['chore_s']}"
            )
        super().__init__(knobs)
        self.k = int(knobs["K"])
        self._chore_ticks = round(self.knobs.chore_s * TICKS_PER_S)
        self._pads = [f"pad{i}" for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """A pad shown while the arm is held, then one choice of K; the work tells nothing of it."""
        return cue_then_choice(cls.info.name, int(knobs["K"]), ("show",), held=True)

    @property
    def candidates(self) -> Sequence[str]:
        """The pads."""
        return self._pads

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """K pads, the cubes' patch and the tray, a cube, and two distractors for a busy gap."""
        return [
            *(box(name, _PAD_HALF_M) for name in self._pads),
            patch(FEEDER, half_m=0.04),
            patch(TRAY, half_m=0.05),
            box(CUBE, BLOCK_HALF_M, "free"),
            *distractors.parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """Cube, patch, tray, pads (a lit one's scalar is 1), distractors."""
        return [
            Entity(CUBE, "cube", CUBE),
            Entity(FEEDER, "marker", FEEDER),
            Entity(TRAY, "patch", TRAY),
            *(Entity(name, "button", name) for name in self._pads),
            *distractors.entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of patch, tray and pads; how a cube lies; when false bells ring; paths."""
        places = draw_grid(rng, self.k + 2)
        bells = rng.uniform(*_BELLS, MAX_BELLS)[: int(self.knobs.bells)]
        return {
            "feeder": places[0],
            "tray": places[1],
            "pos": np.hstack((places[2:], np.full((self.k, 1), TABLE_TOP_M + _PAD_HALF_M[2]))),
            "cube": places[0] + rng.uniform(-0.006, 0.006, 2),
            "yaw": rng.uniform(-0.25, 0.25),
            "bells": np.sort(bells),
            "paths": distractors.draw(rng),
        }

    def start_vars(self) -> dict[str, Any]:
        """Adds cubes gathered, how long the present one takes, and has lain on the tray."""
        return {**super().start_vars(), "gathered": 0, "chore_ticks": 0, "rest_ticks": 0}

    def setup_cue(self) -> None:
        """Shows which pad is lit."""
        self._show()

    def setup_gap(self) -> None:
        """Pads, all dark, and the first cube: the work begins."""
        self._begin_work()

    def setup_execute(self) -> None:
        """The same as when the work began; nothing here depends on the pad or on the work."""
        self._begin_work()

    def _begin_work(self) -> None:
        self.vars.update(self.start_vars())
        self._show()
        self._feed()

    def _show(self) -> None:
        for i, name in enumerate(self._pads):
            self.scene.place(name, self.plan["pos"][i])
            self.scene.paint(name, SHOWN_RGB if self._lit(i) else PAD_RGB)
        for name, rgb in ((FEEDER, PATCH_RGB), (TRAY, CENTRE_RGB)):
            self.scene.place(name, (*self.plan[name], TABLE_TOP_M + 0.001))
            self.scene.paint(name, rgb)

    def _lit(self, pad: int) -> bool:
        return pad == self.cue and (self.phase == CUE or bool(self.knobs.visible_cue))

    def _feed(self) -> None:
        """Puts a cube on its patch."""
        self.scene.place(CUBE, (*self.plan["cube"], _CUBE_Z_M), self.plan["yaw"])
        self.scene.paint(CUBE, BLOCK_RGB)

    # -- the work ---------------------------------------------------------------------------

    def gap_tick(self) -> None:
        """Takes a cube off the tray and brings the next; fails when one takes too long.

        At the bell it fails if there was time for a cube and none was gathered.
        """
        super().gap_tick()
        state = self.vars
        touched = count_touches(self.scene, self._pads, state["touch_ticks"])
        if touched is not None:
            self.commit(self._pads[touched], False, "early_commit")
        state["rest_ticks"] = state["rest_ticks"] + 1 if self._on_tray() else 0
        state["chore_ticks"] += 1
        done = state["rest_ticks"] >= STEP_TICKS
        if done:
            state["gathered"] += 1
            state["chore_ticks"] = state["rest_ticks"] = 0
        if done or self.fell(0):
            self._feed()
            self.scene.forward()  # what appears now is observed now
        bell = self.phase_tick >= self.gap_ticks >= round(FIRST_S * TICKS_PER_S)
        if state["chore_ticks"] >= self._chore_ticks or (bell and not state["gathered"]):
            self.fail("timeout")

    def _on_tray(self) -> bool:
        return self.rests_at(0, self.plan["tray"])

    def rings(self) -> bool:
        """Returns whether a false bell rings at this tick."""
        if self.phase != GAP:
            return False
        since = self.phase_tick - np.round(self.plan["bells"] * self.gap_ticks)
        return bool(((since >= 0) & (since < BELL_TICKS)).any())

    def advance(self) -> bool:
        """Runs the phase machine after a tick; a false bell shows on the lamp."""
        gate = super().advance()
        if self.rings():
            self.set_lamp(FALSE_BELL)
        elif self.phase == GAP and not self.knobs.busy:
            self.set_lamp(LAMP_GAP)
        return gate

    def entity_scalars(self) -> Mapping[str, float]:
        """Whether each pad is lit."""
        return {name: float(self._lit(i)) for i, name in enumerate(self._pads)}

    # -- dense reward and expert ------------------------------------------------------------

    def potential(self) -> float:
        """Up to 0.3 with each cube, from 0.45 on after the bell."""
        if self.success:
            return 1.0
        if self.phase == CUE or self.decided:
            return 0.0
        if self.phase == GAP:
            return 0.3 * self.carry_progress(0, self.plan["tray"])
        return 0.45 + 0.55 * self.reached(self.right)

    def waypoints(self) -> Sequence[Waypoint]:
        """Carries the cube to the tray; after the bell, down on the pad that was lit."""
        if self.phase == EXECUTE:
            return super().waypoints()
        path = self.carry_path(0, self.plan["tray"])
        # Wait above until the next cube comes.
        return [*path, dataclasses.replace(path[-1], stage=NEXT)]

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Goes on with the next cube, or starts anew when one was pushed away or lost."""
        if self.phase == EXECUTE:
            return super().replan(stage, goal_world_m)
        missed = stage == NEXT and not self._on_tray()
        return self.waypoints() if missed or self.carry_failed(0, stage, goal_world_m) else None
