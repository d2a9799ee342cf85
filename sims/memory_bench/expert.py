"""The scripted expert: privileged waypoints, followed in closed loop, with noise on request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.rng import derive
from sims.memory_bench.action import ACTION_SIZE, CONTROL_HZ, POS_PER_UNIT_M, ROT_PER_UNIT_RAD
from sims.memory_bench.observe import eef_quat_xyzw
from sims.memory_bench.parts import TABLE_TOP_M
from sims.memory_bench.task import OPEN, Waypoint

if TYPE_CHECKING:
    from sims.gym_env import MemoryBenchEnv

DETOUR_RATE, DETOURS = 0.08, 3
"""Chance a tick, at noise 1, that a hand in free motion is led astray, and how often at most
in one phase."""
DETOUR_BOX_M = ((-0.15, -0.30, TABLE_TOP_M + 0.03), (0.25, 0.30, TABLE_TOP_M + 0.20))
"""Where detours lead. Low ones matter: in clean demonstrations a low hand is always at its
target, and a policy that learns *that* stops wherever it happens to come down."""

GRIP_TICKS = 5
"""Ticks that an expert which pauses gives the fingers for a change of the gripper."""
REST_M_S, REST_RAD_S, REST_OPENING = 0.03, 0.2, 0.02
"""A hand that moved and turned slower than this since the last tick rests; so do fingers whose
opening changed by less."""
BRAKE = 0.5
"""Share of the way left that a hand about to pause goes in a tick, at most."""
REST_TICKS = 2
"""Ticks of rest in a row that make a pause complete."""

_FIELDS = 10  # pos 3, yaw, gripper, tol, dwell, speed, keyframe, stage
_YAW, _GRIPPER, _DWELL, _KEYFRAME = 3, 4, 6, 8


def _pack(waypoints: Sequence[Waypoint]) -> np.ndarray:
    rows = [
        (*w.pos_world_m, w.yaw_rad, w.gripper, w.tol_m, w.dwell_ticks, w.speed, w.keyframe, w.stage)
        for w in waypoints
    ]
    return np.array(rows, np.float64).reshape(-1, _FIELDS)


def _goal_quat(yaw_rad: float) -> np.ndarray:
    """Returns the world orientation wxyz [4] of the downward hand at a yaw."""
    down = np.array([0.0, np.sqrt(0.5), np.sqrt(0.5), 0.0])
    turn = np.array([np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)])
    goal = np.empty(4)
    mujoco.mju_mulQuat(goal, turn, down)
    return goal


class WaypointExpert:
    """Follows :meth:`Task.waypoints`, asking for a new path at each phase and when replanned.

    Call :meth:`act` exactly once a control tick, before ``env.step``; step with what
    :meth:`perturb` returns to collect data that recovers. The label is what `act` returned.

    With `pause_ticks` it demonstrates for policies that look at keyframes alone: it comes to
    rest at each one, so that what is seen there is what a hand driven to a pose leaves; the
    gripper changes only at rest, and where it does is a keyframe; a keyframe is marked only if
    another one follows, and what follows is planned from what is seen there.

    Args:
      env: The environment; its scene, task and controller are read.
      seed: Seed of the noise; equal seeds give equal noise.
      noise: 0 for none; 1 is strong. Scales Gaussian noise each tick, and how often the
        hand is pushed or led astray. A hand that pauses is left alone.
      pause_ticks: Most ticks to wait for rest at a keyframe; 0 passes through.

    Attributes:
      keyframe_label: Whether the tick that `act` last answered for ends a keyframe.
    """

    def __init__(
        self, env: MemoryBenchEnv, seed: int = 0, noise: float = 0.0, pause_ticks: int = 0
    ) -> None:
        if pause_ticks < 0:
            raise ConfigError(f"pause_ticks: expected 0 or more ticks, got {pause_ticks}")
        self._env, self._seed, self.noise = env, int(seed), float(noise)
        self.pause_ticks = int(pause_ticks)
        self.reset()

    def reset(self) -> None:
        """Starts a new episode (of the same noise seed)."""
        self._rng = derive(self._seed, "expert", "noise")
        self._path = np.zeros((0, _FIELDS))
        self._index, self._dwelt, self._rested, self._finished = 0, 0, 0, False
        self._leg = ""
        self._burst = np.zeros(ACTION_SIZE)
        self._burst_left = 0
        self._detour = np.zeros(3)
        self._detour_left = 0
        self._detours = 0
        self._touching = False
        self._gripper = OPEN
        # Position, orientation and opening, now and a tick ago.
        self._hand = self._hand_before = (np.zeros(3), np.zeros(4), 0.0)
        self.keyframe_label = False

    def act(self) -> np.ndarray:
        """Returns the clean float32 [7] action for the present tick; zeros while held."""
        task = self._env.task
        self.keyframe_label = False
        if self.pause_ticks:
            scene, self._hand_before = self._env.scene, self._hand
            self._hand = (scene.eef_pos(), scene.eef_quat(), scene.gripper_opening())
        # Looked up here, not in `perturb`: a branch rolled out in between leaves its contacts.
        self._touching = bool(self._env.scene.touched_bodies())
        if task.held or task.decided:
            return np.zeros(ACTION_SIZE, np.float32)
        if task.leg != self._leg:
            self._leg, self._gripper = task.leg, OPEN
            self._start(task.waypoints())
            self._detours = 0
        if not self._dwelling():
            self._replan()
        self._advance()
        if self.pause_ticks and self.keyframe_label:
            if not self._finished:
                self._replan()
            self.keyframe_label = self.next_keyframe() is not None
        return self._towards(self._path[self._index])

    def next_keyframe(self) -> np.ndarray | None:
        """Returns where the hand has to be next, as a keyframe policy would say it.

        Asked after `act`, for the tick it answered for: at a tick that ends a keyframe it is
        the following one. What the task will do after the present path counts too.

        Returns:
          float32 [9]: position in the world (m), the hand's orientation as ``eef_quat_xyzw``
          gives it, the gripper's command after arrival (-1 open, +1 close), and 1 if the hand
          goes straight there, 0 if other waypoints lie on the way. None while the arm is held,
          once the outcome is decided, and when no keyframe is left.
        """
        task = self._env.task
        if task.held or task.decided or task.leg != self._leg:
            return None
        rows = self._path[self._index + self._finished :]
        if not rows[:, _KEYFRAME].any():
            last = rows[rows[:, _GRIPPER] != 0, _GRIPPER]
            command = float(last[-1]) if len(last) else self._gripper
            rows = np.concatenate((rows, self._prepare(task.upcoming(), command)))
        at = np.flatnonzero(rows[:, _KEYFRAME])
        if not len(at):
            return None
        row, commands = rows[at[0]], rows[: at[0] + 1, _GRIPPER]
        commands = commands[commands != 0]
        gripper = commands[-1] if len(commands) else self._gripper
        quat_xyzw = eef_quat_xyzw(_goal_quat(row[_YAW]))
        return np.array([*row[:3], *quat_xyzw, gripper, float(at[0] == 0)], np.float32)

    def _start(self, waypoints: Sequence[Waypoint]) -> None:
        self._path = self._prepare(waypoints, self._gripper)
        self._index, self._dwelt, self._rested, self._finished = 0, 0, 0, False
        if not len(self._path):
            raise ValueError(f"the expert got no waypoints in {self._leg!r}")

    def _prepare(self, waypoints: Sequence[Waypoint], command: float) -> np.ndarray:
        """Packs a path; if pausing, each change of the gripper from `command` on is a keyframe."""
        rows = _pack(waypoints)
        if self.pause_ticks:
            for row in rows:
                if row[_GRIPPER] and row[_GRIPPER] != command:
                    command, row[_KEYFRAME] = row[_GRIPPER], 1.0
                    row[_DWELL] = max(row[_DWELL], GRIP_TICKS)
        return rows

    def _replan(self) -> None:
        row = self._path[self._index]
        new = self._env.task.replan(int(row[9]), row[:3])
        if new is not None:
            self._start(new)

    def _dwelling(self) -> bool:
        """Whether the hand has arrived somewhere and still has to stay."""
        row = self._path[self._index]
        pausing = self.pause_ticks and row[_KEYFRAME] and not self._finished
        return self._dwelt > 0 and bool(pausing or self._dwelt <= row[_DWELL])

    def _pausing(self, row: np.ndarray) -> bool:
        """Counts this tick's rest; returns whether to wait longer because something moves."""
        if not (self.pause_ticks and row[_KEYFRAME]) or self._finished:
            return False
        self._rested = self._rested + 1 if self._resting() else 0
        waited = self._dwelt > row[_DWELL] + self.pause_ticks
        return self._rested < REST_TICKS and not waited

    def _resting(self) -> bool:
        (pos, quat, opening), (pos_before, quat_before, opening_before) = (
            self._hand,
            self._hand_before,
        )
        turned_rad = 2 * np.arccos(min(abs(float(quat @ quat_before)), 1.0))
        return bool(
            np.linalg.norm(pos - pos_before) < REST_M_S / CONTROL_HZ
            and turned_rad < REST_RAD_S / CONTROL_HZ
            and abs(opening - opening_before) < REST_OPENING
        )

    def _advance(self) -> None:
        """Moves on from waypoints that have been reached and dwelt at."""
        scene = self._env.scene
        while True:
            row = self._path[self._index]
            near = np.linalg.norm(row[:3] - scene.eef_pos()) <= row[5]
            turned = np.linalg.norm(self._rotation_to(row[_YAW], scene.eef_quat())) <= 0.15
            if not (near and turned) and not self._dwelt:
                return
            self._dwelt += 1
            if self._pausing(row) or self._dwelt <= row[_DWELL]:
                return
            if row[_KEYFRAME] and not self._finished:
                self.keyframe_label = True
            if self._index + 1 == len(self._path):
                self._finished = True
                return
            self._index, self._dwelt, self._rested = self._index + 1, 0, 0

    def _towards(self, row: np.ndarray) -> np.ndarray:
        controller = self._env.controller
        action = np.zeros(ACTION_SIZE)
        move = (row[:3] - controller.reference_pos()) / POS_PER_UNIT_M
        length = np.linalg.norm(move)
        fastest = min(1.0, row[7] * POS_PER_UNIT_M / controller.step_m_per_unit)
        share = BRAKE if self.pause_ticks and row[_KEYFRAME] else 1.0
        action[:3] = move * min(share, fastest / length) if length > 0 else 0.0
        turn = self._rotation_to(row[_YAW], controller.reference_quat()) / ROT_PER_UNIT_RAD
        length = np.linalg.norm(turn)
        action[3:6] = turn * min(1.0, 0.4 / length) if length > 0 else 0.0
        # While moving, the gripper keeps what the last waypoint asked for; it changes only
        # once the hand has arrived.
        at_once = not self.pause_ticks and (self._index == 0 or row[_DWELL] == 0)
        if row[_GRIPPER] and (self._dwelt or at_once):
            self._gripper = row[_GRIPPER]
        action[6] = self._gripper
        return np.clip(action, -1, 1).astype(np.float32)

    @staticmethod
    def _rotation_to(yaw_rad: float, quat_wxyz: np.ndarray) -> np.ndarray:
        """Returns the world rotation vector from `quat_wxyz` to the downward hand at a yaw."""
        inverse, difference, vector = np.empty(4), np.empty(4), np.empty(3)
        mujoco.mju_negQuat(inverse, quat_wxyz)
        mujoco.mju_mulQuat(difference, _goal_quat(yaw_rad), inverse)
        mujoco.mju_quat2Vel(vector, difference, 1.0)
        return vector

    def perturb(self, action: np.ndarray) -> np.ndarray:
        """Returns what to execute for a clean `action`: with noise and bursts, in [-1, 1]."""
        if self.noise <= 0 or self._env.task.held:
            return np.asarray(action, np.float32)
        if self.pause_ticks and self._leg and self._dwelling():
            self._burst_left = self._detour_left = 0
            return np.asarray(action, np.float32)
        scale = np.array([0.12, 0.12, 0.12, 0.03, 0.03, 0.03, 0.05]) * self.noise
        noisy = np.asarray(action, np.float64) + scale * self._rng.standard_normal(ACTION_SIZE)
        start = self._rng.random() < 0.03 * self.noise
        push, length = self._rng.standard_normal(3), int(self._rng.integers(4, 9))
        if self._dwelt:
            # No push while the gripper opens or closes: what drops then is lost for good.
            self._burst_left, start = 0, False
        if self._burst_left == 0 and start:
            self._burst[:3] = 0.5 * push / np.linalg.norm(push)
            self._burst_left = length
        if self._burst_left:
            noisy += self._burst
            self._burst_left -= 1
        self._stray(noisy)
        return np.clip(noisy, -1, 1).astype(np.float32)

    def _stray(self, noisy: np.ndarray) -> None:
        """Now and then leads a hand that touches nothing to a random place, in `noisy`."""
        start = self._rng.random() < DETOUR_RATE * self.noise
        place, length = self._rng.uniform(*DETOUR_BOX_M), int(self._rng.integers(6, 17))
        if self._dwelt or self._touching:
            self._detour_left = 0
            return
        if self._detour_left == 0 and start and self._detours < DETOURS:
            self._detours += 1
            self._detour[:] = place
            self._detour_left = length
        if self._detour_left:
            move = (self._detour - self._env.controller.reference_pos()) / POS_PER_UNIT_M
            noisy[:3] = move * min(1.0, 0.4 / max(float(np.linalg.norm(move)), 1e-9))
            self._detour_left -= 1

    def state(self) -> dict[str, Any]:
        """Returns a snapshot for :meth:`restore`, so that the expert can be rolled out ahead."""
        return {
            "path": self._path.copy(),
            "index": self._index,
            "dwelt": self._dwelt,
            "rested": self._rested,
            "hand": (self._hand_before, self._hand),
            "finished": self._finished,
            "leg": self._leg,
            "burst": self._burst.copy(),
            "burst_left": self._burst_left,
            "detour": self._detour.copy(),
            "detour_left": self._detour_left,
            "detours": self._detours,
            "touching": self._touching,
            "gripper": self._gripper,
            "rng": self._rng.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Puts back a snapshot of :meth:`state`."""
        self._path = state["path"].copy()
        self._index, self._dwelt = state["index"], state["dwelt"]
        self._rested, self._finished = state["rested"], state["finished"]
        self._hand_before, self._hand = state["hand"]
        self._leg = state["leg"]
        self._burst[:] = state["burst"]
        self._burst_left = state["burst_left"]
        self._detour[:] = state["detour"]
        self._detour_left, self._detours = state["detour_left"], state["detours"]
        self._touching = state["touching"]
        self._gripper = state["gripper"]
        self._rng.bit_generator.state = state["rng"]
