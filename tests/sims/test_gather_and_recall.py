"""GatherAndRecall: the work in the gap, true and false bells, and what may not be touched yet."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE, GAP
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.task import LAMP_EXECUTE, LAMP_GAP
from sims.memory_bench.tasks.gather_and_recall import (
    BELL_TICKS,
    CUBE,
    FALSE_BELL,
    INFO,
    TRAY,
    GatherAndRecall,
)
from sims.memory_bench.touch import touch_path
from tests.sims.hands import finish_cue, follow

TASK = "gather_and_recall"


def test_levels():
    assert [knobs["K"] for knobs in INFO.levels.values()] == [3, 4, 6, 8]
    assert [20 * knobs["gap_min_s"] for knobs in INFO.levels.values()][::3] == [100, 1200]
    assert 20 * INFO.levels["extreme"]["gap_max_s"] == 2000


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"bells": 5}, "0 to 4"), ({"chore_s": 1.0}, "8 to 60"), ({"tol_m": 0.2}, "tol_m")],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        GatherAndRecall(INFO.knobs("easy", knobs))


def begin_work(env, seed: int, cue: int) -> None:
    env.reset(seed=seed, options={"cue": cue})
    env.task._snap(GAP)


@pytest.mark.sim
def test_the_pad_is_lit_at_the_start_alone(make_env):
    env = make_env(TASK)
    env.reset(seed=3, options={"cue": 1})
    lit = [env.scene.m.geom(f"pad{i}_geom").rgba[:3] for i in range(3)]
    assert [bool(np.allclose(rgb, SHOWN_RGB, rtol=1e-6)) for rgb in lit] == [False, True, False]
    assert env.task.entity_scalars()["pad1"] == 1.0 and env.task.held
    env.task._snap(GAP)
    assert not any(env.task.entity_scalars().values()) and not env.task.held


@pytest.mark.sim
def test_cubes_come_one_by_one_until_the_bell_whatever_the_hand_is_at(make_env):
    env = make_env(TASK, knobs={"gap_min_s": 9.0, "gap_max_s": 9.0})
    begin_work(env, 5, 0)
    expert, gathered = env.make_expert(5), []
    start = env.save_state()
    while env.task.phase == GAP:
        gathered.append(env.task.vars["gathered"])
        on_tray = np.abs(env.scene.pos(CUBE)[:2] - env.task.plan[TRAY]).max() < 0.03
        env.advance(expert.act())
        if env.task.vars["gathered"] > gathered[-1]:
            assert on_tray and env.task.vars["chore_ticks"] == 0
            np.testing.assert_allclose(env.scene.pos(CUBE)[:2], env.task.plan["cube"], atol=1e-9)
    assert len(gathered) == 180 and gathered[-1] >= 2
    np.testing.assert_allclose(env.scene.lamp_rgb(), LAMP_EXECUTE, rtol=1e-6)
    # The bell apart, it is what it was when the work began.
    np.testing.assert_array_equal(env.scene.pos(CUBE)[:2], env.task.plan["cube"])
    assert env.save_state()["task_var_gathered"] == start["task_var_gathered"] == 0


@pytest.mark.sim
@pytest.mark.parametrize("level", list(INFO.levels))
def test_work_left_undone_fails(make_env, level):
    """However short the gap of the level is: at the bell at the latest."""
    low = INFO.levels[level]["gap_min_s"]
    env = make_env(TASK, level=level, knobs={"gap_max_s": low})
    begin_work(env, 5, 0)
    ticks = 0
    while not env.task.decided:
        env.advance(np.zeros(7))
        ticks += 1
    assert (env.task.failure_kind, env.task.phase) == ("timeout", GAP) and not env.task.committed
    assert ticks == 20 * min(low, env.knobs["chore_s"])


@pytest.mark.sim
def test_a_cube_gathered_before_the_bell_is_enough(make_env):
    env = make_env(TASK, knobs={"gap_min_s": 6.0, "gap_max_s": 6.0})
    begin_work(env, 5, 0)
    expert = env.make_expert(5)
    while not env.task.vars["gathered"]:
        env.advance(expert.act())
    while env.task.phase == GAP:
        env.advance(np.zeros(7))
    assert env.task.phase == EXECUTE and not env.task.decided


@pytest.mark.sim
def test_a_cube_that_falls_off_the_table_is_brought_back(make_env):
    env = make_env(TASK)
    begin_work(env, 5, 0)
    env.scene.place(CUBE, (0.6, 0.0, 0.7))
    for _ in range(3):
        env.advance(np.zeros(7))
    np.testing.assert_allclose(env.scene.pos(CUBE)[:2], env.task.plan["cube"], atol=1e-3)
    assert env.task.vars["gathered"] == 0 and env.task.vars["chore_ticks"] == 3


@pytest.mark.sim
@pytest.mark.parametrize("pad", [0, 1])
def test_a_pad_touched_before_the_bell_is_a_failure(make_env, pad):
    """Even the right one: nothing may be won by going early."""
    env = make_env(TASK)
    begin_work(env, 4, 0)
    follow(env, touch_path(env.task, env.task.plan["pos"][pad][:2], env.task.top_z_m()))
    assert (env.task.failure_kind, env.task.phase) == ("early_commit", GAP)
    assert env.task.committed == f"pad{pad}" and not env.task.success


@pytest.mark.sim
def test_false_bells_ring_in_another_colour_for_a_second(make_env):
    env = make_env(TASK, level="medium", knobs={"gap_min_s": 8.0, "gap_max_s": 8.0})
    begin_work(env, 6, 0)
    rings = []
    while env.task.phase == GAP and not env.task.decided:
        env.advance(np.zeros(7))
        rgb = env.scene.lamp_rgb()
        rings.append(bool(np.allclose(rgb, FALSE_BELL, rtol=1e-6)))
        expected = FALSE_BELL if rings[-1] else LAMP_GAP
        if env.task.phase == GAP:
            np.testing.assert_allclose(rgb, expected, rtol=1e-6)
    assert sum(rings) == BELL_TICKS and not rings[-1]
    assert sum(np.diff(np.array(rings, int)) == 1) == 1
    assert np.abs(np.subtract(FALSE_BELL, LAMP_EXECUTE)).max() > 0.25


@pytest.mark.sim
def test_other_pads_are_wrong_after_the_bell(make_env):
    env = make_env(TASK, knobs={"gap_min_s": 0.2, "gap_max_s": 0.3})
    finish_cue(env, 4, 1)
    follow(env, touch_path(env.task, env.task.plan["pos"][2][:2], env.task.top_z_m()))
    assert (env.task.committed, env.task.failure_kind) == ("pad2", "wrong_choice")


@pytest.mark.sim
def test_reactive_twin_keeps_the_pad_lit(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    env.reset(seed=3, options={"cue": 2})
    for phase in (GAP, EXECUTE):
        env.task._snap(phase)
        assert env.task.entity_scalars()["pad2"] == 1.0
        np.testing.assert_allclose(env.scene.m.geom("pad2_geom").rgba[:3], SHOWN_RGB, rtol=1e-6)
