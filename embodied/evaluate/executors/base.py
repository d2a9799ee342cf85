"""What every executor does, and when it is called."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import numpy as np

from embodied.core.errors import ActionError

Observation = Mapping[str, np.ndarray]


def check_answer(chunk: np.ndarray, rows: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Refuses answers of another shape [B, K, A], or that are not finite in `rows`.

    Raises:
      ActionError: Naming both shapes, or the rows.
    """
    if chunk.shape != shape:
        raise ActionError(
            f"expected an action chunk of shape {list(shape)}, got {list(chunk.shape)}"
        )
    if not np.isfinite(chunk[rows]).all():
        bad = [int(r) for r in np.flatnonzero(rows) if not np.isfinite(chunk[r]).all()]
        raise ActionError(
            f"the policy answered NaN or infinity in row(s) {bad}; "
            "its weights or its observations are broken"
        )


class Executor(abc.ABC):
    """Base of every executor; one object serves all B rows.

    Order of calls at a control tick: `clear` (gates, holds, new episodes), `accept` for rows
    whose policy answered, `act` for rows that move. `decisions` is asked after the control
    tick, with the new observation.
    """

    @abc.abstractmethod
    def clear(self, rows: np.ndarray) -> None:
        """Forgets everything about the rows in `rows` (bool [B])."""

    @abc.abstractmethod
    def accept(self, chunk: np.ndarray, rows: np.ndarray, observation: Observation) -> None:
        """Takes a policy's answer.

        Args:
          chunk: float32 [B, K, A]; rows outside `rows` are ignored.
          rows: bool [B]; rows whose policy answered at this tick.
          observation: Key -> [B, ...], the observation the answer belongs to.

        Raises:
          ActionError: If an answer of `rows` is not finite or has another shape.
        """

    def skip(self, rows: np.ndarray, ticks: int) -> None:  # noqa: B027  (a default)
        """Lets the first `ticks` actions of the newest answer of `rows` pass undone: it was late.

        Nothing where answers are not tied to control ticks, as by default.
        """

    @abc.abstractmethod
    def act(self, observation: Observation, rows: np.ndarray) -> np.ndarray:
        """Returns float32 [B, A]: the action of this control tick; zeros outside `rows`."""

    @abc.abstractmethod
    def decisions(self, observation: Observation) -> np.ndarray:
        """Returns bool [B]: rows that need a new answer (reached, failed or used up).

        Only policies that observe on decisions depend on it.
        """

    @abc.abstractmethod
    def soon(self) -> np.ndarray:
        """Returns bool [B]: rows that `decisions` may name after the tick `act` answered for.

        No other row needs a picture of that tick. Asked after `act`.
        """

    def tally(self, row: int) -> dict[str, int] | None:
        """Returns how often what happened to answers in `row`, and starts counting anew.

        None where nothing is counted.
        """
        return None
