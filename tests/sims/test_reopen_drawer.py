"""ReopenDrawer: rules, failures, the cabinet and the expert."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE
from sims.memory_bench import manipulation, parts_drawers
from sims.memory_bench import task as task_module
from sims.memory_bench.task import Waypoint
from sims.memory_bench.tasks.reopen_drawer import INFO, ReopenDrawer
from tests.sims.hands import finish_cue, follow, press_first

TASK = "reopen_drawer"
LEVELS = tuple(INFO.levels)


def test_levels_and_ceilings():
    assert [INFO.levels[level]["K"] for level in LEVELS] == [3, 4, 5, 6]
    for level in LEVELS:
        assert INFO.ceiling(INFO.knobs(level)) == pytest.approx(1 / INFO.levels[level]["K"])


@pytest.mark.parametrize("knobs", [{"K": 1}, {"K": 7}, {"K": 3.5}])
def test_bad_knobs_are_refused(knobs):
    with pytest.raises(ConfigError, match="2 to 6"):
        ReopenDrawer(INFO.knobs("easy", knobs))


@pytest.mark.parametrize("drawers", range(2, 7))
def test_handles_are_reachable_from_above(drawers):
    handles = [parts_drawers.handle_pos_m(drawers, i) for i in range(drawers)]
    for a, b in itertools.combinations(handles, 2):
        beside = abs(a[0] - b[0]) > 0.1
        # A hand is 20 cm wide along the pull, so rows stand that far (and a bit) apart.
        behind = abs(a[1] - b[1]) > 0.12 and abs(a[2] - b[2]) > 0.09
        assert beside or behind
    with pytest.raises(ValueError, match="2 to 6"):
        parts_drawers.layout(drawers + 5)


@pytest.mark.sim
@pytest.mark.parametrize("level", LEVELS)
def test_scenes_are_well_posed(make_env, level):
    env = make_env(TASK, level=level)
    for seed in range(30):
        env.reset(seed=seed)
        task = env.task
        openings = [task._opening(i) for i in range(task.k)]
        assert openings[task.cue] > 0.8 * parts_drawers.TRAVEL_M
        assert sum(openings) == openings[task.cue]
        for i in range(task.k):
            for opening in (0.0, parts_drawers.TRAVEL_M):
                x, y, _ = task._handle(i, opening)
                assert -0.2 < x < 0.16 and -0.21 < y < 0.26
            bar = env.scene.d.geom_xpos[env.scene.m.geom(f"cabinet_drawer{i}_bar").id]
            np.testing.assert_allclose(task._handle(i, openings[i]), bar, atol=1e-9)


@pytest.mark.sim
@pytest.mark.parametrize(("level", "noise"), [*((lv, 0.0) for lv in LEVELS), ("easy", 1.0)])
def test_expert_succeeds(make_env, level, noise):
    env = make_env(TASK, level=level, knobs={"gap_min_s": 0.2, "gap_max_s": 0.3})
    for cue in range(env.task.n_cues):
        env.reset(seed=500 + cue, options={"cue": cue})
        expert = env.make_expert(cue, noise)
        others = 0.0
        while not env.task.decided:
            env.advance(expert.perturb(expert.act()))
            if not noise:
                shut = [env.task._opening(i) for i in range(env.task.k) if i != cue]
                others = max(others, *shut)
        assert env.task.success and env.task.committed == f"drawer{cue}"
        assert others < 0.01  # the cabinet's neighbours stay where they are


@pytest.mark.sim
def test_lamp_shows_each_step(make_env):
    env = make_env(TASK)
    env.reset(seed=1)
    expert, lamps = env.make_expert(1), []
    while not env.task.decided:
        lamp = tuple(env.scene.lamp_rgb())
        if not lamps or lamps[-1] != lamp:
            lamps.append(lamp)
        env.advance(expert.act())
    expected = (task_module.LAMP_CUE, task_module.LAMP_STEPS[0], task_module.LAMP_GAP,
                task_module.LAMP_EXECUTE)  # fmt: skip
    np.testing.assert_allclose(lamps, expected, atol=0.01)


@pytest.mark.sim
def test_press_before_the_drawer_is_shut_does_nothing(make_env):
    press_first(make_env(TASK), 2)


def _drag(env, drawer, opening_m):
    """Drags any drawer with the expert's own path."""
    task, real = env.task, env.task.cue
    task.cue = drawer
    path = task._drag_path(opening_m)
    task.cue = real
    follow(env, path)


@pytest.mark.sim
def test_wrong_drawer_fails_at_once(make_env):
    env = make_env(TASK)
    finish_cue(env, 4, 0)
    _drag(env, 2, 0.2)
    assert (env.task.committed, env.task.failure_kind) == ("drawer2", "wrong_choice")
    assert env.task._opening(2) < 0.1 and env.task.target() == "drawer0"


@pytest.mark.sim
def test_right_drawer_must_open_wide(make_env):
    env = make_env(TASK)
    finish_cue(env, 4, 1)
    _drag(env, 1, 0.12)
    assert env.task.committed == "drawer1" and not env.task.decided
    while not env.task.decided:
        env.advance(np.zeros(7))
    assert env.task.failure_kind == "timeout" and env.task.phase == EXECUTE
    finish_cue(env, 4, 1)
    _drag(env, 1, 0.12)
    _drag(env, 0, 0.12)
    assert (env.task.committed, env.task.failure_kind) == ("drawer1", "motor")


@pytest.mark.sim
def test_at_go_every_drawer_is_shut(make_env):
    env = make_env(TASK)
    finish_cue(env, 6)
    assert [env.task._opening(i) for i in range(3)] == [0.0, 0.0, 0.0]
    assert not any(env.task.entity_scalars().values())


@pytest.mark.sim
def test_opening_other_drawers_before_go_commits_to_nothing(make_env):
    env = make_env(TASK)
    env.reset(seed=4, options={"cue": 0})
    _drag(env, 2, 0.12)
    assert env.task._opening(2) > 0.08 and not env.task.decided
    expert = env.make_expert(4)
    while not env.task.decided:
        env.advance(expert.act())
    assert env.task.success


@pytest.mark.sim
def test_reactive_twin_shows_the_answer(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    finish_cue(env, 3, 2)
    painted = env.scene.m.geom("cabinet_drawer2_geom").rgba[:3]
    np.testing.assert_allclose(painted, manipulation.SHOWN_RGB, rtol=1e-6)


@pytest.mark.sim
def test_button_comes_back_up(make_env):
    env = make_env(TASK)
    env.reset(seed=2)
    follow(env, env.task.press_path(), lambda: env.task.press_depth_m() > 0.007)
    assert env.task.press_depth_m() > 0.007
    up = env.scene.eef_pos() + np.array([0.0, 0.0, 0.1])
    follow(env, [Waypoint(tuple(up), tol_m=0.02)])
    assert abs(env.task.press_depth_m()) < 0.003
