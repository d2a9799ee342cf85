"""Tasks whose choice is among cubes of different colours; the same at go for every cue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sims.memory_bench import distractors
from sims.memory_bench.choice import ChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.parts import PALETTE, TABLE_TOP_M, Part, cube

MAX_COLOURS = len(PALETTE)
COLOURS = np.array(list(PALETTE.values()))
CUBE_HALF_M = 0.026


class ColourChoiceTask(ChoiceTask):
    """Base of such tasks: the candidates' parts, rows, places and colours.

    Args:
      knobs: All knobs of a level.
      count: How many candidates there are.
    """

    half_height_m = CUBE_HALF_M

    def __init__(self, knobs: Mapping[str, Any], count: int) -> None:
        super().__init__(knobs)
        self._names = [f"cube{i}" for i in range(count)]

    @property
    def candidates(self) -> Sequence[str]:
        """The cubes to choose from."""
        return self._names

    def choice_parts(self) -> list[Part]:
        """The candidates, and two distractors that fly about in a busy gap."""
        return [*(cube(name, CUBE_HALF_M) for name in self._names), *distractors.parts()]

    def choice_entities(self) -> list[Entity]:
        """The candidates and the distractors."""
        return [*(Entity(name, "cube", name) for name in self._names), *distractors.entities()]

    def draw_choice(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draws the candidates' places, colours (indices of the palette) and yaws."""
        count = len(self._names)
        xy = draw_grid(rng, count)
        return {
            "colours": rng.permutation(MAX_COLOURS)[:count],
            "pos": np.hstack((xy, np.full((count, 1), TABLE_TOP_M + CUBE_HALF_M))),
            "yaw": rng.uniform(-np.pi / 4, np.pi / 4, count),
        }

    def show_choice(self) -> None:
        """Puts the candidates; nothing here depends on the cue."""
        for i, name in enumerate(self._names):
            self.scene.place(name, self.plan["pos"][i], self.plan["yaw"][i])
            self.scene.paint(name, self.colour(i))

    def colour(self, candidate: int) -> np.ndarray:
        """Returns a candidate's colour [3]."""
        return COLOURS[self.plan["colours"][candidate]]

    def choice_name(self, index: int) -> str:
        """Returns a candidate's colour's name."""
        return list(PALETTE)[self.plan["colours"][index]]
