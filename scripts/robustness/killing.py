"""Runs a command in processes of its own, kills them at drawn moments and looks what is left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embodied.core.errors import EmbodiedError
from robustness.stages import Stage, sha256

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "embodied.cli"]
PATIENCE_S = 900.0
"""Longest wait for a sign of progress."""
START, WORK, WRITE = "start", "work", "write"
WORK_SHARE = 0.75
"""Moments lie in this first part of the work, so that the last kills still find some left."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill.

    Attributes:
      kind: ``"start"``, ``"work"`` or ``"write"`` (as soon as something half-written is seen).
      units: Finished units to wait for; of no meaning in the start.
      share: What follows then: this share of the time of a start or of a unit.
      alone: Kill the process and leave its workers to end by themselves.
    """

    kind: str
    units: int
    share: float
    alone: bool


@dataclasses.dataclass(frozen=True)
class Kill:
    """What a kill met and left.

    Attributes:
      kind: As in `Moment`.
      alone: As in `Moment`.
      after_s: Seconds since the process was started.
      finished: Units finished just before.
      readable: Units that read afterwards.
      lost: Units that were finished and don't read.
      half_written: Temporary files that the kill left.
      damage: Why reading failed, or "".
    """

    kind: str
    alone: bool
    after_s: float
    finished: int
    readable: int
    lost: list[int]
    half_written: list[str]
    damage: str


def moments(total: int, kills: int, aimed: int, seed: int) -> list[Moment]:
    """Draws when to kill, in the order in which the moments come."""
    draw = random.Random(seed)
    starts = kills // 5
    units = sorted(draw.sample(range(1, int(WORK_SHARE * total)), kills - starts + aimed))
    kinds = [WORK] * (kills - starts) + [WRITE] * aimed
    draw.shuffle(kinds)
    planned = list(zip(kinds, units, strict=True))
    for _ in range(starts):
        planned.insert(draw.randrange(len(planned) + 1), (START, 0))
    return [
        # Workers do some of the writing, so a kill that is aimed at it must hit them too.
        Moment(kind, unit, draw.random(), alone=kind != WRITE and index % 2 == 1)
        for index, (kind, unit) in enumerate(planned)
    ]


class Runner:
    """Runs a stage's command in processes and kills them.

    Args:
      log: File that gets the output of all processes.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, stage: Stage, out: Path) -> subprocess.Popen[bytes]:
        """Starts the command in a process group of its own."""
        threads = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*COMMAND, *stage.words(out)],
                env={**os.environ, **dict.fromkeys(threads, "1"), "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def run(self, stage: Stage, out: Path) -> tuple[float, float]:
        """Runs to the end; returns seconds until the first unit, and seconds in all."""
        began = time.monotonic()
        process, first = self.start(stage, out), 0.0
        while process.poll() is None:
            if not first and stage.finished(out):
                first = time.monotonic() - began
            time.sleep(0.05)
        whole = time.monotonic() - began
        if process.returncode:
            raise EmbodiedError(f"{stage.name} failed by itself:\n{self.log.read_text()[-2000:]}")
        return first or whole, whole

    def kill(
        self, stage: Stage, out: Path, moment: Moment, start_s: float, unit_s: float
    ) -> Kill | None:
        """Starts the command, kills it at `moment` and reads what is left.

        Returns:
          None if the command came to its end first.
        """
        goal = max(moment.units, len(stage.finished(out)) + 1)
        began = time.monotonic()
        process = self.start(stage, out)

        def until(condition: Callable[[], object], nap_s: float) -> None:
            while process.poll() is None and not condition():
                if time.monotonic() - began > PATIENCE_S:
                    self.end_all()
                    raise EmbodiedError(f"{stage.name} makes no progress; see {self.log}")
                time.sleep(nap_s)

        if moment.kind == START:
            time.sleep(moment.share * start_s)
        else:
            until(lambda: len(stage.finished(out)) >= goal, 0.01)
            if moment.kind == WORK:
                time.sleep(moment.share * unit_s)
            else:
                until(lambda: stage.half_written(out), 0.0)
        finished = stage.finished(out) if moment.kind != WRITE else None
        if process.poll() is not None:
            if process.returncode:
                raise EmbodiedError(f"{stage.name} failed:\n{self.log.read_text()[-2000:]}")
            return None
        send = os.kill if moment.alone else os.killpg
        send(process.pid, signal.SIGKILL)
        after_s = time.monotonic() - began
        process.wait()
        return self.look(stage, out, moment, after_s, finished)

    def look(
        self, stage: Stage, out: Path, moment: Moment, after_s: float, finished: set[int] | None
    ) -> Kill:
        """Reads everything after a kill."""
        half, damage, readable = stage.half_written(out), "", set()
        if finished is None:  # aimed kills can't wait to look first
            finished = stage.finished(out)
        try:
            readable = stage.read(out)
        except EmbodiedError as error:
            damage = str(error)
        return Kill(
            moment.kind,
            moment.alone,
            round(after_s, 2),
            len(finished),
            len(readable),
            sorted(stage.lost(finished, readable)),
            half,
            damage,
        )

    def orphans(self, wait_s: float = 20.0) -> int:
        """Returns how many process groups still live after `wait_s`."""
        deadline = time.monotonic() + wait_s
        while (living := sum(map(_lives, self.started))) and time.monotonic() < deadline:
            time.sleep(0.1)
        return living

    def end_all(self) -> None:
        """Kills whatever was started here and still lives."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def torment(
    stage: Stage,
    folder: Path,
    kills: int,
    aimed: int,
    seed: int,
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Runs a stage undisturbed and killed, in `folder`; returns its part of ``kill.json``."""
    whole, cut = folder / f"{stage.name}-whole", folder / f"{stage.name}-killed"
    runner = Runner(folder / f"{stage.name}.log")
    try:
        start_s, whole_s = runner.run(stage, whole)
        unit_s = (whole_s - start_s) / stage.total
        say(f"{stage.name}: {stage.total} {stage.unit} undisturbed in {whole_s:.1f} s")
        done = []
        for moment in moments(stage.total, kills, aimed, seed):
            kill = runner.kill(stage, cut, moment, start_s, unit_s)
            if kill is None:
                break
            done.append(kill)
            say(f"  kill {len(done)}: {kill}")
        runner.run(stage, cut)
        orphans = runner.orphans()
    finally:
        runner.end_all()
    return verdict(stage, done, whole, cut, kills + aimed, orphans, whole_s)


def verdict(
    stage: Stage,
    kills: list[Kill],
    whole: Path,
    cut: Path,
    wanted: int,
    orphans: int,
    whole_s: float,
) -> dict[str, Any]:
    """Compares both results; returns a stage's part of ``kill.json``."""
    left, right = stage.content(whole), stage.content(cut)
    different = sorted(name for name in left | right if left.get(name) != right.get(name))
    good = all(not kill.lost and not kill.damage for kill in kills)
    return {
        "ok": good and not different and not orphans and len(kills) == wanted,
        "total": stage.total,
        "unit": stage.unit,
        "undisturbed_s": round(whole_s, 1),
        "kills_wanted": wanted,
        "kills": [dataclasses.asdict(kill) for kill in kills],
        "processes_left_over": orphans,
        "files_compared": len(left),
        "different": different,
        "content_sha256": sha256(json.dumps(left, sort_keys=True).encode()),
        "content_sha256_killed": sha256(json.dumps(right, sort_keys=True).encode()),
        "half_written_in_the_end": stage.half_written(cut),
    }
