"""How a hand is moved from one pose to another by displacements, from observations alone.

numpy only. Shape letters: B rows. Positions are in metres, rotations are rotation vectors in
radians, both in world axes; quaternions are xyzw.

Robots mean two things by a displacement. Some add it to a *commanded* pose, which the hand follows
within a few ticks: what is asked adds up, whether the hand is there yet or not. Others set a goal
from the *achieved* pose at every tick: what was not reached within the tick is forgotten, so the
hand moves much less than it is asked to, and a load holds it off its goal. `Servo` tells them
apart by how far a freely moving hand goes for what it is asked: all of it, or about a quarter.
"""

from __future__ import annotations

import numpy as np

FORGETS = 0.45
"""A hand that moves less than this share of what it is asked adds displacements to where it is."""

# Commanded pose: what is asked for is what is still missing from the command. At rest, this share
# a tick of the difference between command and hand is taken to be an error of our own reckoning.
_DRIFT = 0.5
_LEAD_UNITS = 1.6  # controllers don't let a command run further ahead of a hand that is held

# Achieved pose. Its velocity follows the action with a lag of about two ticks and a gain of about
# 0.26, for which these are near critical: gain, share of the last tick's motion that is expected
# to come on top, and (close to the goal) the rate of an integral against loads, with its limit.
_GAIN, _COAST, _PUSH_RATE, _PUSH_UNITS = 2.0, 1.0, 0.1, 0.6

# Listening to how far the hand goes: lag of the comparison, rate and least value of the estimate,
# and how much must be asked for and moved, in shares of the speed, for a tick to say anything.
_LAG, _RATE, _LEAST, _ASKED, _MOVED = 0.5, 0.3, 0.25, 0.5, 0.1


def normalized(quat: np.ndarray) -> np.ndarray:
    """Returns quaternions [B, 4] at length 1; zeros become the identity."""
    length = np.sqrt((quat * quat).sum(-1, keepdims=True))
    identity = np.array([0.0, 0.0, 0.0, 1.0])
    return np.where(length > 1e-6, quat / np.maximum(length, 1e-6), identity)


def rotation_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the shortest rotation vector [B, 3] in world axes that turns `start` to `end`.

    Args:
      start: Unit quaternions xyzw [B, 4].
      end: Unit quaternions xyzw [B, 4].
    """
    a, b = end[:, :3], -start[:, :3]  # end times the conjugate of start
    w = end[:, 3:] * start[:, 3:] - (a * b).sum(-1, keepdims=True)
    vector = end[:, 3:] * b + start[:, 3:] * a + np.cross(a, b)
    sign = np.where(w < 0, -1.0, 1.0)
    sine = np.sqrt((vector * vector).sum(-1, keepdims=True))
    angle = 2.0 * np.arctan2(sine, w * sign)
    return sign * vector * np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0)


def length(vector: np.ndarray) -> np.ndarray:
    """Returns the lengths [B] of vectors [B, 3]."""
    return np.sqrt((vector * vector).sum(-1))


def plan(
    start: np.ndarray, goal: np.ndarray, lifted: np.ndarray, clearance_m: float, high_m: float
) -> np.ndarray:
    """Returns the ends of a path's three legs, float64 [B, 3, 3]: up, across, to the goal.

    Args:
      start: Positions [B, 3].
      goal: Positions [B, 3].
      lifted: bool [B]; the others go straight: all their legs end at the goal.
      clearance_m: A lifted path crosses so high above its higher end.
      high_m: But no higher than this, unless an end is.
    """
    higher = np.maximum(start[:, 2], goal[:, 2])
    height = np.maximum(higher, np.minimum(higher + clearance_m, high_m))
    up, across = start.copy(), goal.copy()
    up[:, 2] = across[:, 2] = height
    path = np.stack((up, across, goal), 1)
    return np.where(lifted[:, None, None], path, goal[:, None])


class Servo:
    """Drives B three-vectors (positions, or rotations) to rest where their error is zero.

    Args:
      batch: B.
      per_unit: What an action element of 1 asks for, in metres or radians.

    Attributes:
      reply: float64 [B]; the share of what it is asked that a freely moving hand moves.
    """

    def __init__(self, batch: int, per_unit: float) -> None:
        self.per_unit = per_unit
        self.reply, self.asked = np.ones(batch), np.zeros(batch)
        self.lead = np.zeros((batch, 3))  # reckoned: command minus hand
        self.push = np.zeros((batch, 3))

    def clear(self, rows: np.ndarray) -> None:
        """Forgets all about `rows`, what was measured included; their hands rest."""
        self.reply[rows] = 1.0
        self.asked[rows] = 0.0
        self.lead[rows] = self.push[rows] = 0.0

    def start(self, rows: np.ndarray) -> None:
        """Begins a new path in `rows`, wherever the last one ended."""
        self.push[rows] = 0.0

    def forgets(self) -> np.ndarray:
        """Returns bool [B]: whether displacements are added to where the hand is."""
        return self.reply < FORGETS

    def drive(
        self,
        error: np.ndarray,
        moved: np.ndarray,
        step: np.ndarray,
        resting: np.ndarray,
        rows: np.ndarray,
        forgets: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the next action [B, 3], of length at most 1; call once a tick.

        Args:
          error: What is left to go [B, 3].
          moved: How far the hand went since the last call [B, 3].
          step: The most to go in a tick [B].
          resting: bool [B]; rows that have come to rest, at their goal or short of it.
          rows: bool [B]; rows that are driven; the others are left as they are.
          forgets: bool [B] or None; what another servo of the same robot has found out.
        """
        self._listen(length(moved), step, rows)
        known = self.forgets() if forgets is None else self.forgets() | forgets
        lead = self.lead - moved
        lead = np.where(resting[:, None], (1 - _DRIFT) * lead, lead)
        most = np.minimum(step / (self.per_unit * self.reply), 1.0)
        slow = _GAIN * (error - _COAST * moved) + self._leaned(error, moved, most, rows)
        action = np.where(known[:, None], slow, error - lead) / self.per_unit
        action *= np.minimum(most / np.maximum(length(action), 1e-9), 1.0)[:, None]
        self.lead = np.where(rows[:, None], self._bounded(lead, action), self.lead)
        asked = _LAG * self.asked + (1 - _LAG) * length(action) * self.per_unit
        self.asked = np.where(rows, asked, self.asked)
        return action

    def _bounded(self, lead: np.ndarray, action: np.ndarray) -> np.ndarray:
        lead = lead + action * self.per_unit
        most = _LEAD_UNITS * self.per_unit
        return lead * np.minimum(most / np.maximum(length(lead), 1e-9), 1.0)[:, None]

    def _listen(self, moved: np.ndarray, step: np.ndarray, rows: np.ndarray) -> None:
        """Compares what was asked with what came of it, where a tick says anything.

        A hand that something holds says nothing: it hardly moves.
        """
        telling = rows & (self.asked > _ASKED * step) & (moved > _MOVED * step)
        heard = np.clip(moved / np.maximum(self.asked, 1e-9), _LEAST, 1.0)
        self.reply = np.where(telling, self.reply + _RATE * (heard - self.reply), self.reply)

    def _leaned(
        self, error: np.ndarray, moved: np.ndarray, most: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Integrates small errors into the push [B, 3], but none that the speed limit leaves."""
        limit = _PUSH_UNITS * self.per_unit
        asks = length(_GAIN * (error - _COAST * moved) + self.push) / self.per_unit
        rate = np.where(asks < most, _PUSH_RATE, 0.0)[:, None]
        push = np.clip(self.push + rate * error, -limit, limit)
        push = np.where((length(error) < limit)[:, None], push, 0.0)
        self.push = np.where(rows[:, None], push, self.push)
        return self.push
