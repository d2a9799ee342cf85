"""Real-time runs with and without faults, and what their logs say."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.rng import EVAL_SEED_START
from embodied.deploy.drive import Driven, drive
from embodied.deploy.journal import read_journal
from embodied.deploy.replay import replay
from embodied.deploy.robot import RobotConfig
from embodied.evaluate.stats import wilson
from embodied.serve.runtime import Runtime
from robustness.far_end import Relay, RobotProcess

PLAIN, FROZEN, STALLED, CUT, RESTARTED = RUNS = (
    "plain",
    "camera_frozen",
    "policy_stalled",
    "line_cut",
    "robot_restarted",
)
FREEZE_S, STALL_S, CUT_S = 2.0, 1.0, 3.0
LATE_SHARE, FLAT_SHARE = 0.001, 0.02
PAGE = os.sysconf("SC_PAGE_SIZE")


class Hooked:
    """A runtime that does something else, once, before the first answer after `at_s` seconds.

    So a fault falls into a moment at which the arm acts.
    """

    def __init__(self, runtime: Runtime, at_s: float, something: Callable[[], None]) -> None:
        self._runtime, self._something = runtime, something
        self._due_s = time.monotonic() + at_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def act(self, noise: np.ndarray) -> np.ndarray:
        """As the runtime's own."""
        if time.monotonic() >= self._due_s:
            self._due_s = float("inf")
            self._something()
        return self._runtime.act(noise)


class Sampler:
    """Writes down this process's memory every second."""

    def __init__(self) -> None:
        self.mib: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.mib.append(round(pages * PAGE / 2**20, 2))

    def stop(self) -> list[float]:
        """Ends; returns resident MiB, a number a second."""
        self._ended.set()
        self._thread.join()
        return self.mib


@dataclasses.dataclass
class Rig:
    """What every run shares.

    Attributes:
      bundle: Bundle directory.
      robot: The robot's description.
      words: ``key=value`` of ``embodied robot``.
      logs: Directory for logs.
    """

    bundle: Path
    robot: RobotConfig
    words: Sequence[str]
    logs: Path

    def run(self, name: str, seconds: float) -> dict[str, Any]:
        """Runs once, with the fault `name` a third into it; returns what came of it."""
        at_s, log = seconds / 3, self.logs / f"{name}.log"
        log.unlink(missing_ok=True)
        runtime: Any = Runtime.load(self.bundle)
        words = [*self.words, f"seed_start={EVAL_SEED_START}"]
        if name == FROZEN:
            words += [f"freeze_at_s={at_s}", f"freeze_s={FREEZE_S}"]
        process = RobotProcess(words, self.logs / f"{name}-robot.txt")
        process.start()
        relay = Relay(process.port)
        later = threading.Timer(CUT_S, relay.join)
        restarted = threading.Thread(target=process.restart)

        def cut() -> None:
            relay.cut()
            later.start()

        faults = {STALLED: lambda: time.sleep(STALL_S), CUT: cut, RESTARTED: restarted.start}
        if name in faults:
            runtime = Hooked(runtime, at_s, faults[name])
        sampler = Sampler()
        try:
            driven = drive(runtime, self.robot, "127.0.0.1", relay.port, log, seconds=seconds)
        finally:
            memory = sampler.stop()
            for thread in (later, restarted):
                if thread.ident is not None:
                    thread.join()
            relay.close()
            process.kill()
        return {"seconds": seconds, **self._facts(log, driven, memory)}

    def _facts(self, log: Path, driven: Driven, memory: list[float]) -> dict[str, Any]:
        counters, rows = driven.counters, list(read_journal(log))
        ticks = [row for row in rows if row["kind"] == "tick"]
        asks = [row for row in rows if row["kind"] == "ask"]
        wins = sum(outcome == "success" for outcome in counters.episodes)
        low, high = wilson(wins, len(counters.episodes))
        found = replay(log, Runtime.load(self.bundle))
        times = [1000 * row["seconds"] for row in asks if "chunk" in row]
        return {
            **dataclasses.asdict(counters),
            "late_share": counters.late_ticks / max(1, counters.ticks),
            "outcomes": counters.episodes,
            "episodes": len(counters.episodes),
            "successes": wins,
            "low": low,
            "high": high,
            "latency_ms": percentiles(times),
            "memory_mib": memory,
            "connections": driven.connections,
            "sessions": len({row["session"] for row in ticks if "session" in row}),
            "resets": sum(bool(row["reset"]) for row in asks),
            "beyond_limits": beyond_limits(ticks, self.robot),
            "replayed": {**dataclasses.asdict(found), "exact": found.exact},
            "story": story(ticks),
            "seen_while_refused": seen_while_refused(ticks, asks),
            "acted_at_the_end": any(row["what"] == "act" for row in ticks[-len(ticks) // 4 :]),
            "log_bytes": log.stat().st_size,
        }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the 50th, 95th and 99th percentile and the greatest; zeros for none."""
    some = np.array(values or [0.0])
    found = {f"p{q}": round(float(np.percentile(some, q)), 2) for q in (50, 95, 99)}
    return {**found, "max": round(float(some.max()), 2)}


def beyond_limits(ticks: Sequence[dict[str, Any]], robot: RobotConfig) -> int:
    """Returns how many actions were faster than allowed, or led out of the workspace."""
    low, high = np.array(robot.workspace_low_m), np.array(robot.workspace_high_m)
    count = 0
    for row in ticks:
        action = np.asarray(row["action"], np.float64)
        move, turn = action[:3] * robot.pos_per_unit_m, action[3:6] * robot.rot_per_unit_rad
        bad = np.abs(action).max() > 1.0
        bad |= np.linalg.norm(move) * robot.control_hz > robot.most_speed_m_s + 1e-5
        bad |= np.linalg.norm(turn) * robot.control_hz > robot.most_turn_rad_s + 1e-5
        if "eef_pos_world_m" in row["obs"]:
            hand = np.asarray(row["obs"]["eef_pos_world_m"], np.float64)
            after = hand + move
            bad |= bool((after < np.minimum(low, hand) - 1e-6).any())
            bad |= bool((after > np.maximum(high, hand) + 1e-6).any())
        count += bool(bad)
    return count


def story(ticks: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Returns what the loop did, told short: rule, ticks in a row, and of these with motion.

    Memory ticks that were put off are told as ``<rule>, <why>``.
    """
    named = [
        (row["what"] + (f", {row['refused']}" if row["refused"] else ""),
         bool(np.abs(row["action"][:6]).any()))
        for row in ticks
    ]  # fmt: skip
    found = []
    for what, some in itertools.groupby(named, key=lambda one: one[0]):
        moved = [moving for _, moving in some]
        found.append([what, len(moved), sum(moved)])
    return found


def seen_while_refused(ticks: Sequence[dict[str, Any]], asks: Sequence[dict[str, Any]]) -> int:
    """Returns at how many ticks memory saw a frame that was refused."""
    refused = {row["tick"] for row in ticks if row["refused"]}
    return sum(row["control_tick"] in refused for row in asks)


def flat(memory_mib: Sequence[float]) -> bool:
    """Whether the last quarter of a run needs no more memory than the second, within 2 %."""
    quarter = len(memory_mib) // 4
    if not quarter:
        return True
    second, last = memory_mib[quarter : 2 * quarter], memory_mib[-quarter:]
    return float(np.median(last)) <= (1 + FLAT_SHARE) * float(np.median(second))


CHECKS: dict[str, dict[str, Callable[[dict[str, Any]], bool]]] = {
    PLAIN: {
        "fewer than 0.1 % of ticks late": lambda r: r["late_share"] < LATE_SHARE,
        "memory use flat": lambda r: flat(r["memory_mib"]),
        "the arm was never stopped": lambda r: r["stops"] == 0,
    },
    FROZEN: {
        "frozen pictures were refused": lambda r: any("stale" in why for why in r["refused"]),
        "and the arm was stopped for want of others": lambda r: r["stops"] >= 1,
    },
    STALLED: {
        "the answer was late or dropped": lambda r: r["late_answers"] + r["dropped"] >= 1,
    },
    CUT: {
        "the arm was stopped": lambda r: r["stops"] >= 1 and r["stale"] >= 1,
        "the line was joined again": lambda r: r["connections"] >= 2,
        "as the same session": lambda r: r["sessions"] == 1,
    },
    RESTARTED: {
        "the arm was stopped": lambda r: r["stops"] >= 1 and r["stale"] >= 1,
        "the robot was found again": lambda r: r["connections"] >= 2 and r["sessions"] == 2,
        "memory began anew": lambda r: r["resets"] >= 2,
    },
}
ALWAYS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "no limit was exceeded": lambda r: r["beyond_limits"] == 0,
    "memory saw no frame that was refused": lambda r: r["seen_while_refused"] == 0,
    "a stopped or holding arm was sent no motion": lambda r: (
        not any(moved for what, _, moved in r["story"] if not what.startswith("act"))
    ),
    "it acted again in the end": lambda r: r["acted_at_the_end"],
    "the log replays bit for bit": lambda r: r["replayed"]["exact"],
}


def checked(name: str, run: dict[str, Any]) -> dict[str, bool]:
    """Returns each check of a run and whether it passed."""
    return {what: bool(holds(run)) for what, holds in {**CHECKS[name], **ALWAYS}.items()}
