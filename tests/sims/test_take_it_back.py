"""TakeItBack: starts all over the rectangle, what counts as back, and what fails."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, EXECUTE
from sims.memory_bench.manipulation import level_yaw
from sims.memory_bench.tasks.take_it_back import GOAL_XY_M, INFO, MOST_YAW_RAD, TakeItBack, _bins
from tests.sims.conftest import assert_equal
from tests.sims.hands import finish_cue, follow, press_first

TASK = "take_it_back"
BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.3}


def put(env, off_m=(0.0, 0.0), turn_rad=0.0):
    """Puts the cube down so far from its start, by the expert's way."""
    task = env.task
    follow(env, task._carry(task.start_xy + np.array(off_m), task.plan["start_yaw"] + turn_rad))


def test_levels():
    assert [k["r_m"] for k in INFO.levels.values()] == [0.05, 0.035, 0.02, 0.01]
    turns = [round(math.degrees(k["yaw_tol_rad"]), 1) for k in INFO.levels.values()]
    assert turns == [45.0, 30.0, 22.5, 15.0]


@pytest.mark.parametrize("level", list(INFO.levels))
def test_ceiling_is_the_share_of_the_tolerance(level):
    knobs = INFO.knobs(level)
    area = knobs["depth_m"] * knobs["width_m"]
    turn = knobs["yaw_tol_rad"] / MOST_YAW_RAD
    assert INFO.ceiling(knobs) == pytest.approx(math.pi * knobs["r_m"] ** 2 / area * turn)


def test_no_pose_is_right_for_more_starts_than_the_ceiling_says():
    """Of starts drawn as episodes draw them, however the release is chosen."""
    knobs, starts = INFO.knobs("medium"), []
    task = TakeItBack(knobs)
    for seed in range(300):
        plan = task.draw(np.random.default_rng(seed))
        starts += [(*xy, plan["start_yaw"]) for xy in plan["starts"]]
    starts = np.array(starts)
    sides = np.ptp(starts[:, :2], axis=0)
    np.testing.assert_allclose(sides, (knobs["depth_m"], knobs["width_m"]), atol=0.003)
    poses = np.random.default_rng(0).permutation(starts)[:400]
    away = np.hypot(*(starts[:, None, :2] - poses[None, :, :2]).transpose(2, 0, 1))
    turn = np.abs(np.remainder(starts[:, None, 2] - poses[None, :, 2] + math.pi / 4, math.pi / 2))
    right = (away <= knobs["r_m"]) & (np.abs(turn - math.pi / 4) <= knobs["yaw_tol_rad"])
    share, n = right.mean(0), len(starts)
    ceiling = INFO.ceiling(knobs)
    # Starts of one draw share their yaw, so the spread is that of fewer.
    assert share.max() < ceiling + 5 * math.sqrt(12 * ceiling / n)
    assert np.median(share) > 0.75 * ceiling


def test_sets_of_starts_fill_everything():
    for share in (1.0, 0.5, 0.3, 1 / 15, 0.0393):
        chances = _bins(share)
        assert sum(chances) == 1 and max(chances) == pytest.approx(share)
        assert sum(chance != chances[0] for chance in chances) <= 1


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"r_m": 0.16}, "r_m .* at most 0.15"), ({"r_m": 0.0}, "r_m"),
     ({"yaw_tol_rad": 1.0}, "yaw_tol_rad .* at most 0.785"), ({"depth_m": 0.4}, "depth_m"),
     ({"width_m": 0.02}, "width_m .* above 0.04"), ({"tol_m": 0.1}, "tol_m")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        TakeItBack(INFO.knobs("easy", knobs))


@pytest.mark.sim
def test_the_cue_is_the_cell_and_the_rest_is_the_seeds(make_env):
    env = make_env(TASK)
    starts, yaws = [], set()
    for cue in range(12):
        env.reset(seed=7, options={"cue": cue})
        starts.append(env.scene.pos("cube")[:2])
        yaws.add(round(level_yaw(env.scene, "cube"), 6))
        assert np.abs(starts[-1] - GOAL_XY_M).max() > env.knobs["tol_m"]
    cells = np.array(starts).reshape(3, 4, 2)
    np.testing.assert_allclose(np.diff(cells[..., 0], axis=0), 0.30 / 3, atol=1e-9)
    np.testing.assert_allclose(np.diff(cells[..., 1], axis=1), 0.34 / 4, atol=1e-9)
    assert len(yaws) == 1


@pytest.mark.sim
def test_at_go_the_cube_stands_at_the_goal_however_it_was_put_there(make_env):
    env = make_env(TASK, knobs=BRIEF)
    states = []
    for cue in (0, 11):
        finish_cue(env, 6, cue)
        assert env.task.phase == EXECUTE
        states.append(env.save_state())
    assert_equal(*states, skip="hidden_")
    assert np.abs(env.scene.pos("cube")[:2] - GOAL_XY_M).max() < 0.012


@pytest.mark.sim
def test_nothing_counts_before_the_cube_is_at_the_goal(make_env):
    env = make_env(TASK, knobs=BRIEF)
    press_first(env, 3)
    env.reset(seed=3)
    follow(env, env.task._carry(GOAL_XY_M - (0.0, 0.075), 0.0))
    assert env.task.phase == CUE and env.task.vars["steps_done"] == 0


@pytest.mark.sim
@pytest.mark.parametrize(
    ("off_m", "turn_rad", "kind"),
    [((0.012, -0.008), 0.0, ""), ((0.0, 0.0), 0.3, ""), ((0.024, 0.0), 0.0, "motor"),
     ((0.0, 0.0), 0.5, "motor"), ((0.036, 0.0), 0.0, "wrong_choice"),
     ((0.0, 0.0), 0.7, "wrong_choice"), ((0.14, 0.0), 0.0, "wrong_choice")],
)  # fmt: skip
def test_place_and_turn_decide_at_the_first_release(make_env, off_m, turn_rad, kind):
    env = make_env(TASK, level="hard", knobs=BRIEF)
    finish_cue(env, 5, 1)
    put(env, off_m, turn_rad)
    task = env.task
    assert task.failure_kind == kind and task.success == (not kind)
    assert task.committed == ("none" if kind else "start 1")


@pytest.mark.sim
def test_nothing_at_go_tells_where_in_its_cell_and_how_turned_the_cube_was(make_env, monkeypatch):
    """Certificates compare cues, which are cells; the rest of the pose must not show either."""
    env, draw, at_go = make_env(TASK, level="hard", knobs=BRIEF), TakeItBack.draw, []
    for cell, other in ((1, False), (1, True), (6, True)):

        def drawn(task, rng, other=other):
            plan = draw(task, rng)
            if other:
                apart = draw(task, np.random.default_rng(7))
                assert abs(plan["start_yaw"] - apart["start_yaw"]) > 0.1
                plan |= {name: apart[name] for name in ("starts", "start_yaw")}
            return plan

        monkeypatch.setattr(TakeItBack, "draw", drawn)
        finish_cue(env, 5, cell)
        at_go.append(env.save_state())
    for state in at_go[1:]:
        assert_equal(at_go[0], state, skip="hidden_")


@pytest.mark.sim
def test_another_start_of_the_same_scene_is_named(make_env):
    env = make_env(TASK, level="hard", knobs=BRIEF)
    finish_cue(env, 5, 1)
    put(env, env.task.plan["starts"][6] - env.task.start_xy)
    assert (env.task.committed, env.task.failure_kind) == ("start 6", "wrong_choice")


@pytest.mark.sim
def test_a_cube_off_the_table_is_a_failure_of_the_hand(make_env):
    env = make_env(TASK, knobs=BRIEF)
    finish_cue(env, 5, 1)
    env.scene.place("cube", (0.0, 0.0, 0.5))
    env.scene.forward()
    env.advance(np.zeros(7))
    assert env.task.failure_kind == "motor" and not env.task.committed


@pytest.mark.sim
def test_reactive_twin_shows_the_start(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1, **BRIEF})
    finish_cue(env, 3, 2)
    assert env.scene.present["start"]
    np.testing.assert_allclose(env.scene.pos("start")[:2], env.task.start_xy)
    assert level_yaw(env.scene, "start") == pytest.approx(env.task.plan["start_yaw"])
