"""StopAtNthPass: a slider crosses a mark again and again; stop it there on pass n.

Kin: StopCube of RoboMME; a re-creation in which each pass begins behind a gate, always from the
same end. The slider stands still while the button is pressed; held for longer than 0.5 s, the
button stops it for good. Which pass is asked for is in the instruction; how many there were shows
nowhere. Each pass has a speed of its own and the slider stays away for another time after each,
so that time doesn't tell either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import TaskInfo
from sims.memory_bench import counted, distractors, levels, parts_button
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine
from sims.memory_bench.counted import CountedTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import uniform
from sims.memory_bench.manipulation import BLOCK_RGB, PATCH_RGB, HandsOnTask, nearness
from sims.memory_bench.parts import TABLE_TOP_M, Part, screen
from sims.memory_bench.task import TICKS_PER_S, Waypoint

SLIDER, MARK, TRACK = "slider", "mark", "track"
ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth")
TRACK_RGB = (0.22, 0.22, 0.24)
TRACK_X_M, START_Y_M, END_Y_M, MARK_Y_M = 0.20, -0.25, 0.22, (0.03, 0.10)
"""The slider's way along the table, and where on it the mark may lie."""
REST_S = 1.0
"""How long the slider stands before a pass."""
LEAD_S = 0.2
"""From the moment at which an expert's hand leaves its place above the button to the press."""

_SLIDER_HALF_M, _TRACK_HALF_M = (0.022, 0.022, 0.022), (0.008, 0.27, 0.002)
_SLIDER_Z_M = TABLE_TOP_M + 2 * _TRACK_HALF_M[2] + _SLIDER_HALF_M[2]
_MARK_DEPTH_M = 0.05
_BUTTON_X_M, _BUTTON_Y_M = (-0.06, 0.02), -0.25
_WAIT = 9  # stage of the expert's waypoints


def _slowest_s(knobs: Mapping[str, Any]) -> float:
    """Returns how long the slowest pass takes."""
    return REST_S + (END_Y_M - START_Y_M) / (knobs["speed_m_s"] * (1 - knobs["jitter"]))


def _ceiling(knobs: Mapping[str, Any]) -> float:
    if knobs["visible_cue"]:
        return 1.0
    each = [1 / n * ((n - 1) / n) ** (n - 1) for n in counted.numbers(knobs)]
    return sum(each) / len(each)


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    n = knobs["n_max"]
    return n * (knobs["execute_s"] + knobs["gap_max_s"]) + knobs["execute_s"]


def _level(
    n_min: int, n_max: int, tol_m: float, speed_m_s: float, jitter: float, busy: float
) -> dict[str, Any]:
    own = {"n_min": n_min, "n_max": n_max, "tol_m": tol_m, "speed_m_s": speed_m_s}
    return {**own, "jitter": jitter, "gap_min_s": 1.0, "gap_max_s": 5.0, "busy": busy}


INFO = TaskInfo(
    name="stop_at_nth_pass",
    env_id="MemoryBench/StopAtNthPass-v0",
    entry="sims.memory_bench.tasks.stop_at_nth_pass:StopAtNthPass",
    summary="a slider crosses a mark again and again; stop it there on pass n",
    levels=levels.four(
        _level(2, 3, 0.05, 0.06, 0.3, 0.0),
        _level(2, 4, 0.04, 0.065, 0.35, 0.0),
        _level(3, 5, 0.03, 0.07, 0.4, 0.5),
        _level(4, 6, 0.02, 0.07, 0.5, 1.0),
        execute_s=16.0,
    ),
    ceiling=_ceiling,
    cues=counted.cues,
    horizon_s=_horizon_s,
    progress=True,
)


class StopAtNthPass(CountedTask, HandsOnTask):
    """The cue is which pass; the instruction tells it. To remember is how many there were.

    A pass let by is a choice, and any press that stops the slider is a commit. One pass more than
    the largest number is shown; then time is up. `execute_s` is the time limit of each pass,
    `tol_m` half the mark's width, `jitter` how far a pass's speed is from `speed_m_s` at most, as
    a share of it.
    """

    info = INFO
    still_knobs = MappingProxyType({"jitter": 0.0})
    instructions = (
        "stop the slider on the mark at its {nth} pass by pressing the button",
        "let the slider go by and hold the button when it crosses the mark for the {nth} time",
        "press the button so that the slider halts on the mark during pass number {number}",
        "halt the slider over the mark on the {nth} crossing, not sooner and not later",
    )
    fewest = 2

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        super().__init__(knobs)
        for name, low, high in (
            ("tol_m", 0.005, 0.06),
            ("speed_m_s", 0.02, 0.3),
            ("jitter", 0.0, 0.8),
        ):
            if not low <= knobs[name] <= high:
                raise ConfigError(
                    f"knob {name} of {self.info.name}: expected {low} to {high}, got {knobs[name]}"
                )
        if knobs["execute_s"] < _slowest_s(knobs) + 1.0:
            raise ConfigError(
                f"knob execute_s of {self.info.name}: expected at least "
                f"{_slowest_s(knobs) + 1.0:.1f} s, a second more than the slowest pass takes, got "
                f"{knobs['execute_s']}"
            )

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """For each number a row of choices, to let pass or to stop, behind one look."""

        def step(state, action):
            n, done = state
            if action == "stop":
                return {SUCCESS if done + 1 == n else FAILURE: Fraction(1)}
            return {(n, done + 1) if done + 1 < n else FAILURE: Fraction(1)}

        return Machine(
            cls.info.name,
            uniform([(n, 0) for n in counted.numbers(knobs)]),
            lambda state: state[0],
            lambda seen: ("pass", "stop"),
            step,
            cue_of=lambda state: state[1],
        )

    @property
    def n_choices(self) -> int:
        """The passes up to the one to stop at."""
        return self.times

    @property
    def most_choices(self) -> int:
        """All passes."""
        return int(self.knobs.n_max) + 1

    def phrase(self, template: str) -> str:
        """Says which pass."""
        return template.format(nth=ORDINALS[self.times], number=self.times)

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """Mark, track, slider, button, distractors, and the twin's tally."""
        return [
            screen(MARK, (_MARK_DEPTH_M, self.knobs.tol_m, 0.001)),
            screen(TRACK, _TRACK_HALF_M),
            screen(SLIDER, _SLIDER_HALF_M),
            *self.tally_parts(),
            *self.common_parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """Slider, mark, track, tally, button, distractors."""
        return [
            Entity(SLIDER, "cube", SLIDER),
            Entity(MARK, "patch", MARK),
            Entity(TRACK, "marker", TRACK),
            *self.tally_entities(),
            *self.common_entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of mark and button; the speed of each pass."""
        shares = rng.uniform(-1.0, 1.0, self.most_choices)
        return {
            "mark_y": rng.uniform(*MARK_Y_M),
            "button": np.array([rng.uniform(*_BUTTON_X_M), _BUTTON_Y_M]),
            "speeds_m_s": self.knobs.speed_m_s * (1.0 + self.knobs.jitter * shares),
            "paths": distractors.draw(rng),
        }

    def choice_vars(self) -> dict[str, Any]:
        """For how many ticks this pass has gone on and the button been pressed."""
        return {"pass_ticks": 0, **self.press_vars()}

    @property
    def speed_m_s(self) -> float:
        """The present pass's speed."""
        return float(self.plan["speeds_m_s"][self.vars["done"]])

    def slider_y_m(self) -> float:
        """Returns where on its way the slider is."""
        moving_s = self.vars["pass_ticks"] / TICKS_PER_S - REST_S
        return START_Y_M + self.speed_m_s * max(moving_s, 0.0)

    def setup_gap(self) -> None:
        """Mark, track and button; the slider is away."""
        self._show()
        self.gap_tick()

    def setup_execute(self) -> None:
        """The slider stands where it always starts."""
        self._show()
        self._move_slider()
        self.scene.paint(SLIDER, BLOCK_RGB)
        self.show_tally()

    def _show(self) -> None:
        self.place_button()
        self.scene.place(MARK, (TRACK_X_M, self.plan["mark_y"], TABLE_TOP_M + 0.001))
        self.scene.paint(MARK, PATCH_RGB)
        self.scene.place(TRACK, (TRACK_X_M, 0.0, TABLE_TOP_M + _TRACK_HALF_M[2]))
        self.scene.paint(TRACK, TRACK_RGB)

    def _move_slider(self) -> None:
        self.scene.place(SLIDER, (TRACK_X_M, self.slider_y_m(), _SLIDER_Z_M))
        self.scene.forward()  # where it is now is observed now

    def execute_tick(self) -> str | None:
        """The slider moves on unless the button is pressed; so held for long, that is the stop."""
        if self.press_held():
            return self._stop()
        if not self.vars["press_ticks"]:
            self.vars["pass_ticks"] += 1
            self._move_slider()
        if self.slider_y_m() < END_Y_M:
            return None
        if self.vars["done"] + 1 < self.most_choices:
            return self.take("pass", True, last=False)
        self.fail("timeout")
        return None

    def _stop(self) -> str | None:
        number = self.vars["done"] + 1
        on_mark = abs(self.slider_y_m() - self.plan["mark_y"]) <= self.knobs.tol_m
        if number == self.times:
            return self.take(f"stop {number}", on_mark, last=True, failure_kind="motor")
        kind = "early_commit" if number < self.times else "wrong_choice"
        return self.take(f"stop {number}", False, last=True, failure_kind=kind)

    def target(self) -> str:
        """What comes next: to let the slider pass, to stop it, or nothing any more."""
        left = self.times - 1 - self.vars["done"]
        return "pass" if left > 0 else (f"stop {self.times}" if left == 0 else "none")

    def follows(self, cue: int, target: str) -> bool:
        """Whether the slider was stopped one pass late: the memory had one less in it."""
        return self.committed == f"stop {self.times + 1}"

    # -- dense reward and expert ------------------------------------------------------------

    def potential(self) -> float:
        """As in every row of choices, but nothing once the pass was missed."""
        return 0.0 if self.target() == "none" else super().potential()

    def choice_progress(self) -> float:
        """The slider's way while it is to pass; then the hand's to the button, until it's late."""
        if self.target() == "pass":
            return (self.slider_y_m() - START_Y_M) / (END_Y_M - START_Y_M)
        late = self.slider_y_m() > self.plan["mark_y"] + self.knobs.tol_m
        return 0.0 if late else nearness(self.scene.eef_pos() - self.button_top())

    def waypoints(self) -> Sequence[Waypoint]:
        """Wait above the button, pass by pass."""
        *way, above, _ = self.press_path()
        return [*way, dataclasses.replace(above, stage=_WAIT)]

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Presses when the slider is about to be on the mark; rises when led astray."""
        if self.strayed(goal_world_m[:2], parts_button.TOP_M + TABLE_TOP_M + 0.04):
            return self.waypoints()
        return [self._press()] if stage == _WAIT and self._due() else None

    def _press(self) -> Waypoint:
        """Returns the way down; it counts as reached at once, so that nothing disturbs the move."""
        return dataclasses.replace(self.press_path()[-1], tol_m=0.08, dwell_ticks=30)

    def _due(self) -> bool:
        """Returns whether a press begun now stops the slider on the mark of the right pass."""
        if self.vars["done"] != self.times - 1 or np.hypot(*self._off_button()) > 0.03:
            return False
        then = self.slider_y_m() + LEAD_S * self.speed_m_s - self.plan["mark_y"]
        return 0.0 <= then <= self.knobs.tol_m

    def _off_button(self) -> np.ndarray:
        return self.scene.eef_pos()[:2] - self.plan["button"]
