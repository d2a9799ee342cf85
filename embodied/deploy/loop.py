"""The real-time loop: newest frame in, one action out, at a fixed rate, whatever the policy does.

The policy computes in a thread of its own. Memory ticks by the robot's time stamps, never by
counting calls: a late or lost frame is late or lost in memory, and nothing drifts. What is not
fresh and sound never enters memory.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from embodied.core.rng import draw_noise
from embodied.core.ticks import PERIOD
from embodied.deploy.frames import Frames
from embodied.deploy.link import Frame
from embodied.deploy.robot import BLEND, HAND, HOLD, JOINTS, SKIP, STOP, RobotConfig
from embodied.deploy.safety import Frozen, fault, limited
from embodied.deploy.worker import Ask, Worker
from embodied.evaluate.executors import ExecutorConfig, build_executor
from embodied.evaluate.executors.keyframe import READS
from embodied.serve.runtime import Runtime

AWAY = "away"
BLEND_TICKS = 4
"""Control ticks over which ``late=blend`` goes over from the old motion to the new one."""
ROW = np.array([True])
TOLD = ("session", "episode", "phase", "time_s", "held", "done", "outcome", "came_s")
LOGGED = (*READS, JOINTS)
"""Observations that are written down at every control tick: what moving depends on."""


class Link(Protocol):
    """A line to a robot; see `RobotLink`."""

    def latest(self) -> Frame | None: ...

    def send(self, action: np.ndarray | None) -> bool: ...


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
      refused: What was wrong with frames -> control ticks at which memory did not see them.
      stops: Times that the arm was stopped.
      midway: Episodes whose beginning was not seen: memory begins empty in their middle.
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
    midway: int = 0
    episodes: list[str] = dataclasses.field(default_factory=list)


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
        self._frames, self._frozen = Frames(robot), Frozen(robot.frozen_m)
        self._pose = robot.pose(self.spec)
        self._place: tuple[int, int, int, bool] | None = None
        self._phase = 0
        self._first = False
        self._due = False
        self._blind_since: float | None = None
        self._lost_since: float | None = None
        self._observed_s = 0.0
        self._asked_tick = 0
        self._asked_s = 0.0
        self._stopped = False
        self._blends_left = 0
        self._blend_from = self._last = np.zeros(7, np.float32)
        self._ended: tuple[int, int] | None = None
        self._row: dict[str, Any] = {}

    def run(self, seconds: float = float("inf"), stop: Callable[[], bool] = lambda: False) -> None:
        """Ticks at the robot's rate until the time is up, or `stop` says so.

        However it ends, by an error too, the arm is stopped.
        """
        period, began = 1.0 / self.robot.control_hz, self._now()
        tick = 0
        try:
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
        finally:
            self.link.send(None)

    def tick(self) -> None:
        """Does one control tick: looks, asks, answers, acts."""
        now, counters = self._now(), self.counters
        counters.ticks += 1
        self._row = {"refused": "", "took": -1, "obs": {}}
        frame = self.link.latest()
        silent_s = float("inf") if frame is None else now - frame.came_s
        if frame is None or silent_s > self.robot.stale_s:
            counters.stale += 1
            self.executor.clear(ROW)  # what was decided before the silence is over with it
            self._take(None, {})
            self._finish(now, frame, None, STOP if silent_s > self.robot.watchdog_s else HOLD)
            return
        self._follow(frame)
        if frame.done:
            self._finish(now, frame, None, "done")
            return
        seen = self._frames.seen(frame.obs)
        self._row["obs"] = {key: seen[key] for key in LOGGED if key in seen}
        if lost := fault(seen, self._pose, self.robot.black_level):
            # Where the arm is nobody knows; what was decided and what is on its way can wait.
            self._refuse(lost)
            self._lost_since = now if self._lost_since is None else self._lost_since
            stops = now - self._lost_since > self.robot.watchdog_s
            if stops:
                self._take(None, {})
            self._finish(now, frame, None, STOP if stops else HOLD)
            return
        self._lost_since = None
        batch = {key: value[None] for key, value in seen.items()}
        rule = self._posture(seen)
        if not rule:
            self._observe(frame, seen, batch, now)
        rule = self._take(frame, batch) or rule
        waits_s = now - self._asked_s if self.worker.busy else 0.0
        blind_s = 0.0 if self._blind_since is None else now - self._blind_since
        if rule == STOP or max(waits_s, blind_s) > self.robot.watchdog_s:
            self._finish(now, frame, None, STOP)
            return
        action = None
        if not frame.held and rule != AWAY:
            action = self._blended(self.executor.act(batch, ROW)[0])
            action = limited(action, seen[HAND], self.robot)
        self._finish(now, frame, action, rule or ("held" if frame.held else "act"))

    # -- parts of a tick ----------------------------------------------------------------------

    def _follow(self, frame: Frame) -> None:
        """Begins episodes, phases and holds; what was decided before them is dropped."""
        place = (frame.session, frame.episode, frame.phase, frame.held)
        if place != self._place:
            if self._place is None or place[:2] != self._place[:2]:
                self._first = True
                self.counters.midway += frame.time_s > self.spec.observe_period_s
            self._place, self._due = place, True
            self._phase += 1
            self._blends_left = 0
            self.executor.clear(ROW)
        if frame.done and place[:2] != self._ended:
            self._ended = place[:2]
            self.counters.episodes.append(frame.outcome)

    def _posture(self, seen: Mapping[str, Any]) -> str:
        """Returns what the joints demand: to stop beyond a limit, or to wait away from home."""
        robot = self.robot
        if not robot.joints:
            return ""
        joints = seen[JOINTS]
        low, high = np.asarray(robot.joint_low_rad), np.asarray(robot.joint_high_rad)
        if ((joints < low) | (joints > high)).any():
            return STOP
        if self._first and robot.home_rad:
            away = np.abs(joints - np.asarray(robot.home_rad)).max()
            return AWAY if not away <= robot.home_within_rad else ""
        return ""

    def _observe(
        self, frame: Frame, seen: dict[str, Any], batch: dict[str, np.ndarray], now: float
    ) -> None:
        """Asks the policy where memory's tick has come, the frame is sound and it is not busy."""
        since = frame.time_s - self._observed_s
        half = 0.5 / self.robot.control_hz
        if self.spec.observe_on == PERIOD:
            self._due = self._due or since >= self.spec.observe_period_s - half
        else:
            self._due = self._due or bool(self.executor.decisions(batch)[0])
        if not self._due or self.worker.busy:
            return
        wrong = self._wrong(frame, seen)
        if wrong:
            self._refuse(wrong)
            self._blind_since = now if self._blind_since is None else self._blind_since
            return
        self._blind_since = None
        number = self.counters.observed
        noise = draw_noise(self.seed, number, self.spec.noise_shape, self.spec.noise_law)
        self.worker.ask(
            Ask(
                number,
                self._phase,
                {key: batch[key] for key in self.spec.observations},
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

    def _refuse(self, wrong: str) -> None:
        self._row["refused"] = wrong
        self.counters.refused[wrong] = self.counters.refused.get(wrong, 0) + 1

    def _wrong(self, frame: Frame, seen: dict[str, Any]) -> str:
        """Returns why memory must not see a frame; "" if it may."""
        wrong = fault(seen, self.spec.observations, self.robot.black_level)
        for key in self.spec.observations:
            taken_s = frame.stamps.get(self.robot.rename.get(key, key), frame.time_s)
            if not wrong and not frame.time_s - taken_s <= self.robot.stale_s:
                wrong = f"{key} stale"
        return wrong or self._frozen.fault(seen, self.spec.observations)

    def _take(self, frame: Frame | None, batch: dict[str, np.ndarray]) -> str:
        """Takes an answer that has come; returns the rule for a late one, else ""."""
        asked_now = self.worker.busy and self._asked_tick == self.counters.ticks
        found = self.worker.answer(self.robot.wait_s if asked_now else 0.0)
        if found is None:
            return ""
        ask, chunk = found
        self._row["took"] = ask.number
        if chunk is None:
            return ""
        if frame is None or frame.held or ask.phase != self._phase:
            self.counters.dropped += 1
            return ""
        late = self.counters.ticks - ask.control_tick
        self.executor.accept(np.asarray(chunk, np.float32)[None], ROW, batch)
        self.counters.answers += 1
        if late <= 0:
            return ""
        self.counters.late_answers += 1
        if self.robot.late in (SKIP, BLEND):
            self.executor.skip(ROW, late)
        if self.robot.late == BLEND:
            self._blends_left, self._blend_from = BLEND_TICKS, self._last
        return STOP if self.robot.late == STOP else ""

    def _blended(self, action: np.ndarray) -> np.ndarray:
        """Eases from what the arm did before a late answer; the gripper goes over at once."""
        if not self._blends_left:
            return action
        old = self._blends_left / (BLEND_TICKS + 1)
        self._blends_left -= 1
        mixed = action.copy()
        mixed[:6] = old * self._blend_from[:6] + (1 - old) * action[:6]
        return mixed

    def _finish(
        self, now: float, frame: Frame | None, action: np.ndarray | None, what: str
    ) -> None:
        """Sends what the arm shall do and writes the tick down."""
        stopping = what == STOP
        if stopping:
            self.executor.clear(ROW)
            self._blends_left = 0
            self.counters.stops += not self._stopped and frame is not None  # it never moved
        self._stopped = stopping
        if action is None:
            action = np.zeros(7, np.float32)
        self._last = action
        taken = self.link.send(None if stopping else self._frames.sent(action))
        told = {} if frame is None else {name: getattr(frame, name) for name in TOLD}
        self._journal(
            {
                "tick": self.counters.ticks,
                "now_s": now,
                **told,
                **self._row,
                "what": what,
                "action": action,
                "sent": taken,
            }
        )
