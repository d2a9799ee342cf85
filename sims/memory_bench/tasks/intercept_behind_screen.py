"""InterceptBehindScreen: a ball rolls behind a screen; say where it will come to rest after it.

Kin: the Intercept tasks of MIKASA-Robo; a re-creation with phase lamp, snapping gates and commits.
The ball rolls straight on at one of V speeds, so its way before the screen tells in which of K
lanes it comes out; the faster it is, the farther it runs on. It starts anywhere, so that no single
picture tells the lane. It stays behind the screen, which hides it from every side, until a gate is
placed: the first pad touched is the gate's, and the one right place catches the ball. With one
speed (V = 1) the lane alone is to be remembered. The arm is held while the ball rolls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.choice import ChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.parts import PALETTE, TABLE_TOP_M, Part, ball, box, screen
from sims.memory_bench.task import TICKS_PER_S

MAX_K, MAX_V = 5, 3
PAD_RGB, SCREEN_RGB, BALL_RGB = (0.10, 0.16, 0.40), (0.16, 0.22, 0.16), PALETTE["orange"]
SPEEDS_M_S = {1: (0.13,), 2: (0.10, 0.17), 3: (0.08, 0.125, 0.20)}
"""The ball's speeds, slow to fast; about 1.6 times as fast from one to the next."""

REST_S, DELAY_S, AFTER_S = 0.4, 0.4, 0.3
"""How long the ball lies still at least, how much longer at most, and how long the cue phase goes
on once the slowest ball is out of sight."""

_PAD_HALF_M = (0.034, 0.034, 0.012)
_BALL_RADIUS_M, _SCREEN_HEIGHT_M = 0.02, 0.052
_LANES_X_M, _LANES_M, _LANE_M = 0.0, 0.36, 0.10
_START_Y_M, _EXIT_Y_M, _START_X_M = -0.27, 0.03, 0.16
_ROW_Y_M, _ROW_M, _JITTER_M = 0.085, 0.08, 0.003
_SCREEN_WIDTH_M = 0.23  # to each side; no ball passes beside it


def _hide_s(knobs: Mapping[str, Any], across_m: float, speed_m_s: float) -> float:
    """Returns how long a ball rolls until it is out of sight that is `across_m` off at the exit."""
    along_m = _EXIT_Y_M - _START_Y_M
    share = (along_m - knobs["screen_m"] + _BALL_RADIUS_M) / along_m
    return share * float(np.hypot(along_m, across_m)) / speed_m_s


def _cue_s(knobs: Mapping[str, Any]) -> float:
    """Returns the length of the cue phase: enough for the slowest ball on the longest way."""
    slowest = SPEEDS_M_S[int(knobs["V"])][0] * (1.0 - knobs["jitter"])
    rolls_s = _hide_s(knobs, _START_X_M + _LANES_M / 2, slowest)
    return REST_S + DELAY_S + rolls_s + AFTER_S


def _ceiling(knobs: Mapping[str, Any]) -> float:
    return 1.0 if knobs["visible_cue"] else 1.0 / (knobs["K"] * knobs["V"])


def _cues(knobs: Mapping[str, Any]) -> int:
    return int(knobs["K"]) * int(knobs["V"])


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    return _cue_s(knobs) + knobs["gap_max_s"] + knobs["execute_s"]


def _rolls(lanes: int, speeds: int, screen_m: float) -> dict[str, Any]:
    return {"K": lanes, "V": speeds, "screen_m": screen_m}


INFO = TaskInfo(
    name="intercept_behind_screen",
    env_id="MemoryBench/InterceptBehindScreen-v0",
    entry="sims.memory_bench.tasks.intercept_behind_screen:InterceptBehindScreen",
    summary="a ball rolls behind a screen; touch the pad, of K lanes and V speeds, where it ends",
    levels=levels.four(
        _rolls(3, 1, 0.14),
        _rolls(3, 2, 0.14),
        _rolls(4, 2, 0.15),
        _rolls(5, 3, 0.16),
        jitter=0.06,
        execute_s=8.0,
    ),
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=_horizon_s,
)


class InterceptBehindScreen(ChoiceTask):
    """The cue is lane and speed: ``lane * V + speed``.

    `screen_m` is how long the screen hides the ball's way; `jitter` by what share a ball may be
    faster or slower than its kind.
    """

    info = INFO
    still_knobs = MappingProxyType({"jitter": 0.0})
    instructions = (
        "touch the pad where the ball will come to rest behind the screen",
        "watch the ball roll and place the gate where it has to be caught",
        "the ball is hidden now: put the gate where it will end up, further out if it was fast",
        "work out from the ball's course and speed where it stops and touch that pad",
    )
    half_height_m = _PAD_HALF_M[2]
    ball_height_m = 0.15

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_K)
        levels.check_whole(self.info.name, knobs, "V", 1, MAX_V)
        for name, low, high in (("screen_m", 0.06, 0.2), ("jitter", 0.0, 0.15)):
            if not low <= knobs[name] <= high:
                raise ConfigError(
                    f"knob {name} of {self.info.name}: expected {low:g} to {high:g}, got "
                    f"{knobs[name]}"
                )
        super().__init__(knobs)
        self.k, self.speeds = int(knobs["K"]), int(knobs["V"])
        self._pads = [f"pad{i}" for i in range(self.k * self.speeds)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """The ball's way is seen while the arm is held, then one choice of K V."""
        return cue_then_choice(cls.info.name, _cues(knobs), ("show",), held=True)

    @property
    def candidates(self) -> Sequence[str]:
        """The pads, lane by lane, and from the screen outwards in each."""
        return self._pads

    @property
    def cue_ticks(self) -> int:
        """Length of the cue phase."""
        return round(_cue_s(vars(self.knobs)) * TICKS_PER_S)

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """The pads, the screen, the ball, and two distractors that fly about in a busy gap."""
        length = self.knobs.screen_m / 2
        return [
            *(box(name, _PAD_HALF_M) for name in self._pads),
            screen("screen", (_SCREEN_WIDTH_M, length, _SCREEN_HEIGHT_M / 2)),
            ball("ball", _BALL_RADIUS_M),
            *distractors.parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """The pads, the screen, the ball while it can be seen, the distractors."""
        return [
            *(Entity(name, "patch", name) for name in self._pads),
            Entity("screen", "container", "screen"),
            Entity("ball", "marker", "ball"),
            *distractors.entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of the pads; where the ball starts, when, how much off its speed; paths."""
        spacing = min(_LANE_M, _LANES_M / (self.k - 1))
        lanes = _LANES_X_M + (np.arange(self.k) - (self.k - 1) / 2) * spacing
        lanes += rng.uniform(-_JITTER_M, _JITTER_M, self.k)
        rows = _ROW_Y_M + _ROW_M * np.arange(self.speeds)
        x, y = (grid.ravel() for grid in np.meshgrid(lanes, rows, indexing="ij"))
        return {
            "pos": np.stack((x, y, np.full(len(x), TABLE_TOP_M + _PAD_HALF_M[2])), 1),
            "start_x": _LANES_X_M + rng.uniform(-_START_X_M, _START_X_M),
            "delay_s": REST_S + rng.uniform(0.0, DELAY_S),
            "faster": 1.0 + rng.uniform(-1.0, 1.0) * self.knobs.jitter,
            "paths": distractors.draw(rng),
        }

    # -- the cue phase --------------------------------------------------------------------

    def speed_m_s(self) -> float:
        """Returns how fast the ball rolls."""
        return SPEEDS_M_S[self.speeds][self.cue % self.speeds] * self.plan["faster"]

    def ball_pos(self) -> np.ndarray:
        """Returns where the ball is at this tick of the cue phase [3]: on a straight way that
        leads to its lane's middle at the exit, or would if it went on.
        """
        start = np.array([self.plan["start_x"], _START_Y_M])
        way = np.array([self.plan["pos"][self.cue, 0], _EXIT_Y_M]) - start
        rolled_s = max(self.phase_tick / TICKS_PER_S - self.plan["delay_s"], 0.0)
        xy = start + way / np.hypot(*way) * self.speed_m_s() * rolled_s
        return np.array([*xy, TABLE_TOP_M + _BALL_RADIUS_M])

    def setup_cue(self) -> None:
        """Pads and screen; the ball lies still."""
        self._show()
        self._move_ball()

    def cue_tick(self) -> bool:
        """Rolls the ball until the screen hides it."""
        self._move_ball()
        self.scene.forward()  # what moves now is observed now
        return super().cue_tick()

    def _move_ball(self) -> None:
        pos = self.ball_pos()
        if pos[1] < _EXIT_Y_M - self.knobs.screen_m + _BALL_RADIUS_M:
            self.scene.place("ball", pos)
            self.scene.paint("ball", BALL_RGB)
        elif self.scene.present["ball"]:
            self.scene.park("ball")

    # -- gap and go -----------------------------------------------------------------------

    def setup_gap(self) -> None:
        """Pads and screen, as at go."""
        self._show()
        self.gap_tick()

    def setup_execute(self) -> None:
        """Pads and screen; nothing here depends on the ball."""
        self._show()

    def _show(self) -> None:
        self.show_candidates(PAD_RGB)
        middle = _EXIT_Y_M - self.knobs.screen_m / 2
        self.scene.place("screen", (_LANES_X_M, middle, TABLE_TOP_M + _SCREEN_HEIGHT_M / 2))
        self.scene.paint("screen", SCREEN_RGB)

    def execute_tick(self) -> None:
        """The first pad touched for longer than 0.2 s decides; then the ball has come out."""
        super().execute_tick()
        if self.decided:
            x, y, z = self.plan["pos"][self.cue]
            self.scene.place("ball", (x, y, z + _PAD_HALF_M[2] + _BALL_RADIUS_M))
            self.scene.paint("ball", BALL_RGB)
            self.scene.forward()  # the last picture shows where it rests
