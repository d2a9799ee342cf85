"""Metrics as JSON lines (the record) and TensorBoard (the picture)."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from embodied.core.errors import DataError
from embodied.core.files import write_atomic


class MetricsLogger:
    """Appends one JSON object a call to ``metrics.jsonl`` and mirrors it to TensorBoard.

    On resume, lines after the resumed step are dropped, so that the file of a killed and
    resumed run equals that of an uninterrupted one.

    Args:
      run: Run directory.
      start_step: First step that will be logged.
    """

    def __init__(self, run: Path, start_step: int) -> None:
        self.path = run / "metrics.jsonl"
        kept = [row for row in read_metrics(run) if row["step"] < start_step]
        self._earlier_s = cpu_seconds(kept) or 0.0
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        with _named_failure(run):
            self._file = self.path.open("a")
            self._board = _open_board(run / "tensorboard", start_step)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Records scalars at `step`; values that are not finite are written as null."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with _named_failure(self.path.parent):
            self._file.write(json.dumps({"step": step, **clean}) + "\n")
            self._file.flush()
            if self._board is not None:
                self._board.log(step, clean)

    def cpu_s(self) -> float:
        """Returns the CPU seconds of this process and of those that it carries on from."""
        return self._earlier_s + time.process_time()

    def close(self) -> None:
        """Flushes and closes both."""
        with _named_failure(self.path.parent):
            self._file.close()
            if self._board is not None:
                self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Returns the rows of ``metrics.jsonl``; a torn last line (killed run) is skipped."""
    path = run / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cpu_seconds(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the CPU seconds that rows of ``metrics.jsonl`` tell of; None where none do."""
    times = [0.0, *(row["cpu_s"] for row in rows if "cpu_s" in row)]
    # In older runs a process that carried on began to count anew.
    spent = sum(b - a if b >= a else b for a, b in itertools.pairwise(times))
    return spent if len(times) > 1 else None


@contextlib.contextmanager
def _named_failure(run: Path) -> Iterator[None]:
    """Turns a failed write into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the log of {run}: {error.strerror or error}; its checkpoints are "
            f"intact. Free some space, then carry on with: embodied train --resume out={run}"
        ) from error


class _Board:
    """A TensorBoard event file, written at once.

    TensorBoard's own writer works in a thread, whose errors (a full disk) no caller can catch.
    """

    def __init__(self, directory: Path, start_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{platform.node()}.{os.getpid()}"
        self._writer = RecordWriter((directory / name).open("wb"))
        self._write(Event(file_version="brain.Event:2"))
        # Hides what an earlier part of the run wrote at or after this step.
        self._write(Event(step=start_step, session_log=SessionLog(status=SessionLog.START)))

    def log(self, step: int, values: dict[str, float | None]) -> None:
        """Writes the scalars that are not None."""
        scalars = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
            if value is not None
        ]
        self._write(self._event(step=step, summary=self._summary(value=scalars)))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def _open_board(directory: Path, start_step: int) -> _Board | None:
    try:
        return _Board(directory, start_step)
    except ImportError:  # tensorboard is a convenience; the JSON lines are the record
        return None
