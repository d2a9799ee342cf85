"""The real-time loop: newest frame in, one action out, at a fixed rate, whatever the policy does.

The policy computes in a thread of its own. Memory ticks by the robot's time stamps, never by
counting calls: a late or lost frame is late or lost in memory, and nothing drifts. What is not
fresh and sound never enters memory.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from embodied.core.rng import draw_noise
from embodied.core.ticks import PERIOD
from embodied.deploy.link import Frame
from embodied.deploy.robot import HOLD, STOP, RobotConfig
from embodied.deploy.safety import HAND, fault, limited
from embodied.evaluate.executors import ExecutorConfig, build_executor
from embodied.serve.runtime import Runtime


class Link(Protocol):
    """A line to a robot; see `RobotLink`."""

    def latest(self) -> Frame | None: ...

    def send(self, action: np.ndarray | None) -> bool: ...


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


@dataclasses.dataclass
class Counters:
    """What happened so far; all in control ticks or memory ticks.

    Attributes:
      ticks: Control ticks.
      late_ticks: Of these, begun more than half a period late.
      observed: Memory ticks.
      answers: Answers that were used.
      dropped: Answers that came after their phase was over.
      late_answers: Answers that came after their first action was due.
      stale: Ticks without a fresh frame.
      refused: What was wrong with frames -> memory ticks put off because of it.
      stops: Times that the arm was stopped.
      episodes: Outcomes of the episodes that ended.
    """

    ticks: int = 0
    late_ticks: int = 0
    observed: int = 0
    answers: int = 0
    dropped: int = 0
    late_answers: int = 0
    stale: int = 0
    refused: dict[str, int] = dataclasses.field(default_factory=dict)
    stops: int = 0
    episodes: list[str] = dataclasses.field(default_factory=list)


class Worker:
    """Runs the policy in a thread; one question at a time.

    Args:
      runtime: Of one row.
      record: Receives each question with its answer, for the journal.
    """

    def __init__(
        self,
        runtime: Runtime,
        record: Callable[[Ask, np.ndarray | None], None] = lambda ask, chunk: None,
    ) -> None:
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
            try:
                now = np.array([ask.time_s], np.float32)
                self._runtime.observe(ask.obs, now, np.array([ask.reset]))
                if ask.acts:
                    found = self._runtime.act(ask.noise)[0]
                self._record(ask, found)
            except Exception as error:
                found = error
            self._answered.put((ask, found))


class ControlLoop:
    """One robot, one policy.

    Args:
      runtime: Of one row; its bundle's spec fits the robot.
      robot: Limits and rules.
      link: The line to the robot.
      worker: What computes; by default a thread with the runtime.
      executor: How answers become actions; by default as the bundle says.
      seed: Of the noise.
      now: The clock, in seconds.
      journal: Receives a row for each control tick.
    """

    def __init__(
        self,
        runtime: Runtime,
        robot: RobotConfig,
        link: Link,
        worker: Any = None,
        executor: ExecutorConfig | None = None,
        seed: int = 0,
        now: Callable[[], float] = time.monotonic,
        journal: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        robot.check(runtime.spec, str(runtime.bundle.path))
        self.spec, self.robot, self.link, self.seed = runtime.spec, robot, link, seed
        self.worker = worker or Worker(runtime)
        self.executor = build_executor(executor or ExecutorConfig(), self.spec, 1)
        self.counters = Counters()
        self._now, self._journal = now, journal
        self._episode: int | None = None
        self._phase = 0
        self._first = False
        self._due = False
        self._observed_s = 0.0
        self._asked_tick = 0
        self._asked_s = 0.0
        self._stopped = False
        self._ended: set[int] = set()

    def run(self, seconds: float = float("inf"), stop: Callable[[], bool] = lambda: False) -> None:
        """Ticks at the robot's rate until the time is up, or `stop` says so."""
        period, began = 1.0 / self.robot.control_hz, self._now()
        tick = 0
        while not stop() and tick * period < seconds:
            wait = began + tick * period - self._now()
            if wait > 0:
                time.sleep(wait)
            elif -wait > period / 2:
                self.counters.late_ticks += 1
                # Ticks that can't be made good are left out: the next one is in time again.
                tick += int(-wait / period)
            self.tick()
            tick += 1
        self.link.send(None)

    def tick(self) -> None:
        """Does one control tick: looks, asks, answers, acts."""
        now, counters = self._now(), self.counters
        counters.ticks += 1
        frame = self.link.latest()
        silent_s = float("inf") if frame is None else now - frame.came_s
        if frame is None or silent_s > self.robot.stale_s:
            counters.stale += 1
            self._take(None)
            self._finish(now, frame, None, "stop" if silent_s > self.robot.watchdog_s else "hold")
            return
        self._follow(frame)
        if frame.done:
            self._finish(now, frame, None, "done")
            return
        self._observe(frame, now)
        rule = self._take(frame)
        waits_s = now - self._asked_s if self.worker.busy else 0.0
        if rule == STOP or waits_s > self.robot.watchdog_s:
            self._finish(now, frame, None, "stop")
            return
        action = None
        if not frame.held:
            obs = self._batch(frame.obs)
            action = self.executor.act(obs, np.array([True]))[0]
            action = limited(action, self._read(frame.obs, HAND), self.robot)
        self._finish(now, frame, action, "held" if frame.held else "act")

    # -- parts of a tick ----------------------------------------------------------------------

    def _follow(self, frame: Frame) -> None:
        """Begins episodes and phases; what was decided before them is dropped."""
        if frame.episode != self._episode:
            self._episode, self._first, self._due = frame.episode, True, True
            self._phase += 1
            self.executor.clear(np.array([True]))
        elif frame.gate:
            self._due = True
            self._phase += 1
            self.executor.clear(np.array([True]))
        elif frame.held:
            self.executor.clear(np.array([True]))
        if frame.done and frame.episode not in self._ended:
            self._ended.add(frame.episode)
            self.counters.episodes.append(frame.outcome)

    def _observe(self, frame: Frame, now: float) -> None:
        """Asks the policy where memory's tick has come, the frame is sound and it is not busy."""
        since = frame.time_s - self._observed_s
        half = 0.5 / self.robot.control_hz
        if self.spec.observe_on == PERIOD:
            self._due = self._due or since >= self.spec.observe_period_s - half
        else:
            self._due = self._due or bool(self.executor.decisions(self._batch(frame.obs))[0])
        if not self._due or self.worker.busy:
            return
        read = {key: self._read(frame.obs, key) for key in self.spec.observations}
        wrong = fault(read, self.spec.observations, self.robot.black_level)
        if wrong:
            self.counters.refused[wrong] = self.counters.refused.get(wrong, 0) + 1
            return
        number = self.counters.observed
        noise = draw_noise(self.seed, number, self.spec.noise_shape, self.spec.noise_law)
        self.worker.ask(
            Ask(
                number,
                self._phase,
                {key: value[None] for key, value in read.items()},
                frame.time_s,
                self._first,
                not frame.held,
                noise[None],
                self.counters.ticks,
            )
        )
        self._asked_tick, self._asked_s = self.counters.ticks, now
        self._observed_s = frame.time_s
        self._first = self._due = False
        self.counters.observed += 1

    def _take(self, frame: Frame | None) -> str:
        """Takes an answer that has come; returns the rule for a late one, else ""."""
        asked_now = self.worker.busy and self._asked_tick == self.counters.ticks
        found = self.worker.answer(self.robot.wait_s if asked_now else 0.0)
        if found is None:
            return ""
        ask, chunk = found
        if chunk is None:
            return ""
        if frame is None or frame.held or ask.phase != self._phase:
            self.counters.dropped += 1
            return ""
        late = self.counters.ticks - ask.control_tick
        row, obs = np.array([True]), self._batch(frame.obs)
        self.executor.accept(np.asarray(chunk, np.float32)[None], row, obs)
        self.counters.answers += 1
        if late <= 0:
            return ""
        self.counters.late_answers += 1
        if self.robot.late == STOP:
            return STOP
        if self.robot.late != HOLD:
            for _ in range(late):  # the actions whose ticks are over
                self.executor.act(obs, row)
        return self.robot.late

    def _finish(
        self, now: float, frame: Frame | None, action: np.ndarray | None, what: str
    ) -> None:
        """Sends what the arm shall do and writes the tick down."""
        stopping = what == "stop"
        if stopping:
            self.executor.clear(np.array([True]))
            self.counters.stops += not self._stopped
        self._stopped = stopping
        if action is None:
            action = np.zeros(7, np.float32)
        taken = self.link.send(None if stopping else action)
        self._journal(
            {
                "tick": self.counters.ticks,
                "now_s": now,
                "episode": -1 if frame is None else frame.episode,
                "time_s": -1.0 if frame is None else frame.time_s,
                "what": what,
                "action": action,
                "sent": taken,
            }
        )

    def _read(self, obs: Mapping[str, np.ndarray], key: str) -> np.ndarray:
        value = obs.get(self.robot.rename.get(key, key))
        return np.zeros(0) if value is None else np.asarray(value)

    def _batch(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: np.asarray(value)[None] for key, value in obs.items()}
