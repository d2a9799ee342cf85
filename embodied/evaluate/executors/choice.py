"""The executor of discrete actions: the choice of one answer is the action of one tick.

Shape letters: B rows, A choices.
"""

from __future__ import annotations

import numpy as np

from embodied.core.specs import DISCRETE, PolicySpec
from embodied.evaluate.executors.base import Executor, Observation, check_answer


class ChoiceExecutor(Executor):
    """Sends the number of the choice that an answer names; number 0 where there is none.

    Args:
      spec: The policy's spec; its action is discrete.
      batch: B.
    """

    def __init__(self, spec: PolicySpec, batch: int) -> None:
        assert spec.action.kind == DISCRETE, spec.action.kind
        self.size, self.batch = spec.action.size, batch
        self.choice = np.zeros(batch, np.int64)

    def clear(self, rows: np.ndarray) -> None:
        self.choice[rows] = 0

    def accept(self, chunk: np.ndarray, rows: np.ndarray, observation: Observation) -> None:
        check_answer(chunk, rows, (self.batch, 1, self.size))
        self.choice[rows] = chunk[rows, 0].argmax(axis=-1)

    def act(self, observation: Observation, rows: np.ndarray) -> np.ndarray:
        return np.where(rows, self.choice, 0)

    def decisions(self, observation: Observation) -> np.ndarray:
        return np.ones(self.batch, bool)

    def soon(self) -> np.ndarray:
        return np.ones(self.batch, bool)
