"""Messages that are no observations, and connections that send them to a server."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np

from embodied.serve.codec import ARRAY, DATA, DTYPE, SHAPE, pack

Rng = np.random.Generator
TOKEN = "bad token"
"""A kind that is no message: a connection with another token."""
PATIENCE_S = 30.0
_UNSAID = ("", "internal error", "Traceback")
"""What an answer must not be or hold."""


def _array(data: Any, dtype: Any, shape: Any) -> bytes:
    packed: bytes = msgpack.packb(
        {"x": {ARRAY: True, DATA: data, DTYPE: dtype, SHAPE: shape}}, use_bin_type=True
    )
    return packed


def _other_dtype(good: Mapping[str, Any]) -> bytes:
    return pack({key: np.asarray(value, np.float16) for key, value in good.items()})


def _other_shape(good: Mapping[str, Any]) -> bytes:
    return pack({key: np.zeros((*value.shape, 2), value.dtype) for key, value in good.items()})


def _nested(rng: Rng) -> bytes:
    # From lists that are merely too deep to those that would overflow a stack.
    return b"\x91" * int(rng.integers(20, 20_000)) + b"\x01"


KINDS: dict[str, Callable[[Rng, Mapping[str, Any]], bytes | str]] = {
    "noise": lambda rng, good: b"\xc1" + rng.bytes(50),
    "truncated": lambda rng, good: pack(good)[: int(rng.integers(0, len(pack(good))))],
    "text": lambda rng, good: "text",
    "wrong dtype": lambda rng, good: _other_dtype(good),
    "wrong shape": lambda rng, good: _other_shape(good),
    "missing observation": lambda rng, good: pack(dict(list(good.items())[1:])),
    "object array": lambda rng, good: _array(b"\x80\x04N." * 2, "|O", [1]),
    "records": lambda rng, good: _array(bytes(8), "i4,i4", [1]),
    "shape beyond bytes": lambda rng, good: _array(bytes(8), "<f4", [2**31, 2**31]),
    "negative shape": lambda rng, good: _array(bytes(8), "<f4", [-2]),
    "length bomb": lambda rng, good: b"\xdd\xff\xff\xff\xff" + rng.bytes(8),
    "nested bomb": lambda rng, good: _nested(rng),
    "wide bomb": lambda rng, good: msgpack.packb([[[[[]]]]] * 5000),
    "no map": lambda rng, good: pack([1, 2, 3]),
    "wrong order": lambda rng, good: pack({**good, "sequence": int(rng.integers(5, 99))}),
    "unknown session": lambda rng, good: pack(
        {**good, "session": f"nobody {rng.integers(1 << 40)}", "sequence": 3}
    ),
    "no session": lambda rng, good: pack({**good, "session": 7}),
    "wrong flag": lambda rng, good: pack({**good, "reset": 2}),
    "wrong time": lambda rng, good: pack({**good, "time_s": float("nan")}),
}
"""Kind -> its message, made of a good one's observations."""
HUGE = "huge"
"""A kind that the protocol can't answer: the connection is closed with a code and a reason."""


@dataclasses.dataclass
class Tally:
    """What became of messages of one kind.

    Attributes:
      sent: How many were sent.
      answered: How many got a reason, as a text or where the connection was closed.
      reason: One of the reasons.
    """

    sent: int = 0
    answered: int = 0
    reason: str = ""


class Intruder(threading.Thread):
    """Sends malformed messages of every kind in turn, evenly over a time.

    Args:
      uri: The server.
      token: Its token; empty leaves out the kind `TOKEN`.
      good: Observations of one tick.
      max_bytes: Largest message that the server reads.
      count: How many messages.
      seconds: How long.
      seed: Draws them.

    Attributes:
      tallies: Kind -> what became of it.
    """

    def __init__(
        self,
        uri: str,
        token: str,
        good: Mapping[str, np.ndarray],
        max_bytes: int,
        count: int,
        seconds: float,
        seed: int,
    ) -> None:
        super().__init__(name=f"intruder {seed}", daemon=True)
        self.uri, self.token, self.good, self.max_bytes = uri, token, good, max_bytes
        self.count, self.seconds, self.rng = count, seconds, np.random.default_rng(seed)
        kinds = [*KINDS, HUGE, *([TOKEN] if token else [])]
        self.tallies = {kind: Tally() for kind in kinds}
        self._open, self._socket = contextlib.ExitStack(), None

    def run(self) -> None:
        began, kinds = time.monotonic(), list(self.tallies)
        for number in range(self.count):
            wait = began + self.seconds * number / self.count - time.monotonic()
            time.sleep(max(0.0, wait))
            kind = kinds[number % len(kinds)]
            reason = self._refused() if kind == TOKEN else self._reason(self._message(kind))
            tally = self.tallies[kind]
            tally.sent += 1
            if reason and not any(word and word in reason for word in _UNSAID):
                tally.answered += 1
                tally.reason = reason[:200]
        self._leave()

    def _message(self, kind: str) -> bytes | str:
        if kind == HUGE:
            return bytes(self.max_bytes + int(self.rng.integers(1, 1000)))
        return KINDS[kind](self.rng, self.good)

    def _reason(self, data: bytes | str) -> str:
        """Sends a message; returns what the server says to it, "" for nothing or an answer."""
        from websockets.exceptions import ConnectionClosed

        try:
            if self._socket is None:
                self._socket = self._open.enter_context(_connect(self.uri, self.token))
                self._socket.recv(PATIENCE_S)  # the policy's description
            self._socket.send(data)
            answer = self._socket.recv(PATIENCE_S)
        except ConnectionClosed as error:
            self._leave()
            close = error.rcvd
            return f"closed with {close.code}: {close.reason}" if close and close.reason else ""
        except (OSError, TimeoutError):
            self._leave()
            return ""
        return answer if isinstance(answer, str) else ""

    def _leave(self) -> None:
        self._open.close()
        self._socket = None

    def _refused(self) -> str:
        """Connects with another token; returns the server's reason."""
        from websockets.exceptions import InvalidStatus

        try:
            with _connect(self.uri, self.token + "x"):
                return ""
        except InvalidStatus as error:
            text = (error.response.body or b"").decode(errors="replace").strip()
            return f"HTTP {error.response.status_code}: {text}"
        except (OSError, TimeoutError):
            return ""


def _connect(uri: str, token: str) -> Any:
    from websockets.sync.client import connect

    headers = {"Authorization": f"Api-Key {token}"} if token else None
    return connect(
        uri, additional_headers=headers, compression=None, max_size=None, proxy=None,
        open_timeout=PATIENCE_S,
    )  # fmt: skip
