"""Executors of action chunks: run the newest one, or blend those that overlap.

Shape letters: B rows, K actions in a chunk, A action size, H chunks kept for ensembling.
"""

from __future__ import annotations

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.specs import EE_DELTA_CHUNK, PolicySpec
from embodied.core.ticks import PERIOD, period_ticks
from embodied.evaluate.executors.base import Executor, Observation, check_answer
from embodied.evaluate.executors.config import ENSEMBLE, PREFIX


class ChunkExecutor(Executor):
    """What chunk executors share: the answer's check, limits, gripper, and standing still.

    Args:
      spec: The policy's spec; K and A come from ``spec.action``.
      batch: B.
      gripper: See ExecutorConfig.

    A row without a valid answer stands still: zero motion, the gripper's last command.
    """

    def __init__(self, spec: PolicySpec, batch: int, gripper: str) -> None:
        if spec.action.kind != EE_DELTA_CHUNK:
            raise ConfigError(
                f"chunk executors run {EE_DELTA_CHUNK} actions (standing still is zero in them); "
                f"the policy answers {spec.action.kind!r}"
            )
        self.horizon, self.size, self.batch = spec.action.horizon, spec.action.size, batch
        self.low, self.high = spec.action.low, spec.action.high
        self.binary_gripper = gripper == "binary"
        self.steps = self.horizon
        if spec.observe_on == PERIOD:
            self.steps = period_ticks(spec.observe_period_s, spec.control_hz)
        if self.horizon < self.steps:
            raise ConfigError(
                f"the policy answers {self.horizon} actions but observes every {self.steps} "
                "control ticks, so the arm would run out of actions; "
                "raise the chunk's horizon or lower observe_period_s"
            )
        self.last_gripper = np.zeros(batch, np.float32)

    def clear(self, rows: np.ndarray) -> None:
        self.last_gripper[rows] = 0.0

    def check(self, chunk: np.ndarray, rows: np.ndarray) -> None:
        """Raises ActionError unless the answers of `rows` are finite and of shape [B, K, A]."""
        check_answer(chunk, rows, (self.batch, self.horizon, self.size))

    def finish(self, actions: np.ndarray, ready: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Applies limits and gripper to raw `actions` [B, A]; `ready` rows have an answer."""
        actions = np.clip(actions, self.low, self.high).astype(np.float32)
        if self.binary_gripper:
            actions[:, -1] = np.where(actions[:, -1] >= 0, self.high, self.low)
        moving = ready & rows
        self.last_gripper = np.where(moving, actions[:, -1], self.last_gripper)
        actions = np.where(moving[:, None], actions, np.float32(0))
        actions[:, -1] = np.where(rows, self.last_gripper, 0.0)
        return actions


class ChunkPrefix(ChunkExecutor):
    """Executes the first actions of the newest chunk until the next answer.

    Under ``observe_on="period"`` that is one period of actions, under ``"decision"`` the
    whole chunk, whose end is the decision.
    """

    def __init__(self, spec: PolicySpec, batch: int, gripper: str = "binary") -> None:
        super().__init__(spec, batch, gripper)
        self.chunk = np.zeros((batch, self.horizon, self.size), np.float32)
        self.age = np.full(batch, self.horizon, np.int64)

    def clear(self, rows: np.ndarray) -> None:
        super().clear(rows)
        self.age[rows] = self.horizon

    def accept(self, chunk: np.ndarray, rows: np.ndarray, observation: Observation) -> None:
        self.check(chunk, rows)
        self.chunk[rows] = chunk[rows]
        self.age[rows] = 0

    def skip(self, rows: np.ndarray, ticks: int) -> None:
        self.age[rows] = np.minimum(self.age[rows] + ticks, self.horizon)

    def act(self, observation: Observation, rows: np.ndarray) -> np.ndarray:
        ready = self.age < self.steps
        index = np.minimum(self.age, self.horizon - 1)
        actions = self.chunk[np.arange(self.batch), index]
        self.age = np.where(rows, np.minimum(self.age + 1, self.horizon), self.age)
        return self.finish(actions, ready, rows)

    def decisions(self, observation: Observation) -> np.ndarray:
        return self.age >= self.steps

    def soon(self) -> np.ndarray:
        return self.age >= self.steps


class ChunkEnsemble(ChunkExecutor):
    """Blends what the newest H chunks say about this control tick.

    Each prediction weighs ``exp(alpha * cos(prediction, newest prediction))``, normalised over
    the predictions that exist. The cosine is over the whole action, gripper included; a
    binary gripper is thresholded after blending.

    Chunks must be longer than the time between two answers, or there is nothing to blend.

    Source: MemoryVLA, adaptive action ensembling (there one call a control tick; here chunks
    start `period` ticks apart, so an older chunk is read that many ticks further on).
    """

    def __init__(
        self,
        spec: PolicySpec,
        batch: int,
        gripper: str = "binary",
        chunks: int = 4,
        alpha: float = 0.1,
    ) -> None:
        super().__init__(spec, batch, gripper)
        if self.horizon <= self.steps:
            # Then it would be the prefix under another name.
            raise ConfigError(
                f"executor.name={ENSEMBLE} blends chunks that overlap, and none would: the policy "
                f"answers {self.horizon} actions and is asked again after {self.steps} control "
                f"ticks. Train it with policy.config.horizon above {self.steps} (and data of such "
                f"a label_horizon) or a shorter observe_period_s, or take executor.name={PREFIX}"
            )
        self.alpha = alpha
        self.chunks = np.zeros((batch, chunks, self.horizon, self.size), np.float32)
        self.ages = np.full((batch, chunks), self.horizon, np.int64)

    def clear(self, rows: np.ndarray) -> None:
        super().clear(rows)
        self.ages[rows] = self.horizon

    def accept(self, chunk: np.ndarray, rows: np.ndarray, observation: Observation) -> None:
        self.check(chunk, rows)
        self.chunks[rows] = np.roll(self.chunks[rows], 1, axis=1)
        self.ages[rows] = np.roll(self.ages[rows], 1, axis=1)
        self.chunks[rows, 0] = chunk[rows]
        self.ages[rows, 0] = 0

    def skip(self, rows: np.ndarray, ticks: int) -> None:
        self.ages[rows, 0] = np.minimum(self.ages[rows, 0] + ticks, self.horizon)

    def act(self, observation: Observation, rows: np.ndarray) -> np.ndarray:
        valid = self.ages < self.horizon  # [B, H]
        index = np.minimum(self.ages, self.horizon - 1)
        guesses = np.take_along_axis(self.chunks, index[:, :, None, None], axis=2)[:, :, 0]
        newest = guesses[:, :1]
        norms = np.linalg.norm(guesses, axis=-1) * np.linalg.norm(newest, axis=-1)
        cosine = (guesses * newest).sum(-1) / (norms + 1e-7)
        weight = np.where(valid, np.exp(self.alpha * cosine), 0.0)
        total = np.maximum(weight.sum(1, keepdims=True), 1e-12)
        actions = (guesses * (weight / total)[:, :, None]).sum(1)
        ready = self.ages[:, 0] < self.steps
        grown = np.minimum(self.ages + 1, self.horizon)
        self.ages = np.where(rows[:, None], grown, self.ages)
        return self.finish(actions, ready, rows)

    def decisions(self, observation: Observation) -> np.ndarray:
        return self.ages[:, 0] >= self.steps

    def soon(self) -> np.ndarray:
        return self.ages[:, 0] >= self.steps
