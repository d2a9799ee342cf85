"""Sessions on disk, so that those that ask for it outlive their server.

A directory holds a file for each kept session: an ``.npz`` of plain arrays, which is replaced as a
whole. It belongs to one server at a time. What can't be read is named and never used.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.errors import CheckpointError, ConfigError, DataError
from embodied.core.files import remove_temporary, write_atomic
from embodied.serve.bundle import read_arrays

FORMAT_VERSION = 1
FACTS, ANSWER, STATE = "session", "answer", "state."
"""Names in a file: JSON as bytes, the last chunk, and the beginning of memory's names."""
LOCK = ".lock"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """How far a session is. It is replaced, never changed, so it can be written meanwhile.

    Attributes:
      state: State name -> [1, ...].
      fresh: The next tick begins an episode.
      tick: Ticks of the episode so far.
      began_s: When the episode began, on the server's clock.
      time_s: Time of the last tick, in seconds of the episode.
      seed: Of the noise.
      prompt: The last instruction that came as text.
      sequence: Messages answered so far.
      answer: The last chunk float32 [K, A]; None if none was asked for.
      kept: The session outlives the server.
    """

    state: Mapping[str, np.ndarray]
    fresh: bool = True
    tick: int = 0
    began_s: float = 0.0
    time_s: float = 0.0
    seed: int = 0
    prompt: str = ""
    sequence: int = 0
    answer: np.ndarray | None = None
    kept: bool = False


_PLAIN = {"fresh": bool, "tick": int, "time_s": float, "seed": int, "prompt": str, "sequence": int}
"""Fields of a snapshot that a file holds as they are, and their types."""


class Keeper:
    """A directory of sessions.

    Args:
      directory: Where; made if it is missing.
      policy: Hash of what the memories are of; those of another policy are refused.
      empty: Empty memory of one row: what a file must look like.
      now: The server's clock, in seconds.
      unix: A clock that goes on while no server runs, in seconds.

    Raises:
      ConfigError: If another server keeps its sessions there, or the place can't be used.
    """

    def __init__(
        self,
        directory: str | Path,
        policy: str,
        empty: Mapping[str, np.ndarray],
        now: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self.directory, self._policy = Path(directory), policy
        self._like = {name: (a.shape, a.dtype) for name, a in empty.items()}
        self._now, self._unix = now, unix
        self._broken: dict[str, str] = {}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = (self.directory / LOCK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a kill releases it
        except BlockingIOError as error:
            self._lock.close()
            raise ConfigError(
                f"keep={directory}: another server keeps its sessions there; choose another "
                "directory, or stop that server"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"keep={directory}: {error.strerror or error}; choose a directory that can be "
                "written"
            ) from error

    def close(self) -> None:
        """Lets another server have the directory."""
        self._lock.close()

    def load(self) -> dict[str, tuple[Snapshot, float]]:
        """Reads all sessions; warns of each file that can't be read, and remembers it as broken.

        Returns:
          Name -> snapshot, and when the session was last used on the server's clock. The time
          in which no server ran has passed for it too.
        """
        remove_temporary(self.directory)
        found = {}
        for file in sorted(self.directory.glob("*.npz")):
            try:
                name, *rest = self._read(file)
                found[name] = (rest[0], rest[1])
            except CheckpointError as error:
                self._broken[file.name] = str(error)
                warnings.warn(f"a kept session does not go on: {error}", stacklevel=2)
        return found

    def broken(self, name: str) -> str:
        """Returns what is wrong with the file of a session; empty if there is nothing."""
        return self._broken.get(file_name(name), "")

    def write(self, name: str, past: Snapshot) -> None:
        """Replaces a session's file; it is whole on disk on return.

        Raises:
          DataError: If it can't be written; the old file is as it was.
        """
        facts = {
            "format_version": FORMAT_VERSION,
            "policy": self._policy,
            "name": name,
            "unix_s": self._unix(),
            "age_s": self._now() - past.began_s,
            **{key: getattr(past, key) for key in _PLAIN},
        }
        arrays = {STATE + key: array for key, array in past.state.items()}
        if past.answer is not None:
            arrays[ANSWER] = past.answer
        arrays[FACTS] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomic(self.directory / file_name(name), buffer.getvalue())
        self._broken.pop(file_name(name), None)

    def remove(self, name: str) -> None:
        """Deletes a session's file, if there is one.

        Raises:
          DataError: If it can't be deleted.
        """
        file = self.directory / file_name(name)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"cannot delete {file}: {error.strerror or error}") from error
        self._broken.pop(file.name, None)

    def _read(self, file: Path) -> tuple[str, Snapshot, float]:
        advice = "delete it, or put back a whole copy"
        if file.is_symlink():
            raise CheckpointError(f"{file} is a link; {advice}")
        arrays = read_arrays(file, advice)
        answer = arrays.pop(ANSWER, None)
        try:
            facts: dict[str, Any] = json.loads(arrays.pop(FACTS).tobytes())
            version, policy = facts["format_version"], facts["policy"]
            name, unix_s, age_s = str(facts["name"]), float(facts["unix_s"]), float(facts["age_s"])
            plain = {key: kind(facts[key]) for key, kind in _PLAIN.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{file} describes no session ({error!r}); {advice}") from error
        if version != FORMAT_VERSION or file.name != file_name(name):
            raise CheckpointError(
                f"{file} is of format version {version!r} and of session {name!r}; expected "
                f"{FORMAT_VERSION} and a session of that file name; {advice}"
            )
        state = {key.removeprefix(STATE): array for key, array in arrays.items()}
        like = {key: (array.shape, array.dtype) for key, array in state.items()}
        if policy != self._policy or like != self._like:
            raise CheckpointError(f"{file} holds the memory of another policy; {advice}")
        silent_s = max(0.0, self._unix() - unix_s)
        began_s = self._now() - silent_s - age_s
        past = Snapshot(state, began_s=began_s, answer=answer, kept=True, **plain)
        return name, past, self._now() - silent_s


def file_name(session: str) -> str:
    """Returns the name of a session's file: readable, and another for each session."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", session)[:32].strip("-")
    return f"{readable}-{hashlib.sha256(session.encode()).hexdigest()[:24]}.npz"
