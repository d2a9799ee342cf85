"""The line between the loop and a robot: frames one way, actions the other, over a socket.

A message is its length in four bytes and a msgpack map. The newest frame counts; older ones that
were not fetched are dropped, so a slow reader never falls behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from embodied.core.errors import EmbodiedError, SimulatorError
from embodied.serve.codec import pack, unpack

MAX_BYTES = 64 * 2**20
_LENGTH = struct.Struct("!I")


SILENT_S = 2.0
"""A line on which nothing came for so long is cut and made anew: its other end may be gone."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a robot tells at a control tick.

    Attributes:
      session: Another one after the robot's process was restarted.
      episode: Number of the episode.
      phase: Number of the phase within the episode: rises at every gate, so that none is missed
        with a frame that was lost.
      time_s: Seconds of the episode, by the robot's clock.
      held: The arm is held (by its task, a protective stop, a person): actions are ignored.
      done: The episode is over.
      outcome: What came of it, once it is over.
      obs: Observation key -> array.
      stamps: Observation key -> when it was taken, in seconds of the episode, where that is known;
        others were taken at `time_s`.
      came_s: When it came, by the loop's clock.
    """

    session: int
    episode: int
    phase: int
    time_s: float
    held: bool
    done: bool
    outcome: str
    obs: dict[str, np.ndarray]
    stamps: dict[str, float] = dataclasses.field(default_factory=dict)
    came_s: float = 0.0

    @classmethod
    def read(cls, message: dict[str, Any], came_s: float) -> Frame:
        """Returns the frame of a message.

        Whether observations are those that a policy reads is not looked at; see `safety.fault`.

        Raises:
          SimulatorError: Naming the field that is missing, unknown or of another type.
        """
        kinds = {**_KINDS, "stamps": dict} if "stamps" in message else _KINDS
        for name in sorted(set(kinds) ^ set(message), key=str):
            what = "lacks" if name in kinds else "has an unknown"
            raise SimulatorError(
                f"a robot's frame {what} {str(name)[:80]!r}; it needs {', '.join(_KINDS)}"
            )
        for name, kind in kinds.items():
            value = message[name]
            if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
                raise SimulatorError(
                    f"{name} of a robot's frame must be {kind}, got {type(value).__name__}"
                )
        for key, value in message["obs"].items():
            if not isinstance(key, str) or not isinstance(value, np.ndarray):
                raise SimulatorError(
                    f"obs of a robot's frame must be names and arrays, got {str(key)[:80]!r} with "
                    f"{type(value).__name__}"
                )
        for key, value in (("time_s", message["time_s"]), *message.get("stamps", {}).items()):
            if not _is_time(value):
                told = value if isinstance(value, float | int) else type(value).__name__
                raise SimulatorError(
                    f"{str(key)[:80]} of a robot's frame is {told}; expected seconds of the "
                    "episode, a finite number"
                )
        return cls(**message, came_s=came_s)


def _is_time(value: Any) -> bool:
    """Whether a value is a number of seconds that memory, which reads float32, can hold."""
    number = isinstance(value, float | int | np.number) and not isinstance(value, bool)
    return number and bool(abs(value) < 2**53)


_KINDS: dict[str, Any] = {
    "session": int,
    "episode": int,
    "phase": int,
    "time_s": float | int,
    "held": bool,
    "done": bool,
    "outcome": str,
    "obs": dict,
}


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends one message."""
    data = pack(message)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Returns the next message; None at the end of the line.

    Raises:
      EmbodiedError: For a message that is too large, malformed or no map.
    """
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > MAX_BYTES:
        raise SimulatorError(f"a message of {size:,} bytes came; at most {MAX_BYTES:,} are read")
    data = _exactly(connection, size)
    if data is None:
        return None
    message = unpack(data, MAX_BYTES)
    if not isinstance(message, dict):
        raise SimulatorError(f"a message must be a map, got {type(message).__name__}")
    return message


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts, left = [], size
    while left:
        part = connection.recv(min(left, 1 << 20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class RobotLink:
    """The loop's end of the line; connects, and connects again where the line is cut.

    Args:
      host: Address of the robot's process.
      port: Its port.
      now: The loop's clock, in seconds.

    Attributes:
      connections: How often it was connected.
      trouble: What went wrong last with a message that came; "" if nothing did.
    """

    RETRY_S = 0.2

    def __init__(self, host: str, port: int, now: Callable[[], float] = time.monotonic) -> None:
        self._address, self._now = (host, port), now
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._newest: Frame | None = None
        self._ended = threading.Event()
        self.connections = 0
        self.trouble = ""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def latest(self) -> Frame | None:
        """Returns the newest frame; None before the first."""
        with self._lock:
            return self._newest

    def send(self, action: np.ndarray | None) -> bool:
        """Sends an action, or None to stop the arm; returns whether the line took it."""
        message = {"stop": True} if action is None else {"action": np.asarray(action, np.float32)}
        connection = self._connection
        if connection is None:
            return False
        try:
            send(connection, message)
        except OSError:  # half a message may have gone: the next one would be read as its rest
            _cut(connection)
            return False
        return True

    def close(self) -> None:
        """Ends the line."""
        self._ended.set()
        connection = self._connection  # the other thread may let go of it meanwhile
        if connection is not None:
            _cut(connection)
        self._thread.join(2)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                with socket.create_connection(self._address, timeout=2) as connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.settimeout(SILENT_S)
                    self._connection, self.connections = connection, self.connections + 1
                    # Whoever ended the line before it was there could not cut it.
                    while not self._ended.is_set() and (message := receive(connection)) is not None:
                        self._take(message)
            except OSError:
                pass  # cut or silent: the loop sees its frames grow old
            except EmbodiedError as error:
                self.trouble = str(error)
            finally:
                self._connection = None
            self._ended.wait(self.RETRY_S)

    def _take(self, message: dict[str, Any]) -> None:
        frame = Frame.read(message, self._now())
        with self._lock:
            self._newest = frame
