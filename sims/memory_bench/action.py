"""What an action is, for every controller."""

from __future__ import annotations

import numpy as np

from embodied.core.errors import ActionError

CONTROL_HZ = 20
"""Control ticks a second; one action is executed in each."""

ACTION_NAMES = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
"""Hand displacement and rotation vector in world axes, then the gripper (-1 open, +1 close)."""
ACTION_SIZE = len(ACTION_NAMES)

POS_PER_UNIT_M = 0.05
ROT_PER_UNIT_RAD = 0.5


def check_action(action: np.ndarray) -> np.ndarray:
    """Returns `action` as float64 [7] clipped to [-1, 1].

    Raises:
      ActionError: For a wrong shape, NaN, or an element beyond [-1, 1] by more than 1e-6.
    """
    action = np.asarray(action, np.float64)
    if action.shape != (ACTION_SIZE,):
        raise ActionError(
            f"action: expected shape ({ACTION_SIZE},) = {', '.join(ACTION_NAMES)}, "
            f"got {action.shape}"
        )
    worst = np.abs(action).max()
    if not worst <= 1.0 + 1e-6:  # also catches NaN
        if not np.isfinite(action).all():
            raise ActionError(f"action: expected finite numbers, got {action.tolist()}")
        name = ACTION_NAMES[int(np.abs(action).argmax())]
        raise ActionError(
            f"action: expected every element in [-1, 1], got {name}={worst:g} in size; "
            "clip or rescale it before step()"
        )
    return np.clip(action, -1.0, 1.0)
