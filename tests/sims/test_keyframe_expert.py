"""The expert as a demonstrator of keyframes: it rests at each one and says where to go next."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, EXECUTE
from sims.memory_bench import expert as expert_module
from sims.memory_bench.manipulation import GRASP_Z_M, SAFE_Z_M
from sims.memory_bench.task import CLOSE, OPEN, Waypoint
from tests.sims.conftest import assert_equal

pytestmark = pytest.mark.sim

PAUSE = 20
GAP = {"gap_min_s": 0.2, "gap_max_s": 0.3}
KEYFRAMES = {  # at easy: marked ones; those that end a phase are not, the gate or the end is there
    "remember_color": 1,
    "put_block_back": 10,
    "rearrange_block": 10,
    "reopen_drawer": 6,
    "lift": 2,
    "stack": 4,
}


def knobs(task):
    return {} if task in ("lift", "stack") else GAP


def run(env, seed, noise=0.0, pause=PAUSE, ask=True):
    """Plays an episode; returns a row for each tick: label, next keyframe, observation, action."""
    env.reset(seed=seed)
    expert, rows = env.make_expert(seed, noise, pause), []
    while not env.task.decided:
        obs = env.observe(draw=False)
        action = expert.act()
        keyframe = expert.next_keyframe() if ask else None
        rows.append((expert.keyframe_label, keyframe, obs, action, env.task.held, env.task.phase))
        env.advance(expert.perturb(action))
    assert expert.next_keyframe() is None
    return rows


@pytest.mark.parametrize("task", KEYFRAMES)
def test_each_label_is_where_the_hand_rests_next(make_env, task):
    env = make_env(task, knobs=knobs(task))
    for seed in (3, 4):
        rows = run(env, seed)
        assert env.task.success
        wanted, reached, before = None, 0, None
        for marked, keyframe, obs, _, held, phase in rows:
            assert (keyframe is None) >= held
            if before != phase:
                wanted, before = None, phase  # a gate ends what was under way
            if marked:
                np.testing.assert_allclose(obs["eef_pos_world_m"], wanted[:3], atol=0.004)
                np.testing.assert_allclose(obs["eef_quat_xyzw"], wanted[3:7], atol=0.02)
                assert (obs["gripper_opening"][0] > 0.9) == (wanted[7] == OPEN)
                reached += 1
            if marked or wanted is None:
                wanted = keyframe
            if wanted is not None and not marked and not held:
                np.testing.assert_array_equal(wanted[:7], keyframe[:7])  # until it is reached
        assert reached == KEYFRAMES[task]


def test_the_hand_rests_where_a_keyframe_is_marked(make_env):
    rows = run(make_env("put_block_back", knobs=GAP), 5)
    pos = np.array([row[2]["eef_pos_world_m"] for row in rows])
    opening = np.array([row[2]["gripper_opening"][0] for row in rows])
    for tick in np.flatnonzero([row[0] for row in rows]):
        assert np.linalg.norm(pos[tick] - pos[tick - 1]) < 0.03 / 20
        assert np.linalg.norm(pos[tick - 1] - pos[tick - 2]) < 0.03 / 20
        assert abs(opening[tick] - opening[tick - 1]) < 0.02
        assert np.linalg.norm(pos[tick + 1] - pos[tick]) > 0.03 / 20  # and goes on at once


def test_what_a_keyframe_says(make_env):
    env = make_env("put_block_back", knobs=GAP)
    rows = run(env, 6)
    patches = env.task.plan["patches"]
    asked = [rows[0][1], *(row[1] for row in rows if row[0])]
    assert {(k.dtype.name, k.shape) for k in asked} == {("float32", (9,))}
    cue = asked[:7]
    np.testing.assert_allclose([k[2] for k in cue[:4]], [SAFE_Z_M, GRASP_Z_M, SAFE_Z_M, SAFE_Z_M])
    assert [k[7] for k in cue] == [OPEN, CLOSE, CLOSE, CLOSE, OPEN, OPEN, OPEN]
    # After putting it down the hand first leaves upwards; all else is straight.
    assert [k[8] for k in cue] == [1, 1, 1, 1, 1, 0, 1]
    np.testing.assert_allclose(asked[-1][:2], patches[env.task.cue], atol=1e-6)
    assert np.abs(patches - cue[1][:2]).max(axis=1).min() < 0.01


def test_asking_changes_nothing(make_env):
    env = make_env("rearrange_block", knobs=GAP)
    for pause in (0, PAUSE):
        asked, silent = (run(env, 7, 1.0, pause, ask) for ask in (True, False))
        assert len(asked) == len(silent)
        for left, right in zip(asked, silent, strict=True):
            np.testing.assert_array_equal(left[3], right[3])


@pytest.mark.parametrize(("task", "level"), [("rearrange_block", "hard"), ("stack", "extreme")])
def test_after_a_move_the_next_one_is_known(make_env, task, level):
    """No acting tick is without a label, and what is announced comes to pass."""
    env = make_env(task, level=level, knobs=knobs(task))
    rows = run(env, 2)
    assert env.task.success
    acting = [row for row in rows if not row[4]]
    assert all(row[1] is not None for row in acting if row[5] == CUE)
    announced = [row[1] for row in rows if row[0]]
    reached = [row[2]["eef_pos_world_m"] for row in rows if row[0]]
    phases = [row[5] for row in rows if row[0]]
    for i in range(len(reached) - 1):
        if phases[i] == phases[i + 1]:
            np.testing.assert_allclose(reached[i + 1], announced[i][:3], atol=0.004)


def test_changing_the_gripper_is_a_keyframe_of_a_pausing_expert_alone(make_env):
    env = make_env("remember_color", knobs=GAP)
    for pause, marked in ((0, 0), (PAUSE, 1)):
        rows = run(env, 8, pause=pause)
        assert sum(row[0] for row in rows) == marked
        first = next(row[1] for row in rows if row[5] == EXECUTE)
        hover = first[2] > env.task.plan["pos"][0, 2] + 0.1
        assert hover == bool(pause) and first[7] == CLOSE
        # Without the pause the hover is only passed on the way down to the cube.
        assert first[8] == (1.0 if pause else 0.0)
        # It then closes on the way too; pausing, it closes once there.
        go = next(tick for tick, row in enumerate(rows) if row[5] == EXECUTE)
        closing = next(tick for tick, row in enumerate(rows) if row[3][6] == CLOSE)
        assert (closing == go) == (not pause)
        if pause:
            assert np.linalg.norm(rows[closing][2]["eef_pos_world_m"] - first[:3]) < 0.021


def on_path(env, monkeypatch, *waypoints):
    env.reset(seed=20)
    monkeypatch.setattr(env.task, "waypoints", lambda: waypoints)
    monkeypatch.setattr(env.task, "replan", lambda stage, goal: None)


def test_once_all_are_reached_none_is_left_and_none_is_marked(make_env, monkeypatch):
    env = make_env("lift")
    ends = (0.0, -0.1, 1.0), (0.0, 0.1, 1.0)
    for last_is_one in (True, False):
        on_path(env, monkeypatch, Waypoint(ends[0]), Waypoint(ends[1], keyframe=last_is_one))
        expert, marked, left = env.make_expert(0, 0.0, PAUSE), [], []
        for _ in range(60):
            action = expert.act()
            marked.append(expert.keyframe_label)
            left.append(expert.next_keyframe())
            env.advance(action)
        assert np.linalg.norm(env.scene.eef_pos() - ends[1]) < 0.01
        # The first is marked if the second is one; the last never, as nothing follows.
        assert sum(marked) == last_is_one
        assert left[0] is not None and left[-1] is None
        named = {round(float(k[1]), 3) for k in left if k is not None}
        assert named == ({-0.1, 0.1} if last_is_one else {-0.1})


def test_the_gripper_is_that_of_the_keyframe_and_not_of_the_way(make_env, monkeypatch):
    env = make_env("lift")
    way, end = (0.0, -0.1, 1.0), (0.0, 0.1, 1.0)
    on_path(env, monkeypatch, Waypoint(way, gripper=CLOSE, keyframe=False), Waypoint(end, 0, OPEN))
    for pause, expected in ((0, (0.1, OPEN, 0)), (PAUSE, (-0.1, CLOSE, 1))):
        env.reset(seed=20)
        expert = env.make_expert(0, 0.0, pause)
        expert.act()
        np.testing.assert_allclose(expert.next_keyframe()[[1, 7, 8]], expected, atol=1e-6)


def test_a_lost_block_is_fetched_again_from_the_keyframe_at_which_it_is_missed(make_env):
    env = make_env("put_block_back", knobs=GAP)
    env.reset(seed=9)
    expert, marked = env.make_expert(9, 0.0, PAUSE), 0
    moved = False
    while marked < 2:
        action = expert.act()
        marked += expert.keyframe_label
        if marked == 1 and not moved and expert._dwelt == 2:  # just arrived at the block
            moved = True
            env.scene.place("block", env.scene.pos("block") + np.array([0.06, 0.0, 0.0]))
        env.advance(action)
    assert moved
    # Up with the empty hand and open it, in place of carrying on with nothing in it.
    np.testing.assert_allclose(expert.next_keyframe()[:2], env.scene.eef_pos()[:2], atol=0.01)
    assert expert.next_keyframe()[2] == pytest.approx(SAFE_Z_M)
    assert expert.next_keyframe()[7] == OPEN
    while marked < 3:
        action = expert.act()
        marked += expert.keyframe_label
        env.advance(action)
    np.testing.assert_allclose(expert.next_keyframe()[:2], env.scene.pos("block")[:2], atol=0.005)
    while not env.task.decided:
        env.advance(expert.act())
    assert env.task.success


def test_a_snapshot_holds_the_pause(make_env):
    env = make_env("put_block_back", knobs=GAP)
    env.reset(seed=10)
    expert, trace, saved = env.make_expert(10, 0.0, PAUSE), [], None
    while not env.task.decided:
        action = expert.act()
        trace.append((action, expert.keyframe_label))
        env.advance(action)
        if expert._rested == 1 and expert._dwelt > 1 and saved is None:
            saved = env.save_state(), expert.state(), len(trace)
    env.restore_state(saved[0])
    expert.restore(saved[1])
    for action, marked in trace[saved[2] :]:
        np.testing.assert_array_equal(expert.act(), action)
        assert expert.keyframe_label == marked
        env.advance(action)
    assert env.task.success


def test_noise_leaves_a_pausing_hand_alone_and_moves_it_elsewhere(make_env):
    env = make_env("put_block_back", knobs=GAP)
    env.reset(seed=11)
    expert, still, moving = env.make_expert(11, 1.0, PAUSE), 0, 0
    while not env.task.decided:
        clean = expert.act()
        action = expert.perturb(clean)
        if not env.task.held and expert._dwelt:
            still += 1
            np.testing.assert_array_equal(action, clean)
        elif not env.task.held:
            moving += not np.array_equal(action, clean)
        env.advance(action)
    assert still > 20 and moving > 50


def test_a_pause_ends_although_nothing_rests(make_env, monkeypatch):
    env = make_env("lift")
    lengths = []
    for limit in (PAUSE, 40):
        with monkeypatch.context() as patch:
            patch.setattr(expert_module, "REST_M_S", 0.0)
            rows = run(env, 1, pause=limit)
        assert env.task.success
        lengths.append(next(tick for tick, row in enumerate(rows) if row[0]))
    assert lengths[1] - lengths[0] == 20


def test_a_pause_leaves_the_episode_without_one_as_it_was(make_env):
    env, states = make_env("reopen_drawer", knobs=GAP), []
    for arguments in ((12, 1.0), (12, 1.0, 0)):
        env.reset(seed=12)
        expert = env.make_expert(*arguments)
        while not env.task.decided:
            env.advance(expert.perturb(expert.act()))
        states.append(env.save_state())
    assert_equal(*states)
    with pytest.raises(ConfigError, match="pause_ticks"):
        env.make_expert(0, 0.0, -1)


@pytest.mark.parametrize("task", ["remember_color", "put_block_back", "rearrange_block",
                                  "reopen_drawer"])  # fmt: skip
def test_reactive_twins_are_demonstrated_too(make_env, task):
    env = make_env(task, knobs={"visible_cue": 1, **GAP})
    rows = run(env, 13)
    assert env.task.success and sum(row[0] for row in rows) == KEYFRAMES[task]
