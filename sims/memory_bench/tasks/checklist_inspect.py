"""ChecklistInspect: open each of K identical lidded boxes exactly once, then press done.

Kin: the batteries of MIKASA-Robo; a re-creation in which a lid opens when touched and closes
again behind a gate, so that nothing shows which boxes were inspected. Any order is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from embodied.core.task import EXECUTE, GAP, TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.manipulation import SHOWN_RGB, HandsOnTask, nearness
from sims.memory_bench.parts import TABLE_TOP_M, Part, box
from sims.memory_bench.progress import ProgressTask
from sims.memory_bench.task import TICKS_PER_S, Waypoint
from sims.memory_bench.touch import count_touches, touch_failed, touch_path

MAX_K = 8
BOX_HALF_M, LID_HALF_M = (0.036, 0.036, 0.016), (0.040, 0.040, 0.005)
BOX_RGB, LID_RGB = (0.88, 0.80, 0.58), (0.32, 0.18, 0.10)
OPEN_S = 1.0
"""How long a lid takes to rise and to close again, unless the gap leaves less time."""

_LIFT_M = 0.09
_BOX_Z_M = TABLE_TOP_M + BOX_HALF_M[2]
_LID_Z_M = TABLE_TOP_M + 2 * BOX_HALF_M[2] + LID_HALF_M[2]
_TOP_Z_M = _LID_Z_M + LID_HALF_M[2]
_BUTTON_X_M, _BUTTON_Y_M = (-0.06, 0.04), -0.32


def _ceiling(knobs: Mapping[str, Any]) -> float:
    k = int(knobs["K"])
    return 1.0 if knobs["visible_cue"] else math.factorial(k) / (k + 1) ** (k + 1)


def _cues(knobs: Mapping[str, Any]) -> int:
    return 1


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    k = knobs["K"]
    return k * (knobs["execute_s"] + knobs["gap_max_s"]) + knobs["execute_s"]


def _level(k: int, gap_max_s: float, busy: float) -> dict[str, Any]:
    return {"K": k, "gap_min_s": 1.5, "gap_max_s": gap_max_s, "busy": busy}


INFO = TaskInfo(
    name="checklist_inspect",
    env_id="MemoryBench/ChecklistInspect-v0",
    entry="sims.memory_bench.tasks.checklist_inspect:ChecklistInspect",
    summary="open each of K lidded boxes exactly once, then press done",
    levels=levels.four(
        _level(3, 3.0, 0.0),
        _level(4, 4.0, 0.0),
        _level(5, 6.0, 0.5),
        _level(8, 8.0, 1.0),
        execute_s=8.0,
    ),
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=_horizon_s,
    progress=True,
)


class ChecklistInspect(ProgressTask, HandsOnTask):
    """There is no cue: to remember is which boxes were opened."""

    info = INFO
    instructions = (
        "open every box exactly once, then press the button",
        "look into each of the boxes one time and push the button when all are done",
        "inspect all boxes, none of them twice, and finish with the button",
        "touch the lid of each box once; after the last one hit the button",
    )
    phases = (EXECUTE, GAP)
    pauses = True
    hidden_vars = ("done", "opened", "last")

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_K)
        super().__init__(knobs)
        self.k = int(knobs["K"])
        self._open_ticks = min(OPEN_S, 0.8 * self.knobs.gap_min_s) * TICKS_PER_S
        self._boxes = [f"box{i}" for i in range(self.k)]
        self._lids = [f"lid{i}" for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """A row of choices, a box or done, behind one look."""
        every = frozenset(range(int(knobs["K"])))

        def step(opened, action):
            if action == "done":
                return {SUCCESS if opened == every else FAILURE: Fraction(1)}
            return {FAILURE if action in opened else opened | {action}: Fraction(1)}

        return Machine(
            cls.info.name,
            {frozenset(): Fraction(1)},
            lambda opened: "go",
            lambda seen: (*sorted(every), "done"),
            step,
            cue_of=lambda opened: opened,
        )

    @property
    def n_choices(self) -> int:
        """Every box and the button."""
        return self.k + 1

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """K boxes and their lids, button and distractors."""
        return [
            *(box(name, BOX_HALF_M) for name in self._boxes),
            *(box(name, LID_HALF_M) for name in self._lids),
            *self.common_parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """The lids (an open one's scalar says how far), button, distractors."""
        return [*(Entity(name, "container", name) for name in self._lids), *self.common_entities()]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of boxes and button."""
        places = draw_grid(rng, self.k)
        return {
            # From the front to the back of the table: so an expert goes, and a look tells.
            "boxes": places[np.lexsort((places[:, 1], -places[:, 0]))],
            "button": np.array([rng.uniform(*_BUTTON_X_M), _BUTTON_Y_M]),
            "paths": distractors.draw(rng),
        }

    def start_vars(self) -> dict[str, Any]:
        """Which boxes were opened, and which one last (-1: none)."""
        return {**super().start_vars(), "opened": np.zeros(self.k, bool), "last": -1}

    def choice_vars(self) -> dict[str, Any]:
        """How long each lid has been touched and the button pressed, in ticks."""
        return {"touch_ticks": np.zeros(self.k, np.int64), **self.press_vars()}

    def setup_gap(self) -> None:
        """Everything closed; the lid just touched opens from the next tick on."""
        self._show()
        super().gap_tick()

    def setup_execute(self) -> None:
        """Everything closed; nothing here depends on what was opened."""
        self._show()

    def _show(self) -> None:
        self.place_button()
        for i, (x, y) in enumerate(self.plan["boxes"]):
            self.scene.place(self._boxes[i], (x, y, _BOX_Z_M))
            self.scene.paint(self._boxes[i], BOX_RGB)
            self.scene.place(self._lids[i], (x, y, _LID_Z_M))
            shown = self.knobs.visible_cue and self.vars["opened"][i]
            self.scene.paint(self._lids[i], SHOWN_RGB if shown else LID_RGB)

    def _lift(self) -> float:
        """Returns how far the lid touched last is open, 0 to 1."""
        share = self.phase_tick / self._open_ticks
        return math.sin(math.pi * share) if self.phase == GAP and share < 1 else 0.0

    def gap_tick(self) -> None:
        """Opens and closes the lid that was touched; moves balls about in a busy gap."""
        super().gap_tick()
        x, y = self.plan["boxes"][self.vars["last"]]
        self.scene.place(self._lids[self.vars["last"]], (x, y, _LID_Z_M + _LIFT_M * self._lift()))

    def execute_tick(self) -> str | None:
        """A lid touched for longer than 0.2 s opens; the button held so long says done."""
        if self.press_held():
            return self.take(
                "done", bool(self.vars["opened"].all()), last=True, failure_kind="early_commit"
            )
        touched = count_touches(self.scene, self._lids, self.vars["touch_ticks"])
        if touched is None:
            return None
        fresh = not self.vars["opened"][touched]
        self.vars["opened"][touched] = True
        self.vars["last"] = touched
        return self.take(self._boxes[touched], fresh, last=False)

    @property
    def _next(self) -> int:
        """The first box not opened yet; K if there is none."""
        return int(np.append(self.vars["opened"], False).argmin())

    def target(self) -> str:
        """A box not opened yet (the others will do as well), or done."""
        return [*self._boxes, "done"][self._next]

    def entity_scalars(self) -> Mapping[str, float]:
        """How far each lid is open, and the button pressed."""
        lids = dict.fromkeys(self._lids, 0.0)
        if self.vars["last"] >= 0:
            lids[self._lids[self.vars["last"]]] = self._lift()
        return {**super().entity_scalars(), **lids}

    def choice_progress(self) -> float:
        """Nearness of the hand to the nearest box not opened yet, or to the button."""
        if self._next == self.k:
            return nearness(self.scene.eef_pos() - self.button_top())
        hand = self.scene.eef_pos()
        left = self.plan["boxes"][~self.vars["opened"]]
        return max(nearness(hand - (*xy, _TOP_Z_M)) for xy in left)

    def waypoints(self) -> Sequence[Waypoint]:
        """High above a box not opened yet and down on its lid, or to the button."""
        if self._next == self.k:
            return self.press_path()
        return self.touch_box(self._next)

    def touch_box(self, index: int) -> Sequence[Waypoint]:
        """Returns the way onto a box's lid."""
        return touch_path(self, self.plan["boxes"][index], _TOP_Z_M)

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Rises again when the hand was led astray."""
        if self._next == self.k:
            failed = self.press_failed(stage, goal_world_m)
        else:
            failed = touch_failed(self, stage, goal_world_m, _TOP_Z_M)
        return self.waypoints() if failed else None
