"""Running a log again: the same loop, the same policy, the world as it was written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embodied.config import from_plain
from embodied.core.errors import DataError
from embodied.core.files import sha256
from embodied.deploy.frames import Frames
from embodied.deploy.journal import read_journal
from embodied.deploy.link import Frame
from embodied.deploy.loop import LOGGED, TOLD, ControlLoop
from embodied.deploy.robot import RobotConfig
from embodied.deploy.worker import Ask
from embodied.evaluate.executors import ExecutorConfig
from embodied.serve.bundle import MANIFEST
from embodied.serve.runtime import Runtime


@dataclasses.dataclass
class Replayed:
    """What a replay came to.

    Attributes:
      ticks: Control ticks.
      observed: Memory ticks.
      answers: Chunks.
      worst_chunk: Largest difference of a number of a chunk from the log's.
      worst_action: Largest difference of a number of what the arm was sent.
      differing: Control ticks that did something else (another rule, another memory tick).
    """

    ticks: int = 0
    observed: int = 0
    answers: int = 0
    worst_chunk: float = 0.0
    worst_action: float = 0.0
    differing: int = 0

    @property
    def exact(self) -> bool:
        """Whether nothing differs in a bit."""
        return not (self.worst_chunk or self.worst_action or self.differing)


def replay(path: str | Path, runtime: Runtime) -> Replayed:
    """Runs a log again: what memory saw, what was answered, what the arm was sent.

    Args:
      path: The log.
      runtime: The same bundle, one row.

    Raises:
      DataError: If the log is of another bundle, or no run's.
    """
    rows = list(read_journal(path))
    start = rows[0] if rows and rows[0]["kind"] == "start" else {}
    if start.get("sha256") != sha256(runtime.bundle.path / MANIFEST):
        raise DataError(
            f"{path} is of the bundle {start.get('bundle')} ({str(start.get('sha256'))[:12]}), not "
            f"of {runtime.bundle.path}"
        )
    runtime.state = runtime.initial(1)
    asks = {row["control_tick"]: row for row in rows if row["kind"] == "ask"}
    found = Replayed()
    worker, link = _Worker(runtime, asks, found), _Link()
    robot = from_plain(RobotConfig, start["robot"], where="log:robot")
    executor = from_plain(ExecutorConfig, start["executor"], where="log:executor")
    # A question that was never answered is not written down; no answer to it is asked for here.
    unseen = {k: s.zeros(1) for k, s in runtime.spec.observations.items() if k not in LOGGED}
    done: list[dict[str, Any]] = []
    loop = _Loop(
        runtime, robot, link, worker, executor, start["seed"], lambda: link.row["now_s"],
        done.append,
    )  # fmt: skip
    for row in rows:
        if row["kind"] == "tick":
            link.show(row, asks.get(row["tick"], {}).get("obs", unseen))
            worker.row = loop.written = row
            loop.tick()
            found.ticks += 1
            again = done.pop()
            found.differing += (again["what"], again["took"]) != (row["what"], row["took"])
            found.worst_action = max(found.worst_action, _gap(again["action"], row["action"]))
    found.observed = loop.counters.observed
    return found


class _Link:
    """Shows the frames of a log."""

    def __init__(self) -> None:
        self.row: dict[str, Any] = {}
        self._frame: Frame | None = None

    def show(self, row: dict[str, Any], asked: Mapping[str, np.ndarray]) -> None:
        self.row = row
        seen = {**row["obs"], **{key: value[0] for key, value in asked.items()}}
        told = {name: row[name] for name in TOLD if name in row}
        self._frame = Frame(**told, obs=seen) if told else None

    def latest(self) -> Frame | None:
        return self._frame

    def send(self, action: np.ndarray | None) -> bool:
        return True


class _Worker:
    """Answers at the tick at which it was answered, computed again from the loop's own question."""

    def __init__(self, runtime: Runtime, asks: dict[int, Any], found: Replayed) -> None:
        self._runtime, self._asks, self._found = runtime, asks, found
        self._ask: Ask | None = None
        self.row: dict[str, Any] = {}

    @property
    def busy(self) -> bool:
        return self._ask is not None

    def ask(self, ask: Ask) -> None:
        self._ask = ask

    def answer(self, wait_s: float = 0.0) -> tuple[Ask, np.ndarray | None] | None:
        ask, found = self._ask, self._found
        if ask is None or self.row["took"] != ask.number:
            return None
        self._ask, chunk = None, None
        time_s, reset = np.array([ask.time_s], np.float32), np.array([ask.reset])
        self._runtime.observe(ask.obs, time_s, reset)
        if ask.acts:
            chunk = self._runtime.act(ask.noise)[0]
            found.answers += 1
            written = self._asks.get(ask.control_tick, {}).get("chunk")
            gap = float("inf") if written is None else _gap(chunk, written)
            found.worst_chunk = max(found.worst_chunk, gap)
        return ask, chunk


class _Loop(ControlLoop):
    """Refuses the frames that were refused; they were written down in the policy's terms."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._frames = Frames(RobotConfig())
        self.written: dict[str, Any] = {}

    def _wrong(self, frame: Frame, seen: dict[str, Any]) -> str:
        return str(self.written["refused"])


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max(initial=0.0))
