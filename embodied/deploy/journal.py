"""The log of a run: every control tick, and all that the policy was shown and said.

A file of messages, each its length and its checksum in four bytes and a msgpack map. What a kill
leaves unfinished at its end is skipped when it is read; a changed byte anywhere is an error.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.errors import DataError
from embodied.core.files import sha256
from embodied.deploy.loop import Ask
from embodied.serve.bundle import MANIFEST
from embodied.serve.codec import pack, unpack
from embodied.serve.runtime import Runtime

MAX_BYTES = 64 * 2**20
_HEAD = struct.Struct("!II")


class Journal:
    """Writes a run's log as it happens.

    Args:
      path: File to make.
      runtime: The policy; its bundle is named at the beginning.

    Raises:
      DataError: If the file is there, or can't be made.
    """

    def __init__(self, path: str | Path, runtime: Runtime) -> None:
        self.path, self._lock = Path(path), threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb")
        except FileExistsError:
            raise DataError(f"{path} exists already; choose another log=") from None
        except OSError as error:
            raise DataError(f"can't write {path}: {error.strerror or error}") from error
        bundle = runtime.bundle.path
        self._write({"kind": "start", "bundle": bundle.name, "sha256": sha256(bundle / MANIFEST)})

    def tick(self, row: dict[str, Any]) -> None:
        """Writes a control tick."""
        self._write({"kind": "tick", **row})

    def ask(self, ask: Ask, chunk: np.ndarray | None) -> None:
        """Writes a memory tick, with what was answered."""
        row = {
            "kind": "ask",
            "obs": ask.obs,
            "time_s": ask.time_s,
            "reset": ask.reset,
            "acts": ask.acts,
            "noise": ask.noise,
        }
        self._write(row if chunk is None else {**row, "chunk": np.asarray(chunk)})

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        data = pack(row)
        with self._lock:
            self._file.write(_HEAD.pack(len(data), zlib.crc32(data)) + data)
            self._file.flush()


def read_journal(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a log.

    Raises:
      DataError: If it is no log.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from error
    place = 0
    while place + _HEAD.size <= len(data):
        size, checksum = _HEAD.unpack_from(data, place)
        row = data[place + _HEAD.size : place + _HEAD.size + size]
        if len(row) < size <= MAX_BYTES:
            return  # the last row, cut by a kill
        if size > MAX_BYTES or zlib.crc32(row) != checksum:
            raise DataError(f"{path} is no log of a run, or damaged at byte {place:,}")
        yield unpack(row, MAX_BYTES)
        place += _HEAD.size + size


def replay(path: str | Path, runtime: Runtime) -> tuple[int, float]:
    """Runs a log's memory ticks again.

    Args:
      path: The log.
      runtime: The same bundle, one row.

    Returns:
      The number of answers, and the largest difference of an action from the one in the log.

    Raises:
      DataError: If the log is of another bundle.
    """
    count, worst = 0, 0.0
    runtime.state = runtime.initial(1)
    for row in read_journal(path):
        if row["kind"] == "start" and row["sha256"] != sha256(runtime.bundle.path / MANIFEST):
            raise DataError(
                f"{path} is of the bundle {row['bundle']} ({row['sha256'][:12]}), not of "
                f"{runtime.bundle.path}"
            )
        if row["kind"] != "ask":
            continue
        time_s, reset = np.array([row["time_s"]], np.float32), np.array([row["reset"]])
        runtime.observe(row["obs"], time_s, reset)
        if "chunk" in row:
            chunk = runtime.act(row["noise"])[0]
            count, worst = count + 1, max(worst, float(np.abs(chunk - row["chunk"]).max()))
    return count, worst
