"""OddOneOut: see K coloured cubes; later K + 1 are there; touch the one that is new.

Kin: the negative recall of MIKASA-VLA; a re-creation with phase lamp, snapping gates and commits.
The K + 1 colours come from the seed and are the same at go for every cue; the cue is the one that
was left out at the start. Places are drawn anew, so only colours tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.task import TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.coloured import CUBE_HALF_M, ColourChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.parts import TABLE_TOP_M, Part, cube

MAX_K = 8
_SHOWCASE_X_M, _SHOWCASE_STEP_M = 0.29, 0.062  # a row of its own, where no candidate lies


def _ceiling(knobs: Mapping[str, Any]) -> float:
    return 1.0 if knobs["visible_cue"] else 1.0 / (knobs["K"] + 1)


def _cues(knobs: Mapping[str, Any]) -> int:
    return int(knobs["K"]) + 1


INFO = TaskInfo(
    name="odd_one_out",
    env_id="MemoryBench/OddOneOut-v0",
    entry="sims.memory_bench.tasks.odd_one_out:OddOneOut",
    summary="see K coloured cubes, then touch the one of K + 1 that was not there",
    levels=levels.four({"K": 2}, {"K": 3}, {"K": 5}, {"K": 8}, cue_s=1.5, execute_s=8.0),
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=levels.horizon_s,
)


class OddOneOut(ColourChoiceTask):
    """The cue is the candidate that was left out at the start."""

    info = INFO
    instructions = (
        "touch the cube that was not there at the start",
        "one of these cubes is new: touch it",
        "remember the cubes you see first and later touch the newcomer",
        "which color was missing before? touch the cube that has it",
    )

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_K)
        super().__init__(knobs, int(knobs["K"]) + 1)
        self.k = int(knobs["K"])
        self._old = [f"old{i}" for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """K colours shown, then one choice of K + 1."""
        return cue_then_choice(cls.info.name, int(knobs["K"]) + 1, ("show",), held=True)

    def parts(self) -> Sequence[Part]:
        """The cubes of the start, the candidates, the distractors."""
        return [*(cube(name, CUBE_HALF_M) for name in self._old), *self.choice_parts()]

    def entities(self) -> Sequence[Entity]:
        """The same."""
        return [*(Entity(name, "cube", name) for name in self._old), *self.choice_entities()]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """The candidates; places and yaws at the start, and in which order colours lie there."""
        return {
            **self.draw_choice(rng),
            "old_xy": draw_grid(rng, self.k),
            "old_yaw": rng.uniform(-np.pi / 4, np.pi / 4, self.k),
            "order": rng.permutation(self.k + 1),
            "paths": distractors.draw(rng),
        }

    def _show_old(self, xy: np.ndarray) -> None:
        """Puts the cubes of the start at places [K, 2]."""
        shown = [i for i in self.plan["order"] if i != self.cue]
        for place, (name, candidate) in enumerate(zip(self._old, shown, strict=True)):
            at = (*xy[place], TABLE_TOP_M + CUBE_HALF_M)
            self.scene.place(name, at, self.plan["old_yaw"][place])
            self.scene.paint(name, self.colour(candidate))

    def _show_case(self) -> None:
        """Shows the cubes of the start in a row at the table's edge, in a reactive twin."""
        if self.knobs.visible_cue:
            y = (np.arange(self.k) - (self.k - 1) / 2) * _SHOWCASE_STEP_M
            self._show_old(np.stack((np.full(self.k, _SHOWCASE_X_M), y), 1))

    def setup_cue(self) -> None:
        """Shows all colours but the cue's."""
        self._show_old(self.plan["old_xy"])

    def setup_gap(self) -> None:
        """Leaves the table empty."""
        self._show_case()
        self.gap_tick()

    def setup_execute(self) -> None:
        """Shows all colours, at other places."""
        self.show_choice()
        self._show_case()
