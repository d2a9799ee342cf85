"""SetRecall: L of K colours are shown, together or one by one; later touch exactly those.

Kin: the bunches and sequences of colours of MIKASA-Robo; a re-creation with phase lamp, a gate
before each touch and commits. Any order is right; a colour that wasn't shown, or one touched
before, is wrong. A touch leaves no trace and the arm is back at home before the next: what is left
to touch has to be remembered too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine
from sims.memory_bench.coloured import CUBE_HALF_M, ColourChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.machines import uniform
from sims.memory_bench.parts import TABLE_TOP_M, Part, cube
from sims.memory_bench.progress import ProgressTask
from sims.memory_bench.touch import count_touches

MAX_K, MAX_L = 9, 6
_CUBE_Z_M = TABLE_TOP_M + CUBE_HALF_M
_ONE_XY_M = np.array([0.03, 0.02])
_SHELF_X_M, _SHELF_Y_M, _SHELF_STEP_M = 0.29, -0.22, 0.085


def _ceiling(knobs: Mapping[str, Any]) -> float:
    k, length = int(knobs["K"]), int(knobs["L"])
    return 1.0 if knobs["visible_cue"] else math.factorial(length) / k**length


def _cues(knobs: Mapping[str, Any]) -> int:
    return math.comb(int(knobs["K"]), int(knobs["L"]))


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    return knobs["cue_s"] + knobs["gap_max_s"] + knobs["L"] * knobs["execute_s"]


def _set(k: int, length: int, one_by_one: int) -> dict[str, Any]:
    cue_s = 0.9 * length if one_by_one else 0.8 + 0.4 * length
    return {"K": k, "L": length, "one_by_one": one_by_one, "cue_s": cue_s}


INFO = TaskInfo(
    name="set_recall",
    env_id="MemoryBench/SetRecall-v0",
    entry="sims.memory_bench.tasks.set_recall:SetRecall",
    summary="see L of K colours, then touch exactly those, each once",
    levels=levels.four(_set(5, 2, 0), _set(7, 3, 0), _set(8, 4, 1), _set(9, 6, 1), execute_s=8.0),
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=_horizon_s,
)


def set_of(cue: int, k: int, length: int) -> tuple[int, ...]:
    """Returns the members of a cue's set in ascending order; sets are in lexicographic order."""
    return next(itertools.islice(itertools.combinations(range(k), length), cue, None))


def _machine(k: int, length: int) -> Machine:
    """A set seen while the arm is held, a gap, then L touches that all look the same.

    A state after go is what is left to touch: any other touch, a second one of a colour included,
    fails.
    """

    def step(state, action):
        stage, left = state
        if stage != "go":
            return {("gap" if stage == "show" else "go", left): Fraction(1)}
        if action not in left:
            return {FAILURE: Fraction(1)}
        return {("go", left - {action}) if len(left) > 1 else SUCCESS: Fraction(1)}

    sets = [frozenset(members) for members in itertools.combinations(range(k), length)]
    return Machine(
        INFO.name,
        uniform([("show", members) for members in sets]),
        lambda state: state[0],
        lambda seen: tuple(range(k)) if seen == "go" else ("hold",),
        step,
        cue_of=lambda state: state[1],
    )


class SetRecall(ProgressTask, ColourChoiceTask):
    """The cue is the set; at each touch the scene is the same for all."""

    info = INFO
    later_plan = ("order",)
    instructions = (
        "touch every cube whose color was shown, each of them once and no other",
        "remember which colors you see and later touch exactly those cubes",
        "some colors are shown: touch all the cubes that have them, none of them twice",
        "touch the cubes of the colors from the start, in any order",
    )
    hidden_vars = ("done", "touched")

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 3, MAX_K)
        levels.check_whole(self.info.name, knobs, "L", 2, MAX_L)
        levels.check_whole(self.info.name, knobs, "one_by_one", 0, 1)
        if knobs["L"] >= knobs["K"]:
            raise ConfigError(
                f"knob L of {self.info.name}: expected less than K = {knobs['K']}, got {knobs['L']}"
            )
        super().__init__(knobs, int(knobs["K"]))
        self.k, self.length = int(knobs["K"]), int(knobs["L"])
        self._samples = [f"sample{i}" for i in range(self.length)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """A row of touches behind one look."""
        return _machine(int(knobs["K"]), int(knobs["L"]))

    @property
    def n_choices(self) -> int:
        """As many touches as colours shown."""
        return self.length

    @property
    def members(self) -> tuple[int, ...]:
        """The candidates to touch."""
        return set_of(self.cue, self.k, self.length)

    def left(self) -> list[int]:
        """Returns the candidates that are still to be touched."""
        return [i for i in self.members if not self.vars["touched"][i]]

    @property
    def right(self) -> int:
        """One of those; the others will do as well."""
        return self.left()[0]

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """A cube for each colour shown, the candidates, the distractors."""
        return [*(cube(name, CUBE_HALF_M) for name in self._samples), *self.choice_parts()]

    def entities(self) -> Sequence[Entity]:
        """The same."""
        return [*(Entity(name, "cube", name) for name in self._samples), *self.choice_entities()]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """The candidates; places of the colours shown, and their order; paths."""
        return {
            **self.draw_choice(rng),
            "xy": draw_grid(rng, self.length),
            "order": rng.permutation(self.length),
            "paths": distractors.draw(rng),
        }

    def start_vars(self) -> dict[str, Any]:
        """Adds which candidates were touched."""
        return {**super().start_vars(), "touched": np.zeros(self.k, bool)}

    def choice_vars(self) -> dict[str, Any]:
        """How long each candidate has been touched, in ticks."""
        return {"touch_ticks": np.zeros(self.k, np.int64)}

    def setup_cue(self) -> None:
        """Shows the colours, or the first of them."""
        self._show_samples()

    def cue_tick(self) -> bool:
        """Shows them one by one, if so."""
        if self.knobs.one_by_one:
            self._show_samples()
            self.scene.forward()  # what appears now is observed now
        return super().cue_tick()

    def shown_order(self) -> list[int]:
        """Returns the set's members in the order in which they are shown."""
        return [self.members[i] for i in self.plan["order"]]

    def _show_samples(self) -> None:
        shown, places = self.shown_order(), self.plan["xy"]
        if self.knobs.one_by_one:
            shown = shown[self.phase_tick * self.length // self.cue_ticks :][:1]
            places = [_ONE_XY_M]
        for name, candidate, xy in zip(self._samples, shown, places, strict=False):
            self.scene.place(name, (*xy, _CUBE_Z_M))
            self.scene.paint(name, self.colour(candidate))

    def setup_gap(self) -> None:
        """Leaves the table empty (the reactive twin keeps the set in sight)."""
        self._show_left()
        self.gap_tick()

    def setup_execute(self) -> None:
        """Shows the candidates; nothing here depends on the set or on what was touched."""
        self.show_choice()
        self._show_left()

    def _show_left(self) -> None:
        """Shows, in a reactive twin, the colours that are still to be touched."""
        for i, candidate in enumerate(self.left() if self.knobs.visible_cue else ()):
            name, y = self._samples[i], _SHELF_Y_M + _SHELF_STEP_M * i
            self.scene.place(name, (_SHELF_X_M, y, _CUBE_Z_M))
            self.scene.paint(name, self.colour(candidate))

    def execute_tick(self) -> str | None:
        """A candidate touched for longer than 0.2 s is taken."""
        chosen = count_touches(self.scene, self.candidates, self.vars["touch_ticks"])
        if chosen is None:
            return None
        right, last = chosen in self.left(), len(self.left()) == 1
        if right and not last:
            self.vars["touched"][chosen] = True
        return self.take(self.choice_name(chosen), right, last)

    def follows(self, cue: int, target: str) -> bool:
        """Whether a colour was touched that is in the other set and not in this one."""
        others = set_of(cue, self.k, self.length)
        told = [self.choice_name(i) for i in others if i not in self.members]
        return self.committed in told

    def choice_progress(self) -> float:
        """Nearness of the hand to the nearest candidate still to be touched."""
        return max(self.reached(i) for i in self.left())
