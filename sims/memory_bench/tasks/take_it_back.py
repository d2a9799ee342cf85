"""TakeItBack: bring the cube to the goal, press the button, take it back to where it was.

Kin: TakeItBack of MIKASA-Robo; a re-creation with phase lamp, snapping gates, ordered steps and
commits. The cube starts anywhere in a rectangle, turned by anything; nothing marks the place. What
must be remembered is a pose, to within a distance and an angle. The cue is the cell of a grid over
the rectangle, so that starts are balanced; where in the cell and how turned, the seed draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, TaskInfo
from sims.memory_bench import levels
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine, StateId
from sims.memory_bench.entities import Entity
from sims.memory_bench.manipulation import (
    BLOCK_RGB,
    CENTRE_RGB,
    PRESS,
    SHOWN_RGB,
    BlockTask,
    level_yaw,
)
from sims.memory_bench.parts import TABLE_TOP_M, Part, cube, patch
from sims.memory_bench.task import Waypoint

CUBE, GOAL, START = "cube", "goal", "start"
CUBE_HALF_M = 0.022
CELLS = (3, 4)
"""Of the grid, along world x and y."""
MOST_YAW_RAD = math.pi / 4
"""A cube turned by more looks like one that is turned by less."""
MOTOR = 1.5
"""So many tolerances off a cube may be put down by a hand that knows where it belongs."""

GOAL_XY_M = np.array([0.02, 0.27])
_MIDDLE_M, _MOST_M = np.array([0.02, 0.02]), (0.30, 0.34)
_BUTTON_X_M, _BUTTON_Y_M = (-0.03, 0.05), -0.32

_CUBE_Z_M = TABLE_TOP_M + CUBE_HALF_M


def _shares(knobs: Mapping[str, Any]) -> tuple[float, float, float]:
    """Returns the share of all starts that one pose of the cube is right for, as three factors.

    Starts are equally likely all over the rectangle, in which the circle of tolerance has room. Its
    share of the area is split into its width across the rectangle, and its mean length along it
    within that width, pi r / 2. The third factor is the share of yaws.
    """
    r = knobs["r_m"]
    across, along = 2 * r / knobs["depth_m"], math.pi * r / (2 * knobs["width_m"])
    return across, along, min(1.0, knobs["yaw_tol_rad"] / MOST_YAW_RAD)


def _ceiling(knobs: Mapping[str, Any]) -> float:
    return 1.0 if knobs["visible_cue"] else math.prod(_shares(knobs))


def _cues(knobs: Mapping[str, Any]) -> int:
    return math.prod(CELLS)


def _level(r_m: float, yaw_tol_rad: float) -> dict[str, Any]:
    return {"r_m": r_m, "yaw_tol_rad": yaw_tol_rad, "depth_m": _MOST_M[0], "width_m": _MOST_M[1]}


INFO = TaskInfo(
    name="take_it_back",
    env_id="MemoryBench/TakeItBack-v0",
    entry="sims.memory_bench.tasks.take_it_back:TakeItBack",
    summary="bring a cube to the goal, press the button, take it back to where it was",
    levels=levels.four(
        _level(0.05, MOST_YAW_RAD),
        _level(0.035, math.pi / 6),
        _level(0.02, math.pi / 8),
        _level(0.01, math.pi / 12),
        tol_m=0.05,
        cue_s=15.0,
        execute_s=10.0,
    ),
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=levels.horizon_s,
)


def _bins(share: float) -> list[Fraction]:
    """Returns the chances of disjoint sets of starts, none larger than one choice is right for."""
    # Off by less than 1e-13, and short enough to read.
    each = Fraction(share).limit_denominator(10**7)
    count = int(1 / each)
    rest = 1 - count * each
    return [each] * count + ([rest] if rest else [])


def _machine(shares: Sequence[float]) -> Machine:
    """Two steps in plain view, a gap, then where across, where along, and how turned.

    The start poses, a continuum, are split into sets that one choice is right for: as many as
    there is room for, and a smaller rest. With a choice for each set, a policy that knows the start
    succeeds always, and one that doesn't as often as the best single pose does: no pose is right
    for more. The parts are independent, so each is drawn when it is asked for.
    """
    steps = ("carry", "press", "gap")
    parts = dict(zip(("across", "along", "turned"), map(_bins, shares), strict=True))
    order = (*steps, *parts)

    def observe(state):
        stage, part = state
        return (stage, part if stage in ("carry", "press") else None)

    def actions(seen):
        if seen[0] in parts:
            return tuple(range(len(parts[seen[0]])))
        return ("hold",) if seen[0] == "gap" else ("do", "spoil")

    def starting(stage: str, name: str) -> dict[StateId, Fraction]:
        return {(stage, i): chance for i, chance in enumerate(parts[name])}

    def step(state, action):
        stage, part = state
        following = order[order.index(stage) + 1 :][:1]
        if action != part if stage in parts else action == "spoil":
            return {FAILURE: Fraction(1)}
        if not following:
            return {SUCCESS: Fraction(1)}
        if stage in parts:
            return starting(following[0], following[0])
        return {(following[0], part): Fraction(1)}

    return Machine(
        INFO.name,
        starting("carry", "across"),
        observe,
        actions,
        step,
        may_wait=lambda state: state[0] in ("carry", "press"),
        cue_of=lambda state: state[1],
    )


class TakeItBack(BlockTask):
    """The cue is the cell in which the cube starts.

    `r_m` and `yaw_tol_rad` say how far from its start and how turned the cube may be when it is
    released; `depth_m` and `width_m` are the rectangle's sides along x and y; `tol_m` is for the
    goal.
    """

    info = INFO
    instructions = (
        "bring the cube to the goal, press the button, then take it back to where it was",
        "move the cube onto the goal mark, push the button and return the cube to its first place",
        "carry the cube to the goal; after the button, put it down exactly as you found it",
        "take the cube to the goal, hit the button, then restore its old place and direction",
    )
    block_names = (CUBE,)
    n_steps = 1

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        super().__init__(knobs)
        sides = dict(zip(("depth_m", "width_m"), _MOST_M, strict=True))
        # The circle of tolerance has room in the rectangle.
        most_r_m = min(knobs[name] for name in sides) / 2
        most = {**sides, "r_m": most_r_m, "yaw_tol_rad": MOST_YAW_RAD}
        for name, high in most.items():
            low = 0.04 if name in sides else 0.0
            if not low < knobs[name] <= high:
                raise ConfigError(
                    f"knob {name} of {self.info.name}: expected above {low:g}, at most "
                    f"{high:.4g}, got {knobs[name]}"
                )
        # A hand that comes near enough for the tolerance, the cube not quite amid its fingers.
        self._near_m = min(0.012, knobs["r_m"] / 3)

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """Two steps in plain view, then a choice among sets of start poses."""
        return _machine(_shares(knobs))

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """The goal's mark, the cube, button and distractors; in the twin the start's mark."""
        shown = [patch(START, half_m=0.03)] if self.knobs.visible_cue else []
        return [
            patch(GOAL, half_m=0.05),
            cube(CUBE, CUBE_HALF_M, "free"),
            *shown,
            *self.common_parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """Cube, goal, the twin's mark, button, distractors."""
        shown = [Entity(START, "marker", START)] if self.knobs.visible_cue else []
        return [
            Entity(CUBE, "cube", CUBE),
            Entity(GOAL, "patch", GOAL),
            *shown,
            *self.common_entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Where in its cell and how turned the cube starts; how it stands at go; the button."""
        sides = np.array([self.knobs.depth_m, self.knobs.width_m])
        cells = np.array(list(itertools.product(*map(range, CELLS))))
        # One point of the unit square for all cells: equally likely anywhere in the rectangle.
        points = (cells + rng.uniform(0.0, 1.0, 2)) / CELLS
        return {
            "starts": _MIDDLE_M + (points - 0.5) * sides,
            "start_yaw": rng.uniform(-MOST_YAW_RAD, MOST_YAW_RAD),
            "go_xy": GOAL_XY_M + rng.uniform(-0.01, 0.01, 2),
            "go_yaw": rng.uniform(-MOST_YAW_RAD, MOST_YAW_RAD),
            "button": np.array([rng.uniform(*_BUTTON_X_M), _BUTTON_Y_M]),
            **self.draw_common(rng),
        }

    @property
    def start_xy(self) -> np.ndarray:
        """Where the cube starts [2]."""
        return self.plan["starts"][self.cue]

    def show(self) -> None:
        """The goal's mark; the cube at its start in the cue phase, later at the goal."""
        plan, scene = self.plan, self.scene
        scene.place(GOAL, (*GOAL_XY_M, TABLE_TOP_M + 0.001))
        scene.paint(GOAL, CENTRE_RGB)
        if self.knobs.visible_cue:
            scene.place(START, (*self.start_xy, TABLE_TOP_M + 0.001), plan["start_yaw"])
            scene.paint(START, SHOWN_RGB)
        if self.phase == CUE:
            xy, yaw = self.start_xy, plan["start_yaw"]
        else:
            xy, yaw = plan["go_xy"], plan["go_yaw"]
        scene.place(CUBE, (*xy, _CUBE_Z_M), yaw)
        scene.paint(CUBE, BLOCK_RGB)

    def step_done(self) -> bool:
        """The cube rests at the goal, released."""
        return self.rests_at(0, GOAL_XY_M)

    def execute_tick(self) -> None:
        """The first release decides: how far from its start the cube lies then, and how turned."""
        if self.fell(0):
            self.fail("motor")
        elif self.released(self.plan["go_xy"][None]) is not None:
            self._judge()

    def _judge(self) -> None:
        """Commits to the start pose that was met, of those that the cube might have had.

        What is off by more than `MOTOR` tolerances is no failure of the hand but of the memory.
        """
        turn = math.remainder(level_yaw(self.scene, CUBE) - self.plan["start_yaw"], math.pi / 2)
        away_m = np.hypot(*(self.plan["starts"] - self.scene.pos(CUBE)[:2]).T)
        turned = abs(turn) <= self.knobs.yaw_tol_rad
        if turned and away_m[self.cue] <= self.knobs.r_m:
            self.commit(self.target(), True)
            return
        nearest = int(away_m.argmin())
        if turned and away_m[nearest] <= self.knobs.r_m:
            self.commit(f"{START} {nearest}", False)
        else:
            close = away_m[self.cue] <= MOTOR * self.knobs.r_m
            close &= abs(turn) <= MOTOR * self.knobs.yaw_tol_rad
            self.commit("none", False, "motor" if close else "wrong_choice")

    def target(self) -> str:
        """The start pose."""
        return f"{START} {self.cue}"

    # -- dense reward and expert --------------------------------------------------------------

    def step_progress(self) -> float:
        """Reaching the cube and bringing it to the goal."""
        return self.carry_progress(0, GOAL_XY_M)

    def execute_progress(self) -> float:
        """Reaching the cube and bringing it to its start."""
        return self.carry_progress(0, self.start_xy)

    def waypoints(self) -> Sequence[Waypoint]:
        """Bring the cube to the goal, press; after go, take it back as it was."""
        if self.phase != CUE:
            return self._carry(self.start_xy, self.plan["start_yaw"])
        if self.vars["steps_done"] or self.rests_at(0, GOAL_XY_M):
            return self.press_path()
        return [*self._carry(GOAL_XY_M, level_yaw(self.scene, CUBE)), *self.press_path()[-2:]]

    def _carry(self, xy: Sequence[float], yaw_rad: float) -> list[Waypoint]:
        """Returns the way to put the cube down somewhere, turned so; taken by its faces."""
        return self.carry_path(0, xy, (level_yaw(self.scene, CUBE), yaw_rad), self._near_m)

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Starts anew when the cube was pushed away, lost, or isn't where it should be."""
        if self.carry_failed(0, stage, goal_world_m):
            return self.waypoints()
        if stage == PRESS and not self.vars["steps_done"]:
            return None if self.rests_at(0, GOAL_XY_M) else self.waypoints()
        return None
