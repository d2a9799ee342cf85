"""StopAtNthPass: passes behind gates, what a press does, and stopping early, late or beside."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE, GAP
from embodied.core.text import encode_instruction
from sims.memory_bench.counted import numbers
from sims.memory_bench.mixtures import best_mixture
from sims.memory_bench.tasks.stop_at_nth_pass import (
    END_Y_M,
    INFO,
    ORDINALS,
    REST_S,
    START_Y_M,
    StopAtNthPass,
)
from tests.sims.conftest import assert_equal
from tests.sims.hands import follow

TASK = "stop_at_nth_pass"
BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.4, "speed_m_s": 0.2}
IDLE = np.zeros(7)


def let_pass(env, passes):
    """Does nothing until so many passes are over and the next one begins."""
    while (env.task.vars["done"], env.task.phase) != (passes, EXECUTE):
        assert not env.task.decided, env.task.failure_kind
        env.advance(IDLE)


def press_at(env, off_mark_m):
    """Waits above the button until the slider is so far past the mark, then presses."""
    task = env.task
    off = lambda: task.slider_y_m() - task.plan["mark_y"]  # noqa: E731
    follow(env, task.waypoints(), lambda: off() >= off_mark_m)
    while off() < off_mark_m:
        env.advance(IDLE)
    follow(env, task.press_path()[-1:])


def test_levels_and_ceilings():
    knobs = [INFO.knobs(level) for level in INFO.levels]
    assert [(k["n_min"], k["n_max"]) for k in knobs] == [(2, 3), (2, 4), (3, 5), (4, 6)]
    assert INFO.ceiling(knobs[0]) == pytest.approx((1 / 4 + 4 / 27) / 2)
    for n, ceiling in ((2, 0.25), (3, 4 / 27), (4, 27 / 256)):
        found = best_mixture(StopAtNthPass.machine({"n_min": n, "n_max": n}))
        assert found.exact and float(found.value) == pytest.approx(ceiling)
        assert float(found.policy[n]["stop"]) == pytest.approx(1 / n)


@pytest.mark.parametrize("level", list(INFO.levels))
def test_time_is_uncertain_by_a_whole_cycle_when_it_has_to_be_stopped(level):
    knobs = INFO.knobs(level)
    way, speed, jitter = END_Y_M - START_Y_M, knobs["speed_m_s"], knobs["jitter"]
    shortest, longest = (way / (speed * (1 + s * jitter)) + knobs[gap]
                         for s, gap in ((1, "gap_min_s"), (-1, "gap_max_s")))  # fmt: skip
    mean = REST_S + way / speed + (knobs["gap_min_s"] + knobs["gap_max_s"]) / 2
    assert min(numbers(knobs)) * (longest - shortest) >= mean


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"n_min": 1}, "n_min .* 2 to 6"), ({"n_max": 7}, "n_max .* 2 to 6"),
     ({"n_min": 4, "n_max": 3}, "n_min <= n_max"), ({"tol_m": 0.1}, "tol_m .* 0.005 to 0.06"),
     ({"jitter": 0.9}, "jitter"), ({"speed_m_s": 0.01}, "speed_m_s"),
     ({"execute_s": 9.0}, "execute_s .* a second more than the slowest pass")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        StopAtNthPass(INFO.knobs("easy", knobs))


def test_every_paraphrase_says_which_pass():
    task = StopAtNthPass(INFO.knobs("easy", {"n_max": 6}))
    for task.cue in range(5):
        for template in task.instructions:
            text = task.phrase(template)
            encode_instruction(text)
            assert ORDINALS[task.cue + 2] in text or str(task.cue + 2) in text


@pytest.mark.sim
def test_histories_look_equal_and_need_different_actions(make_env):
    env = make_env(TASK, knobs=BRIEF)
    env.reset(seed=4, options={"cue": 0})
    first, target = env.save_state(), env.task.target()
    let_pass(env, 1)
    assert_equal(first, env.save_state(), skip="hidden_")
    assert (target, env.task.target()) == ("pass", "stop 2")


@pytest.mark.sim
def test_passes_differ_in_speed_and_in_the_time_between(make_env):
    env = make_env(TASK, level="extreme", knobs={"gap_min_s": 0.2, "gap_max_s": 1.0})
    env.reset(seed=1)
    passes, gaps = [0], [0]
    while not env.task.decided:
        ticks = passes if env.task.phase == EXECUTE else gaps
        ticks[-1] += 1
        if env.task.phase == GAP:
            assert not env.scene.present["slider"] and env.task.held
        if env.advance(IDLE):
            (gaps if env.task.phase == GAP else passes).append(0)
    assert env.task.failure_kind == "timeout" and not env.task.committed
    assert len(passes) == env.knobs["n_max"] + 1 and len(gaps) - 1 == env.knobs["n_max"]
    assert len(set(passes)) > 3 and len(set(gaps[1:])) > 1


@pytest.mark.sim
@pytest.mark.parametrize(("passes", "kind"), [(0, "early_commit"), (1, ""), (2, "wrong_choice")])
def test_only_the_right_pass_counts(make_env, passes, kind):
    env = make_env(TASK, knobs={**BRIEF, "speed_m_s": 0.07})
    env.reset(seed=4, options={"cue": 0})
    let_pass(env, passes)
    press_at(env, -0.02)
    assert (env.task.committed, env.task.failure_kind) == (f"stop {passes + 1}", kind)
    assert env.task.success == (passes == 1) and env.task.potential() == (passes == 1)


@pytest.mark.sim
@pytest.mark.parametrize("off_m", [-0.09, 0.06])
def test_beside_the_mark_is_a_failure_of_the_hand(make_env, off_m):
    env = make_env(TASK, knobs={**BRIEF, "speed_m_s": 0.07})
    env.reset(seed=4, options={"cue": 0})
    let_pass(env, 1)
    press_at(env, off_m)
    assert (env.task.committed, env.task.failure_kind) == ("stop 2", "motor")


@pytest.mark.sim
def test_the_slider_stands_while_the_button_is_pressed_and_a_short_press_is_no_stop(make_env):
    env = make_env(TASK, knobs={**BRIEF, "speed_m_s": 0.07})
    env.reset(seed=4, options={"cue": 1})
    task = env.task
    while task.slider_y_m() == START_Y_M:
        env.advance(IDLE)
    follow(env, task.press_path(), lambda: task.vars["press_ticks"] == 8)
    stands = task.slider_y_m()
    up = np.array([0, 0, 0.5, 0, 0, 0, -1.0])
    while task.vars["press_ticks"]:
        assert task.slider_y_m() == stands == pytest.approx(env.scene.pos("slider")[1])
        env.advance(up)
    assert not task.decided and task.phase == EXECUTE
    for _ in range(5):
        env.advance(up)
    assert task.slider_y_m() > stands


@pytest.mark.sim
def test_a_reactive_twin_shows_the_tally(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1, **BRIEF})
    env.reset(seed=2, options={"cue": 1})
    for done in range(3):
        let_pass(env, done)
        shown = [n for n, p in env.scene.present.items() if p and n.startswith("tally")]
        assert len(shown) == done
