"""The policy's own thread: one question at a time, answers when they are there."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from embodied.serve.runtime import Runtime


@dataclasses.dataclass(frozen=True)
class Ask:
    """A memory tick for the policy.

    Attributes:
      number: Rises with every one.
      phase: Rises where an answer must not outlive: episodes, gates, holds.
      obs: Observation key -> [1, ...].
      time_s: Seconds of the episode.
      reset: The tick begins an episode.
      acts: An answer is asked for.
      noise: Of the answer.
      control_tick: Tick of the loop at which it was asked.
    """

    number: int
    phase: int
    obs: dict[str, np.ndarray]
    time_s: float
    reset: bool
    acts: bool
    noise: np.ndarray
    control_tick: int


Record = Callable[[Ask, np.ndarray | None, float], None]
"""Receives each question with its answer and the seconds it took."""


class Worker:
    """Runs the policy in a thread; one question at a time.

    Args:
      runtime: Of one row.
      record: For the journal.
    """

    def __init__(self, runtime: Runtime, record: Record = lambda ask, chunk, seconds: None) -> None:
        self._runtime, self._record = runtime, record
        self._asked: queue.Queue[Ask | None] = queue.Queue(1)
        self._answered: queue.Queue[tuple[Ask, np.ndarray | None]] = queue.Queue()
        self.busy = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ask(self, ask: Ask) -> None:
        """Hands over a question; only while not `busy`."""
        self.busy = True
        self._asked.put(ask)

    def answer(self, wait_s: float = 0.0) -> tuple[Ask, np.ndarray | None] | None:
        """Returns a question with its chunk [K, A], or None if there is none within `wait_s`.

        Raises what went wrong in computing it.
        """
        try:
            ask, found = self._answered.get(self.busy and wait_s > 0, wait_s or None)
        except queue.Empty:
            return None
        self.busy = False
        if isinstance(found, BaseException):
            raise found
        return ask, found

    def close(self) -> None:
        """Ends the thread after its present question."""
        self._asked.put(None)
        self._thread.join(5)

    def _run(self) -> None:
        while (ask := self._asked.get()) is not None:
            found: Any = None
            began = time.perf_counter()
            try:
                now = np.array([ask.time_s], np.float32)
                self._runtime.observe(ask.obs, now, np.array([ask.reset]))
                if ask.acts:
                    found = self._runtime.act(ask.noise)[0]
                self._record(ask, found, time.perf_counter() - began)
            except Exception as error:
                found = error
            self._answered.put((ask, found))
