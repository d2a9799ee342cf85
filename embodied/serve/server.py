"""A policy behind a websocket: openpi's protocol, and one memory for each client.

An unmodified openpi client works: it reads the metadata, sends observation maps and gets action
chunks. Beyond that a message may hold ``reset``, ``time_s``, ``session``, ``observe_only``,
``seed``, ``prompt``, ``keep`` and ``sequence``. Messages of several sessions that wait at the same
time are answered in one call. A message that can't be understood is answered by a text frame that
says why; its session, and all others, stay as they were.

A session that is kept is on disk before its answer is sent, so a killed server loses nothing that
was answered. Only that session waits for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import http
import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError, EmbodiedError, MissingExtra
from embodied.serve.codec import pack, unpack
from embodied.serve.keeping import Keeper, Snapshot
from embodied.serve.sessions import Engine, Request, SessionConfig, Sessions, work

LOOPBACK = "127.0.0.1"
CLOSED_BY_ERROR = 1011
WRITERS = 4
"""Threads that write sessions; they mostly wait for the disk."""


@dataclasses.dataclass
class ServerConfig:
    """Where and for whom.

    Attributes:
      host: Address to listen at; others than loopback let other machines in.
      port: Port; 0 for a free one.
      token: Asked of each client as ``Authorization: Api-Key TOKEN``; empty for none.
      max_bytes: Largest message.
      batch: Most messages answered in one call.
      keep: Directory for sessions that ask to outlive the server; empty keeps none.
      sessions: When sessions begin and end.
    """

    host: str = LOOPBACK
    port: int = 8000
    token: str = ""
    max_bytes: int = 32 * 2**20
    batch: int = 16
    keep: str = ""
    sessions: SessionConfig = dataclasses.field(default_factory=SessionConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16 or self.max_bytes < 1024 or self.batch < 1:
            raise ConfigError(
                "expected port within 0..65535, max_bytes >= 1024 and batch >= 1, got "
                f"{self.port}, {self.max_bytes} and {self.batch}"
            )


class Metrics:
    """Counts and latencies since the server began."""

    def __init__(self) -> None:
        self.requests = self.errors = self.calls = 0
        self._latency_ms: deque[float] = deque(maxlen=2000)

    def answered(self, latency_s: float) -> None:
        """Counts an answer."""
        self.requests += 1
        self._latency_ms.append(1e3 * latency_s)

    def read(self, sessions: Sessions) -> dict[str, float]:
        """Returns what a monitor asks for."""
        latency = np.array(self._latency_ms or [0.0])
        return {
            "requests": self.requests,
            "errors": self.errors,
            "calls": self.calls,
            "sessions": len(sessions),
            "state_bytes": sessions.state_bytes(),
            "latency_ms_p50": round(float(np.percentile(latency, 50)), 3),
            "latency_ms_p99": round(float(np.percentile(latency, 99)), 3),
        }


class Server:
    """Serves one policy; `run` until cancelled.

    Args:
      engine: Batch size -> what computes for so many rows.
      metadata: Told to each client at once; its ``sha256`` says which policy kept sessions are of.
      config: Where and for whom.
      sizes: Batch sizes that are worth a call, 1 among them; None for any.
    """

    def __init__(
        self,
        engine: Callable[[int], Engine],
        metadata: dict[str, Any],
        config: ServerConfig | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        self.config = config or ServerConfig()
        # Known sizes are loaded now: amid the traffic, everybody would wait for it.
        self._sizes = sorted({n for n in sizes or [1] if n <= self.config.batch}, reverse=True)
        self._engine_of, self._engines = engine, {size: engine(size) for size in self._sizes}
        self._any_size = sizes is None
        single = self._engines[1]
        self.spec = single.spec
        self._keeper = None
        if self.config.keep:
            policy = str(metadata.get("sha256", ""))
            self._keeper = Keeper(self.config.keep, policy, single.initial(1))
        self.sessions = Sessions(
            self.spec, lambda: single.initial(1), self.config.sessions, keeper=self._keeper
        )
        self.metrics = Metrics()
        self.metadata = {
            **metadata,
            "clock": self.config.sessions.clock,
            "keeps_sessions": self._keeper is not None,
            "control_hz": self.spec.control_hz,
            "observe_period_s": self.spec.observe_period_s,
            "observe_on": self.spec.observe_on,
            "action_horizon": self.spec.action.horizon,
            "spec": self.spec.to_json(),
        }
        self._queue: asyncio.Queue[tuple[Request, asyncio.Future[Any]]] = asyncio.Queue()
        self._writers = ThreadPoolExecutor(WRITERS, "keep")
        self.port = 0

    async def run(self, ready: Callable[[int], None] = lambda port: None) -> None:
        """Listens until cancelled.

        Args:
          ready: Called with the port once clients can connect.

        Raises:
          ConfigError: If the address can't be listened at.
        """
        try:
            from websockets.asyncio.server import serve
        except ModuleNotFoundError:
            raise MissingExtra("websockets", "serve") from None
        config = self.config
        try:
            listening = serve(
                self._serve,
                config.host,
                config.port,
                process_request=self._http,
                # Browsers name the page that asks, programs none: no page that somebody happens
                # to look at may talk to a server at loopback.
                origins=[None],
                compression=None,
                max_size=config.max_bytes,
                # A client that does not wait for its answers is read two messages ahead at most.
                max_queue=1,
            )
            async with listening as server, asyncio.TaskGroup() as tasks:
                self.port = server.sockets[0].getsockname()[1]
                worker = tasks.create_task(self._work())
                ready(self.port)
                try:
                    await server.serve_forever()
                finally:
                    # Connections end first: what is being answered needs the worker.
                    server.close()
                    await server.wait_closed()
                    worker.cancel()
                    self._writers.shutdown()
                    if self._keeper is not None:
                        self._keeper.close()
        except OSError as error:
            raise ConfigError(
                f"can't listen at {config.host}:{config.port}: {error.strerror or error}; choose "
                "another host= or port="
            ) from error

    # -- one client ---------------------------------------------------------------------------

    def _http(self, connection: Any, request: Any) -> Any:
        """Answers plain HTTP, from browsers too, and refuses clients without the token."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not self._admits(request.headers.get("Authorization", "")):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "send the header Authorization: Api-Key TOKEN\n"
            )
        if request.path == "/metrics":
            text = json.dumps(self.metrics.read(self.sessions)) + "\n"
            return connection.respond(http.HTTPStatus.OK, text)
        return None

    def _admits(self, header: str) -> bool:
        if not self.config.token:
            return True
        return hmac.compare_digest(header.encode(), f"Api-Key {self.config.token}".encode())

    async def _serve(self, socket: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        name = f"connection {uuid.uuid4().hex}"
        previous_ms: float | None = None
        try:
            await socket.send(pack(self.metadata))
            async for data in socket:
                began = time.monotonic()
                try:
                    answer = await self._answer(data, name)
                except EmbodiedError as error:
                    self.metrics.errors += 1
                    await socket.send(str(error))
                    continue
                timing = {"infer_ms": 1e3 * (time.monotonic() - began)}
                if previous_ms is not None:
                    timing["prev_total_ms"] = previous_ms
                await socket.send(pack({**answer, "server_timing": timing}))
                previous_ms = 1e3 * (time.monotonic() - began)
                self.metrics.answered(time.monotonic() - began)
        except ConnectionClosed:
            pass
        except Exception:
            # A bug of ours: the client learns that it was, not where; the log has the rest.
            with contextlib.suppress(ConnectionClosed):
                await socket.send("internal error; the server's log says more")
                await socket.close(CLOSED_BY_ERROR, "internal error")
            raise
        finally:
            self.sessions.close(name)

    async def _answer(self, data: Any, connection: str) -> dict[str, Any]:
        if isinstance(data, str):
            raise ConfigError("messages are binary msgpack maps, and text came")
        request = self.sessions.read(unpack(data, self.config.max_bytes), connection)
        began = time.monotonic()
        past = request.before
        if not request.again:
            past = await asyncio.shield(asyncio.ensure_future(self._take(request)))
        answer: dict[str, Any] = {
            "tick": past.tick,
            "time_s": request.time_s,
            "reset": request.reset,
            "sequence": past.sequence,
            "policy_timing": {"infer_ms": 1e3 * (time.monotonic() - began)},
        }
        return answer if past.answer is None else {"actions": past.answer, **answer}

    async def _take(self, request: Request) -> Snapshot:
        """Computes and keeps a message, to its end even if its client has gone meanwhile."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        try:
            await self._queue.put((request, done))
            await done
            if self._keeper is not None:
                await loop.run_in_executor(self._writers, self.sessions.keep, request)
            return request.session.past
        finally:
            request.session.busy = False

    # -- computing ----------------------------------------------------------------------------

    async def _work(self) -> None:
        """Answers what waits, several sessions in one call."""
        loop = asyncio.get_running_loop()
        while True:
            waiting = [await self._queue.get()]
            while len(waiting) < self.config.batch and not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            requests = [request for request, _ in waiting]
            errors = await loop.run_in_executor(None, self._compute, requests)
            self.metrics.calls += 1
            for (_, future), error in zip(waiting, errors, strict=True):
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

    def _compute(self, requests: list[Request]) -> list[Exception | None]:
        """Answers requests; returns what went wrong with each."""
        errors: list[Exception | None] = []
        while len(errors) < len(requests):
            left = requests[len(errors) :]
            count = len(left)
            if not self._any_size:
                count = next(size for size in self._sizes if size <= count)
            errors += self._attempt(left[:count])
        return errors

    def _attempt(self, requests: list[Request]) -> list[Exception | None]:
        count = len(requests)
        try:
            if count not in self._engines:
                self._engines[count] = self._engine_of(count)
            work(self._engines[count], requests)
        except Exception as error:
            # What one message breaks, others don't pay for: no session has moved on yet.
            return [error] if count == 1 else [self._attempt([r])[0] for r in requests]
        return [None] * count


def metadata_of(
    path: Path, checkpoint: dict[str, Any], sha256: str, parameters: int
) -> dict[str, Any]:
    """Returns what a client is told about the policy.

    Args:
      path: Bundle or checkpoint.
      checkpoint: Fields of `embodied.train.checkpoint.PolicyMeta`.
      sha256: Hash of the file that fixes what the policy does.
      parameters: Its number of weights.
    """
    told = ("policy", "config", "tasks", "level", "levels", "env", "package_version")
    train = {key: checkpoint["train"].get(key) for key in ("seed", "data_seeds", "steps")}
    return {
        **{key: checkpoint[key] for key in told},
        "train": train,
        "source": path.name,
        "sha256": sha256,
        "parameters": parameters,
    }
