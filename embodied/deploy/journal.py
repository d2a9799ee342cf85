"""The log of a run: every control tick, and all that the policy was shown and said.

A file of messages, each its length and its checksum in four bytes and a msgpack map. What a kill
leaves unfinished at its end is skipped when it is read; a changed byte anywhere is an error.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.errors import DataError
from embodied.core.files import sha256
from embodied.deploy.worker import Ask
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
      setting: What else a replay must know: robot, executor, seed.

    Raises:
      DataError: If the file is there, or can't be made.
    """

    def __init__(
        self, path: str | Path, runtime: Runtime, setting: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self._lock = Path(path), threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb")
        except FileExistsError:
            raise DataError(f"{path} exists already; choose another log=") from None
        except OSError as error:
            raise DataError(f"can't write {path}: {error.strerror or error}") from error
        bundle = runtime.bundle.path
        mark = sha256(bundle / MANIFEST)
        self._write({"kind": "start", "bundle": bundle.name, "sha256": mark, **(setting or {})})

    def tick(self, row: dict[str, Any]) -> None:
        """Writes a control tick."""
        self._write({"kind": "tick", **row})

    def ask(self, ask: Ask, chunk: np.ndarray | None, seconds: float) -> None:
        """Writes a memory tick, with what was answered and how long it took."""
        row = {
            "kind": "ask",
            "number": ask.number,
            "control_tick": ask.control_tick,
            "seconds": seconds,
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
