"""BlinkCount: a lamp blinks n times, at uneven intervals; press pad n of N.

Kin: the counting tasks of MIKASA-Robo-VLA; a re-creation with phase lamp, snapping gates and
commits. Pads stand in a row and are numbered from the end that lies at the phase lamp. The cue
phase is as long for every number, the arm is held in it, and each blink and each pause lasts at
least `blink_s`, so that a policy that looks so often misses none. Up to two lamps of other colours
blink as well, as often as the seed has it, and don't count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.choice import ChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.parts import PALETTE, TABLE_TOP_M, Part, ball, box
from sims.memory_bench.task import TICKS_PER_S

MAX_N, MAX_D = 9, 2
PAD_RGB, LAMP_RGB = (0.10, 0.16, 0.40), SHOWN_RGB
OTHER_RGB = (PALETTE["cyan"], PALETTE["magenta"])
DARK = 0.12
"""Share of its colour that a lamp shows while it is off."""

_PAD_HALF_M, _PAD_Z_M = (0.034, 0.025, 0.014), TABLE_TOP_M + 0.014
_ROW_X_M, _ROW_M, _SPACING_M, _JITTER_M = 0.06, 0.52, 0.11, 0.012
_LAMP_X_M, _LAMP_Y_M, _LAMP_RADIUS_M = 0.22, (-0.2, 0.0, 0.2), 0.035
_LAMP_Z_M = TABLE_TOP_M + _LAMP_RADIUS_M


def _ceiling(knobs: Mapping[str, Any]) -> float:
    return 1.0 if knobs["visible_cue"] else 1.0 / knobs["N"]


def _cues(knobs: Mapping[str, Any]) -> int:
    return int(knobs["N"])


def _count(n: int, others: int, blink_s: float) -> dict[str, Any]:
    # Half as long again as the most blinks take: room for the intervals to be uneven.
    return {"N": n, "D": others, "blink_s": blink_s, "cue_s": 1.5 * blink_s * (2 * n + 1)}


INFO = TaskInfo(
    name="blink_count",
    env_id="MemoryBench/BlinkCount-v0",
    entry="sims.memory_bench.tasks.blink_count:BlinkCount",
    summary="a lamp blinks n times; press pad n of N",
    levels=levels.four(
        _count(3, 0, 0.5),
        _count(5, 1, 0.5),
        _count(7, 1, 0.4),
        _count(9, 2, 0.4),
        execute_s=8.0,
    ),
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=levels.horizon_s,
)


class BlinkCount(ChoiceTask):
    """The cue is one less than the number of blinks."""

    info = INFO
    later_plan = ("waits", "counts")
    instructions = (
        "count how often the amber lamp blinks and press the pad with that number",
        "press the pad whose place in the row is the number of amber flashes",
        "the amber lamp blinks a few times: touch that pad, counted from the end at the post",
        "count the amber blinks, then push the pad that comes so many places along the row",
    )
    half_height_m = _PAD_HALF_M[2]

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "N", 2, MAX_N)
        levels.check_whole(self.info.name, knobs, "D", 0, MAX_D)
        super().__init__(knobs)
        self.n = int(knobs["N"])
        self.blink_ticks = round(knobs["blink_s"] * TICKS_PER_S)
        if not 1 <= self.blink_ticks <= self.cue_ticks / (2 * self.n + 1):
            raise ConfigError(
                f"knob blink_s of {self.info.name}: expected 0.05 s to cue_s / (2 N + 1) = "
                f"{knobs['cue_s'] / (2 * self.n + 1):.3g} s, got {knobs['blink_s']}"
            )
        self.shortest_sight_ticks = self.blink_ticks
        self._pads = [f"pad{i}" for i in range(self.n)]
        self._lamps = ["signal", *(f"other{i}" for i in range(int(knobs["D"])))]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """Blinks are seen while the arm is held, then one choice of N."""
        return cue_then_choice(cls.info.name, int(knobs["N"]), ("show",), held=True)

    @property
    def candidates(self) -> Sequence[str]:
        """The pads."""
        return self._pads

    def parts(self) -> Sequence[Part]:
        """N pads, the lamps, and two distractors that fly about in a busy gap."""
        return [
            *(box(name, _PAD_HALF_M) for name in self._pads),
            *(ball(name, _LAMP_RADIUS_M) for name in self._lamps),
            *distractors.parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """The pads, the lamps (a lit one's scalar is 1), the distractors."""
        return [
            *(Entity(name, "button", name) for name in self._pads),
            *(Entity(name, "lamp", name) for name in self._lamps),
            *distractors.entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of the row and of the lamps; intervals; how often the others blink; paths."""
        y = (np.arange(self.n) - (self.n - 1) / 2) * min(_SPACING_M, _ROW_M / (self.n - 1))
        pos = np.stack((np.full(self.n, _ROW_X_M), y, np.full(self.n, _PAD_Z_M)), 1)
        pos[:, :2] += rng.uniform(-_JITTER_M, _JITTER_M, 2)
        return {
            "pos": pos,
            "lamp_y": rng.permutation(_LAMP_Y_M)[: len(self._lamps)],
            # Of exponential waiting times: shares of the slack that are as uneven as can be.
            "waits": rng.exponential(1.0, (len(self._lamps), self.n + 1)),
            "counts": rng.integers(1, self.n + 1, len(self._lamps) - 1),
            "paths": distractors.draw(rng),
        }

    # -- blinks ---------------------------------------------------------------------------

    def blinks(self, lamp: int) -> np.ndarray:
        """Returns the ticks of the cue phase at which a lamp goes on; lamp 0 is the one to count.

        Returns:
          int64 [number of blinks]; each lasts `blink_ticks`, and so long at least it is dark
          before, between and after them.
        """
        count = self.cue + 1 if lamp == 0 else int(self.plan["counts"][lamp - 1])
        waits = self.plan["waits"][lamp, : count + 1]
        slack = self.cue_ticks - (2 * count + 1) * self.blink_ticks
        before = np.floor(np.cumsum(waits)[:-1] / waits.sum() * slack).astype(np.int64)
        return before + (2 * np.arange(count) + 1) * self.blink_ticks

    def lit(self, lamp: int) -> bool:
        """Returns whether a lamp is on now."""
        since = self.phase_tick - self.blinks(lamp)
        return self.phase == CUE and bool(((since >= 0) & (since < self.blink_ticks)).any())

    def _paint_lamps(self) -> None:
        for i, (name, rgb) in enumerate(zip(self._lamps, (LAMP_RGB, *OTHER_RGB), strict=False)):
            self.scene.paint(name, np.array(rgb) * (1.0 if self.lit(i) else DARK))

    def entity_scalars(self) -> Mapping[str, float]:
        """Whether each lamp is lit."""
        return {name: float(self.lit(i)) for i, name in enumerate(self._lamps)}

    # -- phases ---------------------------------------------------------------------------

    def setup_cue(self) -> None:
        """Shows pads and lamps, all dark yet."""
        self._show()

    def cue_tick(self) -> bool:
        """Lets the lamps blink."""
        self._paint_lamps()
        return super().cue_tick()

    def setup_gap(self) -> None:
        """Shows pads and lamps, dark for good."""
        self._show()
        self.gap_tick()

    def setup_execute(self) -> None:
        """Shows pads and lamps; nothing here depends on the cue."""
        self._show()

    def _show(self) -> None:
        self.show_candidates(PAD_RGB)
        for name, y in zip(self._lamps, self.plan["lamp_y"], strict=True):
            self.scene.place(name, (_LAMP_X_M, y, _LAMP_Z_M))
        self._paint_lamps()
