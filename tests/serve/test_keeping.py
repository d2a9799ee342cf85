"""Sessions that outlive their server: what goes on, what is refused, what a kill may cost."""

from __future__ import annotations

import dataclasses
import shutil
import warnings

import numpy as np
import pytest

from embodied.core.errors import ConfigError, DataError
from embodied.serve import keeping
from embodied.serve.client import Client, ServerError
from embodied.serve.codec import MessageError
from embodied.serve.keeping import Keeper, file_name
from embodied.serve.runtime import Runtime
from embodied.serve.sessions import SessionConfig, Sessions, work
from tests.serve.engines import SPEC, SumEngine, observation
from tests.test_bench import script  # noqa: F401

ENGINE = SumEngine()


class Site:
    """A directory, clocks that can be set, and servers one after another."""

    def __init__(self, directory) -> None:
        self.directory, self.now, self.unix = directory, 1000.0, 5e9
        self.keeper: Keeper | None = None

    def start(self, policy: str = "a", **options) -> Sessions:
        """Begins a server's life; monotonic clocks of another machine start anew."""
        if self.keeper is not None:
            self.keeper.close()
            self.now = 50.0
        empty, now = ENGINE.initial(1), lambda: self.now
        self.keeper = Keeper(self.directory, policy, empty, now, lambda: self.unix)
        config = SessionConfig(**options)
        return Sessions(SPEC, lambda: ENGINE.initial(1), config, now, self.keeper)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.unix += seconds


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "sessions")
    yield made
    if made.keeper is not None:
        made.keeper.close()


def send(sessions: Sessions, name: str = "arm", x: float = 1.0, **own):
    """Returns the sum that a message's answer shows, and the time that was told."""
    request = sessions.read(observation(x, session=name, **own), "connection")
    if not request.again:
        work(ENGINE, [request])
        request.session.busy = False
        sessions.keep(request)
    answer = request.session.past.answer
    return (None if answer is None else float(answer[0, 0])), request.time_s


def plain(sessions: Sessions, name: str = "arm") -> dict:
    past = dataclasses.asdict(sessions.read(observation(session=name), "c").before)
    state, answer = past.pop("state"), past.pop("answer")
    return {**past, "bytes": [a.tobytes() for a in (*state.values(), answer)]}


def test_a_kept_session_goes_on_where_it_was(site) -> None:
    sessions = site.start()
    send(sessions, keep=True, x=2, prompt="the red one", seed=7)
    site.wait(0.5)
    assert send(sessions, x=3) == (5, 0.5)
    send(sessions, "other", x=9)
    before = plain(sessions)
    site.unix += 4.0  # no server for four seconds
    sessions = site.start()
    after = plain(sessions)
    assert before.pop("began_s") == 1000.0
    assert after.pop("began_s") == pytest.approx(50.0 - 4.5, abs=1e-5)
    assert after == before and after["seed"] == 7 and after["prompt"] == "the red one"
    sessions = site.start()
    total, time_s = send(sessions, x=1)
    assert total == 6 and time_s == pytest.approx(4.5, abs=1e-5)
    assert send(sessions, "other", x=1)[0] == 1  # it did not ask to be kept


def test_silence_counts_while_no_server_runs(site) -> None:
    send(site.start(), keep=True)
    site.unix += 29
    assert send(site.start(), x=1)[0] == 2
    site.unix += 31
    assert send(site.start(), x=1)[0] == 1
    site.unix += 601
    assert len(site.start()) == 0 and not list(site.directory.glob("*.npz"))


def test_calls_are_counted_on(site) -> None:
    sessions = site.start(clock="calls")
    send(sessions, keep=True)
    sessions = site.start(clock="calls")
    assert send(sessions)[1] == pytest.approx(0.4)


def test_a_message_sent_twice_is_answered_once(site) -> None:
    """A client that got no answer can't know whether memory saw its message."""
    sessions = site.start()
    send(sessions, keep=True, x=2)
    assert send(sessions, x=3, sequence=1) == send(sessions, x=3, sequence=1)
    sessions = site.start()
    assert send(sessions, x=3, sequence=1, time_s=2.0)[0] == 5
    assert send(sessions, x=1, sequence=2, observe_only=True)[0] is None
    sessions = site.start()
    assert send(sessions, x=1, sequence=2)[0] is None
    with pytest.raises(MessageError, match=r"has answered 3 messages, so that 3 is .* got 7"):
        send(sessions, sequence=7)
    with pytest.raises(MessageError, match="has answered 0 messages"):
        send(sessions, "never seen", sequence=2)
    assert send(sessions, x=1, sequence=3)[0] == 7
    assert len(sessions) == 1


def test_keeping_ends(site) -> None:
    sessions = site.start(most=2)
    send(sessions, keep=True)
    send(sessions, "two", keep=True)
    with pytest.raises(MessageError, match="2 sessions are open"):
        send(sessions, "three", keep=True)
    assert send(sessions, keep=False)[0] == 2
    sessions.close("two")
    assert not list(site.directory.glob("*.npz"))


def test_who_can_not_be_kept_is_told(site) -> None:
    with pytest.raises(MessageError, match="needs a name"):
        site.start().read(observation(keep=True), "connection")
    bare = Sessions(SPEC, lambda: ENGINE.initial(1))
    with pytest.raises(MessageError, match="start it with keep=DIRECTORY"):
        bare.read(observation(keep=True, session="arm"), "connection")
    with pytest.raises(MessageError, match="keep: expected true or false"):
        bare.read(observation(keep="yes", session="arm"), "connection")


def test_a_full_disk_leaves_a_session_as_it_was(site, monkeypatch) -> None:
    sessions = site.start()
    send(sessions, keep=True)

    def full(*_):
        raise DataError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "write_atomic", full)
        with pytest.raises(DataError, match="no space left"):
            send(sessions, x=5, sequence=1)
    assert send(sessions, x=5, sequence=1)[0] == 6


def test_a_directory_has_one_server(site, tmp_path) -> None:
    site.start()
    with pytest.raises(ConfigError, match="another server keeps its sessions there"):
        Keeper(site.directory, "a", ENGINE.initial(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose a directory that can be written"):
        Keeper(tmp_path / "file" / "inside", "a", ENGINE.initial(1))


def damaged(site, change) -> Sessions:
    """A server's second life, after `change` of the file of its session "arm"."""
    sessions = site.start()
    send(sessions, keep=True, x=4)
    send(sessions, "sound", keep=True, x=8)
    change(site.directory / file_name("arm"))
    with pytest.warns(UserWarning, match=r"does not go on: .*arm-.*npz"):
        return site.start()


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-40]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("no session"),
        lambda file: np.savez(file, sum=np.zeros(2)),
        lambda file: np.savez(file, **{"session": np.array([{}])}, allow_pickle=True),
        lambda file: shutil.copy(file.with_name(file_name("sound")), file),
        lambda file: (file.unlink(), file.symlink_to(file_name("sound"))),
    ],
    ids=["cut", "empty", "text", "foreign", "objects", "another's", "link"],
)
def test_a_broken_file_is_named_and_refused(site, change) -> None:
    sessions = damaged(site, change)
    assert send(sessions, "sound", x=1)[0] == 9
    with pytest.raises(MessageError, match=r"'arm' was kept and can't go on: .*arm-.*npz"):
        send(sessions)
    assert send(sessions, reset=True)[0] == 1  # begun anew, and kept again
    sessions = site.start()
    assert send(sessions)[0] == 2


def test_memory_of_another_policy_is_refused(site) -> None:
    send(site.start(), keep=True)
    with pytest.warns(UserWarning, match="memory of another policy"):
        site.start("b")


def test_no_flipped_bit_is_read_as_memory(site) -> None:
    sessions = site.start()
    send(sessions, keep=True, x=4, prompt="go")
    expected, file = plain(sessions), site.directory / file_name("arm")
    whole, rng, refused = file.read_bytes(), np.random.default_rng(0), 0
    for place in rng.choice(len(whole), 80, replace=False):
        bad = bytearray(whole)
        bad[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(bad)
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            sessions = site.start()
        if len(sessions) == 0:
            refused += 1
            continue
        found = plain(sessions)  # an unused byte, such as a date
        assert {**found, "began_s": 0} == {**expected, "began_s": 0}
    assert refused > 25


def test_nothing_answered_is_lost_when_the_server_is_killed(
    bundles,
    tmp_path,
    script,  # noqa: F811
) -> None:
    """``kill -9`` amid an episode, one of them while a message is on its way."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("websockets")
    _, path = bundles("lstm")
    runtime, rng = Runtime.load(path), np.random.default_rng(1)
    specs = runtime.spec.observations
    observations = [
        {key: rng.uniform(0, 1, spec.shape).astype(spec.dtype) for key, spec in specs.items()}
        for _ in range(12)
    ]

    def ask(client: Client, tick: int, **own):
        own = {"time_s": 0.4 * tick, "sequence": tick, "seed": 3, "keep": True, **own}
        answer = client.infer(observations[tick], **own)
        assert (answer["tick"], answer["sequence"]) == (tick + 1, tick + 1)
        return answer["actions"]

    def start():
        words = (tmp_path / "log", path, f"keep={tmp_path / 'kept'}")
        return script("robustness.serving").ServerProcess(*words)

    server, answers = start(), []
    try:
        with Client(server.uri, session="whole") as client:
            whole = [ask(client, tick) for tick in range(12)]
        for ticks in (range(4), range(4, 7), range(7, 12)):
            with Client(server.uri, session="cut") as client:
                answers += [ask(client, tick) for tick in ticks]
                if ticks.stop == 7:
                    client.send({**observations[7], "time_s": 2.8, "sequence": 7})
            if ticks.stop < 12:
                server.kill()
                server = start()
                assert "2 go on" in server.said
        with Client(server.uri, session="cut") as client:
            np.testing.assert_array_equal(ask(client, 11), whole[11])  # once more
            with pytest.raises(ServerError, match="has answered 12 messages"):
                ask(client, 3)
    finally:
        server.kill()
    np.testing.assert_allclose(answers, whole, atol=1e-6)
