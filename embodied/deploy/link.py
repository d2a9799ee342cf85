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


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a robot tells at a control tick.

    Attributes:
      episode: Number of the episode.
      time_s: Seconds of the episode, by the robot's clock.
      held: The arm is held: actions are ignored.
      gate: A phase began with this tick.
      done: The episode is over.
      outcome: What came of it, once it is over.
      obs: Observation key -> array.
      came_s: When it came, by the loop's clock.
    """

    episode: int
    time_s: float
    held: bool
    gate: bool
    done: bool
    outcome: str
    obs: dict[str, np.ndarray]
    came_s: float = 0.0


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends one message."""
    data = pack(message)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Returns the next message; None at the end of the line.

    Raises:
      MessageError: For a message that is too large or malformed.
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
    message: dict[str, Any] = unpack(data, MAX_BYTES)
    return message


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
    """

    RETRY_S = 0.2

    def __init__(self, host: str, port: int, now: Callable[[], float] = time.monotonic) -> None:
        self._address, self._now = (host, port), now
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._newest: Frame | None = None
        self._gates: set[int] = set()  # episodes with a gate that was not told yet
        self._ended = threading.Event()
        self.connections = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def latest(self) -> Frame | None:
        """Returns the newest frame; None before the first.

        A gate is told once: with its frame, or with the next one if that was dropped.
        """
        with self._lock:
            frame, gates = self._newest, self._gates
            self._gates = set()
        if frame is None:
            return None
        return dataclasses.replace(frame, gate=frame.episode in gates)

    def send(self, action: np.ndarray | None) -> bool:
        """Sends an action, or None to stop the arm; returns whether the line took it."""
        message = {"stop": True} if action is None else {"action": np.asarray(action, np.float32)}
        connection = self._connection
        if connection is None:
            return False
        try:
            send(connection, message)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Ends the line."""
        self._ended.set()
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(2)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                with socket.create_connection(self._address, timeout=2) as connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.settimeout(None)
                    self._connection, self.connections = connection, self.connections + 1
                    while (message := receive(connection)) is not None:
                        self._take(message)
            except (OSError, EmbodiedError):
                pass
            finally:
                self._connection = None
            self._ended.wait(self.RETRY_S)

    def _take(self, message: dict[str, Any]) -> None:
        frame = Frame(**message, came_s=self._now())
        with self._lock:
            self._newest = frame
            if frame.gate:
                self._gates.add(frame.episode)
