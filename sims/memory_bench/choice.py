"""Tasks that end with one choice by touch: the first candidate touched long enough decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from embodied.core.task import EXECUTE
from sims.memory_bench import distractors
from sims.memory_bench.layout import by_place
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.task import Task, Waypoint
from sims.memory_bench.touch import count_touches, touch_failed, touch_path


class ChoiceTask(Task):
    """Base of such tasks; balls fly about in a busy gap.

    A subclass gives `candidates` and `half_height_m`, and draws ``plan["pos"]`` (the candidates'
    centres at go, float64 [n, 3]) and ``plan["paths"]`` (of the balls). What it adds to ``vars``
    it adds in `start_vars`.

    Attributes:
      half_height_m: From a candidate's centre to its top, in metres.
      ball_height_m: Mean height above the table of the balls in a busy gap.
    """

    half_height_m: ClassVar[float]
    ball_height_m: ClassVar[float] = 0.05

    @property
    def candidates(self) -> Sequence[str]:
        """Names of the parts to choose from."""
        raise NotImplementedError

    @property
    def right(self) -> int:
        """Index of the right candidate."""
        return self.cue

    def choice_name(self, index: int) -> str:
        """Returns what it is called to choose a candidate."""
        return self.candidates[index]

    def top_z_m(self) -> float:
        """Returns the height of the candidates' tops in the world."""
        return float(self.plan["pos"][0, 2]) + self.half_height_m

    def show_candidates(self, rgb: Sequence[float]) -> None:
        """Puts the candidates where they stand, alike; in a reactive twin the right one is lit.

        Args:
          rgb: Their colour, three numbers in 0..1.
        """
        for i, name in enumerate(self.candidates):
            self.scene.place(name, self.plan["pos"][i])
            lit = self.knobs.visible_cue and i == self.right
            self.scene.paint(name, SHOWN_RGB if lit else rgb)

    def start_vars(self) -> dict[str, Any]:
        """How long each candidate has been touched, in ticks."""
        return {"touch_ticks": np.zeros(len(self.candidates), np.int64)}

    def gap_tick(self) -> None:
        """Moves grey balls about in a busy gap."""
        distractors.move(self, self.plan["paths"], self.ball_height_m)

    def execute_tick(self) -> None:
        """The first candidate touched for longer than 0.2 s decides."""
        chosen = count_touches(self.scene, self.candidates, self.vars["touch_ticks"])
        if chosen is not None:
            self.commit(self.choice_name(chosen), chosen == self.right)

    def choice_order(self) -> Sequence[int]:
        """The candidates, by where they stand."""
        return by_place(self.plan["pos"])

    def target(self) -> str:
        """The right candidate."""
        return self.choice_name(self.right)

    def reached(self, index: int) -> float:
        """Returns nearness in [0, 0.9] of the hand to a candidate's top."""
        goal = self.plan["pos"][index] + (0, 0, self.half_height_m)
        distance = float(np.linalg.norm(self.scene.eef_pos() - goal))
        return 0.9 * (1.0 - np.tanh(4.0 * distance))

    def potential(self) -> float:
        """Nearness of the hand to the right candidate, in the execute phase."""
        if self.success:
            return 1.0
        if self.phase != EXECUTE or self.decided:
            return 0.0
        return self.reached(self.right)

    def waypoints(self) -> Sequence[Waypoint]:
        """High above the right candidate, then down on it with closed fingers, and stay."""
        return touch_path(self, self.plan["pos"][self.right][:2], self.top_z_m())

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Rises again when the hand was led astray down between the candidates."""
        failed = touch_failed(self, stage, goal_world_m, self.top_z_m())
        return self.waypoints() if failed else None
