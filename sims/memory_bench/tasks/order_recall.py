"""OrderRecall: lights flash over K pads one by one; press the pads in that order.

Kin: the chains of MIKASA-Robo; a re-creation with phase lamp, a gate before each press and
commits. Pads all look the same and a press leaves no trace. The arm is back at home before each
press: otherwise where it stands would tell which pads were pressed already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from embodied.core.task import CUE, EXECUTE, TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.machines import uniform
from sims.memory_bench.manipulation import SHOWN_RGB, nearness
from sims.memory_bench.parts import TABLE_TOP_M, Part, box
from sims.memory_bench.progress import ProgressTask
from sims.memory_bench.task import Waypoint
from sims.memory_bench.touch import count_touches, touch_failed, touch_path

MAX_K, MAX_L = 9, 7
PAD_HALF_M = (0.042, 0.042, 0.014)
PAD_RGB = (0.10, 0.16, 0.40)
_PAD_Z_M = TABLE_TOP_M + PAD_HALF_M[2]
_TOP_Z_M = TABLE_TOP_M + 2 * PAD_HALF_M[2]
_LIT_SHARE = 2 / 3
"""Share of its slot during which a light is on: two flashes of one pad are told apart."""


def _ceiling(knobs: Mapping[str, Any]) -> float:
    return 1.0 if knobs["visible_cue"] else float(knobs["K"]) ** -int(knobs["L"])


def _cues(knobs: Mapping[str, Any]) -> int:
    k, length = int(knobs["K"]), int(knobs["L"])
    return k**length if knobs["repeats"] else math.perm(k, length)


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    return knobs["cue_s"] + knobs["gap_max_s"] + knobs["L"] * knobs["execute_s"]


def _order(k: int, length: int) -> dict[str, Any]:
    return {"K": k, "L": length, "cue_s": 0.9 * length}


INFO = TaskInfo(
    name="order_recall",
    env_id="MemoryBench/OrderRecall-v0",
    entry="sims.memory_bench.tasks.order_recall:OrderRecall",
    summary="see L of K pads light up one by one, then press them in that order",
    levels=levels.four(
        _order(4, 2),
        _order(4, 4),
        _order(6, 5),
        _order(9, 7),
        reverse=0,
        repeats=0,
        execute_s=8.0,
    ),
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=_horizon_s,
)


def order_of(cue: int, k: int, length: int, repeats: bool) -> tuple[int, ...]:
    """Returns the pads to press, in order, for a cue value.

    Neighbouring cue values differ in the first press.
    """
    left, order = list(range(k)), []
    for _ in range(length):
        cue, index = divmod(cue, len(left))
        order.append(left[index] if repeats else left.pop(index))
    return tuple(order)


def _machine(k: int, length: int, repeats: bool) -> Machine:
    """Lights seen while the arm is held, a gap, then L presses that all look the same.

    Orders are equally likely and can't be seen any more after the gate, so which pad is next is
    drawn at each press among those still possible.
    """

    def observe(state):
        return state[0]

    def actions(seen):
        return tuple(range(k)) if seen == "go" else ("hold",)

    def following(pressed):
        left = [pad for pad in range(k) if repeats or pad not in pressed]
        return uniform([("go", pressed, pad) for pad in left])

    def step(state, action):
        if state[0] != "go":
            return {("gap",): Fraction(1)} if state[0] == "show" else following(())
        _, pressed, right = state
        if action != right:
            return {FAILURE: Fraction(1)}
        # Which pads were pressed matters where none comes twice, otherwise how many.
        pressed = (*pressed, 0) if repeats else tuple(sorted((*pressed, right)))
        return {SUCCESS: Fraction(1)} if len(pressed) == length else following(pressed)

    return Machine(
        INFO.name,
        {("show",): Fraction(1)},
        observe,
        actions,
        step,
        cue_of=lambda state: state[-1],
    )


class OrderRecall(ProgressTask):
    """The cue is the order; at each press the scene is the same for all."""

    info = INFO
    instructions = (
        "press the pads in {order} in which they lit up",
        "watch the lights, then push the pads one by one in {order} shown",
        "touch every pad that flashed, in {order} of the flashes",
        "remember which pads light up and press them in {order} of the lights",
    )

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_K)
        for name in ("reverse", "repeats"):
            levels.check_whole(self.info.name, knobs, name, 0, 1)
        longest = MAX_L if knobs["repeats"] else min(MAX_L, int(knobs["K"]))
        levels.check_whole(self.info.name, knobs, "L", 2, longest)
        super().__init__(knobs)
        self.k, self.length = int(knobs["K"]), int(knobs["L"])
        self._pads = [f"pad{i}" for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """A row of presses behind one look."""
        return _machine(int(knobs["K"]), int(knobs["L"]), bool(knobs["repeats"]))

    @property
    def n_choices(self) -> int:
        """As many presses as lights."""
        return self.length

    @property
    def order(self) -> tuple[int, ...]:
        """The pads to press, in order."""
        return order_of(self.cue, self.k, self.length, bool(self.knobs.repeats))

    @property
    def _next(self) -> int:
        """The pad that has to be pressed now."""
        return self.order[self.vars["done"]]

    def phrase(self, template: str) -> str:
        """Says whether the order is to be kept or reversed."""
        return template.format(
            order="the reverse of the order" if self.knobs.reverse else "the order"
        )

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """K pads and two distractors."""
        return [*(box(name, PAD_HALF_M) for name in self._pads), *distractors.parts()]

    def entities(self) -> Sequence[Entity]:
        """The pads (a lit one's scalar is 1) and the distractors."""
        return [*(Entity(name, "button", name) for name in self._pads), *distractors.entities()]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of the pads; the distractors' paths."""
        return {"pads": draw_grid(rng, self.k), "paths": distractors.draw(rng)}

    def choice_vars(self) -> dict[str, Any]:
        """How long each pad has been touched, in ticks."""
        return {"touch_ticks": np.zeros(self.k, np.int64)}

    def setup_cue(self) -> None:
        """Shows the pads, the first one lit."""
        self._show()

    def setup_gap(self) -> None:
        """Shows the pads, all dark."""
        self._show()
        self.gap_tick()

    def setup_execute(self) -> None:
        """Shows the pads; nothing here depends on the order or on what was pressed."""
        self._show()

    def _show(self) -> None:
        for name, xy in zip(self._pads, self.plan["pads"], strict=True):
            self.scene.place(name, (*xy, _PAD_Z_M))
        self._paint()

    def _lit(self) -> int | None:
        """Returns the pad that is lit now; in a reactive twin after go, the one to press."""
        if self.phase == EXECUTE:
            return self._next if self.knobs.visible_cue else None
        slot, within = divmod(self.phase_tick * self.length / self.cue_ticks, 1.0)
        if self.phase != CUE or slot >= self.length or within >= _LIT_SHARE:
            return None
        return (self.order[::-1] if self.knobs.reverse else self.order)[int(slot)]

    def _paint(self) -> None:
        lit = self._lit()
        for i, name in enumerate(self._pads):
            self.scene.paint(name, SHOWN_RGB if i == lit else PAD_RGB)

    def cue_tick(self) -> bool:
        """Flashes the lights one by one."""
        self._paint()
        return super().cue_tick()

    def gap_tick(self) -> None:
        """Moves balls about in a busy gap."""
        distractors.move(self, self.plan["paths"], 0.05)

    def execute_tick(self) -> str | None:
        """A pad touched for longer than 0.2 s is pressed."""
        pad = count_touches(self.scene, self._pads, self.vars["touch_ticks"])
        if pad is None:
            return None
        last = self.vars["done"] + 1 == self.length
        return self.take(self._press(pad), pad == self._next, last)

    def target(self) -> str:
        """The press that has to come now."""
        return self._press(self._next)

    def _press(self, pad: int) -> str:
        return f"press {self.vars['done'] + 1}: {self._pads[pad]}"

    def entity_scalars(self) -> Mapping[str, float]:
        """Whether each pad is lit."""
        lit = self._lit()
        return {name: float(i == lit) for i, name in enumerate(self._pads)}

    def choice_progress(self) -> float:
        """Nearness of the hand to the pad."""
        return nearness(self.scene.eef_pos() - (*self.plan["pads"][self._next], _TOP_Z_M))

    def waypoints(self) -> Sequence[Waypoint]:
        """High above the next pad, then down on it with closed fingers, and stay."""
        return self.touch_pad(self._next)

    def touch_pad(self, pad: int) -> Sequence[Waypoint]:
        """Returns the way onto a pad."""
        return touch_path(self, self.plan["pads"][pad], _TOP_Z_M)

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Rises again when the hand was led astray down between the pads."""
        return self.waypoints() if touch_failed(self, stage, goal_world_m, _TOP_Z_M) else None
