"""A client of policy servers; needs no torch.

It speaks openpi's protocol, so it also works with servers that keep no memory; those take no
notice of what goes beyond it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from embodied.core.errors import EmbodiedError, MissingExtra, SimulatorError
from embodied.serve.codec import pack, unpack

MAX_BYTES = 256 * 2**20
TOKEN_VARIABLE = "EMBODIED_TOKEN"
"""The environment variable that holds a server's token, on both sides."""


def is_uri(source: str) -> bool:
    """Whether a source is the address of a server."""
    return source.startswith(("ws://", "wss://"))


class ServerError(EmbodiedError):
    """The server answered that it can't answer; the message says why."""


class Client:
    """One connection, and with it one memory.

    Args:
      uri: For example ``"ws://127.0.0.1:8000"``.
      token: What the server asks for.
      session: Name of a session that outlives the connection; empty for the connection's own.
      timeout_s: Longest wait for the server, and for an answer.

    Attributes:
      metadata: What the server told about its policy.

    Raises:
      SimulatorError: If there is no server, or it does not let this client in.
    """

    def __init__(
        self, uri: str, token: str = "", session: str = "", timeout_s: float = 30.0
    ) -> None:
        try:
            from websockets.sync.client import connect
        except ModuleNotFoundError:
            raise MissingExtra("websockets", "serve") from None
        from websockets.exceptions import InvalidHandshake, InvalidURI

        self.uri, self._session, self._timeout_s = uri, session, timeout_s
        self._open = contextlib.ExitStack()
        headers = {"Authorization": f"Api-Key {token}"} if token else None
        try:
            connection = connect(
                uri,
                additional_headers=headers,
                compression=None,
                max_size=MAX_BYTES,
                open_timeout=timeout_s,
                proxy=None,
            )
            self._socket = self._open.enter_context(connection)
            self.metadata: dict[str, Any] = unpack(self._receive(), MAX_BYTES)
        except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as error:
            raise SimulatorError(
                f"no policy server at {uri}: {error}; start one with: embodied serve BUNDLE, and "
                "give its token, if it has one"
            ) from error

    def infer(self, observation: Mapping[str, Any], **own: Any) -> dict[str, Any]:
        """Sends an observation and returns the answer.

        Args:
          observation: Key -> array or number, without a batch axis.
          **own: ``reset``, ``time_s``, ``observe_only``, ``seed``, ``prompt``, ``keep``,
            ``sequence``.

        Returns:
          ``actions`` float32 [K, A], unless only observed; ``tick``, ``time_s``, ``sequence``
          and timings.

        Raises:
          ServerError: What the server says is wrong with the message.
          SimulatorError: If the connection is lost, or no answer comes, which ends it too: an
            answer that is late would be taken for that of the next message.
        """
        self.send({**observation, **own})
        return self.receive()

    def observe(self, observation: Mapping[str, Any], **own: Any) -> dict[str, Any]:
        """Lets memory see an observation; nothing is asked for."""
        return self.infer(observation, observe_only=True, **own)

    def close(self) -> None:
        """Ends the connection."""
        self._open.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message and does not wait; `receive` returns its answer.

        Raises:
          SimulatorError: If the connection is lost.
        """
        from websockets.exceptions import ConnectionClosed

        if self._session:
            message = {**message, "session": self._session}
        try:
            self._socket.send(pack(message))
        except ConnectionClosed as error:
            raise SimulatorError(f"the connection to {self.uri} is closed: {error}") from error

    def receive(self) -> dict[str, Any]:
        """Returns the next answer; see `infer`."""
        answer = self._receive()
        if isinstance(answer, str):
            raise ServerError(f"{self.uri}: {answer}")
        found: dict[str, Any] = unpack(answer, MAX_BYTES)
        return found

    def _receive(self) -> Any:
        from websockets.exceptions import ConnectionClosed

        try:
            return self._socket.recv(self._timeout_s)
        except TimeoutError as error:
            self.close()  # what comes now would be taken for the answer to the next message
            raise SimulatorError(
                f"{self.uri} did not answer within {self._timeout_s:g} s; the connection is closed"
            ) from error
        except ConnectionClosed as error:
            raise SimulatorError(f"the connection to {self.uri} is closed: {error}") from error
