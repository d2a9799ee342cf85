"""Keyframes of a demonstration: those its motion shows, and those its script marked.

The heuristic knows nothing of the script. It reads what every episode stores: the fingers'
opening, the gripper's command and the hand's position. So data without a script (a person's, a
robot's) can be cut into keyframes too, and a script's own can be checked.

A frame is a control tick at which the arm acts. Frames between two gates or holds are a
demonstration of their own: the gate puts the arm elsewhere.

Shape letters: F frames of a stretch, T control ticks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from embodied.data.goals import GRIPPER

APART = 5
"""Frames from one stop to the next, at least. Source: keyframe discovery of C2F-ARM and PerAct,
as RVT and SAM2Act use it."""

ADJACENT = 2
"""A last frame within so many of the keyframe before replaces it; one in the source."""

STOP_M_S = 0.03
"""A hand slower than this has stopped. In the source every joint is slower than 0.1 rad/s; joint
speeds aren't stored here, so a hand that turns on the spot counts as stopped too."""

OPEN_ABOVE = 0.9
"""Fingers opened further than this are open. Source: RLBench."""

RESTING = 0.01
"""Fingers whose opening changes by less than this in a tick rest."""

CONTROL = ("gripper_opening", "action", "eef_pos_world_m", "held", "gate", "decision")
"""Control arrays that `heuristic_keyframes` and `script_keyframes` read."""


def discover(opening: np.ndarray, command: np.ndarray, speed_m_s: np.ndarray) -> np.ndarray:
    """Finds the keyframes of one stretch of motion that begins at rest.

    A frame after the first is one if the gripper's state has changed, if the hand has stopped,
    or if it is the last. *Stopped* is a slow hand whose gripper is not busy from two frames
    before to one after, not at the second-to-last frame, and at least five frames after the last
    keyframe. A last frame within two of the keyframe before replaces it.

    Where this differs from the source, it is because fingers here take four to ten frames, during
    which the hand rests, against one or two there, and an outcome latches a few frames after the
    motion that decides it. So a gripper's change counts when the fingers have come to rest, the
    five frames count from it as from a stop, and a last keyframe is adjacent within two frames,
    not one.

    Args:
      opening: float [F]; the fingers' opening, 0 closed to 1 open.
      command: float [F]; the gripper's command, above 0 to close.
      speed_m_s: float [F]; the hand's speed as it arrives at each frame.

    Returns:
      int64 [n] indices of the keyframes, rising, in 1..F-1; empty for fewer than two frames.

    Source: the heuristic of C2F-ARM (James et al. 2022) and PerAct (Shridhar et al. 2022).
    """
    count = len(opening)
    closed = _closed(opening)
    busy = closed != (np.asarray(command) > 0)
    busy[1:] |= closed[1:] != closed[:-1]
    slow = np.asarray(speed_m_s) < STOP_M_S
    found: list[int] = []
    recent = 0  # the stretch begins with a stop
    for i in range(1, count):
        last = i == count - 1
        changed = closed[i] != closed[i - 1]
        free = i < count - 2 and not busy[max(i - 2, 0) : i + 2].any()
        if changed or last or (slow[i] and free and i - recent >= APART):
            found.append(i)
            recent = i
    if len(found) > 1 and found[-1] - found[-2] <= ADJACENT:
        del found[-2]
    return np.asarray(found, np.int64)


def heuristic_keyframes(control: Mapping[str, np.ndarray], control_hz: float) -> np.ndarray:
    """Finds the keyframes of an episode by `discover`, stretch by stretch.

    Args:
      control: The episode's control arrays; see `CONTROL`.
      control_hz: Control ticks a second.

    Returns:
      int64 [n] control ticks, rising. Ticks at which the arm is held are never among them.
    """
    pos = np.asarray(control["eef_pos_world_m"], np.float64)
    opening, command = control["gripper_opening"], control["action"][:, GRIPPER]
    found = [np.zeros(0, np.int64)]
    for start, end in stretches(control):
        span = slice(start, end)
        steps = np.linalg.norm(np.diff(pos[span], axis=0), axis=1)
        speed = np.concatenate(([0.0], steps * control_hz))
        found.append(start + discover(opening[span], command[span], speed))
    return np.concatenate(found)


def script_keyframes(control: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the keyframes that the demonstrator marked, with the ends of its stretches.

    What ends a stretch (a press, a touch, a release) is a keyframe that nobody is left to mark. A
    demonstrator that pauses marks a keyframe only if another one follows, so it is never marked
    twice.

    Args:
      control: The episode's control arrays; see `CONTROL`.

    Returns:
      int64 [n] control ticks, rising.
    """
    found: list[int] = []
    for start, end in stretches(control):
        marked = start + np.flatnonzero(control["decision"][start:end])
        found += [int(tick) for tick in marked if tick < end - 1]
        found.append(end - 1)
    return np.asarray(found, np.int64)


def stretches(control: Mapping[str, np.ndarray]) -> Iterator[tuple[int, int]]:
    """Yields first tick and tick after the last of each stretch in which the arm acts."""
    held, gate = np.asarray(control["held"], bool), np.asarray(control["gate"], bool)
    border = gate.copy()
    border[1:] |= held[1:] != held[:-1]
    border[:1] = True
    starts = np.flatnonzero(border).tolist()
    for start, end in zip(starts, [*starts[1:], len(held)], strict=True):
        if not held[start]:
            yield start, end


def _closed(opening: np.ndarray) -> np.ndarray:
    """Returns bool [F]: the gripper's state, which changes once the fingers have come to rest."""
    opening = np.asarray(opening, np.float64)
    closed = opening < OPEN_ABOVE
    moving = np.abs(np.diff(opening, prepend=opening[:1])) >= RESTING
    for i in range(1, len(closed)):
        if moving[i]:
            closed[i] = closed[i - 1]
    return closed
