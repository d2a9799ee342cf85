"""Actions that are whole numbers: the check and the expert of all environments that take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class Chooser:
    """An expert that chooses what is right, and now and then something at random.

    Args:
      right: Returns the number of the right choice now.
      size: How many choices there are.
      seed: Seed of the noise.
      noise: Share of random choices in [0, 1].
    """

    def __init__(self, right: Callable[[], int], size: int, seed: int, noise: float) -> None:
        self._right, self._size, self._seed, self._noise = right, size, seed, float(noise)
        self.reset()

    def reset(self) -> None:
        """Starts the noise anew."""
        self._rng = np.random.Generator(np.random.PCG64(self._seed))

    def act(self) -> int:
        """Returns the right choice."""
        return self._right()

    def perturb(self, action: int) -> int:
        """Returns `action`, or a random one."""
        random = int(self._rng.integers(self._size))
        return random if self._rng.random() < self._noise else action
