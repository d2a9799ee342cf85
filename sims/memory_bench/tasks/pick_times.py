"""PickTimes: move the cube to the dish n times, then press stop.

Kin: PickXtimes of RoboMME; a re-creation in which a feeder takes the cube back to the same place
after each placing, behind a gate. How often is in the instruction; how often it was done shows
nowhere. The feeder takes another time for each return, so that time doesn't tell either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from embodied.core.task import TaskInfo
from sims.memory_bench import counted, distractors, levels
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine
from sims.memory_bench.counted import CountedTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import uniform
from sims.memory_bench.manipulation import (
    BLOCK_HALF_M,
    BLOCK_RGB,
    CENTRE_RGB,
    NEXT,
    PATCH_RGB,
    Blocks,
    draw_ring,
    nearness,
)
from sims.memory_bench.parts import TABLE_TOP_M, Part, box, patch
from sims.memory_bench.task import Waypoint

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
CUBE, DISH, FEEDER = "cube", "dish", "feeder"

_CUBE_Z_M = TABLE_TOP_M + BLOCK_HALF_M[2]


def _ceiling(knobs: Mapping[str, Any]) -> float:
    if knobs["visible_cue"]:
        return 1.0
    each = [1 / (n + 1) * (n / (n + 1)) ** n for n in counted.numbers(knobs)]
    return sum(each) / len(each)


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    n = knobs["n_max"]
    return n * (knobs["execute_s"] + knobs["gap_max_s"]) + knobs["execute_s"]


def _level(n_min: int, n_max: int, gap_max_s: float, busy: float) -> dict[str, Any]:
    return {"n_min": n_min, "n_max": n_max, "gap_min_s": 1.0, "gap_max_s": gap_max_s, "busy": busy}


INFO = TaskInfo(
    name="pick_times",
    env_id="MemoryBench/PickTimes-v0",
    entry="sims.memory_bench.tasks.pick_times:PickTimes",
    summary="move the cube to the dish n times, then press stop",
    levels=levels.four(
        _level(1, 3, 4.0, 0.0),
        _level(2, 4, 5.0, 0.0),
        _level(3, 5, 6.0, 0.5),
        _level(4, 6, 8.0, 1.0),
        tol_m=0.05,
        execute_s=12.0,
    ),
    ceiling=_ceiling,
    cues=counted.cues,
    horizon_s=_horizon_s,
    progress=True,
)


class PickTimes(CountedTask, Blocks):
    """The cue is how many times; the instruction tells it. To remember is how many were done."""

    info = INFO
    instructions = (
        "move the cube to the dish {times}, then press stop",
        "put the cube on the dish exactly {times} and then push the stop button",
        "bring the cube to the dish {times}; after that, hit the button",
        "place the cube on the dish {times} in all and finish with the button",
    )
    block_names = (CUBE,)

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """For each number of times a row of choices, to place or to stop, behind one look."""

        def step(state, action):
            n, done = state
            if action == "stop":
                return {SUCCESS if done == n else FAILURE: Fraction(1)}
            return {(n, done + 1) if done < n else FAILURE: Fraction(1)}

        return Machine(
            cls.info.name,
            uniform([(n, 0) for n in counted.numbers(knobs)]),
            lambda state: state[0],
            lambda seen: ("place", "stop"),
            step,
            cue_of=lambda state: state[1],
        )

    @property
    def n_choices(self) -> int:
        """The placings and the press."""
        return self.times + 1

    def phrase(self, template: str) -> str:
        """Says how many times."""
        number = NUMBERS[self.times]
        return template.format(times=f"{number} time" if self.times == 1 else f"{number} times")

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """Feeder's place, dish, cube, button, distractors, and the twin's tally."""
        return [
            patch(FEEDER, half_m=0.04),
            patch(DISH, half_m=0.055),
            box(CUBE, BLOCK_HALF_M, "free"),
            *self.tally_parts(),
            *self.common_parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """Cube, dish, feeder's place, tally, button, distractors."""
        return [
            Entity(CUBE, "cube", CUBE),
            Entity(DISH, "patch", DISH),
            Entity(FEEDER, "marker", FEEDER),
            *self.tally_entities(),
            *self.common_entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of feeder, dish and button; how the cube lies each time."""
        (feeder, dish), button = draw_ring(rng, 2)
        return {
            "feeder": feeder,
            "dish": dish,
            "button": button + rng.uniform(-0.005, 0.005, 2),
            "cube": feeder + rng.uniform(-0.006, 0.006, 2),
            "yaw": rng.uniform(-0.25, 0.25),
            "paths": distractors.draw(rng),
        }

    def choice_vars(self) -> dict[str, Any]:
        """Whether the cube was picked up, for how long it is free and the button pressed."""
        return {**self.block_vars(), **self.press_vars()}

    def setup_gap(self) -> None:
        """The table while the feeder has the cube."""
        self._show()
        self.gap_tick()

    def setup_execute(self) -> None:
        """The cube lies where it always lies."""
        self._show()
        scene = self.scene
        scene.place(CUBE, (*self.plan["cube"], _CUBE_Z_M), self.plan["yaw"])
        scene.paint(CUBE, BLOCK_RGB)
        self.show_tally()

    def _show(self) -> None:
        self.place_button()
        for name, rgb in ((FEEDER, PATCH_RGB), (DISH, CENTRE_RGB)):
            self.scene.place(name, (*self.plan[name], TABLE_TOP_M + 0.001))
            self.scene.paint(name, rgb)

    def execute_tick(self) -> str | None:
        """The cube released on the dish is placed; elsewhere it may be picked up again."""
        if self.press_held():
            done = self.vars["done"] == self.times
            return self.take("stop", done, last=True, failure_kind="early_commit")
        if self.released(self.plan["cube"][None]) is not None and self._placed():
            return self.take("place", self.vars["done"] < self.times, last=False)
        if self.fell(0):
            self.fail("motor")
        return None

    def _placed(self) -> bool:
        return self.rests_at(0, self.plan["dish"])

    def target(self) -> str:
        """What comes next: to place or to stop."""
        return "place" if self.vars["done"] < self.times else "stop"

    def choice_progress(self) -> float:
        """Bringing the cube to the dish, or the hand to the button."""
        if self.target() == "place":
            return self.carry_progress(0, self.plan["dish"])
        return nearness(self.scene.eef_pos() - self.button_top())

    def waypoints(self) -> Sequence[Waypoint]:
        """Carry the cube to the dish, or press."""
        if self.target() == "stop":
            return self.press_path()
        path = self.carry_path(0, self.plan["dish"])
        # Wait above until the placing counts; then the scene snaps.
        return [*path, dataclasses.replace(path[-1], stage=NEXT)]

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Starts anew when the cube was pushed away or lost, or isn't on the dish."""
        if self.target() == "stop":
            return self.waypoints() if self.press_failed(stage, goal_world_m) else None
        missed = stage == NEXT and not self._placed()
        return self.waypoints() if missed or self.carry_failed(0, stage, goal_world_m) else None
