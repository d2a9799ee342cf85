"""RememberColor-K: see one coloured cube; later touch the cube of that colour among K.

Kin: RememberColor of MIKASA-Robo; a re-creation with phase lamp, snapping gates and commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.task import TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.coloured import CUBE_HALF_M, MAX_COLOURS, ColourChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.parts import TABLE_TOP_M, Part, cube

_CUE_POS_M = np.array([0.02, 0.0, TABLE_TOP_M + CUBE_HALF_M])
_SHOWCASE_POS_M = np.array([0.29, -0.20, TABLE_TOP_M + CUBE_HALF_M])


INFO = TaskInfo(
    name="remember_color",
    env_id="MemoryBench/RememberColor-v0",
    entry="sims.memory_bench.tasks.remember_color:RememberColor",
    summary="see a coloured cube, then touch the one of that colour among K",
    levels=levels.four({"K": 3}, {"K": 5}, {"K": 9}, {"K": 12}, cue_s=1.0, execute_s=6.0),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=levels.horizon_s,
)


class RememberColor(ColourChoiceTask):
    """The cue picks among the episode's own K colours: at go the scene is the same for all."""

    info = INFO
    instructions = (
        "touch the cube with the color you saw at the start",
        "remember the color of the first cube and touch the cube that has it",
        "which color was shown? touch that cube",
        "find the cube that matches the one shown before and touch it",
    )

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_COLOURS)
        super().__init__(knobs, int(knobs["K"]))

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """A colour shown, then one choice of K."""
        return cue_then_choice(cls.info.name, int(knobs["K"]), ("show",), held=True)

    def parts(self) -> Sequence[Part]:
        """The cue cube, K candidates and two distractors that fly about in a busy gap."""
        return [cube("cue_cube", CUBE_HALF_M), *self.choice_parts()]

    def entities(self) -> Sequence[Entity]:
        """The same."""
        return [Entity("cue_cube", "cube", "cue_cube"), *self.choice_entities()]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """The candidates, where the cue cube lies, the distractors' paths."""
        return {
            **self.draw_choice(rng),
            "cue_offset": np.append(rng.uniform(-0.03, 0.03, 2), 0.0),
            "cue_yaw": rng.uniform(-np.pi / 4, np.pi / 4),
            "paths": distractors.draw(rng),
        }

    def _show_cue(self, pos: np.ndarray) -> None:
        self.scene.place("cue_cube", pos, self.plan["cue_yaw"])
        self.scene.paint("cue_cube", self.colour(self.cue))

    def setup_cue(self) -> None:
        """Shows the cue cube near the centre; there is nothing to do."""
        self._show_cue(_CUE_POS_M + self.plan["cue_offset"])

    def setup_gap(self) -> None:
        """Leaves the table empty (the reactive twin keeps the cue in a corner)."""
        if self.knobs.visible_cue:
            self._show_cue(_SHOWCASE_POS_M)
        self.gap_tick()

    def setup_execute(self) -> None:
        """Puts the K candidates; nothing here depends on the cue."""
        self.show_choice()
        if self.knobs.visible_cue:
            self._show_cue(_SHOWCASE_POS_M)
