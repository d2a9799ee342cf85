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
from sims.memory_bench.choice import ChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.parts import PALETTE, TABLE_TOP_M, Part, cube

MAX_K = len(PALETTE)
CUBE_HALF_M = 0.026
_CUE_POS_M = np.array([0.02, 0.0, TABLE_TOP_M + CUBE_HALF_M])
_SHOWCASE_POS_M = np.array([0.28, -0.32, TABLE_TOP_M + CUBE_HALF_M])
_COLOURS = np.array(list(PALETTE.values()))


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


class RememberColor(ChoiceTask):
    """The cue picks among the episode's own K colours: at go the scene is the same for all."""

    info = INFO
    instructions = (
        "touch the cube with the color you saw at the start",
        "remember the color of the first cube and touch the cube that has it",
        "which color was shown? touch that cube",
        "find the cube that matches the one shown before and touch it",
    )
    half_height_m = CUBE_HALF_M

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_K)
        super().__init__(knobs)
        self.k = int(knobs["K"])
        self._names = [f"cube{i}" for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """A colour shown, then one choice of K."""
        return cue_then_choice(cls.info.name, int(knobs["K"]), ("show",), held=True)

    @property
    def candidates(self) -> Sequence[str]:
        """The K cubes."""
        return self._names

    def parts(self) -> Sequence[Part]:
        """K candidates, the cue cube and two distractors that fly about in a busy gap."""
        names = ("cue_cube", *self._names)
        return [*(cube(n, CUBE_HALF_M) for n in names), *distractors.parts()]

    def entities(self) -> Sequence[Entity]:
        """The cue cube, the candidates and the distractors."""
        blocks = [Entity(n, "cube", n) for n in ("cue_cube", *self._names)]
        return [*blocks, *distractors.entities()]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Colours, positions and yaws of the K candidates; the distractors' paths."""
        xy = draw_grid(rng, self.k)
        z = np.full((self.k, 1), TABLE_TOP_M + CUBE_HALF_M)
        return {
            "colours": rng.permutation(MAX_K)[: self.k],
            "pos": np.hstack((xy, z)),
            "yaw": rng.uniform(-np.pi / 4, np.pi / 4, self.k),
            "cue_offset": np.append(rng.uniform(-0.03, 0.03, 2), 0.0),
            "cue_yaw": rng.uniform(-np.pi / 4, np.pi / 4),
            "paths": distractors.draw(rng),
        }

    def _show_cue(self, pos: np.ndarray) -> None:
        self.scene.place("cue_cube", pos, self.plan["cue_yaw"])
        self.scene.paint("cue_cube", _COLOURS[self.plan["colours"][self.cue]])

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
        for i, name in enumerate(self._names):
            self.scene.place(name, self.plan["pos"][i], self.plan["yaw"][i])
            self.scene.paint(name, _COLOURS[self.plan["colours"][i]])
        if self.knobs.visible_cue:
            self._show_cue(_SHOWCASE_POS_M)

    def choice_name(self, index: int) -> str:
        """Returns a candidate's colour."""
        return list(PALETTE)[self.plan["colours"][index]]
