"""InsertAsShown: a ghost puts a peg into a socket in one of m manners; do it in the same manner.

Kin: InsertPeg and MoveCube of RoboMME; a re-creation with phase lamp, snapping gates and commits. A
manner is which end of the peg goes in, into which of two mouths, and whether it is slid in along
the table or let in from above. The ghost's peg starts turned another way than the real one may be,
so what has to be remembered is the manner, not the motion. An end that has been in a mouth for
longer than 0.2 s commits; how it came in was settled when it entered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE, TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.manipulation import CARRY, PATCH_RGB, SAFE_Z_M, SHOWN_RGB, nearness
from sims.memory_bench.parts import TABLE_TOP_M, Part, ball
from sims.memory_bench.parts_peg import (
    DEPTH_M,
    PEG_HALF_M,
    WALL_M,
    end_name,
    ghost_hand,
    mouth_name,
    peg,
    socket,
    tips,
)
from sims.memory_bench.picking import pick_failed, pick_path
from sims.memory_bench.task import Task, Waypoint
from sims.memory_bench.touch import TOUCH_TICKS

MAX_M = 8
PEG, SOCKET, GHOST, HAND, HINT = "peg", "socket", "ghost", "ghost_hand", "hint"

_SIGNS = np.array([1.0, -1.0])  # the mouths open along +y and -y
_REST_Z_M = TABLE_TOP_M + PEG_HALF_M[2]
_START_XY_M, _SOCKET_XY_M = np.array([0.2, 0.0]), np.array([0.02, 0.0])
_JITTER_M, _TURN_RAD = 0.012, 0.25
_IN_M = 0.035  # how deep the expert puts a tip; deeper than `_DEEP_M` counts
_DEEP_M, _FLAT_M, _FALLEN_M = 0.015, 0.015, 0.05
_OUTSIDE_M = 0.03  # from the mouth to the tip where a slide begins
_GHOST_HIGH_M = 0.12
_HINT_XY_M, _HINT_RADIUS_M = (0.27, -0.19), 0.025
OUTSIDE, SLID, LET_IN = 0, 1, 2
"""How a tip came into a mouth."""


def manner(cue: int) -> tuple[int, int, bool]:
    """Returns end, mouth, and whether from above, for a cue value."""
    return cue & 1, cue >> 1 & 1, bool(cue >> 2 & 1)


def manner_name(end: int, mouth: int, above: bool) -> str:
    """Returns what a manner is called."""
    return f"end{end} mouth{mouth} {'above' if above else 'slid'}"


def _ceiling(knobs: Mapping[str, Any]) -> float:
    return 1.0 if knobs["visible_cue"] else 1.0 / knobs["m"]


def _cues(knobs: Mapping[str, Any]) -> int:
    return int(knobs["m"])


INFO = TaskInfo(
    name="insert_as_shown",
    env_id="MemoryBench/InsertAsShown-v0",
    entry="sims.memory_bench.tasks.insert_as_shown:InsertAsShown",
    summary="a peg is put into a socket in one of m manners; do it in the same manner",
    levels=levels.four(
        {"m": 2, "tol_m": 0.045},
        {"m": 4, "tol_m": 0.045},
        {"m": 6, "tol_m": 0.04},
        {"m": 8, "tol_m": 0.035},
        cue_s=5.0,
        execute_s=15.0,
    ),
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=levels.horizon_s,
)


class InsertAsShown(Task):
    """The cue is the manner; of the eight the first m are used.

    `tol_m` is how far off the middle of the socket the peg may be to either side.
    """

    info = INFO
    instructions = (
        "put the peg into the socket in the manner that was shown",
        "watch how the peg is inserted, then insert it in just the same way",
        "repeat what you saw: the same end, into the same mouth, in the same way",
        "insert the peg as shown before",
    )

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "m", 2, MAX_M)
        if not 0.01 <= knobs["tol_m"] <= 0.05:
            raise ConfigError(
                f"knob tol_m of {self.info.name}: expected 0.01 to 0.05 m, got {knobs['tol_m']}"
            )
        super().__init__(knobs)
        # The reactive twin's sign for "slid" or "from above"; elsewhere it isn't even built.
        self._hints = [HINT] if knobs["visible_cue"] else []

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """A manner shown, then one of m done."""
        return cue_then_choice(cls.info.name, int(knobs["m"]), ("show",), held=True)

    # -- hooks ------------------------------------------------------------------------------

    @property
    def _inner_half_m(self) -> float:
        return PEG_HALF_M[1] + self.knobs.tol_m

    def parts(self) -> Sequence[Part]:
        """Peg, socket, the ghosts of a peg and a hand, distractors."""
        return [
            peg(PEG),
            socket(SOCKET, self._inner_half_m),
            peg(GHOST, ghost=True),
            ghost_hand(HAND),
            *(ball(name, _HINT_RADIUS_M) for name in self._hints),
            *distractors.parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """Peg and ghost, each with both its ends; the socket and its mouths; the ghost's hand."""
        return [
            *(Entity(name, "tool", name) for name in (PEG, GHOST)),
            *(
                Entity(end_name(name, end), "tool", name, body=end_name(name, end))
                for name in (PEG, GHOST)
                for end in range(2)
            ),
            Entity(SOCKET, "container", SOCKET),
            *(Entity(f"mouth{s}", "patch", SOCKET, body=mouth_name(SOCKET, s)) for s in range(2)),
            Entity(HAND, "marker", HAND),
            *(Entity(name, "marker", name) for name in self._hints),
            *distractors.entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of socket and peg, which way round the peg and the ghost's lie; paths."""
        return {
            "socket": _SOCKET_XY_M + rng.uniform(-_JITTER_M, _JITTER_M, 2),
            "start": _START_XY_M + rng.uniform(-_JITTER_M, _JITTER_M, (2, 2)),
            "yaw": math.pi * rng.integers(0, 2, 2) + rng.uniform(-_TURN_RAD, _TURN_RAD, 2),
            "paths": distractors.draw(rng),
        }

    def start_vars(self) -> dict[str, Any]:
        """How each end came into each mouth, and for how many ticks it has lain there."""
        return {"came": np.zeros((2, 2), np.int64), "in_ticks": np.zeros((2, 2), np.int64)}

    def setup_cue(self) -> None:
        """The socket, and the ghost where it begins."""
        self._place_socket()
        self._move_ghost()

    def cue_tick(self) -> bool:
        """Moves the ghost; complete when it has shown everything."""
        self._move_ghost()
        self.scene.forward()  # what moves now is observed now
        return super().cue_tick()

    def setup_gap(self) -> None:
        """The peg and the socket, as at go."""
        self._show()
        self.gap_tick()

    def gap_tick(self) -> None:
        """Moves balls about in a busy gap."""
        distractors.move(self, self.plan["paths"], 0.15)

    def setup_execute(self) -> None:
        """The peg and the socket; nothing here depends on the manner."""
        self._show()

    def _place_socket(self) -> None:
        self.scene.place(SOCKET, (*self.plan["socket"], TABLE_TOP_M))
        for mouth in range(2):
            self.scene.paint(mouth_name(SOCKET, mouth), PATCH_RGB)

    def _show(self) -> None:
        self._place_socket()
        self.scene.place(PEG, (*self.plan["start"][1], _REST_Z_M), self.plan["yaw"][1])
        if self.knobs.visible_cue:
            end, mouth, above = manner(self.cue)
            self.scene.paint(end_name(PEG, end), SHOWN_RGB)
            self.scene.paint(mouth_name(SOCKET, mouth), SHOWN_RGB)
            height = _HINT_RADIUS_M + (_GHOST_HIGH_M if above else 0.0)
            self.scene.place(HINT, (*_HINT_XY_M, TABLE_TOP_M + height))
            self.scene.paint(HINT, SHOWN_RGB)

    # -- where things have to be ------------------------------------------------------------

    def _goal(self, tip_m: float) -> np.ndarray:
        """Returns the peg's middle [2] when the right tip is so deep in its mouth (m)."""
        sign = _SIGNS[manner(self.cue)[1]]
        return self.plan["socket"] + (0.0, sign * (DEPTH_M - tip_m + PEG_HALF_M[0]))

    def _before(self) -> np.ndarray:
        """Returns where the peg's middle [2] comes down: over its goal, or outside the mouth."""
        return self._goal(_IN_M if manner(self.cue)[2] else -_OUTSIDE_M)

    def _turn(self, yaw_rad: float) -> float:
        """Returns by how much a peg that lies at a yaw has to be turned, -pi to pi."""
        end, mouth, _ = manner(self.cue)
        points = yaw_rad + (0.0 if end else math.pi)
        return math.remainder(-_SIGNS[mouth] * math.pi / 2 - points, 2 * math.pi)

    def _move_ghost(self) -> None:
        """Puts the ghost's peg and hand where they are at this tick of the cue phase."""
        start, yaw = self.plan["start"][0], self.plan["yaw"][0]
        above, turn, high = manner(self.cue)[2], self._turn(yaw), _GHOST_HIGH_M
        goal, before = self._goal(_IN_M), self._before()
        steps = [
            (0.08, *start, 0.0, 0.0),
            (0.20, *start, high, 0.0),
            (0.50, *before, high, turn),
            (0.58, *before, high, turn),
            (0.70, *before, 0.0, turn),
            (0.88, *goal, 0.0, turn),
        ]
        if above:  # as long on its way down as the other takes to slide in
            del steps[4]
        share = self.phase_tick / self.cue_ticks
        x, y, z, turned = (
            np.interp(share, [s[0] for s in steps], column)
            for column in list(zip(*steps, strict=True))[1:]
        )
        at = (x, y, _REST_Z_M + z)
        self.scene.place(GHOST, at, yaw + turned)
        self.scene.place(HAND, at, yaw + turned)

    # -- execute ----------------------------------------------------------------------------

    def _tips(self) -> np.ndarray:
        scene = self.scene
        return tips(scene.pos(PEG), scene.d.xmat[scene.body_id[PEG]].reshape(3, 3))

    def execute_tick(self) -> None:
        """Watches how tips come into the mouths; the first that stays in one decides."""
        ends = self._tips()
        x, y = (ends[:, :2] - self.plan["socket"]).T
        depth = DEPTH_M - y[:, None] * _SIGNS
        within = (np.abs(x)[:, None] < self._inner_half_m) & (depth > 0) & (depth < DEPTH_M)
        came, in_ticks = self.vars["came"], self.vars["in_ticks"]
        entry = np.where(ends[:, 2] > TABLE_TOP_M + WALL_M, LET_IN, SLID)[:, None]
        came[:] = np.where(within, np.where(came == OUTSIDE, entry, came), OUTSIDE)
        lies = np.abs(ends[:, 2] - _REST_Z_M).max() < _FLAT_M
        in_ticks[:] = np.where(within & (depth > _DEEP_M) & lies, in_ticks + 1, 0)
        if in_ticks.max() > TOUCH_TICKS:
            end, mouth = (int(i) for i in np.unravel_index(in_ticks.argmax(), (2, 2)))
            name = manner_name(end, mouth, came[end, mouth] == LET_IN)
            self.commit(name, name == self.target())
        elif self.scene.pos(PEG)[2] < TABLE_TOP_M - _FALLEN_M:
            self.fail("motor")

    def target(self) -> str:
        """The manner that was shown."""
        return manner_name(*manner(self.cue))

    def potential(self) -> float:
        """A third for reaching the peg, the rest for bringing it to where it has to be."""
        if self.success:
            return 1.0
        if self.phase != EXECUTE or self.decided:
            return 0.0
        pos = self.scene.pos(PEG)
        goal = np.array([*self._goal(_IN_M), _REST_Z_M])
        turned = abs(self._turn(self._yaw())) / math.pi
        return (
            0.3 * nearness(self.scene.eef_pos() - pos)
            + 0.45 * nearness(pos - goal)
            + 0.2 * (1.0 - turned)
        )

    def _yaw(self) -> float:
        """Returns where the peg's own x points, about world z."""
        axis = self.scene.d.xmat[self.scene.body_id[PEG]].reshape(3, 3)[:, 0]
        return math.atan2(axis[1], axis[0])

    def waypoints(self) -> Sequence[Waypoint]:
        """Takes the peg, turns it, and puts it in: from above, or down outside and along."""
        turn = self._turn(self._yaw())
        final = math.copysign(math.pi / 2, turn)  # so the hand begins within a quarter turn too
        low_m, down = _REST_Z_M + 0.003, {"speed": 0.3, "stage": CARRY}
        goal, before = self._goal(_IN_M), self._before()
        return [
            *pick_path(self, PEG, final - turn),
            Waypoint((*before, SAFE_Z_M), final, tol_m=0.015, stage=CARRY),
            Waypoint((*before, low_m), final, tol_m=0.012, **down),
            Waypoint((*goal, low_m), final, tol_m=0.008, dwell_ticks=20, **down),
        ]

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Starts anew when the peg was pushed away or lost, or the hand led astray."""
        return self.waypoints() if pick_failed(self, PEG, stage, goal_world_m) else None
