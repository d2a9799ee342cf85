"""KeyTrial: find by trial which of K keys opens the box; when all keys are back, take it at once.

Kin: the battery trials of RMBench; a re-creation with phase lamp, snapping gates and commits. In
round 1, the cue phase, a key is tried by touching it for longer than 0.2 s: the lamp says no, or
yes and the box opens. A key that was tried is gone, so that none is tried twice, and before the
next try everything snaps. In round 2 all keys lie there again, and the first one touched decides.
Only round 2 counts: found by chance alone, the key of round 1 is no sign of memory. There is no
round 3: what is touched in round 2 would be remembered as easily as what opened the box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from embodied.core.task import CUE, EXECUTE, TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine
from sims.memory_bench.choice import ChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.machines import uniform
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.parts import TABLE_TOP_M, Part, box, screen
from sims.memory_bench.task import LAMP_STEPS, TICKS_PER_S, Waypoint
from sims.memory_bench.touch import count_touches, touch_path

MAX_K = 8
NO_LAMP, YES_LAMP = LAMP_STEPS[2], LAMP_STEPS[1]
KEY_RGB, BOX_RGB, LID_RGB = (0.05, 0.35, 0.40), (0.36, 0.20, 0.14), (0.20, 0.11, 0.08)
ANSWER_TICKS = 10
"""How long the lamp answers a try before everything snaps."""

_KEY_HALF_M = (0.036, 0.018, 0.022)
_BOX_HALF_M, _LID_HALF_M = (0.035, 0.035, 0.03), (0.037, 0.037, 0.006)
_BOX_XY_M = (-0.02, -0.285)
_LID_UP_M = 0.07


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    return knobs["K"] * knobs["cue_s"] + knobs["gap_max_s"] + knobs["execute_s"]


INFO = TaskInfo(
    name="key_trial",
    env_id="MemoryBench/KeyTrial-v0",
    entry="sims.memory_bench.tasks.key_trial:KeyTrial",
    summary="try K keys until one opens the box; when all are back, touch that one first",
    levels=levels.four({"K": 3}, {"K": 4}, {"K": 6}, {"K": 8}, cue_s=8.0, execute_s=8.0),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=_horizon_s,
)


def _machine(k: int) -> Machine:
    """Tries in a fixed order until the box opens, a gap, then one choice of K.

    Keys look the same and which are left is in sight, so the order of tries makes no difference
    to a policy without memory.
    """

    def observe(state):
        return state[1:]

    def actions(seen):
        return tuple(range(k)) if seen == ("go",) else ("do",)

    def step(state, action):
        cue, stage = state[:2]
        if stage == "try":
            return {(cue, "gap") if state[2] == cue else (cue, "try", state[2] + 1): Fraction(1)}
        if stage == "gap":
            return {(cue, "go"): Fraction(1)}
        return {SUCCESS if action == cue else FAILURE: Fraction(1)}

    return Machine(
        INFO.name,
        uniform([(cue, "try", 0) for cue in range(k)]),
        observe,
        actions,
        step,
        may_wait=lambda state: state[1] == "try",
        cue_of=lambda state: state[0],
    )


class KeyTrial(ChoiceTask):
    """The cue is the key that opens the box.

    `cue_s` is the time limit of each try.
    """

    info = INFO
    instructions = (
        "try the keys until the box opens; next time touch the key that opened it first",
        "find out which key opens the box, then take that key at once when all are back",
        "touch keys one by one until the lock gives way, later touch the same key straight away",
    )
    cue_held = False
    half_height_m = _KEY_HALF_M[2]

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_K)
        super().__init__(knobs)
        self.k = int(knobs["K"])
        self._keys = [f"key{i}" for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """Tries whose number tells the key, then one choice of K."""
        return _machine(int(knobs["K"]))

    @property
    def candidates(self) -> Sequence[str]:
        """The keys."""
        return self._keys

    @property
    def horizon(self) -> int:
        """Longest possible episode in ticks, as the task's row tells it."""
        return round(self.info.horizon_s(vars(self.knobs)) * TICKS_PER_S)

    @property
    def leg(self) -> str:
        """The phase and, in round 1, which try."""
        answered = self.vars["tried"].sum() - bool(self.vars["answer_ticks"])
        return f"{self.phase} {int(answered)}"

    def parts(self) -> Sequence[Part]:
        """K keys, the box and its lid, and two distractors that fly about in a busy gap."""
        return [
            *(box(name, _KEY_HALF_M) for name in self._keys),
            screen("box", _BOX_HALF_M),
            screen("lid", _LID_HALF_M),
            *distractors.parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """The keys, the box (its scalar is 1 while it is open), the distractors."""
        return [
            *(Entity(name, "tool", name) for name in self._keys),
            Entity("box", "container", "box"),
            *distractors.entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places and yaws of the keys; the order in which the expert tries them; paths."""
        xy = draw_grid(rng, self.k)
        return {
            "pos": np.hstack((xy, np.full((self.k, 1), TABLE_TOP_M + _KEY_HALF_M[2]))),
            "yaw": rng.uniform(-np.pi / 4, np.pi / 4, self.k),
            "order": rng.permutation(self.k),
            "paths": distractors.draw(rng),
        }

    def start_vars(self) -> dict[str, Any]:
        """Adds which keys were tried, whether the box is open, how long the lamp still answers."""
        tried = np.zeros(self.k, bool)
        return {**super().start_vars(), "tried": tried, "open": 0, "answer_ticks": 0}

    # -- round 1 --------------------------------------------------------------------------

    def setup_cue(self) -> None:
        """Shows the keys that weren't tried yet, and the box, shut."""
        self.vars["touch_ticks"][:] = 0
        self._show(~self.vars["tried"])

    def cue_tick(self) -> bool | str:
        """Answers a try by the lamp; snaps for the next try, or ends the round."""
        state = self.vars
        if state["answer_ticks"]:
            state["answer_ticks"] -= 1
            return not state["answer_ticks"] and (bool(state["open"]) or CUE)
        tried = count_touches(self.scene, self._keys, state["touch_ticks"])
        if tried is not None:
            state["tried"][tried] = True
            state["answer_ticks"], state["open"] = ANSWER_TICKS, int(tried == self.cue)
            self.set_lamp(YES_LAMP if state["open"] else NO_LAMP)
            self._place_lid()
            self.scene.forward()  # an open box is observed now
        return False

    def _next_try(self) -> int:
        """Returns the key that the expert tries next."""
        return next(int(key) for key in self.plan["order"] if not self.vars["tried"][key])

    # -- gap and round 2 ------------------------------------------------------------------

    def setup_gap(self) -> None:
        """Shows all keys and the box, shut: nothing that follows can tell the cue."""
        self.vars.update(self.start_vars())
        self._show(np.ones(self.k, bool))
        self.gap_tick()

    def setup_execute(self) -> None:
        """Shows all keys and the box, shut."""
        self.vars.update(self.start_vars())
        self._show(np.ones(self.k, bool))

    def _show(self, keys: np.ndarray) -> None:
        for i in np.flatnonzero(keys):
            name = self._keys[i]
            self.scene.place(name, self.plan["pos"][i], self.plan["yaw"][i])
            shown = self.knobs.visible_cue and i == self.cue
            self.scene.paint(name, SHOWN_RGB if shown else KEY_RGB)
        self.scene.place("box", (*_BOX_XY_M, TABLE_TOP_M + _BOX_HALF_M[2]))
        self.scene.paint("box", BOX_RGB)
        self._place_lid()

    def _place_lid(self) -> None:
        x, y = _BOX_XY_M
        height = 2 * _BOX_HALF_M[2] + _LID_HALF_M[2] + _LID_UP_M * self.vars["open"]
        self.scene.place("lid", (x, y, TABLE_TOP_M + height))
        self.scene.paint("lid", LID_RGB)

    def entity_scalars(self) -> Mapping[str, float]:
        """Whether the box is open."""
        return {"box": float(self.vars["open"])}

    # -- dense reward and expert ----------------------------------------------------------

    def potential(self) -> float:
        """0 to 0.45 over the tries of round 1, 0.45 in the gap, up to 0.95 after go."""
        if self.success:
            return 1.0
        if self.failure_kind:
            return 0.0
        if self.phase == CUE and not self.vars["open"]:
            done = int(self.vars["tried"].sum())
            within = 0.0 if self.vars["answer_ticks"] else self.reached(self._next_try())
            return 0.45 * (done + within) / self.k
        return 0.45 + (0.55 * self.reached(self.right) if self.phase == EXECUTE else 0.0)

    def waypoints(self) -> Sequence[Waypoint]:
        """Down on the next key to try; after go, on the one that opened the box."""
        key = self._next_try() if self.phase == CUE else self.right
        return touch_path(self, self.plan["pos"][key][:2], self.top_z_m())

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Stays where it is while the lamp answers."""
        return None if self.vars["answer_ticks"] else super().replan(stage, goal_world_m)
