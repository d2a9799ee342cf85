"""What the hands-on tasks share: a cue phase of steps that ends with a button, grasping, paths.

The cue phase of PutBlockBack, RearrangeBlock and ReopenDrawer is interactive: the policy does
some steps, each of which changes the lamp once it counts as done, then presses the button.
Nothing done before go commits to anything; a press before the steps are done does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, EXECUTE
from sims.memory_bench import distractors, parts_button
from sims.memory_bench.entities import Entity
from sims.memory_bench.parts import TABLE_TOP_M, Part
from sims.memory_bench.task import CLOSE, LAMP_STEPS, OPEN, Task, Waypoint

if TYPE_CHECKING:
    from sims.memory_bench.scene import Scene

BLOCK_HALF_M = (0.025, 0.020, 0.025)
"""Half sizes of a block: 4 cm between fingers that open 8 cm, so 2 cm to spare on each side."""

BLOCK_RGB, PATCH_RGB, CENTRE_RGB = (0.10, 0.20, 0.80), (0.30, 0.62, 0.28), (0.90, 0.88, 0.80)
SHOWN_RGB = (1.00, 0.72, 0.05)
"""Paints what a cue points at: a marked block, or the answer in a reactive twin."""

GRASP_Z_M = TABLE_TOP_M + 0.022
SAFE_Z_M = TABLE_TOP_M + 0.125
"""Height of the grip point while moving between places: a held block clears a standing one."""

CENTRE_XY_M = np.array([0.045, 0.0])
"""Where the block tasks' centre mark lies on the table."""

STEP_TICKS = 3
"""A cue step counts as done after so many ticks in a row."""

RELEASE_TICKS = 5
"""A block counts as released after longer than 0.2 s without both fingers on it."""

HOLD_TICKS = 10
"""A press that commits lasts longer than 0.5 s: a hand that strays over the button does less."""

REACH, CARRY, LEAVE, PRESS, NEXT = 1, 2, 3, 4, 5
"""Stages of the expert's waypoints; see :meth:`Task.replan`."""

_HELD_OPENING = 0.3  # a block holds the fingers at least half open
_LIFTED_M, _MOVED_M, _LOST_M, _SHIFTED_M = 0.012, 0.04, 0.05, 0.012
_FALLEN_M = 0.05
_RING_M = np.array([(0.0, 0.165), (0.145, 0.0), (0.0, -0.165), (-0.165, 0.0)])
_RING_JITTER_M = 0.02
_RING_BUTTON_X_M, _RING_BUTTON_Y_M = (0.0, 0.11), -0.31


def draw_ring(rng: np.random.Generator, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws places around the centre mark and the button's place beside them.

    Args:
      rng: Generator to draw from.
      places: How many, at most four.

    Returns:
      Places float64 [places, 2] in random order, and the button's place [2], in metres.
    """
    ring = CENTRE_XY_M + rng.permutation(_RING_M)[:places]
    ring += rng.uniform(-_RING_JITTER_M, _RING_JITTER_M, ring.shape)
    return ring, np.array([rng.uniform(*_RING_BUTTON_X_M), _RING_BUTTON_Y_M])


class GraspSensor:
    """Tells from contacts which free parts are held between both fingers."""

    def __init__(self, scene: Scene, names: Sequence[str]) -> None:
        self._scene, self._names = scene, tuple(names)
        self._bodies = np.array([scene.body_id[name] for name in names])
        m = scene.m
        body_names = [m.body(body).name for body in m.geom_bodyid]
        self._fingers = [
            np.array([any(word in name for word in words) for name in body_names])
            for words in (("leftfinger", "finger_joint1_tip"), ("rightfinger", "finger_joint2_tip"))
        ]

    def grasped(self) -> np.ndarray:
        """Returns bool [n]: both fingers touched the part at the tick's last step.

        Closed fingers that push a part with both tips don't hold it.
        """
        d, m = self._scene.d, self._scene.m
        result = np.zeros(len(self._names), bool)
        if not d.ncon or self._scene.gripper_opening() < _HELD_OPENING:
            return result
        pairs = d.contact.geom
        both = np.ones_like(result)
        for finger in self._fingers:
            of_left, of_right = finger[pairs[:, 0]], finger[pairs[:, 1]]
            touched = np.concatenate((pairs[of_left, 1], pairs[of_right, 0]))
            both &= np.isin(self._bodies, m.geom_bodyid[touched])
        return both


def level_yaw(scene: Scene, name: str) -> float:
    """Returns how far a cube is turned about world z, to within a quarter turn: -pi/4 to pi/4."""
    axes = scene.d.xmat[scene.body_id[name]].reshape(3, 3)
    flat = axes[:2, np.abs(axes[2]).argmin()]  # of the three, an axis that lies level
    return math.remainder(math.atan2(flat[1], flat[0]), math.pi / 2)


class HandsOnTask(Task):
    """Base of tasks with a button on the table: the button, balls in a busy gap, paths.

    A subclass draws ``plan["button"]`` (its place [2]) and ``plan["paths"]`` (of the balls), and
    has what `press_vars` returns among its variables if it asks `press_held`.
    """

    def common_parts(self) -> list[Part]:
        """The button and two balls that fly about in a busy gap."""
        return [parts_button.button("button"), *distractors.parts()]

    def common_entities(self) -> list[Entity]:
        """The button's cap and the distractors."""
        return [Entity("button", "button", "button", body="button_cap"), *distractors.entities()]

    def place_button(self) -> None:
        """Puts the button where the plan has it."""
        self.scene.place("button", (*self.plan["button"], TABLE_TOP_M))

    def gap_tick(self) -> None:
        """Moves balls about in a busy gap."""
        distractors.move(self, self.plan["paths"], 0.2)

    def press_depth_m(self) -> float:
        """Returns how deep the button's cap is pressed."""
        return self.scene.get_joint(parts_button.joint_name("button"))

    def press_vars(self) -> dict[str, Any]:
        """Returns for how many ticks in a row the button has been pressed: none yet."""
        return {"press_ticks": 0}

    def press_held(self) -> bool:
        """Returns whether the button has been pressed for longer than 0.5 s; call once a tick."""
        pressed = self.press_depth_m() > parts_button.PRESSED_M
        self.vars["press_ticks"] = self.vars["press_ticks"] + 1 if pressed else 0
        return self.vars["press_ticks"] > HOLD_TICKS

    def entity_scalars(self) -> Mapping[str, float]:
        """How far the button is pressed."""
        return {"button": min(max(self.press_depth_m() / parts_button.TRAVEL_M, 0.0), 1.0)}

    def button_top(self) -> np.ndarray:
        """Returns the middle of the released cap's top, world [3]."""
        return np.array([*self.plan["button"], TABLE_TOP_M + parts_button.TOP_M])

    def press_path(self) -> list[Waypoint]:
        """Above the button, then down on it."""
        x, y = self.plan["button"]
        top = TABLE_TOP_M + parts_button.TOP_M
        return [
            *self.rise((x, y)),
            Waypoint((x, y, top + 0.05), gripper=OPEN, tol_m=0.03, speed=0.5, stage=PRESS),
            Waypoint((x, y, top - 0.010), tol_m=0.006, dwell_ticks=20, speed=0.35, stage=PRESS),
        ]

    def rise(self, xy: Sequence[float], yaw_rad: float = 0.0) -> list[Waypoint]:
        """Returns a waypoint straight up if the hand is low and has to go elsewhere."""
        here = self.scene.eef_pos()
        if not self.strayed(xy, SAFE_Z_M, 0.03):
            return []
        up = (float(here[0]), float(here[1]), SAFE_Z_M)
        return [Waypoint(up, yaw_rad, OPEN, tol_m=0.03, keyframe=False, stage=LEAVE)]

    def press_failed(self, stage: int, goal_world_m: np.ndarray) -> bool:
        """Returns whether a path of `press_path` no longer fits: the hand was led astray."""
        return stage == PRESS and self.strayed(goal_world_m[:2], SAFE_Z_M)


class ButtonTask(HandsOnTask):
    """Base of tasks whose cue phase is: some steps, then a press of the button.

    A subclass gives `n_steps` and `step_done`, places its things in `show`, and otherwise
    follows :class:`Task`. It must reset what it added to ``vars`` in `start_vars` alone: both
    gates put the variables back to it.
    """

    cue_held: ClassVar[bool] = False

    @property
    def n_steps(self) -> int:
        """Number of steps before the press."""
        raise NotImplementedError

    def step_done(self) -> bool:
        """Returns whether the present cue step's goal is met at this tick."""
        raise NotImplementedError

    def next_step(self) -> None:
        """Runs when a cue step counts as done, after `steps_done` rose (to mark the next)."""

    def show(self) -> None:
        """Places everything but button and distractors for the present phase."""
        raise NotImplementedError

    def draw_common(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draws the distractors' paths."""
        return {"paths": distractors.draw(rng)}

    def start_vars(self) -> dict[str, Any]:
        """Cue steps done, and for how many ticks the present one's goal has been met."""
        return {"steps_done": 0, "step_ticks": 0}

    def setup_cue(self) -> None:
        """Shows the cue and the button."""
        self.place_button()
        self.show()

    def setup_gap(self) -> None:
        """Shows the canonical scene of go already: nothing that follows can tell the cue."""
        self.vars.update(self.start_vars())
        self.place_button()
        self.show()
        self.gap_tick()

    def setup_execute(self) -> None:
        """Shows the canonical scene."""
        self.vars.update(self.start_vars())
        self.place_button()
        self.show()

    def cue_tick(self) -> bool:
        """Counts steps, shows each on the lamp; complete when the button is pressed after all."""
        if self.vars["steps_done"] < self.n_steps:
            self.vars["step_ticks"] = self.vars["step_ticks"] + 1 if self.step_done() else 0
            if self.vars["step_ticks"] >= STEP_TICKS:
                self.vars["steps_done"] += 1
                self.vars["step_ticks"] = 0
                self.set_lamp(LAMP_STEPS[self.vars["steps_done"] - 1])
                self.next_step()
            return False
        return self.press_depth_m() > parts_button.PRESSED_M

    # -- dense reward ---------------------------------------------------------------------

    def step_progress(self) -> float:
        """Returns progress in [0, 1] within the present cue step, for the dense reward."""
        raise NotImplementedError

    def execute_progress(self) -> float:
        """Returns progress in [0, 1] within the execute phase, for the dense reward."""
        raise NotImplementedError

    def potential(self) -> float:
        """0 to 0.45 over the cue steps and the press, 0.45 in the gap, up to 0.95 after go."""
        if self.success:
            return 1.0
        if self.failure_kind:
            return 0.0
        if self.phase == EXECUTE:
            return 0.45 + 0.5 * self.execute_progress()
        if self.phase != CUE:
            return 0.45
        done = self.vars["steps_done"]
        if done < self.n_steps:
            within = self.step_progress()
        else:
            within = nearness(self.scene.eef_pos() - self.button_top())
        return 0.45 * (done + within) / (self.n_steps + 1)


class Blocks(HandsOnTask):
    """Picking and releasing blocks, and paths that recover; mixed into tasks that move them.

    A subclass has what `block_vars` returns among its variables.
    """

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        super().__init__(knobs)
        if not 0 < self.knobs.tol_m <= 0.05:
            raise ConfigError(
                f"knob tol_m: expected above 0, at most 0.05 m, got {self.knobs.tol_m}"
            )
        self._sensor: GraspSensor | None = None

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the block parts, in index order."""
        raise NotImplementedError

    def block_vars(self) -> dict[str, Any]:
        """Returns for each block whether it was picked up yet and for how long it is free."""
        n = len(self.block_names)
        return {"picked": np.zeros(n, bool), "free_ticks": np.zeros(n, np.int64)}

    def grasped(self) -> np.ndarray:
        """Returns bool [n]: which blocks are between both fingers now."""
        if self._sensor is None:
            self._sensor = GraspSensor(self.scene, self.block_names)
        return self._sensor.grasped()

    def rests_at(self, block: int, xy: Sequence[float]) -> bool:
        """Returns whether a block lies released within the tolerance of `xy`."""
        pos = self.scene.pos(self.block_names[block])
        return bool(
            np.abs(pos[:2] - xy).max() <= self.knobs.tol_m
            and pos[2] < TABLE_TOP_M + max(BLOCK_HALF_M) + _LIFTED_M
            and not self.grasped()[block]
        )

    def released(self, start_xy: np.ndarray) -> int | None:
        """Returns the block released for the first time since go, else None; call once a tick.

        A block is picked once both fingers hold it and it was lifted or carried off; it is
        released after longer than 0.2 s without both fingers on it.

        Args:
          start_xy: Where each block stood at go, float64 [n, 2].
        """
        grasped, picked = self.grasped(), self.vars["picked"]
        pos = np.array([self.scene.pos(name) for name in self.block_names])
        lifted = pos[:, 2] > TABLE_TOP_M + BLOCK_HALF_M[2] + _LIFTED_M
        moved = np.hypot(*(pos[:, :2] - start_xy).T) > _MOVED_M
        picked |= grasped & (lifted | moved)
        free = self.vars["free_ticks"]
        free[:] = np.where(picked & ~grasped, free + 1, 0)
        return int(free.argmax()) if free.max() >= RELEASE_TICKS else None

    def fell(self, block: int) -> bool:
        """Returns whether a block fell off the table."""
        return bool(self.scene.pos(self.block_names[block])[2] < TABLE_TOP_M - _FALLEN_M)

    def carry_path(
        self,
        block: int,
        goal_xy: Sequence[float],
        yaws_rad: tuple[float, float] = (0.0, 0.0),
        tol_m: float = 0.012,
    ) -> list[Waypoint]:
        """From wherever the hand is: fetch a block and put it down at `goal_xy`.

        Args:
          block: Its index.
          goal_xy: Where to put it.
          yaws_rad: The hand's yaw as it takes the block, and as it puts it down.
          tol_m: How near the hand has to come to where it closes and opens.
        """
        x, y = self.scene.pos(self.block_names[block])[:2]
        (gx, gy), low, down = goal_xy, GRASP_Z_M + 0.004, {"speed": 0.38}
        take, put = yaws_rad
        return [
            *self.rise((x, y), take),
            Waypoint((x, y, SAFE_Z_M), take, OPEN, tol_m=0.02, speed=0.5, stage=REACH),
            Waypoint((x, y, GRASP_Z_M), take, CLOSE, tol_m, dwell_ticks=5, **down, stage=REACH),
            Waypoint((x, y, SAFE_Z_M), take, tol_m=0.03, stage=CARRY),
            Waypoint((gx, gy, SAFE_Z_M), put, tol_m=0.02, stage=CARRY),
            Waypoint((gx, gy, low), put, OPEN, tol_m, dwell_ticks=6, **down, stage=CARRY),
            Waypoint((gx, gy, SAFE_Z_M), put, tol_m=0.04, keyframe=False, stage=LEAVE),
        ]

    def carry_failed(self, block: int, stage: int, goal_world_m: np.ndarray) -> bool:
        """Returns whether a path of `carry_path` no longer fits: block pushed away or lost, or
        the hand led astray.
        """
        pos = self.scene.pos(self.block_names[block])
        if stage in (REACH, PRESS) and self.strayed(goal_world_m[:2], SAFE_Z_M):
            return True
        if stage == REACH:
            return bool(np.abs(pos[:2] - goal_world_m[:2]).max() > _SHIFTED_M)
        if stage == CARRY:
            return bool(np.linalg.norm(pos - self.scene.eef_pos()) > _LOST_M)
        return False

    def carry_progress(self, block: int, goal_xy: Sequence[float]) -> float:
        """Returns a third for reaching the block, the rest for bringing it to `goal_xy`."""
        pos = self.scene.pos(self.block_names[block])
        return nearness(self.scene.eef_pos() - pos) / 3 + nearness(pos[:2] - goal_xy) * 2 / 3


class BlockTask(Blocks, ButtonTask):
    """Base of the tasks whose cue phase and choice are to move blocks."""

    def start_vars(self) -> dict[str, Any]:
        """Adds what is known of each block since go."""
        return {**super().start_vars(), **self.block_vars()}


def nearness(difference: np.ndarray) -> float:
    """Returns 1 at zero distance, falling to 0 within about half a metre."""
    return float(1.0 - np.tanh(4.0 * np.linalg.norm(difference)))
