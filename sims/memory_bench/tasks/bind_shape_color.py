"""BindShapeColor: see m shapes, each in a colour; later touch the colour that the shown one had.

Kin: the shape and colour tasks of MIKASA-Robo; a re-creation with phase lamp, snapping gates and
commits. At go one of the shapes stands there in grey, the probe. Which shape is asked for, and the
K colours to choose from, come from the seed; the cue is the colour that this shape had. With more
than one shape, colours alone don't help: they must be remembered with their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.coloured import MAX_COLOURS, ColourChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.parts import TABLE_TOP_M, Part, solid

SHAPES: dict[str, tuple[str, tuple[float, ...]]] = {
    "ball": ("sphere", (0.034,)),
    "block": ("box", (0.028, 0.028, 0.028)),
    "pillar": ("cylinder", (0.017, 0.055)),
    "plate": ("cylinder", (0.052, 0.009)),
    "bar": ("box", (0.016, 0.062, 0.016)),
}
"""Shape -> MJCF geom type and size; told apart in pictures of 64 pixels."""

PROBE_RGB = (0.12, 0.12, 0.12)
_PROBE_XY_M = np.array([0.265, 0.0])


def _items(items: int, k: int) -> dict[str, Any]:
    return {"m": items, "K": k}


INFO = TaskInfo(
    name="bind_shape_color",
    env_id="MemoryBench/BindShapeColor-v0",
    entry="sims.memory_bench.tasks.bind_shape_color:BindShapeColor",
    summary="see m shapes in colours; later touch the colour, of K, that the shape shown had",
    levels=levels.four(
        _items(1, 3), _items(2, 4), _items(4, 6), _items(5, 9), cue_s=1.5, execute_s=8.0
    ),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=levels.horizon_s,
)


class BindShapeColor(ColourChoiceTask):
    """The cue is the colour, among the candidates', of the shape that is asked for."""

    info = INFO
    instructions = (
        "touch the cube with the color that the dark shape had at the start",
        "which color did this shape have before? touch the cube of that color",
        "remember the color of each shape; later touch the color of the one that is shown",
    )

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_COLOURS)
        levels.check_whole(self.info.name, knobs, "m", 1, len(SHAPES))
        if knobs["m"] > knobs["K"]:
            raise ConfigError(
                f"knob m of {self.info.name}: expected at most K = {knobs['K']}, got {knobs['m']}; "
                "each shape has a colour of its own among the candidates'"
            )
        super().__init__(knobs, int(knobs["K"]))
        self.items = int(knobs["m"])

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """Shapes in colours shown, then one choice of K."""
        return cue_then_choice(cls.info.name, int(knobs["K"]), ("show",), held=True)

    def parts(self) -> Sequence[Part]:
        """One of each shape, the candidates, the distractors."""
        return [*(solid(n, *shape) for n, shape in SHAPES.items()), *self.choice_parts()]

    def entities(self) -> Sequence[Entity]:
        """The same."""
        return [*(Entity(name, "tool", name) for name in SHAPES), *self.choice_entities()]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """The candidates; which shapes, the first of them asked for, their places; the others'
        colours, in order of preference.
        """
        return {
            **self.draw_choice(rng),
            "shapes": rng.permutation(len(SHAPES))[: self.items],
            "xy": draw_grid(rng, self.items),
            "others": rng.permutation(len(self.candidates)),
            "paths": distractors.draw(rng),
        }

    def bindings(self) -> list[tuple[str, int]]:
        """Returns the shapes of the episode, the one asked for first, each with its candidate."""
        others = [int(i) for i in self.plan["others"] if i != self.cue]
        names = [list(SHAPES)[i] for i in self.plan["shapes"]]
        return list(zip(names, [self.cue, *others], strict=False))

    def _show_probe(self) -> None:
        """Shows the shape asked for in grey, or in its colour in a reactive twin."""
        name, candidate = self.bindings()[0]
        self._place(name, _PROBE_XY_M, self.colour(candidate) if self.knobs.visible_cue else None)

    def _place(self, name: str, xy: np.ndarray, rgb: np.ndarray | None) -> None:
        kind, size = SHAPES[name]
        self.scene.place(name, (*xy, TABLE_TOP_M + size[{"sphere": 0, "cylinder": 1}.get(kind, 2)]))
        self.scene.paint(name, PROBE_RGB if rgb is None else rgb)

    def setup_cue(self) -> None:
        """Shows the shapes in their colours."""
        for (name, candidate), xy in zip(self.bindings(), self.plan["xy"], strict=True):
            self._place(name, xy, self.colour(candidate))

    def setup_gap(self) -> None:
        """Leaves the table empty (the reactive twin keeps the answer in sight)."""
        if self.knobs.visible_cue:
            self._show_probe()
        self.gap_tick()

    def setup_execute(self) -> None:
        """Shows the shape asked for and the colours; nothing here depends on the cue."""
        self.show_choice()
        self._show_probe()
