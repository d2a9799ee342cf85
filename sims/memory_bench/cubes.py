"""What the tasks that need no memory share: free cubes, in the execute phase alone, and paths.

They are there to tell what a policy's hands can do: no cue, no gap, nothing to recall. Their one
cue value makes the best success without memory 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE
from sims.memory_bench.abstract import Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import no_memory_needed
from sims.memory_bench.manipulation import GraspSensor, level_yaw
from sims.memory_bench.parts import TABLE_TOP_M, Part, box
from sims.memory_bench.task import Task

LIFTED_M = 0.04
"""A cube whose centre is so high above the table is lifted. Source: robosuite 1.5.2, Lift and
Stack."""

CENTRE_XY_M = np.array([0.045, 0.0])
"""Middle of the square in which cubes start: 0.54 m before the arm, as robosuite's 0.56."""

MAX_AREA_M = 0.16
LEAST_HALF_M, MOST_HALF_M = 0.015, 0.03
"""Half sizes of a cube that the fingers, which open to 8 cm, can be told to hold."""

DENSITY_KG_M3 = 1000.0
"""Source: robosuite's default."""

_FALLEN_M = 0.05
_TRIES = 1000


def level(area_m: float, execute_s: float, **own: float) -> dict[str, Any]:
    """Returns the knobs of a level; `own` are the task's own."""
    return {"area_m": area_m, "yaw_rad": math.pi, "execute_s": execute_s, **own}


def ceiling(knobs: Mapping[str, Any]) -> float:
    """Returns 1: no memory is needed."""
    return 1.0


def cues(knobs: Mapping[str, Any]) -> int:
    """Returns 1: there is nothing to tell apart."""
    return 1


def horizon_s(knobs: Mapping[str, Any]) -> float:
    """Returns the longest episode in seconds."""
    return knobs["execute_s"]


class CubeTask(Task):
    """Base of tasks with free cubes and without cue and gap.

    A subclass says which cubes there are in `cubes` and what counts in `goal_reached`. Knobs:
    `area_m`, half the side of the square where the cubes' centres start; `yaw_rad`, how far they
    are turned at most; `execute_s`; and half sizes, whose names end in ``half_m``.
    """

    phases: ClassVar[tuple[str, ...]] = (EXECUTE,)

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        super().__init__(knobs)
        ranges = {"area_m": (0.0, MAX_AREA_M), "yaw_rad": (0.0, math.pi)}
        ranges |= {n: (LEAST_HALF_M, MOST_HALF_M) for n in knobs if n.endswith("half_m")}
        for name, (low, high) in ranges.items():
            if not low <= knobs[name] <= high:
                raise ConfigError(
                    f"knob {name} of {self.info.name}: expected {low:g} to {high:.4g}, got "
                    f"{knobs[name]}"
                )
        self._sensor: GraspSensor | None = None

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """In plain view, to be done or spoilt."""
        return no_memory_needed(cls.info.name)

    def cubes(self) -> Mapping[str, tuple[float, tuple[float, float, float]]]:
        """Returns cube name -> half size in metres and colour; constant."""
        raise NotImplementedError

    def goal_reached(self) -> bool:
        """Returns whether what the instruction asks for is so at this tick."""
        raise NotImplementedError

    # -- hooks ------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """The cubes, of robosuite's density."""
        return [
            box(name, (half,) * 3, "free", mass_kg=DENSITY_KG_M3 * (2 * half) ** 3)
            for name, (half, _) in self.cubes().items()
        ]

    def entities(self) -> Sequence[Entity]:
        """The cubes."""
        return [Entity(name, "cube", name) for name in self.cubes()]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places and yaws of the cubes, apart from each other."""
        halves = [half for half, _ in self.cubes().values()]
        # Corners must not meet, and a finger beside one cube must not push the other.
        apart_m = math.sqrt(2) * sum(halves) + 0.012
        area = self.knobs.area_m
        for _ in range(_TRIES):
            xy = CENTRE_XY_M + rng.uniform(-area, area, (len(halves), 2))
            gaps = [np.hypot(*(a - b)) for i, a in enumerate(xy) for b in xy[:i]]
            if min(gaps, default=apart_m) >= apart_m:
                break
        else:
            raise ConfigError(
                f"knob area_m of {self.info.name}: {area} m leaves no room for cubes of half size "
                f"{halves} m; raise it"
            )
        return {"xy": xy, "yaw": rng.uniform(-1.0, 1.0, len(halves)) * self.knobs.yaw_rad}

    def setup_execute(self) -> None:
        """Puts the cubes; there is no phase before."""
        for i, (name, (half, rgb)) in enumerate(self.cubes().items()):
            self.scene.place(name, (*self.plan["xy"][i], TABLE_TOP_M + half), self.plan["yaw"][i])
            self.scene.paint(name, rgb)

    def execute_tick(self) -> None:
        """Success as soon as the goal is reached; a cube off the table is out of reach for good."""
        if self.goal_reached():
            self.commit(self.target(), True)
        elif any(self.scene.pos(name)[2] < TABLE_TOP_M - _FALLEN_M for name in self.cubes()):
            self.fail("motor")

    # -- help ---------------------------------------------------------------------------------

    def lifted(self, name: str) -> bool:
        """Returns whether a cube is as high above the table as robosuite asks for."""
        return bool(self.scene.pos(name)[2] > TABLE_TOP_M + LIFTED_M)

    def grasped(self, name: str) -> bool:
        """Returns whether a cube is between both fingers now."""
        if self._sensor is None:
            self._sensor = GraspSensor(self.scene, tuple(self.cubes()))
        return bool(self._sensor.grasped()[list(self.cubes()).index(name)])

    def grip_yaw(self, name: str, beside_xy: Sequence[float] | None = None) -> float:
        """Returns the hand's yaw that takes a cube by its faces.

        Of the two within a quarter turn either way, the smaller, or the one whose fingers keep
        clear of what stands at `beside_xy`.
        """
        yaw = level_yaw(self.scene, name)
        if beside_xy is None:
            return yaw
        towards = np.asarray(beside_xy) - self.scene.pos(name)[:2]
        other = yaw - math.copysign(math.pi / 2, yaw)
        # At yaw 0 the fingers open along y.
        nearness = [abs(np.dot((-math.sin(a), math.cos(a)), towards)) for a in (yaw, other)]
        return yaw if nearness[0] <= nearness[1] else other
