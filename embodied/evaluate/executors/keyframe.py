"""Drives the hand to keyframes: a pose, a gripper state and how to get there.

Shape letters: B rows.
"""

from __future__ import annotations

import numpy as np

from embodied.core.errors import ActionError, ConfigError, SpecMismatch
from embodied.core.specs import KEYFRAME, PolicySpec
from embodied.evaluate.executors.base import Executor, Observation, check_answer
from embodied.evaluate.executors.config import KeyframeConfig
from embodied.evaluate.executors.motion import (
    Servo,
    length,
    normalized,
    plan,
    rotation_between,
)

KEYFRAME_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper", "ignore_collision")
"""Grip point in the world in metres, its orientation xyzw, the gripper after it (-1 open, +1
close), and whether the hand may go there straight (1) or over a lifted path (0)."""

REACHED, CONTACT, STALLED, TIMEOUT, CLIPPED = OUTCOMES = (
    "reached",
    "contact",
    "stalled",
    "timeout",
    "clipped",
)
"""What became of keyframes: the pose was reached; something stopped the hand close to it, as a
button does; something stopped it elsewhere; time ran out. ``clipped`` counts those whose position
lay outside the workspace, whatever became of them then."""

READS = ("eef_pos_world_m", "eef_quat_xyzw", "gripper_opening")
ACTION_SIZE = 7

_IDLE, _MOVE, _GRIP, _DONE = range(4)
_LAST = 2  # the leg that ends at the keyframe
_VIA_M, _VIA_RAD = 0.012, 0.15  # how exactly a lifted path's corners are passed
_LEVEL_M = 0.02  # a path that goes less far sideways needs no lift
_CLOSES, _STRAIGHT = 0.0, 0.5
# Fingers, in shares of their travel: resting in a tick, having moved, and how near an end is it.
_STILL, _MOVED, _END = 0.02, 0.05, 0.05


class KeyframeExecutor(Executor):
    """Moves each row's hand to its newest keyframe and says when it is there, or cannot get there.

    On the way the gripper keeps its last command (at first none, which leaves the fingers as they
    are). Once the hand rests at the pose the gripper changes, and the keyframe ends when the
    fingers rest too. A row without an answer stands still and asks for one as soon as it is
    asked to act. Everything is read from observations, and what is done in a row depends on no
    other row.

    Args:
      spec: The policy's spec: one keyframe an answer.
      batch: B.
      config: How the hand is driven.
    """

    def __init__(self, spec: PolicySpec, batch: int, config: KeyframeConfig) -> None:
        action = spec.action
        expected = (KEYFRAME, len(KEYFRAME_NAMES), 1)
        if (action.kind, action.size, action.horizon) != expected:
            raise ConfigError(
                f"the keyframe executor runs one {KEYFRAME} of {expected[1]} numbers "
                f"({', '.join(KEYFRAME_NAMES)}) an answer; the policy answers "
                f"{action.horizon} x {action.size} of kind {action.kind!r}"
            )
        self.config, self.batch = config, batch
        self.tick_s = 1.0 / spec.control_hz
        self.limit = max(1, round(config.limit_s * spec.control_hz))
        self.grip_limit = round(config.grip_s * spec.control_hz)
        self.hand = Servo(batch, config.pos_per_unit_m)
        self.wrist = Servo(batch, config.rot_per_unit_rad)
        self.counts = np.zeros((batch, len(OUTCOMES)), np.int64)

        self.stage = np.full(batch, _IDLE)
        self.path = np.zeros((batch, 3, 3))
        self.leg = np.full(batch, _LAST)
        self.goal_quat = np.tile([0.0, 0.0, 0.0, 1.0], (batch, 1))
        self.goal_gripper, self.gripper = np.zeros(batch), np.zeros(batch)
        self.ticks, self.rest = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        self.grip_ticks, self.grip_rest = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        self.grip_start, self.grip_moved = np.zeros(batch), np.zeros(batch, bool)
        self.by_contact = np.zeros(batch, bool)
        self.stepped = np.zeros(batch, bool)  # acted since `decisions` looked last
        self.asks = np.zeros(batch, bool)
        self.last_pos, self.last_quat = np.zeros((batch, 3)), self.goal_quat.copy()
        self.last_opening = np.zeros(batch)

    def clear(self, rows: np.ndarray) -> None:
        self.stage[rows] = _IDLE
        self.gripper[rows] = 0.0
        self.asks[rows] = self.stepped[rows] = False
        self.hand.clear(rows)
        self.wrist.clear(rows)

    def tally(self, row: int) -> dict[str, int]:
        counts = {name: int(n) for name, n in zip(OUTCOMES, self.counts[row], strict=True)}
        self.counts[row] = 0
        return counts

    # -- answers --------------------------------------------------------------------------

    def accept(self, chunk: np.ndarray, rows: np.ndarray, observation: Observation) -> None:
        self._check(chunk, rows)
        target = np.where(rows[:, None], chunk[:, 0], 0.0).astype(np.float64)
        low, high = np.array(self.config.workspace_low_m), np.array(self.config.workspace_high_m)
        goal = np.clip(target[:, :3], low, high)
        self._count(CLIPPED, rows & (np.abs(goal - target[:, :3]) > 1e-6).any(1))
        pos, quat, opening = self._read(observation)
        sideways = np.hypot(*(goal - pos)[:, :2].T)
        lifted = (target[:, 8] < _STRAIGHT) & (sideways > _LEVEL_M)
        path = plan(pos, goal, lifted, self.config.clearance_m, high[2])

        fresh, new = rows & (self.stage == _IDLE), rows[:, None]
        self.path = np.where(new[:, :, None], path, self.path)
        self.leg = np.where(rows, np.where(lifted, 0, _LAST), self.leg)
        self.goal_quat = np.where(new, normalized(target[:, 3:7]), self.goal_quat)
        gripper = np.where(target[:, 7] >= _CLOSES, 1.0, -1.0)
        self.goal_gripper = np.where(rows, gripper, self.goal_gripper)
        self.stage[rows] = _MOVE
        for counter in (self.ticks, self.rest, self.grip_ticks, self.grip_rest):
            counter[rows] = 0
        self.by_contact[rows] = self.grip_moved[rows] = False
        self.stepped[rows] = self.asks[rows] = False
        self.hand.start(rows)
        self.wrist.start(rows)
        self._keep(pos, quat, opening, fresh)

    def _check(self, chunk: np.ndarray, rows: np.ndarray) -> None:
        check_answer(chunk, rows, (self.batch, 1, len(KEYFRAME_NAMES)))
        turned = (chunk[:, 0, 3:7] ** 2).sum(1) > 1e-6
        if (rows & ~turned).any():
            raise ActionError(
                f"the policy answered a quaternion of length 0 in row(s) "
                f"{np.flatnonzero(rows & ~turned).tolist()}; expected unit quaternions xyzw"
            )

    def _read(self, observation: Observation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns position [B, 3], unit quaternion [B, 4] and opening [B] of the hands, float64."""
        missing = [key for key in READS if key not in observation]
        if missing:
            raise SpecMismatch(
                f"keyframes are driven by {', '.join(READS)}; the environment does not give "
                f"{', '.join(missing)}"
            )
        pos, quat, opening = (np.array(observation[key], np.float64) for key in READS)
        return pos, normalized(quat), opening[:, 0]

    def _keep(
        self, pos: np.ndarray, quat: np.ndarray, opening: np.ndarray, rows: np.ndarray
    ) -> None:
        self.last_pos = np.where(rows[:, None], pos, self.last_pos)
        self.last_quat = np.where(rows[:, None], quat, self.last_quat)
        self.last_opening = np.where(rows, opening, self.last_opening)

    def _count(self, outcome: str, rows: np.ndarray) -> None:
        self.counts[:, OUTCOMES.index(outcome)] += rows

    # -- motion ---------------------------------------------------------------------------

    def act(self, observation: Observation, rows: np.ndarray) -> np.ndarray:
        moving = rows & ((self.stage == _MOVE) | (self.stage == _GRIP))
        self.asks |= rows & ~moving
        action = np.zeros((self.batch, ACTION_SIZE))
        if moving.any():
            pos, quat, opening = self._read(observation)
            turn = rotation_between(quat, self.goal_quat)
            self._next_leg(pos, turn, moving)
            rests = moving & (self.stage == _MOVE) & (self.rest > 0)
            action[:, :3] = self._drive_hand(pos, rests, moving)
            action[:, 3:6] = self._drive_wrist(quat, turn, rests, moving)
            action[~moving] = 0.0
            self._keep(pos, quat, opening, moving)
            self.ticks += moving
            self.stepped |= moving
        action[:, 6] = np.where(rows, self.gripper, 0.0)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _next_leg(self, pos: np.ndarray, turn: np.ndarray, moving: np.ndarray) -> None:
        """Passes the corners of lifted paths."""
        left = self._leg_end() - pos
        up = (self.leg == 0) & (left[:, 2] < _VIA_M)
        turned = length(turn) < _VIA_RAD
        across = (self.leg == 1) & (np.hypot(*left[:, :2].T) < _VIA_M) & turned
        self.leg += moving & (up | across)

    def _leg_end(self) -> np.ndarray:
        return self.path[np.arange(self.batch), self.leg]

    def _drive_hand(self, pos: np.ndarray, rests: np.ndarray, moving: np.ndarray) -> np.ndarray:
        error, config = self._leg_end() - pos, self.config
        ending = (self.leg == _LAST) & (length(error) < config.final_m)
        speed = np.where(ending, config.final_speed_m_s, config.speed_m_s)
        return self.hand.drive(error, pos - self.last_pos, speed * self.tick_s, rests, moving)

    def _drive_wrist(
        self, quat: np.ndarray, turn: np.ndarray, rests: np.ndarray, moving: np.ndarray
    ) -> np.ndarray:
        # Straight up first: what is turned down there may catch on something.
        left = np.where((self.leg > 0)[:, None], turn, 0.0)
        step = np.full(self.batch, self.config.turn_rad_s * self.tick_s)
        moved = rotation_between(self.last_quat, quat)
        return self.wrist.drive(left, moved, step, rests, moving, self.hand.forgets())

    # -- outcomes -------------------------------------------------------------------------

    def decisions(self, observation: Observation) -> np.ndarray:
        if self.stepped.any():
            pos, quat, opening = self._read(observation)
            moved, gripped = (self.stepped & (self.stage == stage) for stage in (_MOVE, _GRIP))
            self._judge_motion(pos, quat, opening, moved)
            self._judge_fingers(opening, gripped)
            self.stepped[:] = False
        return self.asks | (self.stage == _DONE)

    def _judge_motion(
        self, pos: np.ndarray, quat: np.ndarray, opening: np.ndarray, rows: np.ndarray
    ) -> None:
        config = self.config
        still = length(pos - self.last_pos) < config.rest_m_s * self.tick_s
        turning = length(rotation_between(self.last_quat, quat))
        still &= turning < config.rest_rad_s * self.tick_s
        self.rest = np.where(rows, np.where(still, self.rest + 1, 0), self.rest)

        away_m = length(self.path[:, _LAST] - pos)
        away_rad = length(rotation_between(quat, self.goal_quat))
        there = (away_m < config.reach_m) & (away_rad < config.reach_rad)
        there &= rows & (self.leg == _LAST) & (self.rest >= config.settle_ticks)
        stuck = rows & ~there & (self.rest >= config.stall_ticks)
        touching = stuck & (self.leg == _LAST) & (away_m < config.near_m)
        late = rows & ~there & ~stuck & (self.ticks >= self.limit)
        self.by_contact |= touching

        arrived = there | touching
        changes = arrived & (self.goal_gripper != self.gripper)
        self.gripper = np.where(changes, self.goal_gripper, self.gripper)
        self.stage[changes] = _GRIP
        self.grip_start = np.where(changes, opening, self.grip_start)
        self._end(arrived & ~changes)
        self._fail(STALLED, stuck & ~touching)
        self._fail(TIMEOUT, late)

    def _judge_fingers(self, opening: np.ndarray, rows: np.ndarray) -> None:
        still = np.abs(opening - self.last_opening) < _STILL
        self.grip_ticks += rows
        self.grip_rest = np.where(rows, np.where(still, self.grip_rest + 1, 0), self.grip_rest)
        # A gripper may take a while to let go of what it presses on: fingers that have not moved
        # yet don't rest.
        self.grip_moved |= rows & (np.abs(opening - self.grip_start) > _MOVED)
        at_end = np.where(self.gripper > 0, opening < _END, opening > 1 - _END)
        over = self.grip_moved | at_end | (self.grip_ticks >= self.grip_limit)
        self._end(rows & over & (self.grip_rest >= self.config.settle_ticks))
        self._end(rows & (self.stage == _GRIP) & (self.ticks >= self.limit))

    def _end(self, rows: np.ndarray) -> None:
        self.stage[rows] = _DONE
        self._count(REACHED, rows & ~self.by_contact)
        self._count(CONTACT, rows & self.by_contact)

    def _fail(self, outcome: str, rows: np.ndarray) -> None:
        self.stage[rows] = _DONE
        self._count(outcome, rows)

    def soon(self) -> np.ndarray:
        rest = self.rest + 1 >= self.config.settle_ticks
        moved = (self.stage == _MOVE) & rest
        gripped = (self.stage == _GRIP) & (self.grip_rest + 1 >= self.config.settle_ticks)
        return self.asks | moved | gripped | (self.ticks >= self.limit)
