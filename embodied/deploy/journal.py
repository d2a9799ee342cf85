"""The log of a run: every control tick, and all that the policy was shown and said.

A file that begins with its version. Each row is a msgpack map behind twelve bytes: its length, its
checksum, and the checksum of these eight bytes. What a kill leaves unfinished at the end is skipped
when the file is read; a changed byte in what is whole is an error.
"""

from __future__ import annotations

import contextlib
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
BEGINNING = b"embodied run log 2\n"
"""Of the file; with the format's version, which rises when rows are laid out in another way."""
_ROW, _HEAD = struct.Struct("!II"), struct.Struct("!III")


class Journal:
    """Writes a run's log as it happens.

    Args:
      path: File to make.
      runtime: The policy; its bundle is named at the beginning.
      setting: What else a replay must know: robot, executor, seed.

    Raises:
      DataError: If the file is there, or can't be made. Every method raises it where the disk is
        full or the file can't be written any more.
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
        self._file.write(BEGINNING)
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
        with self._told():
            self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        data = pack(row)
        head = _ROW.pack(len(data), zlib.crc32(data))
        with self._lock, self._told():
            self._file.write(head + zlib.crc32(head).to_bytes(4) + data)
            self._file.flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"can't write {self.path}: {error.strerror or error}; rows before are whole. Free "
                "some space, or choose another log="
            ) from error


def read_journal(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a log.

    Raises:
      DataError: If it is no log, one of another version, or damaged.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from error
    place = len(BEGINNING)
    if data[:place] != BEGINNING[: len(data)]:
        raise DataError(
            f"{path} is no log of a run, or one of another version; expected it to begin with "
            f"{BEGINNING.decode().strip()!r}, got {data[:place]!r}. Read an older one with the "
            "package that wrote it"
        )
    while place + _HEAD.size <= len(data):
        size, checksum, own = _HEAD.unpack_from(data, place)
        begin = place + _HEAD.size
        row = data[begin : begin + size]
        whole = len(row) == size
        # A length is taken at its word only if it is the one that was written: another one could
        # make all that follows look like a row that a kill cut.
        sound = zlib.crc32(data[place : place + _ROW.size]) == own
        if not sound or (whole and zlib.crc32(row) != checksum):
            raise DataError(f"{path} is damaged at byte {place:,}; use a whole copy of it")
        if not whole:
            return
        yield unpack(row, MAX_BYTES)
        place = begin + size
