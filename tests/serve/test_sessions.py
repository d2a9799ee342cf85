"""Sessions: who remembers what, when an episode begins, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.text import INSTRUCTION
from embodied.serve.codec import MessageError
from embodied.serve.sessions import SessionConfig, Sessions, work
from tests.serve.engines import SPEC, SumEngine, observation


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(now: Clock, **options) -> tuple[Sessions, SumEngine]:
    engine = SumEngine()
    return Sessions(SPEC, lambda: engine.initial(1), SessionConfig(**options), now), engine


def send(sessions: Sessions, engine: SumEngine, message, connection: str = "a"):
    """Returns the sum that a message's answer shows, and the request."""
    request = sessions.read(message, connection)
    [chunk] = work(engine, [request])
    request.session.busy = False
    return (None if chunk is None else float(chunk[0, 0])), request


def test_each_connection_has_a_memory(clock) -> None:
    sessions, engine = make(clock)
    assert [send(sessions, engine, observation(x))[0] for x in (1, 2, 3)] == [1, 3, 6]
    assert send(sessions, engine, observation(5), "b")[0] == 5
    assert send(sessions, engine, observation(1, session="b"), "a")[0] == 6
    assert send(sessions, engine, observation(1))[0] == 7
    assert len(sessions) == 2 and sessions.state_bytes() == 2 * (8 + 8)


def test_what_begins_an_episode(clock) -> None:
    sessions, engine = make(clock, idle_reset_s=10.0)
    send(sessions, engine, observation(1, time_s=4.0))
    assert send(sessions, engine, observation(1, time_s=4.0))[0] == 2  # the same time goes on
    assert send(sessions, engine, observation(1, time_s=3.9))[0] == 1
    assert send(sessions, engine, observation(1, time_s=5.0, reset=True))[0] == 1
    clock.now += 10.1
    assert send(sessions, engine, observation(1, time_s=6.0))[0] == 1
    clock.now += 9.9
    assert send(sessions, engine, observation(1, time_s=7.0))[0] == 2


def test_a_changed_instruction_begins_an_episode_where_asked(clock) -> None:
    for asked, expected in ((False, 3), (True, 1)):
        sessions, engine = make(clock, reset_on_prompt=asked)
        for prompt in ("one", "one"):
            send(sessions, engine, observation(1, prompt=prompt))
        total, request = send(sessions, engine, observation(1, prompt="two"))
        assert total == expected
        assert bytes(request.obs[INSTRUCTION][0]).rstrip(b"\0") in (b"two", b"")


def test_clocks(clock) -> None:
    sessions, engine = make(clock, clock="calls")
    times = [send(sessions, engine, observation())[1].time_s for _ in range(3)]
    assert times == pytest.approx([0.0, 0.4, 0.8])
    sessions, engine = make(clock, clock="wall")
    first = send(sessions, engine, observation())[1].time_s
    clock.now += 1.5
    assert [first, send(sessions, engine, observation())[1].time_s] == [0.0, 1.5]
    assert send(sessions, engine, observation(time_s=9.0))[1].time_s == 9.0


def test_observing_asks_for_nothing(clock) -> None:
    sessions, engine = make(clock)
    assert send(sessions, engine, observation(2, observe_only=True))[0] is None
    assert send(sessions, engine, observation(1))[0] == 3


def test_a_call_for_many_answers_each_as_alone(clock) -> None:
    sessions, engine = make(clock)
    names, rng = [f"s{i}" for i in range(5)], np.random.default_rng(0)
    alone = dict.fromkeys(names, 0.0)
    for _ in range(6):
        chosen = rng.permutation(names)[: rng.integers(1, 6)]
        requests = []
        for name in chosen:
            x = float(rng.integers(1, 9))
            alone[name] += x
            requests.append(sessions.read(observation(x, session=str(name)), "c"))
        for request in requests:
            request.session.busy = False
        chunks = work(engine, requests)
        assert [float(c[0, 0]) for c in chunks] == [alone[name] for name in chosen]


def test_sessions_end(clock) -> None:
    sessions, engine = make(clock, forget_s=5.0, most=2)
    for name in "ab":
        send(sessions, engine, observation(1, session=name))
    with pytest.raises(MessageError, match="2 sessions are open"):
        sessions.read(observation(session="c"), "x")
    clock.now += 5.1
    assert send(sessions, engine, observation(1, session="c"))[0] == 1
    assert len(sessions) == 1
    sessions.close("c")
    sessions.close("never there")
    assert len(sessions) == 0


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ([1], "a message must be a map"),
        ({}, "observation 'pos_m' is missing"),
        (observation(session=7), "session: expected a text"),
        (observation(session="x" * 201), "session: expected a text"),
        (observation(reset=1), "reset: expected true or false, got int"),
        (observation(time_s="now"), "time_s: expected a number, got str"),
        (observation(time_s=True), "time_s: expected a number, got bool"),
        (observation(time_s=-1.0), "time_s: expected a number >= 0"),
        (observation(time_s=float("nan")), "time_s: expected a number >= 0"),
        (observation(time_s=np.zeros(3)), "time_s: expected a number"),
        (observation(prompt=3), "prompt: expected text"),
        (observation(prompt="x" * 161), "at most 160 bytes"),
        ({**observation(), "pos_m": np.zeros(3, np.float32)}, r"expected float32\[2\]"),
        ({**observation(), "pos_m": np.zeros(2)}, "got float64"),
        ({**observation(), "pos_m": [1, 2]}, "pos_m: expected an array, got list"),
        ({**observation(), "pos_m": "far"}, "pos_m: expected an array, got str"),
        ({**observation(), "pos_m": b"far"}, "pos_m: expected an array, got bytes"),
        ({**observation(), INSTRUCTION: math.nan}, "instruction_u8: nan is no number of uint8"),
        (observation(prompt="x" * 4097), "prompt: expected at most 4,096 characters, got 4,097"),
        ({**observation(), "pos_m": np.full(2, np.nan, np.float32)}, "holds NaN"),
    ],
)
def test_what_is_refused_changes_nothing(clock, message, reason) -> None:
    sessions, engine = make(clock)
    send(sessions, engine, observation(1))
    with pytest.raises((MessageError, SpecMismatch, ConfigError), match=reason):
        sessions.read(message, "a")
    assert send(sessions, engine, observation(1))[0] == 2
    assert len(sessions) == 1


@pytest.mark.parametrize("prompt", [{"a": 1}, np.zeros(3), [], "x" * 4097])
def test_what_is_no_instruction_is_refused_by_policies_that_read_none_too(clock, prompt) -> None:
    engine = SumEngine()
    spec = dataclasses.replace(SPEC, observations={"pos_m": SPEC.observations["pos_m"]})
    sessions = Sessions(spec, lambda: engine.initial(1), now=clock)
    message = {"pos_m": np.ones(2, np.float32)}
    assert sessions.read({**message, "prompt": None}, "a").begin.prompt == ""
    assert sessions.read({**message, "prompt": "go"}, "b").begin.prompt == "go"
    with pytest.raises(MessageError, match="prompt: expected"):
        sessions.read({**message, "prompt": prompt}, "c")


def test_one_message_at_a_time(clock) -> None:
    sessions, _ = make(clock)
    sessions.read(observation(), "a")
    with pytest.raises(MessageError, match="still busy"):
        sessions.read(observation(), "a")


def test_options_out_of_range_are_refused() -> None:
    for options in ({"clock": "sun"}, {"idle_reset_s": -1}, {"forget_s": 0}, {"most": 0}):
        with pytest.raises(ConfigError):
            SessionConfig(**options)
