"""SetRecall: what is shown and when, touches behind gates, repeats and strangers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, EXECUTE
from sims.memory_bench import certify
from sims.memory_bench.tasks.set_recall import INFO, SetRecall, set_of
from sims.memory_bench.touch import touch_path
from tests.sims.conftest import assert_equal
from tests.sims.hands import finish_cue, follow

TASK = "set_recall"
BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.3}


def touch(env, candidate):
    """Touches a candidate by the expert's path, once."""
    task = env.task
    done, path = (
        task.vars["done"],
        touch_path(task, task.plan["pos"][candidate][:2], task.top_z_m()),
    )
    follow(env, path, lambda: task.vars["done"] > done)


def test_levels_and_ceilings():
    knobs = [INFO.knobs(level) for level in INFO.levels]
    got = [(k["K"], k["L"], k["one_by_one"]) for k in knobs]
    assert got == [(5, 2, 0), (7, 3, 0), (8, 4, 1), (9, 6, 1)]
    for level in knobs:
        k, length = level["K"], level["L"]
        assert INFO.cues(level) == math.comb(k, length)
        assert INFO.ceiling(level) == pytest.approx(math.factorial(length) / k**length)
        assert INFO.ceiling(level) < 1 / math.comb(k, length)


def test_a_clock_alone_gives_one_set_of_all():
    found = certify.ceiling(INFO, INFO.knobs("medium"))
    assert found["time_aware"]["low"] == pytest.approx(1 / math.comb(7, 3))


def test_a_cue_is_a_set():
    sets = [set_of(cue, 6, 3) for cue in range(math.comb(6, 3))]
    assert len(set(sets)) == len(sets)
    assert all(len(set(members)) == 3 for members in sets)
    assert sets[0] == (0, 1, 2) and sets[-1] == (3, 4, 5)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"L": 1}, "knob L .* 2 to 6"), ({"L": 5}, "less than K = 5"), ({"K": 10}, "knob K .* 3 to 9"),
     ({"one_by_one": 2}, "one_by_one .* 0 to 1")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        SetRecall(INFO.knobs("easy", knobs))


def seen_colours(env, seed, cue):
    """Returns, for each tick of the cue phase, the colours of the samples in sight."""
    env.reset(seed=seed, options={"cue": cue})
    seen = []
    while env.task.phase == CUE:
        names = [f"sample{i}" for i in range(env.task.length)]
        painted = [env.scene.m.geom(f"{n}_geom").rgba[:3] for n in names if env.scene.present[n]]
        assert env.observe()["entities_mask"][1 : 1 + len(names)].sum() == len(painted)
        seen.append([rounded(rgb) for rgb in painted])
        env.advance(np.zeros(7))
    return seen


def rounded(rgb):
    return tuple(np.round(np.asarray(rgb, float), 4))


def colours(task):
    return {rounded(task.colour(i)) for i in task.members}


@pytest.mark.sim
def test_all_colours_of_the_set_are_shown_together(make_env):
    env = make_env(TASK, knobs=BRIEF)
    for cue in (0, 4, 9):
        seen = seen_colours(env, 2, cue)
        assert len(seen) == env.task.cue_ticks and len(set(map(tuple, seen))) == 1
        assert set(seen[0]) == colours(env.task) and len(seen[0]) == 2


@pytest.mark.sim
def test_or_one_by_one_in_an_order_of_the_seed(make_env):
    env = make_env(TASK, level="hard", knobs=BRIEF)
    orders = set()
    for seed in range(4):
        seen = seen_colours(env, seed, 11)
        assert all(len(now) == 1 for now in seen)
        runs = [(rgb, len(list(run))) for (rgb,), run in itertools.groupby(seen)]
        assert {rgb for rgb, _ in runs} == colours(env.task) and len(runs) == 4
        assert min(length for _, length in runs) >= 16
        orders.add(tuple(env.task.shown_order()))
    assert len(orders) > 1


@pytest.mark.sim
def test_a_touch_leaves_no_trace(make_env):
    env = make_env(TASK, level="medium", knobs=BRIEF)
    finish_cue(env, 3)
    first, expert, snaps = env.save_state(), env.make_expert(3), 0
    while not env.task.decided:
        before = env.task.target()
        if env.advance(expert.act()):
            snaps += 1
            assert env.task.phase == EXECUTE and env.task.target() != before
            assert_equal(first, env.save_state(), skip="hidden_")
    assert env.task.success and snaps == 2


@pytest.mark.sim
def test_any_order_is_right_and_a_colour_twice_is_wrong(make_env):
    env = make_env(TASK, level="medium", knobs=BRIEF)
    for order in ((4, 1, 3), (3, 4, 1)):
        finish_cue(env, 3, list(itertools.combinations(range(7), 3)).index((1, 3, 4)))
        for candidate in order:
            assert not env.task.decided
            touch(env, candidate)
        assert env.task.success and env.task.committed == env.task.choice_name(order[-1])
    finish_cue(env, 3, env.task.cue)
    touch(env, 4)
    touch(env, 4)
    assert (env.task.committed, env.task.failure_kind) == (env.task.choice_name(4), "wrong_choice")


@pytest.mark.sim
def test_a_colour_that_was_not_shown_fails_at_once(make_env):
    env = make_env(TASK, knobs=BRIEF)
    finish_cue(env, 3, 0)
    touch(env, 0)
    assert env.task.vars["done"] == 1 and env.task.left() == [1]
    touch(env, 2)
    assert (env.task.committed, env.task.failure_kind) == (env.task.choice_name(2), "wrong_choice")


@pytest.mark.sim
def test_reactive_twin_shows_what_is_left(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1, **BRIEF})
    finish_cue(env, 3, 9)
    for left in (2, 1):
        shown = [n for n, p in env.scene.present.items() if p and n.startswith("sample")]
        painted = [env.scene.m.geom(f"{name}_geom").rgba[:3] for name in shown]
        np.testing.assert_allclose(
            painted, [env.task.colour(i) for i in env.task.left()], rtol=1e-6
        )
        assert len(shown) == left
        touch(env, env.task.right)
    assert env.task.success
