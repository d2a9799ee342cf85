"""Actions that are whole numbers: one check for every environment that takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embodied.core.errors import ActionError


def check_choices(
    actions: np.ndarray,
    shape: tuple[int, ...],
    names: Sequence[str],
    task: str,
    active: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the actions as int64.

    Args:
      actions: What was given.
      shape: Shape that they must have.
      names: Of what can be chosen.
      task: Name of the task, for messages.
      active: bool [n], rows whose actions must be in range; None for all.

    Raises:
      ActionError: For another shape, no whole numbers, or a number out of range.
    """
    size = len(names)
    if actions.shape != shape or actions.dtype.kind not in "iu":
        raise ActionError(
            f"actions of {task}: expected whole numbers of shape {shape}, got "
            f"{actions.dtype}{list(actions.shape)}; send the number of an action, 0 to {size - 1}"
        )
    actions = actions.astype(np.int64)
    bad = (actions < 0) | (actions >= size)
    if active is not None:
        bad &= active
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ActionError(
            f"action of row {row} of {task}: expected 0 to {size - 1} ({', '.join(names)}), got "
            f"{int(np.ravel(actions)[row])}"
        )
    return actions
