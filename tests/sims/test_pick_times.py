"""PickTimes: the number in the instruction, the feeder, stopping too early and too late."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE, GAP
from embodied.core.text import encode_instruction
from sims.memory_bench.tasks.pick_times import INFO, NUMBERS, PickTimes
from tests.sims.conftest import assert_equal
from tests.sims.hands import follow

TASK = "pick_times"
BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.4}


def place(env, times):
    """Lets the expert place the cube so many times, and wait for its return."""
    expert, task = env.make_expert(0), env.task
    while (task.vars["done"], task.phase) != (times, EXECUTE):
        assert not task.decided, task.failure_kind
        env.advance(expert.act())


def test_levels_and_ceilings():
    knobs = [INFO.knobs(level) for level in INFO.levels]
    assert [(k["n_min"], k["n_max"]) for k in knobs] == [(1, 3), (2, 4), (3, 5), (4, 6)]
    once = INFO.knobs("easy", {"n_max": 1})
    assert INFO.ceiling(once) == 0.25 and INFO.cues(once) == 1 and INFO.needs_memory(once)
    assert INFO.ceiling(knobs[0]) == pytest.approx((1 / 4 + 4 / 27 + 27 / 256) / 3)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"n_min": 0}, "n_min .* 1 to 6"), ({"n_max": 7}, "n_max .* 1 to 6"),
     ({"n_min": 3, "n_max": 2}, "n_min <= n_max"), ({"tol_m": 0.1}, "tol_m")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        PickTimes(INFO.knobs("easy", knobs))


def test_every_paraphrase_says_how_often():
    task = PickTimes(INFO.knobs("easy", {"n_max": 6}))
    for task.cue in range(6):
        for template in task.instructions:
            text = task.phrase(template)
            encode_instruction(text)
            assert f" {NUMBERS[task.cue + 1]} time" in text
            assert text.count("times") == (task.cue > 0)


@pytest.mark.sim
def test_histories_look_equal_and_need_different_actions(make_env):
    env = make_env(TASK, knobs=BRIEF)
    env.reset(seed=4, options={"cue": 1})
    first, target = env.save_state(), env.task.target()
    place(env, 2)
    assert_equal(first, env.save_state(), skip="hidden_")
    assert (target, env.task.target()) == ("place", "stop")


@pytest.mark.sim
def test_stopping_too_early_and_placing_too_often_fail(make_env):
    env = make_env(TASK, knobs=BRIEF)
    env.reset(seed=4, options={"cue": 1})
    place(env, 1)
    follow(env, env.task.press_path())
    assert (env.task.committed, env.task.failure_kind) == ("stop", "early_commit")
    assert env.task.target() == "place"
    env.reset(seed=4, options={"cue": 0})
    place(env, 1)
    follow(env, env.task.carry_path(0, env.task.plan["dish"]))
    assert (env.task.committed, env.task.failure_kind) == ("place", "wrong_choice")
    assert env.task.target() == "stop" and env.task.vars["done"] == 1


@pytest.mark.sim
def test_beside_the_dish_nothing_counts_and_the_cube_may_be_taken_again(make_env):
    env = make_env(TASK, knobs=BRIEF)
    env.reset(seed=6, options={"cue": 0})
    follow(env, env.task.carry_path(0, env.task.plan["dish"] + np.array([0.1, 0.0])))
    assert env.task.phase == EXECUTE and not env.task.decided and env.task.vars["done"] == 0
    place(env, 1)


@pytest.mark.sim
def test_a_short_press_is_no_stop(make_env):
    env = make_env(TASK, knobs=BRIEF)
    env.reset(seed=6, options={"cue": 0})
    env.task.vars["press_ticks"] = 10  # 0.5 s is not longer than 0.5 s
    env.advance(np.zeros(7))
    assert env.task.vars["press_ticks"] == 0 and not env.task.decided


@pytest.mark.sim
def test_a_cube_off_the_table_is_a_failure_of_the_hand(make_env):
    env = make_env(TASK, knobs=BRIEF)
    env.reset(seed=6)
    env.scene.place("cube", (0.0, 0.0, 0.5))
    env.scene.forward()
    env.advance(np.zeros(7))
    assert env.task.failure_kind == "motor"


@pytest.mark.sim
def test_the_feeder_takes_another_time_for_each_return(make_env):
    env = make_env(TASK, level="extreme", knobs={"gap_min_s": 0.2, "gap_max_s": 1.0})
    env.reset(seed=1, options={"cue": 0})
    expert, lengths = env.make_expert(1), [0]
    while not env.task.decided:
        gate = env.advance(expert.act())
        if env.task.phase == GAP:
            assert env.task.held and "cube" not in {n for n, p in env.scene.present.items() if p}
            lengths[-1] += 1
        elif gate:
            lengths.append(0)
    assert env.task.success and len(lengths) == env.task.n_choices
    assert len(set(lengths[:-1])) > 1 and all(4 <= n <= 20 for n in lengths[:-1])


@pytest.mark.sim
def test_a_reactive_twin_shows_the_tally(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1, **BRIEF})
    env.reset(seed=2, options={"cue": 1})
    for done in range(3):
        place(env, done)
        shown = [n for n, p in env.scene.present.items() if p and n.startswith("tally")]
        assert len(shown) == done
