"""OrderRecall: the cue's code, the lights, presses behind gates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, EXECUTE
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.tasks.order_recall import INFO, OrderRecall, order_of
from tests.sims.conftest import assert_equal
from tests.sims.hands import finish_cue, follow

TASK = "order_recall"
BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.3}


def test_levels_and_ceilings():
    knobs = [INFO.knobs(level) for level in INFO.levels]
    assert [(k["K"], k["L"]) for k in knobs] == [(4, 2), (4, 4), (6, 5), (9, 7)]
    for level in knobs:
        assert INFO.ceiling(level) == pytest.approx(level["K"] ** -level["L"])
        assert INFO.cues(level) == math.perm(level["K"], level["L"])
    assert INFO.cues(INFO.knobs("easy", {"repeats": 1})) == 16


@pytest.mark.parametrize("repeats", [False, True])
def test_a_cue_is_an_order_and_its_neighbour_begins_with_another_pad(repeats):
    count = 4**3 if repeats else math.perm(4, 3)
    orders = [order_of(cue, 4, 3, repeats) for cue in range(count)]
    assert len(set(orders)) == count
    assert repeats or all(len(set(order)) == 3 for order in orders)
    assert all(a[0] != b[0] for a, b in itertools.pairwise([*orders, orders[0]]))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"L": 5}, "knob L .* 2 to 4"), ({"L": 1}, "knob L"), ({"repeats": 2}, "knob repeats"),
     ({"reverse": 0.5}, "knob reverse"), ({"L": 8, "repeats": 1}, "2 to 7")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        OrderRecall(INFO.knobs("easy", knobs))
    OrderRecall(INFO.knobs("easy", {"L": 7, "repeats": 1}))


def lights(env, seed, cue):
    """Returns the pads that light up in the cue phase, one entry a flash."""
    env.reset(seed=seed, options={"cue": cue})
    lit = []
    while env.task.phase == CUE:
        shining = [n for n, v in env.task.entity_scalars().items() if v == 1.0]
        for name in shining:
            np.testing.assert_allclose(
                env.scene.m.geom(f"{name}_geom").rgba[:3], SHOWN_RGB, rtol=1e-6
            )
        lit.append(shining[0] if shining else "")
        env.advance(np.zeros(7))
    return [name for name, _ in itertools.groupby(lit) if name]


@pytest.mark.sim
@pytest.mark.parametrize(("reverse", "repeats"), [(0, 0), (1, 0), (0, 1)])
def test_lights_show_the_order(make_env, reverse, repeats):
    env = make_env(TASK, knobs={"L": 3, "reverse": reverse, "repeats": repeats, **BRIEF})
    for cue in (1, 7, 21):  # with repeats, 21 is pad 1 three times
        flashed = lights(env, 2, cue)
        order = [f"pad{i}" for i in env.task.order]
        assert flashed == (order[::-1] if reverse else order)
    assert ("reverse" in env.task.instruction) == bool(reverse)


@pytest.mark.sim
def test_a_press_leaves_no_trace(make_env):
    env = make_env(TASK, level="medium", knobs=BRIEF)
    finish_cue(env, 3)
    first, expert = env.save_state(), env.make_expert(3)
    snaps = 0
    while not env.task.decided:
        before = env.task.target()
        if env.advance(expert.act()):
            snaps += 1
            assert env.task.phase == EXECUTE and env.task.target() != before
            assert_equal(first, env.save_state(), skip="hidden_")
    assert env.task.success and snaps == 3 and env.task.committed == env.task.target()


@pytest.mark.sim
def test_a_wrong_press_fails_at_once(make_env):
    env = make_env(TASK, level="medium", knobs=BRIEF)
    finish_cue(env, 3)
    expert, task = env.make_expert(3), env.task
    while task.vars["done"] < 2:
        env.advance(expert.act())
    right = task.order[2]
    wrong = next(pad for pad in range(task.k) if pad != right)
    follow(env, task.touch_pad(wrong))
    assert task.failure_kind == "wrong_choice" and task.committed == f"press 3: pad{wrong}"
    assert task.target() == f"press 3: pad{right}"


@pytest.mark.sim
def test_a_reactive_twin_lights_the_pad_to_press(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1, **BRIEF})
    finish_cue(env, 1)
    expert = env.make_expert(1)
    while not env.task.decided:
        lit = [n for n, v in env.task.entity_scalars().items() if v == 1.0]
        assert env.task.target().endswith(lit[0]) and len(lit) == 1
        env.advance(expert.act())
    assert env.task.success


@pytest.mark.sim
def test_time_is_limited_for_each_press(make_env):
    env = make_env(TASK, knobs={"execute_s": 4.0, **BRIEF})
    finish_cue(env, 1)
    expert = env.make_expert(1)
    for _ in range(40):
        env.advance(np.zeros(7))
    while env.task.vars["done"] == 0:
        env.advance(expert.act())
    assert env.task.phase_tick == 0
    for _ in range(79):
        env.advance(np.zeros(7))
    assert not env.task.decided
    env.advance(np.zeros(7))
    assert env.task.failure_kind == "timeout"
