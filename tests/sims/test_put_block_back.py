"""PutBlockBack: rules, failures and the expert."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE
from sims.memory_bench import manipulation, parts_button
from sims.memory_bench import task as task_module
from sims.memory_bench.manipulation import CENTRE_XY_M
from sims.memory_bench.parts import TABLE_TOP_M
from sims.memory_bench.task import CLOSE, Waypoint
from sims.memory_bench.tasks.put_block_back import INFO, PutBlockBack
from tests.sims.hands import finish_cue, follow, press_first

TASK = "put_block_back"
LEVELS = tuple(INFO.levels)


def test_levels_and_ceilings():
    assert [INFO.levels[level]["K"] for level in LEVELS] == [4, 8, 12, 16]
    for level in LEVELS:
        assert INFO.ceiling(INFO.knobs(level)) == pytest.approx(1 / INFO.levels[level]["K"])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"K": 1}, "2 to 16"), ({"K": 4.5}, "2 to 16"), ({"tol_m": 0.2}, "tol_m"),
     ({"cue_s": 0}, "cue_s"), ({"busy": 2}, "busy"), ({"gap_min_s": 9}, "gap_min_s")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        PutBlockBack(INFO.knobs("easy", knobs))


@pytest.mark.sim
@pytest.mark.parametrize("level", LEVELS)
def test_scenes_are_well_posed(make_env, level):
    env = make_env(TASK, level=level)
    seen = set()
    for seed in range(80):
        env.reset(seed=seed)
        plan = env.task.plan
        patches, button = plan["patches"], plan["button"]
        gaps = np.abs(patches[:, None] - patches[None]).max(-1) + np.eye(len(patches))
        assert gaps.min() > 0.09  # no two patches overlap
        assert np.abs(patches - CENTRE_XY_M).max(-1).min() > 0.085
        assert np.abs(patches - button).max(-1).min() > 0.045 + parts_button.BASE_HALF_M - 0.01
        assert patches[:, 0].min() > -0.2 and patches[:, 0].max() < 0.215
        assert np.abs(patches[:, 1]).max() < 0.33
        xy = env.scene.pos("block")[:2]
        assert np.abs(xy - patches[env.task.cue]).max() < 0.01
        seen.add(tuple(np.round(patches[0], 2)))
    assert len(seen) > 10


@pytest.mark.sim
def test_lamp_shows_each_step(make_env):
    env = make_env(TASK)
    env.reset(seed=1)
    expert, lamps = env.make_expert(1), []
    while not env.task.decided:
        key = (env.task.phase, env.task.vars["steps_done"], *env.scene.lamp_rgb().round(2))
        if not lamps or lamps[-1] != key:
            lamps.append(key)
        env.advance(expert.act())
    colours = [key[2:] for key in lamps]
    expected = (task_module.LAMP_CUE, task_module.LAMP_STEPS[0], task_module.LAMP_GAP,
                task_module.LAMP_EXECUTE)  # fmt: skip
    np.testing.assert_allclose(colours, expected, atol=0.01)


@pytest.mark.sim
def test_press_before_the_step_does_nothing(make_env):
    press_first(make_env(TASK), 2)


@pytest.mark.sim
def test_wrong_patch_is_a_wrong_choice_and_beside_all_is_motor(make_env):
    env = make_env(TASK)
    finish_cue(env, 4, 1)
    follow(env, env.task.carry_path(0, env.task.plan["patches"][2]))
    assert (env.task.committed, env.task.failure_kind) == ("patch2", "wrong_choice")
    assert env.task.target() == "patch1" and not env.task.success
    finish_cue(env, 4, 1)
    follow(env, env.task.carry_path(0, CENTRE_XY_M + 0.09))
    assert (env.task.committed, env.task.failure_kind) == ("none", "motor")


@pytest.mark.sim
def test_within_the_tolerance_counts_and_beyond_does_not(make_env):
    env = make_env(TASK)
    goal = lambda: env.task.plan["patches"][env.task.cue]  # noqa: E731
    finish_cue(env, 8)
    follow(env, env.task.carry_path(0, goal() + np.array([0.035, -0.03])))
    assert env.task.success
    finish_cue(env, 8)
    follow(env, env.task.carry_path(0, goal() + np.array([0.0, 0.07])))
    assert env.task.failure_kind == "motor"


@pytest.mark.sim
def test_a_first_release_is_final(make_env):
    env = make_env(TASK)
    finish_cue(env, 6, 0)
    follow(env, env.task.carry_path(0, env.task.plan["patches"][3]))
    assert env.task.failure_kind == "wrong_choice"
    env.task.commit("patch0", True)
    assert not env.task.success and env.task.committed == "patch3"


@pytest.mark.sim
def test_pushing_over_all_patches_commits_nothing(make_env):
    env = make_env(TASK)
    finish_cue(env, 7, 2)
    z = manipulation.GRASP_Z_M + 0.01
    x, y = env.task.plan["go_xy"]
    path = [Waypoint((x - 0.09, y, 0.95), gripper=CLOSE), Waypoint((x - 0.09, y, z))]
    path += [Waypoint((x + 0.12, y, z), tol_m=0.02)]
    follow(env, path)
    assert np.hypot(*(env.scene.pos("block")[:2] - (x, y))) > 0.04
    assert not env.task.decided and env.task.committed == ""


@pytest.mark.sim
def test_doing_nothing_times_out(make_env):
    env = make_env(TASK)
    finish_cue(env, 3)
    while not env.task.decided:
        env.advance(np.zeros(7))
    assert env.task.failure_kind == "timeout" and env.task.phase == EXECUTE
    env.reset(seed=3)
    while not env.task.decided:
        env.advance(np.zeros(7))
    assert env.task.failure_kind == "timeout" and env.task.tick == env.task.cue_ticks


@pytest.mark.sim
def test_reactive_twin_shows_the_answer(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    finish_cue(env, 3, 2)
    painted = env.scene.m.geom("patch2_geom").rgba[:3]
    np.testing.assert_allclose(painted, manipulation.SHOWN_RGB, rtol=1e-6)


@pytest.mark.sim
def test_hand_over_the_table_stays_open_after_the_gates(make_env):
    env = make_env(TASK)
    finish_cue(env, 12)
    assert env.scene.gripper_opening() == pytest.approx(1.0)
    assert env.scene.pos("block")[2] == pytest.approx(TABLE_TOP_M + 0.025)
