"""The server over a real socket: openpi's protocol, many clients, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import pytest

from embodied.core.errors import ConfigError, SimulatorError
from embodied.serve.client import Client, ServerError
from embodied.serve.codec import pack
from embodied.serve.server import Server, ServerConfig
from embodied.serve.sessions import SessionConfig
from tests.serve.engines import SumEngine, observation
from tests.test_bench import script  # noqa: F401

pytest.importorskip("websockets")


class Running:
    """A server in a thread of its own."""

    def __init__(self, sizes=None, engine=None, metadata=None, **options) -> None:
        self.engine, started = engine or SumEngine(), threading.Event()
        config = ServerConfig(port=0, **options)
        metadata = metadata or {"policy": "sum"}
        self.server = Server(lambda _: self.engine, metadata, config, sizes)
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self.server.run(lambda _: started.set()))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert started.wait(10)
        self.uri = f"ws://127.0.0.1:{self.server.port}"
        self.http = f"http://127.0.0.1:{self.server.port}"

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            self._loop.run_until_complete(self._task)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def forgets(self) -> bool:
        """Says whether no session is left; a server learns of a closed socket a little later."""
        end = time.monotonic() + 10
        while len(self.server.sessions) and time.monotonic() < end:
            time.sleep(0.005)
        return len(self.server.sessions) == 0

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(self.http + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def running():
    made = []

    def start(*args, **options) -> Running:
        made.append(Running(*args, **options))
        return made[-1]

    yield start
    for one in made:
        one.stop()


def total(answer) -> float:
    return float(answer["actions"][0, 0])


def test_the_protocol_of_openpi_byte_by_byte(running) -> None:
    """A client written from the protocol alone: metadata first, then maps both ways."""
    from websockets.sync.client import connect

    with connect(running().uri, compression=None, max_size=None, proxy=None) as socket:
        metadata = msgpack.unpackb(socket.recv())
        assert metadata["policy"] == "sum" and metadata["action_horizon"] == 4
        for turn in range(2):
            socket.send(pack(observation(2.0)))
            answer = msgpack.unpackb(socket.recv())
            actions = answer["actions"]
            assert actions[b"__ndarray__"] and actions[b"shape"] == [4, 3]
            chunk = np.frombuffer(actions[b"data"], actions[b"dtype"]).reshape(4, 3)
            assert chunk[0, 0] == 2.0 * (turn + 1)
            assert answer["policy_timing"]["infer_ms"] > 0
            assert answer["server_timing"]["infer_ms"] > 0
            assert ("prev_total_ms" in answer["server_timing"]) == (turn == 1)
        socket.send(b"\xc1")
        assert isinstance(socket.recv(), str)  # an error is told by the frame being text


def test_memory_is_the_client_s_own(running) -> None:
    uri = running().uri
    with Client(uri) as one, Client(uri) as two:
        assert [total(one.infer(observation(x))) for x in (1, 2)] == [1, 3]
        assert total(two.infer(observation(5))) == 5
        assert total(one.infer(observation(1), reset=True)) == 1
        assert "actions" not in two.observe(observation(1))
        assert two.infer(observation(1), time_s=3.0)["time_s"] == 3.0
    with Client(uri) as again:
        assert total(again.infer(observation(7))) == 7


def test_named_sessions_outlive_a_connection(running) -> None:
    uri = running().uri
    with Client(uri, session="arm") as client:
        client.infer(observation(4))
    with Client(uri, session="arm") as client:
        assert total(client.infer(observation(1))) == 5


def test_many_clients_at_once_get_what_each_would_get_alone(running) -> None:
    server = running()

    def episode(index: int) -> bool:
        rng, expected = np.random.default_rng(index), 0.0
        with Client(server.uri) as client:
            for tick in range(20):
                x, reset = float(rng.integers(1, 9)), bool(rng.random() < 0.1)
                expected = x if reset or tick == 0 else expected + x
                if total(client.infer(observation(x), reset=reset)) != expected:
                    return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(episode, range(16)))
    assert max(server.engine.batches) > 1  # some were answered together
    assert server.forgets()
    status, text = server.get("/metrics")
    metrics = json.loads(text)
    assert status == 200 and metrics["requests"] == 320 and metrics["sessions"] == 0
    assert metrics["calls"] < 320 and metrics["latency_ms_p99"] >= metrics["latency_ms_p50"] > 0


def test_batches_of_known_sizes_alone_are_used(running) -> None:
    server = running([1, 4, 32])
    assert server.server._engines.keys() == {1, 4}  # before the first message; 32 is too many
    with ThreadPoolExecutor(8) as pool:

        def few(_: int) -> None:
            with Client(server.uri) as client:
                for _ in range(10):
                    client.infer(observation())

        list(pool.map(few, range(8)))
    assert set(server.engine.batches) <= {1, 4}


def test_bad_messages_are_answered_and_harm_nobody(running, script) -> None:  # noqa: F811
    malformed = script("robustness.malformed")
    server = running(max_bytes=40_000, token="secret")
    intruder = malformed.Intruder(server.uri, "secret", observation(), 40_000, 210, 0.0, 0)
    asked = 0
    with Client(server.uri, "secret") as bystander:
        intruder.start()
        while intruder.is_alive() or asked < 20:
            asked += 1
            assert total(bystander.infer(observation(1.0))) == asked
    tallies = intruder.tallies
    assert tallies.keys() > malformed.KINDS.keys() and len(tallies) == 21
    assert all(tally.answered == tally.sent == 10 for tally in tallies.values())
    assert tallies[malformed.HUGE].reason.startswith("closed with 1009: ")
    assert tallies[malformed.TOKEN].reason.startswith("HTTP 401: send the header Authorization")
    assert server.forgets() and server.server.metrics.errors == 190
    assert server.get("/healthz") == (200, "OK\n")


def test_a_client_that_does_not_wait_is_read_little_ahead(running) -> None:
    """Else each connection could make the server hold sixteen of the largest messages."""
    free, sent = threading.Event(), []

    class Slow(SumEngine):
        def tick(self, *args):
            free.wait(60)
            return super().tick(*args)

    def rush(client: Client) -> None:
        for number in range(24):
            client.send({**observation(1.0), "more": np.zeros(1 << 23, np.uint8)})
            sent.append(number)

    with Client(running(engine=Slow()).uri) as client:
        thread, before = threading.Thread(target=rush, args=(client,), daemon=True), -1
        thread.start()
        while len(sent) > before:
            before = len(sent)
            time.sleep(1)
        free.set()
        assert [total(client.receive()) for _ in range(24)] == list(range(1, 25))
    assert 1 <= before <= 12  # some lie in the buffers of the system


def test_a_server_that_is_stopped_ends_what_it_is_answering(running, monkeypatch) -> None:
    """Of older websockets `serve_forever` waits for no connection once it is cancelled."""
    from websockets.asyncio.server import Server as Listening

    async def forever(self) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Listening, "serve_forever", forever)
    begun, free = threading.Event(), threading.Event()

    class Slow(SumEngine):
        def tick(self, *args):
            begun.set()
            free.wait(60)
            return super().tick(*args)

    server = running(engine=Slow())
    with Client(server.uri) as client:
        client.send(observation(1.0))
        assert begun.wait(10)
        threading.Timer(0.5, free.set).start()
        server.stop()
    assert server.server.sessions.state_bytes() == 0


def test_errors_have_reasons_and_no_tracebacks(running) -> None:
    with Client(running().uri) as client:
        with pytest.raises(ServerError, match="observation 'pos_m' is missing"):
            client.infer({})
        with pytest.raises(ServerError, match="pos_m: expected an array, got str"):
            client.infer({**observation(), "pos_m": "far"})
        assert total(client.infer(observation(1))) == 1
        with pytest.raises(ServerError, match=r"^ws://\S+ internal error; the server's log"):
            client.infer(observation(13))
        with pytest.raises(SimulatorError, match="is closed"):
            client.infer(observation(1))


def test_what_one_message_breaks_others_of_its_call_do_not_pay_for(running) -> None:
    server = running().server
    requests = [
        server.sessions.read(observation(x, session=str(x)), "a connection") for x in (1, 13, 2)
    ]
    errors = server._compute(requests)
    assert [type(error) for error in errors] == [type(None), ZeroDivisionError, type(None)]
    assert [request.session.past.tick for request in requests] == [1, 0, 1]


def test_a_token_is_asked_for(running) -> None:
    server = running(token="secret")
    with Client(server.uri, token="secret") as client:
        assert total(client.infer(observation(1))) == 1
    for token in ("", "wrong"):
        with pytest.raises(SimulatorError, match="no policy server"):
            Client(server.uri, token=token)
    assert server.get("/metrics")[0] == 401
    assert server.get("/metrics", Authorization="Api-Key secret")[0] == 200
    assert server.get("/healthz") == (200, "OK\n")


def test_pages_in_a_browser_are_refused(running) -> None:
    """They say where they come from; whoever looks at one runs its scripts at loopback."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    server = running()
    for page in ("https://example.org", "http://127.0.0.1:8000", "null"):
        refused = pytest.raises(InvalidStatus, match="HTTP 403")
        with refused, connect(server.uri, origin=page, compression=None, proxy=None):
            pass
        assert server.get("/healthz", Origin=page) == (200, "OK\n")
        assert server.get("/metrics", Origin=page)[0] == 200
    with Client(server.uri) as client:
        assert total(client.infer(observation(1))) == 1


def test_an_answer_that_comes_too_late_is_no_answer_to_the_next_message(running) -> None:
    free = threading.Event()

    class Slow(SumEngine):
        def tick(self, *args):
            free.wait(60)
            return super().tick(*args)

    server = running(engine=Slow())
    with Client(server.uri, session="arm", timeout_s=10.0) as client:
        client._timeout_s = 0.2
        with pytest.raises(SimulatorError, match=r"did not answer within 0\.2 s"):
            client.infer(observation(4))
        free.set()
        client._timeout_s = 10.0
        with pytest.raises(SimulatorError, match="is closed"):
            client.infer(observation(1))
    with Client(server.uri, session="arm") as client:
        assert total(client.infer(observation(1))) == 5


def test_a_client_without_a_server_is_told() -> None:
    with pytest.raises(SimulatorError, match="embodied serve BUNDLE"):
        Client("ws://127.0.0.1:9", timeout_s=2)


def test_a_port_that_is_taken_is_named(running) -> None:
    server = running()
    config = ServerConfig(port=server.server.port)
    with pytest.raises(ConfigError, match="choose another host= or port="):
        asyncio.run(Server(lambda _: SumEngine(), {}, config).run())


def test_options_out_of_range_are_refused() -> None:
    for options in ({"port": -1}, {"max_bytes": 1}, {"batch": 0}):
        with pytest.raises(ConfigError):
            ServerConfig(**options)
    assert SessionConfig().clock == "wall"
