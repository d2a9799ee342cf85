"""ChecklistInspect: lids that open and close again, repeats, an early done, any order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embodied.core.task import EXECUTE, GAP
from sims.memory_bench.tasks.checklist_inspect import INFO
from tests.sims.conftest import assert_equal
from tests.sims.hands import follow

TASK = "checklist_inspect"
BRIEF = {"gap_min_s": 0.3, "gap_max_s": 0.5}


def open_box(env, index):
    """Touches a box's lid and waits out the gap."""
    follow(env, env.task.touch_box(index))
    while env.task.phase == GAP:
        env.advance(np.zeros(7))


def test_levels_and_ceilings():
    knobs = [INFO.knobs(level) for level in INFO.levels]
    assert [k["K"] for k in knobs] == [3, 4, 5, 8]
    assert [INFO.ceiling(k) for k in knobs[:3]] == pytest.approx(
        [0.0234, 0.00768, 0.00257], rel=0.01
    )
    assert all(INFO.cues(k) == 1 and INFO.needs_memory(k) for k in knobs)


@pytest.mark.sim
def test_every_order_is_right_and_leaves_no_trace(make_env):
    env = make_env(TASK, knobs=BRIEF)
    for order in ((2, 0, 1), (1, 2, 0)):
        env.reset(seed=3)
        first = env.save_state()
        for index in order:
            assert env.task.target() != "done"
            open_box(env, index)
            assert env.task.phase == EXECUTE
            assert_equal(first, env.save_state(), skip="hidden_")
        assert env.task.target() == "done"
        follow(env, env.task.press_path())
        assert env.task.success and env.task.committed == "done"


@pytest.mark.sim
def test_a_lid_opens_and_closes_before_the_gate(make_env):
    env = make_env(TASK, knobs={"gap_min_s": 1.5, "gap_max_s": 1.5})
    env.reset(seed=5)
    closed = env.scene.pos("lid1")[2]
    follow(env, env.task.touch_box(1))
    heights, scalars = [], []
    while env.task.phase == GAP:
        heights.append([env.scene.pos(f"lid{i}")[2] for i in range(3)])
        scalars.append(env.task.entity_scalars()["lid1"])
        env.advance(np.zeros(7))
    heights = np.array(heights) - closed
    assert heights[:, 1].max() > 0.08 and heights[0, 1] == heights[-1, 1] == 0.0
    assert not heights[:, (0, 2)].any()
    assert max(scalars) > 0.95 and scalars[0] == scalars[-1] == 0.0


@pytest.mark.sim
def test_a_repeat_and_an_early_done_fail(make_env):
    env = make_env(TASK, knobs=BRIEF)
    env.reset(seed=3)
    open_box(env, 1)
    follow(env, env.task.touch_box(1))
    assert (env.task.committed, env.task.failure_kind) == ("box1", "wrong_choice")
    env.reset(seed=3)
    open_box(env, 0)
    follow(env, env.task.press_path())
    assert (env.task.committed, env.task.failure_kind) == ("done", "early_commit")


@pytest.mark.sim
@pytest.mark.parametrize("level", list(INFO.levels))
def test_boxes_and_button_stand_apart(make_env, level):
    env = make_env(TASK, level=level)
    for seed in range(40):
        env.reset(seed=seed)
        boxes, button = env.task.plan["boxes"], env.task.plan["button"]
        for a, b in itertools.combinations(boxes, 2):
            assert np.abs(a - b).max() > 0.10
        assert np.abs(boxes - button).max(axis=1).min() > 0.10


@pytest.mark.sim
def test_a_reactive_twin_shows_what_was_opened(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1, **BRIEF})
    env.reset(seed=3)
    open_box(env, 2)
    colours = [env.scene.m.geom(f"lid{i}_geom").rgba[:3] for i in range(3)]
    assert np.array_equal(colours[0], colours[1]) and not np.array_equal(colours[0], colours[2])
