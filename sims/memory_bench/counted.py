"""Progress tasks whose instruction says how often: the number, and a tally for the reactive twin.

To remember is how often it was done already; that shows nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE, GAP
from sims.memory_bench import levels
from sims.memory_bench.entities import Entity
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.parts import TABLE_TOP_M, Part, ball
from sims.memory_bench.progress import ProgressTask

MOST_TIMES = 6

_TALLY_X_M, _TALLY_Y_M, _TALLY_STEP_M = 0.27, -0.18, 0.06


def numbers(knobs: Mapping[str, Any]) -> range:
    """Returns the numbers that an instruction may name."""
    return range(int(knobs["n_min"]), int(knobs["n_max"]) + 1)


def cues(knobs: Mapping[str, Any]) -> int:
    """Returns how many they are."""
    return len(numbers(knobs))


class CountedTask(ProgressTask):
    """Base of such tasks, with the knobs `n_min` and `n_max`. The cue is the number.

    Attributes:
      fewest: The smallest number that makes sense.
    """

    phases: ClassVar[tuple[str, ...]] = (EXECUTE, GAP)
    pauses = True
    fewest: ClassVar[int] = 1

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "n_min", self.fewest, MOST_TIMES)
        levels.check_whole(self.info.name, knobs, "n_max", self.fewest, MOST_TIMES)
        if knobs["n_min"] > knobs["n_max"]:
            raise ConfigError(
                f"knobs of {self.info.name}: expected n_min <= n_max, got {knobs['n_min']} and "
                f"{knobs['n_max']}"
            )
        super().__init__(knobs)
        # The reactive twin's tally of what was done; elsewhere it isn't even built.
        count = int(knobs["n_max"]) if knobs["visible_cue"] else 0
        self._tally = [f"tally{i}" for i in range(count)]

    @property
    def times(self) -> int:
        """How often it has to be done."""
        return int(self.knobs.n_min) + self.cue

    def tally_parts(self) -> list[Part]:
        """Returns the tally's balls."""
        return [ball(name) for name in self._tally]

    def tally_entities(self) -> list[Entity]:
        """Returns their rows."""
        return [Entity(name, "marker", name) for name in self._tally]

    def show_tally(self) -> None:
        """Shows a ball for each choice taken."""
        for i, name in enumerate(self._tally[: self.vars["done"]]):
            y = _TALLY_Y_M + _TALLY_STEP_M * i
            self.scene.place(name, (_TALLY_X_M, y, TABLE_TOP_M + 0.02))
            self.scene.paint(name, SHOWN_RGB)
