"""TraceRoute: a marker goes along a route over a grid of pads and vanishes; go the same way.

Kin: PatternLock and RouteStick of RoboMME; a re-creation with phase lamp, snapping gates and
commits. A route starts at a corner, which the seed chooses and a mark shows, goes from pad to
neighbouring pad and never comes back to one. The hand redraws it by touching pad after pad, each
for longer than 0.2 s; pads that were reached stay marked, and the first wrong one is a failure.

Between pads nothing snaps. All that a policy without memory could read off the marks and the arm is
what it has drawn so far, and that says nothing about the rest: of N routes, all equally likely, it
draws one, so its success is 1/N at most, and any fixed route reaches that.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, EXECUTE, TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import uniform
from sims.memory_bench.manipulation import CENTRE_RGB, SHOWN_RGB, nearness
from sims.memory_bench.parts import PALETTE, TABLE_TOP_M, Part, ball, box
from sims.memory_bench.task import CLOSE, TICKS_PER_S, Task, Waypoint
from sims.memory_bench.touch import HOVER_M, count_touches

MIN_G, MAX_G, MAX_L = 3, 5, 7
MARKER = "marker"
PAD_RGB, MARKER_RGB, DONE_RGB = (0.10, 0.16, 0.40), PALETTE["red"], CENTRE_RGB
REST_S = 0.6
"""How long the marker rests on the first pad and on the last."""

Node = tuple[int, int]
Route = tuple[Node, ...]

_PAD_HALF_HEIGHT_M, _MARKER_RADIUS_M = 0.012, 0.024
_PAD_Z_M = TABLE_TOP_M + _PAD_HALF_HEIGHT_M
_TOP_Z_M = TABLE_TOP_M + 2 * _PAD_HALF_HEIGHT_M
_GRID_XY_M, _GRID_M, _MOST_SPACING_M = np.array([0.03, 0.0]), 0.36, 0.13
_JITTER_M, _BESIDE_M = 0.015, 0.008
_HOP_M = 0.035  # how high the hand goes from pad to pad
_DIM = 0.7  # how much darker a reactive twin shows the end of a route than its beginning
_FIRST_STAGE = 10  # the expert's stage on its way to the route's pad i is this plus i


@functools.lru_cache
def routes(g: int, length: int) -> tuple[Route, ...]:
    """Returns all routes of `length` steps on a g x g grid from corner (0, 0), each L + 1 nodes.

    In the order of their nodes, so the first and the last one differ in their first step.
    """
    found: list[Route] = [((0, 0),)]
    for _ in range(length):
        found = [(*route, node) for route in found for node in _onward(g, route)]
    return tuple(sorted(found))


def _onward(g: int, route: Route) -> list[Node]:
    """Returns the pads beside a route's last one that it hasn't been to."""
    i, j = route[-1]
    beside = [(i, j + 1), (i + 1, j), (i, j - 1), (i - 1, j)]
    return [n for n in beside if min(n) >= 0 and max(n) < g and n not in route]


def _cue_s(knobs: Mapping[str, Any]) -> float:
    return 2 * REST_S + knobs["L"] * knobs["step_s"]


def _cues(knobs: Mapping[str, Any]) -> int:
    return len(routes(int(knobs["G"]), int(knobs["L"])))


def _ceiling(knobs: Mapping[str, Any]) -> float:
    return 1.0 if knobs["visible_cue"] else 1.0 / _cues(knobs)


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    return _cue_s(knobs) + knobs["gap_max_s"] + knobs["execute_s"]


def _grid(g: int, length: int, step_s: float, tol_m: float) -> dict[str, Any]:
    own = {"G": g, "L": length, "step_s": step_s, "tol_m": tol_m}
    return {**own, "execute_s": 5.0 + 2.5 * length}


INFO = TaskInfo(
    name="trace_route",
    env_id="MemoryBench/TraceRoute-v0",
    entry="sims.memory_bench.tasks.trace_route:TraceRoute",
    summary="a marker goes L steps over a G x G grid of pads; touch the pads along the same way",
    levels=levels.four(
        _grid(3, 2, 0.9, 0.045),
        _grid(3, 4, 0.9, 0.045),
        _grid(4, 5, 0.8, 0.040),
        _grid(5, 7, 0.8, 0.034),
    ),
    ceiling=_ceiling,
    cues=_cues,
    horizon_s=_horizon_s,
)


def _machine(g: int, length: int) -> Machine:
    """A route seen while the arm is held, a gap, then its steps one by one.

    Routes are equally likely and can't be seen any more after the gate, so which pad is next is
    drawn step by step among the routes that go on from what was drawn. All of that is in sight.
    """
    through: dict[Route, int] = {}
    for route in routes(g, length):
        for end in range(1, length + 2):
            through[route[:end]] = through.get(route[:end], 0) + 1

    def observe(state):
        return state[:2]

    def actions(seen):
        return tuple(_onward(g, seen[1])) if seen[0] == "go" else ("hold",)

    def following(drawn):
        onward = [node for node in _onward(g, drawn) if (*drawn, node) in through]
        share = {node: Fraction(through[(*drawn, node)], through[drawn]) for node in onward}
        return {("go", drawn, node): p for node, p in share.items()}

    def step(state, action):
        if state[0] != "go":
            return uniform([("gap",)]) if state[0] == "show" else following(((0, 0),))
        _, drawn, right = state
        if action != right:
            return {FAILURE: Fraction(1)}
        drawn = (*drawn, right)
        return {SUCCESS: Fraction(1)} if len(drawn) == length + 1 else following(drawn)

    return Machine(
        INFO.name,
        uniform([("show",)]),
        observe,
        actions,
        step,
        cue_of=lambda state: state[-1],
    )


class TraceRoute(Task):
    """The cue is which of all routes from the corner the marker takes.

    `step_s` is how long the marker takes from pad to pad; `tol_m` half the side of a pad.
    """

    info = INFO
    instructions = (
        "go along the pads on the same route as the marker did",
        "watch the marker, then trace its way from pad to pad",
        "redraw the path that was shown: touch its pads in the same order",
        "remember the route over the pads and follow it from the marked one",
    )

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "G", MIN_G, MAX_G)
        levels.check_whole(self.info.name, knobs, "L", 2, MAX_L)
        spacing = min(_MOST_SPACING_M, _GRID_M / (knobs["G"] - 1))
        for name, low, high in (
            ("step_s", 0.4, 3.0),
            ("tol_m", 0.02, round(spacing / 2 - _BESIDE_M, 3)),
        ):
            if not low <= knobs[name] <= high:
                raise ConfigError(
                    f"knob {name} of {self.info.name}: expected {low:g} to {high:g}, got "
                    f"{knobs[name]}"
                )
        super().__init__(knobs)
        self.g, self.length, self._spacing = int(knobs["G"]), int(knobs["L"]), spacing
        self._pads = [f"pad{i}" for i in range(self.g**2)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """The steps of a route, with all that was drawn in sight."""
        return _machine(int(knobs["G"]), int(knobs["L"]))

    @property
    def cue_ticks(self) -> int:
        """Length of the cue phase."""
        return round(_cue_s(vars(self.knobs)) * TICKS_PER_S)

    @property
    def route(self) -> tuple[int, ...]:
        """The pads of the route, the corner first."""
        return self._route_of(self.cue)

    def _route_of(self, cue: int) -> tuple[int, ...]:
        nodes = np.array(routes(self.g, self.length)[cue])
        nodes = np.where(self.plan["flip"], self.g - 1 - nodes, nodes)
        return tuple((nodes @ (self.g, 1)).tolist())

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """The pads, the marker, and two distractors that fly about in a busy gap."""
        half = (self.knobs.tol_m, self.knobs.tol_m, _PAD_HALF_HEIGHT_M)
        return [
            *(box(name, half) for name in self._pads),
            ball(MARKER, _MARKER_RADIUS_M),
            *distractors.parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """The pads (one that was reached has the scalar 1), the marker, the distractors."""
        return [
            *(Entity(name, "button", name) for name in self._pads),
            Entity(MARKER, "marker", MARKER),
            *distractors.entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Where the grid lies, from which corner routes start, the distractors' paths."""
        line = (np.arange(self.g) - (self.g - 1) / 2) * self._spacing
        grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        return {
            "pads": _GRID_XY_M + rng.uniform(-_JITTER_M, _JITTER_M, 2) + grid,
            "flip": rng.integers(0, 2, 2).astype(bool),
            "paths": distractors.draw(rng),
        }

    def start_vars(self) -> dict[str, Any]:
        """The pads drawn (-1: not yet), how many, and how long each has been touched, in ticks."""
        drawn = np.full(self.length + 1, -1)
        drawn[0] = int(self.plan["flip"] @ (self.g, 1)) * (self.g - 1)
        return {"drawn": drawn, "done": 1, "touch_ticks": np.zeros(self.g**2, np.int64)}

    def setup_cue(self) -> None:
        """The pads, and the marker on the corner where the route starts."""
        self._show()
        self._move_marker()

    def cue_tick(self) -> bool:
        """Moves the marker along the route."""
        self._move_marker()
        self.scene.forward()  # what moves now is observed now
        return super().cue_tick()

    def _move_marker(self) -> None:
        steps = (self.phase_tick / TICKS_PER_S - REST_S) / self.knobs.step_s
        along = self.plan["pads"][list(self.route)]
        x, y = (np.interp(steps, np.arange(self.length + 1), column) for column in along.T)
        self.scene.place(MARKER, (x, y, _TOP_Z_M + _MARKER_RADIUS_M))
        self.scene.paint(MARKER, MARKER_RGB)

    def setup_gap(self) -> None:
        """The pads, as at go."""
        self._show()
        self.gap_tick()

    def gap_tick(self) -> None:
        """Moves balls about in a busy gap."""
        distractors.move(self, self.plan["paths"], 0.1)

    def setup_execute(self) -> None:
        """The pads; nothing here depends on the route."""
        self.vars.update(self.start_vars())
        self._show()

    def _show(self) -> None:
        for name, xy in zip(self._pads, self.plan["pads"], strict=True):
            self.scene.place(name, (*xy, _PAD_Z_M))
        self._paint()

    def _paint(self) -> None:
        """Marks the pads reached; in a reactive twin after go, what is left, the next brightest."""
        for name in self._pads:
            self.scene.paint(name, PAD_RGB)
        if self.phase == EXECUTE and self.knobs.visible_cue:
            for later, pad in enumerate(self.route[self.vars["done"] :]):
                share = 1.0 - _DIM * later / self.length
                self.scene.paint(self._pads[pad], share * np.array(SHOWN_RGB))
        for pad in self._reached():
            self.scene.paint(self._pads[pad], DONE_RGB)

    def _reached(self) -> list[int]:
        return self.vars["drawn"][: self.vars["done"]].tolist()

    @property
    def _next(self) -> int:
        """The pad that comes next; once the route is drawn, its last one."""
        return self.route[min(self.vars["done"], self.length)]

    def execute_tick(self) -> None:
        """The next pad touched for longer than 0.2 s is drawn; the hand may stay on the last."""
        state = self.vars
        touched = count_touches(self.scene, self._pads, state["touch_ticks"])
        if touched is None or touched == state["drawn"][state["done"] - 1]:
            return
        right = touched == self._next
        state["drawn"][state["done"]] = touched
        state["done"] += 1
        if not right or state["done"] > self.length:
            self.commit(_name(self._reached()), right)
        self._paint()

    def target(self) -> str:
        """The pads of the route."""
        return _name(self.route)

    def follows(self, cue: int, target: str) -> bool:
        """Whether the other route was followed up to where it leaves this one."""
        drawn = self._reached()
        other = self._route_of(cue)[: len(drawn)]
        return bool(self.committed) and not self.success and drawn == list(other)

    def entity_scalars(self) -> Mapping[str, float]:
        """Which pads were reached."""
        return dict.fromkeys((self._pads[i] for i in self._reached()), 1.0)

    def potential(self) -> float:
        """Equal shares for the steps of the route, and 1 for success."""
        if self.success:
            return 1.0
        if self.phase == CUE or self.decided:
            return 0.0
        within = nearness(self.scene.eef_pos() - self._top(self._next))
        return 0.95 * (self.vars["done"] - 1 + within) / self.length

    # -- expert -----------------------------------------------------------------------------

    def _top(self, pad: int) -> np.ndarray:
        return np.array([*self.plan["pads"][pad], _TOP_Z_M])

    def waypoints(self) -> Sequence[Waypoint]:
        """From pad to pad with closed fingers, in low hops, and down on each."""
        return self.touch_pads(self.route[self.vars["done"] :])

    def touch_pads(self, pads: Sequence[int]) -> list[Waypoint]:
        """Returns the way over `pads`, the first one of them from high above if the hand is high
        or has strayed.
        """
        here, path = self.scene.eef_pos(), []
        if self.strayed(self.plan["pads"][pads[0]], _TOP_Z_M + HOVER_M, 1.5 * self._spacing):
            up = (float(here[0]), float(here[1]), _TOP_Z_M + HOVER_M)
            path.append(Waypoint(up, gripper=CLOSE, tol_m=0.03, keyframe=False))
        for stage, pad in enumerate(pads, _FIRST_STAGE + self.vars["done"]):
            x, y, top = self._top(pad)
            over, down = (x, y, top + _HOP_M), (x, y, top)
            path += [
                Waypoint(over, 0.0, CLOSE, 0.015, keyframe=False, stage=stage),
                Waypoint(down, tol_m=0.015, dwell_ticks=8, speed=0.35, stage=stage),
            ]
        return path

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Starts anew from the pads drawn so far when the hand heads for another one than the
        next, or was led astray.
        """
        if stage < _FIRST_STAGE:
            return None
        other = stage - _FIRST_STAGE != self.vars["done"]
        far_m = 1.5 * self._spacing
        astray = self.strayed(goal_world_m[:2], _TOP_Z_M + HOVER_M, far_m)
        return self.waypoints() if other or astray else None


def _name(pads: Sequence[int]) -> str:
    """Returns what a route is called, within the 32 bytes that are saved."""
    return "-".join(str(pad) for pad in pads)
