"""The loop, tick by tick: when memory sees, what the arm does, and what happens to faults."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import SpecMismatch
from embodied.deploy.loop import ControlLoop
from tests.deploy.fakes import SIDE, FakeLink, FakeRuntime, FakeWorker, Rig, frame, robot

MOVES = [0.01 * i for i in range(8)]


def test_a_chunk_is_carried_out_and_the_next_one_asked_for_in_time() -> None:
    rig = Rig()
    assert rig.play(range(17)) == pytest.approx([*MOVES, *MOVES, 0.0])
    assert [ask.time_s for ask in rig.worker.asks] == pytest.approx([0.0, 0.4, 0.8])
    assert [ask.reset for ask in rig.worker.asks] == [True, False, False]
    assert rig.loop.counters.answers == 3 and rig.loop.counters.late_answers == 0
    assert [row["what"] for row in rig.rows] == ["act"] * 17


def test_memory_ticks_by_time_stamps_not_by_calls() -> None:
    """Frames that never came don't shift the clock."""
    rig = Rig()
    rig.play(range(5))
    rig.play(range(11, 19))  # six were lost
    assert [ask.time_s for ask in rig.worker.asks] == pytest.approx([0.0, 0.55])
    rig.play(range(19, 20))
    assert rig.worker.asks[-1].time_s == pytest.approx(0.95)


def test_a_gate_is_seen_at_once_and_drops_what_was_decided_before() -> None:
    rig = Rig()
    rig.play(range(3))
    assert rig.play(range(3, 4), gate=True) == [0.0]
    assert [ask.time_s for ask in rig.worker.asks] == pytest.approx([0.0, 0.15])
    assert not rig.worker.asks[-1].reset  # the episode, and memory, go on


def test_a_held_arm_observes_and_is_asked_for_nothing() -> None:
    rig = Rig()
    assert rig.play(range(10), held=True) == [0.0] * 10
    assert [ask.acts for ask in rig.worker.asks] == [False, False]
    assert rig.loop.counters.answers == 0
    assert [row["what"] for row in rig.rows] == ["held"] * 10


def test_a_new_episode_begins_anew() -> None:
    rig = Rig()
    rig.play(range(4))
    rig.play(range(4, 5), done=True, outcome="success")
    rig.play(range(5, 6), done=True, outcome="success")
    rig.play(range(3), episode=1)
    assert [ask.reset for ask in rig.worker.asks] == [True, True]
    assert rig.loop.counters.episodes == ["success"]


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ("hold", [0.0, 0.0, *MOVES[:4]]),
        ("skip", [0.0, 0.0, *MOVES[2:6]]),
    ],
)
def test_late_answers(late, expected) -> None:
    rig = Rig(late=late)
    rig.worker.delay = 2
    assert rig.play(range(6)) == pytest.approx(expected)
    assert rig.loop.counters.late_answers == 1


def test_late_answers_can_stop_the_arm() -> None:
    rig = Rig(late="stop")
    rig.worker.delay = 1
    rig.tick(frame(0))
    assert rig.tick(frame(1)) is None
    assert rig.loop.counters.stops == 1


def test_an_answer_to_a_phase_that_is_over_is_dropped() -> None:
    rig = Rig()
    rig.worker.delay = 3
    rig.play(range(2))
    rig.play(range(2, 4), gate=False, held=True)
    rig.play(range(4, 5), gate=True)
    assert rig.loop.counters.dropped == 1 and rig.loop.counters.answers == 0


def test_a_policy_that_hangs_stops_the_arm_until_it_is_back() -> None:
    rig = Rig(watchdog_s=0.5)
    rig.worker.delay = 14
    sent = [rig.tick(frame(t)) for t in range(20)]
    assert [s is None for s in sent] == [False] * 11 + [True] * 3 + [False] * 6
    assert rig.loop.counters.stops == 1


def test_stale_frames_are_not_seen_and_then_stop_the_arm() -> None:
    rig = Rig(stale_s=0.3, watchdog_s=1.0)
    old = frame(0)
    rig.tick(old)
    assert rig.tick(old, now=0.2) is not None
    seen = len(rig.worker.asks)
    assert np.array_equal(rig.tick(old, now=0.5), np.zeros(7))
    assert rig.tick(old, now=1.1) is None
    assert rig.tick(old, now=1.2) is None
    assert len(rig.worker.asks) == seen
    assert rig.loop.counters.stale == 3 and rig.loop.counters.stops == 1
    assert rig.tick(frame(26)) is not None  # back again
    assert rig.worker.asks[-1].time_s == pytest.approx(1.3)


def test_nothing_is_decided_before_the_first_frame() -> None:
    rig = Rig()
    assert rig.tick(None, now=0.0) is None
    assert not rig.worker.asks


@pytest.mark.parametrize(
    ("obs", "what"),
    [
        ({"front_image_u8": np.full((SIDE, SIDE, 3), 3, np.uint8)}, "front_image_u8 black"),
        ({"front_image_u8": np.ones((2, 2, 3), np.uint8)}, "front_image_u8 of another size"),
        ({"eef_pos_world_m": np.full(3, np.nan, np.float32)}, "eef_pos_world_m not finite"),
        ({"front_image_u8": np.ones((SIDE, SIDE, 3))}, "front_image_u8 of another size"),
    ],
)
def test_frames_that_show_nothing_never_enter_memory(obs, what) -> None:
    rig = Rig()
    rig.play(range(3), obs=obs)
    assert not rig.worker.asks and rig.loop.counters.refused == {what: 3}
    rig.play(range(3, 4))  # the first sound one is seen at once, and begins the episode
    assert rig.worker.asks[0].reset and rig.worker.asks[0].time_s == pytest.approx(0.15)


def test_a_missing_key_never_enters_memory() -> None:
    rig = Rig()
    bad = frame(0)
    del bad.obs["front_image_u8"]
    rig.tick(bad)
    assert rig.loop.counters.refused == {"front_image_u8 of another size": 1}


def test_late_ticks_are_counted_and_left_out() -> None:
    rig = Rig()
    rig.link.frame = frame(0)
    times = iter([0.0, 0.0, 0.0, 0.2, 0.2, 0.2, *[10.0] * 50])
    rig.loop._now = lambda: next(times)
    rig.loop.run(seconds=0.3)
    assert rig.loop.counters.late_ticks >= 1
    assert rig.link.sent[-1] is None  # a loop that ends lets the arm stand


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_hz": 10.0}, "acts at 20 Hz, and fake at 10"),
        ({"action_kind": "joint_chunk"}, "takes 'joint_chunk'"),
        ({"observations": {"eef_pos_world_m": {"shape": [3], "dtype": "float32"}}}, "not offered"),
        ({"rename": {"front_image_u8": "camera"}}, "'camera', which it does not send"),
        (
            {
                "observations": {
                    "eef_pos_world_m": {"shape": [3], "dtype": "float32", "unit": "mm"},
                    "front_image_u8": {"shape": [SIDE, SIDE, 3], "dtype": "uint8"},
                }
            },
            "reads it in m, and fake sends mm",
        ),
    ],
)
def test_robots_that_do_not_fit_are_refused(options, message) -> None:
    with pytest.raises(SpecMismatch, match=message):
        ControlLoop(FakeRuntime(), robot(**options), FakeLink(), FakeWorker())


def test_a_robot_s_own_names_are_read() -> None:
    shown = {"shape": [SIDE, SIDE, 3], "dtype": "uint8"}
    hand = {"shape": [3], "dtype": "float32"}
    rig = Rig(
        observations={"hand": hand, "cam0": shown},
        rename={"front_image_u8": "cam0", "eef_pos_world_m": "hand"},
    )
    sound = frame(0)
    sound.obs["cam0"] = sound.obs.pop("front_image_u8")
    sound.obs["hand"] = sound.obs.pop("eef_pos_world_m")
    rig.tick(sound)
    assert set(rig.worker.asks[0].obs) == {"eef_pos_world_m", "front_image_u8"}
