"""The loop, tick by tick: when memory sees, what the arm does, and what happens to faults."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from embodied.core.errors import SpecMismatch
from embodied.core.specs import ArraySpec
from embodied.deploy.loop import ControlLoop
from embodied.evaluate.executors import ExecutorConfig, build_executor
from tests.deploy.fakes import (
    OBSERVATIONS,
    SIDE,
    SPEC,
    FakeLink,
    FakeRuntime,
    FakeWorker,
    Rig,
    frame,
    robot,
)

OFFERED = {key: dataclasses.asdict(spec) for key, spec in OBSERVATIONS.items()}
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
    assert rig.play(range(3, 4), phase=1) == [0.0]
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
        ("blend", [0.0, 0.0, 0.2 * MOVES[2], 0.4 * MOVES[3], 0.6 * MOVES[4], 0.8 * MOVES[5]]),
    ],
)
def test_late_answers(late, expected) -> None:
    rig = Rig(late=late)
    rig.worker.delay = 2
    assert rig.play(range(6)) == pytest.approx(expected)
    assert rig.loop.counters.late_answers == 1


def test_a_late_answer_blends_with_what_the_arm_was_doing() -> None:
    rig = Rig(late="blend")
    rig.play(range(4))
    rig.worker.delay = 1
    # The robot's clock leaps, so the next look comes while the first chunk still runs.
    old, *found = rig.play(range(8, 14))
    assert old == pytest.approx(MOVES[4])
    shares = [0.8, 0.6, 0.4, 0.2, 0.0]
    expected = [w * old + (1 - w) * new for w, new in zip(shares, MOVES[1:6], strict=True)]
    assert found == pytest.approx(expected, abs=1e-4)


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
    rig.play(range(2, 4), held=True)
    rig.play(range(4, 5), phase=1)
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
    assert rig.loop.counters.refused == {"front_image_u8 missing": 1}


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
        (
            {"observations": {"front_image_u8": {"shape": [SIDE, SIDE, 3], "dtype": "uint8"}}},
            "must send its hand's position eef_pos_world_m",
        ),
        (
            {
                "joints": ["a", "b"],
                "joint_low_rad": [-1, -1],
                "joint_high_rad": [1, 1],
                "observations": {**OFFERED, "joint_pos_rad": {"shape": [7], "dtype": "float32"}},
            },
            r"shape \[7\], and describes 2 joints: a, b",
        ),
        (
            {"joints": ["a"], "joint_low_rad": [-1], "joint_high_rad": [1]},
            "fake describes joints, and does not send joint_pos_rad",
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


def test_a_policy_that_reads_joints_goes_to_no_other_arm() -> None:
    joints = ArraySpec((7,), "float32")
    spec = dataclasses.replace(SPEC, observations={**OBSERVATIONS, "joint_pos_rad": joints})
    six = {"joint_pos_rad": {"shape": [6], "dtype": "float32", "unit": "rad"}}
    with pytest.raises(SpecMismatch, match="reads 7 joint angles, and fake has 6"):
        robot(observations={**OFFERED, **six}).check(spec, "bundle")
    seven = {"joint_pos_rad": {"shape": [7], "dtype": "float32", "unit": "deg"}}
    with pytest.raises(SpecMismatch, match="reads it in rad, and fake sends deg"):
        robot(observations={**OFFERED, **seven}).check(spec, "bundle")
    seven["joint_pos_rad"]["unit"] = "rad"
    robot(observations={**OFFERED, **seven}).check(spec, "bundle")


# ---- faults of a line, a camera, a robot ----------------------------------------------------


def test_a_gate_that_fell_into_a_cut_is_followed_when_the_line_is_back() -> None:
    rig = Rig()
    rig.play(range(3))
    rig.worker.delay = 99
    rig.play(range(8, 9))  # asked in phase 0; then nothing comes, and the phase changes
    rig.worker.delay = rig.worker._left = 0
    assert rig.play(range(20, 21), phase=1) == [0.0]
    assert rig.loop.counters.dropped == 1
    assert rig.play(range(21, 23), phase=1) == [0.0, 0.01]
    assert rig.worker.asks[-1].time_s == pytest.approx(1.05) and not rig.worker.asks[-1].reset


def test_what_was_decided_before_a_silence_is_over_with_it() -> None:
    rig = Rig(stale_s=0.3)
    assert rig.play(range(3)) == pytest.approx(MOVES[:3])
    assert not rig.tick(frame(2), now=0.5).any()
    rig.worker.delay = 2
    assert rig.play(range(11, 14)) == [0.0, 0.0, pytest.approx(MOVES[2])]  # not the old chunk


def test_a_restarted_robot_begins_a_new_episode_with_empty_memory() -> None:
    rig = Rig()
    rig.play(range(20))
    rig.play(range(3), session=2)  # numbers and times begin anew, and may even go on
    rig.play(range(40, 41), session=3)
    assert [(round(a.time_s, 2), a.reset) for a in rig.worker.asks] == [
        (0.0, True), (0.4, False), (0.8, False), (0.0, True), (2.0, True),
    ]  # fmt: skip
    assert rig.loop.counters.midway == 1


def test_a_protective_stop_ends_what_was_decided_and_is_looked_at_again() -> None:
    rig = Rig()
    rig.play(range(3))
    assert rig.play(range(3, 5), held=True) == [0.0, 0.0]
    assert rig.play(range(5, 7)) == pytest.approx(MOVES[:2])
    assert [(round(a.time_s, 2), a.acts) for a in rig.worker.asks] == [
        (0.0, True), (0.15, False), (0.25, True),
    ]  # fmt: skip


def test_a_camera_that_hangs_is_not_seen_and_then_stops_the_arm() -> None:
    """Its pictures say when they were taken."""
    rig = Rig(stale_s=0.3, watchdog_s=0.5)
    rig.play(range(8))
    sent = [rig.tick(frame(t, stamps={"front_image_u8": 0.05})) for t in range(8, 24)]
    assert len(rig.worker.asks) == 1
    assert rig.loop.counters.refused == {"front_image_u8 stale": 16}
    assert not any(action is not None and action[:6].any() for action in sent)
    assert [action is None for action in sent] == [False] * 11 + [True] * 5
    assert rig.play(range(24, 26)) == pytest.approx(MOVES[:2])  # it goes on by itself
    assert not rig.worker.asks[-1].reset and rig.loop.counters.stops == 1


def test_the_same_picture_while_the_hand_moves_is_of_a_camera_that_hangs() -> None:
    def at(x: float) -> dict[str, np.ndarray]:
        return {"eef_pos_world_m": np.array([x, 0.0, 1.0], np.float32)}

    for frozen_m, asks in ((0.02, 2), (0.0, 3)):
        rig = Rig(frozen_m=frozen_m, watchdog_s=9.0)
        for tick in range(24):
            rig.tick(frame(tick, obs=at(0.01 if tick < 16 else 0.01 + 0.004 * (tick - 10))))
        assert len(rig.worker.asks) == asks
    other = {**at(0.2), "front_image_u8": np.full((SIDE, SIDE, 3), 101, np.uint8)}
    rig = Rig(frozen_m=0.02)
    rig.tick(frame(0, obs=at(0.0)))
    rig.tick(frame(8, obs=at(0.2)))
    assert rig.loop.counters.refused == {"front_image_u8 frozen": 1}
    rig.tick(frame(9, obs=other))
    assert len(rig.worker.asks) == 2


JOINTED = {
    "observations": {**OFFERED, "joint_pos_rad": {"shape": [2], "dtype": "float32"}},
    "joints": ["a", "b"], "joint_low_rad": [-1, -1], "joint_high_rad": [1, 1],
    "home_rad": [0.0, 0.5], "home_within_rad": 0.1,
}  # fmt: skip


def test_an_episode_begins_at_home_and_a_joint_beyond_its_limit_stops_the_arm() -> None:
    def joints(*angles: float) -> dict[str, np.ndarray]:
        return {"joint_pos_rad": np.array(angles, np.float32)}

    rig = Rig(**JOINTED)
    rig.play(range(3), obs=joints(0.0, 0.3))
    assert not rig.worker.asks and [row["what"] for row in rig.rows] == ["away"] * 3
    assert rig.play(range(3, 6), obs=joints(0.05, 0.45)) == pytest.approx(MOVES[:3])
    assert rig.worker.asks[0].reset
    assert rig.play(range(6, 7), obs=joints(0.9, 0.9)) == pytest.approx(MOVES[3:4])  # on its way
    assert rig.tick(frame(7, obs=joints(1.01, 0.9))) is None
    assert rig.loop.counters.stops == 1


@pytest.mark.parametrize(
    ("obs", "what"),
    [
        ({"joint_pos_rad": np.array([np.nan, 0.5], np.float32)}, "joint_pos_rad not finite"),
        ({"joint_pos_rad": np.zeros(3, np.float32)}, "joint_pos_rad of another size"),
        ({"eef_pos_world_m": np.zeros(2, np.float32)}, "eef_pos_world_m of another size"),
        ({}, "joint_pos_rad missing"),
    ],
)
def test_an_arm_whose_pose_is_not_told_stands_and_is_then_stopped(obs, what) -> None:
    """Whether or not the policy reads it: its limits are kept by it, and hanging cameras found."""
    rig = Rig(**JOINTED, frozen_m=0.02, stale_s=0.2, watchdog_s=0.2)
    seen = {"front_image_u8": OBSERVATIONS["front_image_u8"]}
    rig.loop.spec = dataclasses.replace(SPEC, observations=seen)
    joints = {"joint_pos_rad": np.array([0.0, 0.5], np.float32)}
    rig.play(range(3), obs=joints)
    assert rig.play(range(3, 5), obs=obs) == [0.0, 0.0]
    assert rig.play(range(5, 7), obs=joints) == pytest.approx(MOVES[3:5])  # nothing was lost
    sent = [rig.tick(frame(tick, obs=obs)) for tick in range(7, 14)]  # memory's time comes
    assert [action is None for action in sent] == [False] * 5 + [True] * 2
    assert not any(action.any() for action in sent[:5])
    assert rig.loop.counters.refused == {what: 9} and rig.rows[-1]["refused"] == what
    assert rig.play(range(14, 16), obs=joints) == pytest.approx(MOVES[:2])
    assert [ask.time_s for ask in rig.worker.asks] == pytest.approx([0.0, 0.7])


def test_a_hand_on_its_way_to_a_keyframe_needs_its_pose() -> None:
    class Worker(FakeWorker):
        def answer(self, wait_s: float = 0.0):
            found = super().answer(wait_s)
            there = np.array([[0.1, 0, 1, 0, 0, 0, 1, -1, 1]], np.float32)
            return found and (found[0], there)

    pose = {
        "eef_quat_xyzw": np.array([0, 0, 0, 1], np.float32),
        "gripper_opening": np.ones(1, np.float32),
    }
    runtime, rig = FakeRuntime(), Rig()
    action = dataclasses.replace(SPEC.action, kind="keyframe", size=9, horizon=1)
    runtime.spec = dataclasses.replace(SPEC, action=action, observe_on="decision")
    told = {key: {"shape": value.shape, "dtype": "float32"} for key, value in pose.items()}
    with pytest.raises(SpecMismatch, match=r"fake must send eef_quat_xyzw of shape \[4\]"):
        robot().check(runtime.spec, "bundle")
    odd = {**told, "gripper_opening": {"shape": [], "dtype": "float32"}}
    with pytest.raises(SpecMismatch, match=r"fake must send gripper_opening of shape \[1\]"):
        robot(observations={**OFFERED, **odd}).check(runtime.spec, "bundle")
    rig.loop = ControlLoop(
        runtime, robot(observations={**OFFERED, **told}), rig.link, Worker(),
        ExecutorConfig("keyframe"), now=lambda: rig.now,
    )  # fmt: skip
    assert all(x > 0 for x in rig.play(range(3), obs=pose))
    bad = {**pose, "gripper_opening": np.array(1, np.float32)}
    assert rig.play(range(3, 4), obs=bad) == rig.play(range(4, 5)) == [0.0]
    assert all(x > 0 for x in rig.play(range(5, 8), obs=pose))


def test_a_loop_that_fails_stops_the_arm() -> None:
    rig = Rig()
    rig.link.frame = frame(0)

    def broken(wait_s: float = 0.0) -> None:
        raise ValueError("the policy answered nonsense")

    rig.worker.answer = broken
    with pytest.raises(ValueError, match="nonsense"):
        rig.loop.run(seconds=1.0)
    assert rig.link.sent == [None]


@pytest.mark.parametrize("name", ["prefix", "ensemble"])
def test_late_answers_skip_what_is_over_and_age_nothing_else(name: str) -> None:
    """Blended chunks are each read at their own place."""
    spec = dataclasses.replace(SPEC, action=dataclasses.replace(SPEC.action, horizon=16))
    one = build_executor(ExecutorConfig(name, ensemble_alpha=0.0), spec, 1)
    rows, chunk = np.array([True]), np.zeros((1, 16, 7), np.float32)
    chunk[0, :, 0] = 0.01 * np.arange(16)
    one.accept(chunk, rows, {})
    for _ in range(8):
        one.act({}, rows)
    one.accept(chunk + 0.2, rows, {})  # for the tick 8, and three ticks late: the arm stood still
    for _ in range(3):
        one.act({}, rows)
    one.clear(np.array([False]))
    one.accept(chunk + 0.4, rows, {})
    one.skip(rows, 3)
    newest = 0.4 + 0.03
    expected = newest if name == "prefix" else np.mean([newest, 0.2 + 0.03, 0.11])
    assert one.act({}, rows)[0, 0] == pytest.approx(expected, abs=1e-6)
