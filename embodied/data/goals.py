"""Hindsight goals: where the hand was at its next event, from the demonstration's own future."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

GRIPPER = 6
"""Index of the gripper command in an action."""


def hindsight_goals(
    control: Mapping[str, np.ndarray], ticks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each observation tick the hand's position at its next event.

    An event is a change of sign of the expert's gripper command, the end of the episode (where
    the commit is), or the last moment before a hold or a gate takes the arm over (a button
    pressed, say). Events count only within the tick's own stretch, so a goal never reaches over
    a gate, and ticks at which the arm is held have none. It is no privileged label: only the
    demonstration's recorded future goes in.

    Args:
      control: The episode's control arrays; reads ``expert_action`` [T, A], ``held``, ``gate``,
        ``phase`` [T] and ``eef_pos_world_m`` [T+1, 3].
      ticks: int64 [To] control ticks of the observations.

    Returns:
      ``goal_pos_world_m`` float32 [To, 3] (zeros where invalid) and ``goal_valid`` bool [To].
      The position is that of the observation at which the event's action starts.

    Source: FACTS of the pilot study ('hindsight goal'); our own, in the spirit of hindsight
    relabelling (Andrychowicz et al. 2017).
    """
    held = np.asarray(control["held"], bool)
    gate = np.asarray(control["gate"], bool)
    phase = np.asarray(control["phase"])
    command = np.asarray(control["expert_action"])[:, GRIPPER] > 0
    length = len(held)
    border = np.zeros(length + 1, bool)  # border[t]: a new stretch begins at tick t
    border[length] = True
    border[1:length] = gate[1:] | (held[1:] != held[:-1]) | (phase[1:] != phase[:-1])
    event = border.copy()
    event[1:length] |= command[1:] != command[:-1]
    # The observation after a border may be snapped; the hand's own last position is before it.
    at = np.arange(length + 1)
    at[:length] -= (border & event)[:length]
    upcoming = _next_true(event)
    goal = np.zeros((len(ticks), 3), np.float32)
    valid = ~held[ticks]
    goal[valid] = control["eef_pos_world_m"][at[upcoming[ticks[valid]]]]
    return goal, valid


def _next_true(flags: np.ndarray) -> np.ndarray:
    """Returns for each index the smallest larger index whose flag is True; the last is True."""
    upcoming = np.empty(len(flags), np.int64)
    following = len(flags) - 1
    for index in range(len(flags) - 1, -1, -1):
        upcoming[index] = following
        if flags[index]:
            following = index
    return upcoming
