"""KeyTrial: tries, answers, gates between tries, and that only round 2 counts."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.task import CUE, EXECUTE, GAP
from sims.memory_bench.abstract import search_memoryless, with_clock
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.task import LAMP_CUE
from sims.memory_bench.tasks.key_trial import ANSWER_TICKS, INFO, NO_LAMP, YES_LAMP, KeyTrial
from sims.memory_bench.touch import touch_path
from tests.sims.conftest import assert_equal
from tests.sims.hands import finish_cue, follow

TASK = "key_trial"


def test_levels():
    assert [knobs["K"] for knobs in INFO.levels.values()] == [3, 4, 6, 8]


def test_a_clock_would_give_the_key_away():
    clocked = with_clock(KeyTrial.machine({"K": 4}), 8)
    assert search_memoryless(clocked, starts=4).value == 1


def touch(env, key: int, until=None) -> None:
    """Touches a key by the expert's path."""
    task = env.task
    follow(env, touch_path(task, task.plan["pos"][key][:2], task.top_z_m()), until)


def try_key(env, key: int) -> None:
    """Touches a key in round 1 and stays until the next gate."""
    tried = int(env.task.vars["tried"].sum())
    touch(env, key, lambda: env.task.vars["tried"].sum() > tried)
    while env.task.vars["answer_ticks"]:
        env.advance(np.zeros(7))


@pytest.mark.sim
def test_wrong_keys_are_refused_one_by_one_and_the_right_one_ends_the_round(make_env):
    env = make_env(TASK)
    env.reset(seed=4, options={"cue": 2})
    task = env.task
    for count, key in enumerate((0, 1), 1):
        touch(env, key, lambda: task.vars["answer_ticks"] > 0)
        np.testing.assert_allclose(env.scene.lamp_rgb(), NO_LAMP, rtol=1e-6)
        gates = [env.advance(np.zeros(7)) for _ in range(ANSWER_TICKS)]
        assert gates == [False] * (ANSWER_TICKS - 1) + [True]
        np.testing.assert_allclose(env.scene.lamp_rgb(), LAMP_CUE, rtol=1e-6)
        assert task.phase == CUE and not env.scene.present[f"key{key}"]
        assert task.vars["tried"].sum() == count and not task.entity_scalars()["box"]
        np.testing.assert_array_equal(env.scene.d.qpos[env.scene.arm_qpos], task.homes[0])
    touch(env, 2, lambda: task.vars["answer_ticks"] > 0)
    np.testing.assert_allclose(env.scene.lamp_rgb(), YES_LAMP, rtol=1e-6)
    assert task.entity_scalars()["box"] == 1.0 and not task.decided
    assert env.scene.pos("lid")[2] - env.scene.pos("box")[2] > 0.08
    assert [env.advance(np.zeros(7)) for _ in range(ANSWER_TICKS)][-1]
    assert task.phase == GAP and all(env.scene.present[name] for name in task.candidates)
    assert not task.entity_scalars()["box"] and not task.vars["tried"].any()


@pytest.mark.sim
def test_the_gate_between_tries_undoes_what_the_arm_did(make_env):
    env = make_env(TASK)
    states = []
    for reach in (0.0, 0.6):
        env.reset(seed=6, options={"cue": 0})
        for tick in range(20):  # another way to the same key
            env.advance(np.array([0, reach * np.sin(tick), reach, 0, 0, 0, -1.0]))
        try_key(env, 1)
        states.append(env.save_state())
    assert_equal(*states, skip="hidden_")


@pytest.mark.sim
def test_the_right_key_of_round_one_is_no_success_and_round_two_decides(make_env):
    env = make_env(TASK)
    env.reset(seed=4, options={"cue": 1})
    try_key(env, 1)
    assert env.task.phase == GAP and not env.task.decided and env.outcome() == (0.0, False, False)
    finish_cue(env, 4, 1)
    touch(env, 0)
    assert (env.task.committed, env.task.failure_kind) == ("key0", "wrong_choice")
    finish_cue(env, 4, 1)
    touch(env, 1)
    assert env.task.success and env.task.committed == "key1"


@pytest.mark.sim
def test_the_expert_explores(make_env):
    """It tries keys in an order of the seed, so demonstrations hold wrong tries, and no repeats."""
    env = make_env(TASK, level="medium")
    counts = []
    for cue in range(4):
        env.reset(seed=9, options={"cue": cue})
        expert, most = env.make_expert(9), 0
        while env.task.phase == CUE:
            env.advance(expert.act())
            most = max(most, int(env.task.vars["tried"].sum()))
        counts.append(most)
    assert sorted(counts) == [1, 2, 3, 4]


@pytest.mark.sim
def test_each_try_has_its_own_time_limit(make_env):
    env = make_env(TASK)
    env.reset(seed=4, options={"cue": 0})
    for _ in range(100):
        env.advance(np.zeros(7))
    try_key(env, 1)
    assert env.task.phase_tick == 0
    ticks = 0
    while not env.task.decided:
        env.advance(np.zeros(7))
        ticks += 1
    assert env.task.failure_kind == "timeout" and ticks == env.task.cue_ticks


@pytest.mark.sim
def test_at_go_every_key_is_back_whatever_was_tried(make_env):
    env = make_env(TASK)
    states = []
    for cue in range(3):
        finish_cue(env, 6, cue)
        assert env.task.phase == EXECUTE
        states.append(env.save_state())
    for other in states[1:]:
        assert_equal(states[0], other, skip="hidden_")


@pytest.mark.sim
def test_reactive_twin_shows_the_answer(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    finish_cue(env, 3, 2)
    np.testing.assert_allclose(env.scene.m.geom("key2_geom").rgba[:3], SHOWN_RGB, rtol=1e-6)
